//! What the server says to a launcher.

use std::{io, path::Path, time::Duration};

use faultline_domain::{NodeName, lab::Egress, limits::Limits, progress::Progress};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use crate::{
    protocol::{
        Answer, Ask, Channel, MAX_LINE, Question, Refusal, SOCKET, Status, Told, Usage, VERSION,
    },
    spec::AddedNode,
};

/// Why a launcher did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No launcher answers there.
    #[error("the environment's launcher does not answer")]
    Gone(#[source] io::Error),
    /// The launcher refused.
    #[error("{}", .0.reason)]
    Refused(Refusal),
    /// The nodes could not be brought to life.
    #[error("{stage}: {reason}")]
    Failed {
        /// The stage, a stable word.
        stage: String,
        /// Why, for people.
        reason: String,
    },
}

/// Result of a question.
pub type Result<T, E = Error> = std::result::Result<T, E>;

const ANSWER: Duration = Duration::from_secs(60);

/// Asks, and gives the answer with the connection, which for `Open` and `Watch` goes on.
async fn ask(dir: &Path, ask: Ask) -> Result<(Answer, BufReader<UnixStream>)> {
    let exchange = async {
        let mut stream = UnixStream::connect(dir.join(SOCKET)).await?;
        let mut line = serde_json::to_vec(&Question {
            version: VERSION,
            ask,
        })?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut stream = BufReader::new(stream);
        let mut answer = String::new();
        (&mut stream).take(MAX_LINE).read_line(&mut answer).await?;
        Ok((serde_json::from_str(&answer)?, stream))
    };
    match timeout(ANSWER, exchange).await {
        Ok(Ok((Answer::Refused(refusal), _))) => Err(Error::Refused(refusal)),
        Ok(Ok(answered)) => Ok(answered),
        Ok(Err(e)) => Err(Error::Gone(e)),
        Err(_) => Err(Error::Gone(io::ErrorKind::TimedOut.into())),
    }
}

async fn ask_done(dir: &Path, what: Ask) -> Result<()> {
    match ask(dir, what).await? {
        (Answer::Done, _) => Ok(()),
        _ => Err(out_of_turn()),
    }
}

fn out_of_turn() -> Error {
    Error::Refused("the launcher sent an unexpected answer".to_owned().into())
}

/// How is the launcher?
pub async fn status(dir: &Path) -> Result<Status> {
    match ask(dir, Ask::Status).await? {
        (Answer::Status(status), _) => Ok(status),
        _ => Err(out_of_turn()),
    }
}

/// Tells how the launcher is, and again after each change. Gives why it ended: an `UnexpectedEof` when the launcher did.
pub async fn follow(dir: &Path, mut told: impl FnMut(Status)) -> Error {
    let mut lines = match ask(dir, Ask::Follow).await {
        Ok((Answer::Status(first), stream)) => {
            told(first);
            stream.lines()
        }
        Ok(_) => return out_of_turn(),
        Err(e) => return e,
    };
    loop {
        match lines.next_line().await {
            Ok(Some(line)) => match serde_json::from_str(&line) {
                Ok(Answer::Status(status)) => told(status),
                _ => return out_of_turn(),
            },
            Ok(None) => return Error::Gone(io::ErrorKind::UnexpectedEof.into()),
            Err(e) => return Error::Gone(e),
        }
    }
}

/// What does the environment use? Walks the memory of all its nodes: not for every second.
pub async fn usage(dir: &Path) -> Result<Usage> {
    match ask(dir, Ask::Usage).await? {
        (Answer::Usage(usage), _) => Ok(usage),
        _ => Err(out_of_turn()),
    }
}

/// Reports what happens until the environment is ready.
pub async fn watch(dir: &Path, progress: &Progress) -> Result<()> {
    let (_, stream) = ask(dir, Ask::Watch).await?;
    report(stream, progress).await
}

/// Powers on a further node; reports what happens until its helper answers. Dropping it frees what was made.
pub async fn add_node(dir: &Path, added: AddedNode, progress: &Progress) -> Result<()> {
    let (_, stream) = ask(dir, Ask::AddNode { added }).await?;
    report(stream, progress).await
}

/// Powers off a worker and frees what it held.
pub async fn remove_node(dir: &Path, node: &NodeName) -> Result<()> {
    ask_done(dir, Ask::RemoveNode { node: node.clone() }).await
}

async fn report(stream: BufReader<UnixStream>, progress: &Progress) -> Result<()> {
    let mut lines = stream.lines();
    loop {
        let line = lines.next_line().await.map_err(Error::Gone)?;
        let Some(line) = line else {
            return Err(Error::Gone(io::ErrorKind::UnexpectedEof.into()));
        };
        match serde_json::from_str(&line).map_err(|e| Error::Gone(e.into()))? {
            Told::Event { event } => progress.report(event),
            Told::Ready => return Ok(()),
            Told::Failed { stage, reason } => return Err(Error::Failed { stage, reason }),
        }
    }
}

/// Bounds what the environment uses from now on, and opens its ways out.
pub async fn configure(dir: &Path, limits: Limits, egress: Vec<Egress>) -> Result<()> {
    ask_done(dir, Ask::Configure { limits, egress }).await
}

/// Freezes all nodes.
pub async fn pause(dir: &Path) -> Result<()> {
    ask_done(dir, Ask::Pause).await
}

/// Continues all nodes.
pub async fn resume(dir: &Path) -> Result<()> {
    ask_done(dir, Ask::Resume).await
}

/// Freezes all nodes into a snapshot; the launcher ends.
pub async fn freeze(dir: &Path) -> Result<()> {
    ask_done(dir, Ask::Freeze).await
}

/// Ends all nodes and the launcher.
pub async fn stop(dir: &Path) -> Result<()> {
    ask_done(dir, Ask::Stop).await
}

/// Opens a stream to a node.
pub async fn open(dir: &Path, node: &NodeName, to: Channel) -> Result<BufReader<UnixStream>> {
    match ask(
        dir,
        Ask::Open {
            node: node.clone(),
            to,
        },
    )
    .await?
    {
        (Answer::Done, stream) => Ok(stream),
        _ => Err(out_of_turn()),
    }
}
