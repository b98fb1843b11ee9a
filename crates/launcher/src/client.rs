//! The client of a launcher, used by the server.

use std::{io, path::Path, time::Duration};

use faultline_domain::{
    NodeName, lab::Egress, limits::Limits, progress::Progress, save_point::Saved,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use crate::{
    protocol::{
        Answer, Channel, MAX_LINE, Notification, Operation, Refusal, Request, SOCKET, Status,
        Usage, VERSION,
    },
    spec::AddedNode,
};

/// The error of a request to a launcher.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No launcher answers.
    #[error("the environment's launcher does not answer")]
    Gone(#[source] io::Error),
    /// The launcher refused.
    #[error("{}", .0.reason)]
    Refused(Refusal),
    /// The nodes could not be started.
    #[error("{stage}: {reason}")]
    Failed {
        /// The stage that failed, as a stable word.
        stage: String,
        /// The reason, as a message for people.
        reason: String,
    },
}

/// The result of a request.
pub type Result<T, E = Error> = std::result::Result<T, E>;

const ANSWER: Duration = Duration::from_secs(60);
/// The time limit for saving all nodes: their memory and disks may have several GiB.
const SAVE: Duration = Duration::from_secs(600);

/// Sends a request and returns the answer with the connection, which stays in use for streams and notifications.
async fn ask(dir: &Path, operation: Operation) -> Result<(Answer, BufReader<UnixStream>)> {
    ask_within(ANSWER, dir, operation).await
}

async fn ask_within(
    limit: Duration,
    dir: &Path,
    operation: Operation,
) -> Result<(Answer, BufReader<UnixStream>)> {
    let exchange = async {
        let mut stream = UnixStream::connect(dir.join(SOCKET)).await?;
        let mut line = serde_json::to_vec(&Request {
            version: VERSION,
            operation,
        })?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut stream = BufReader::new(stream);
        let mut answer = String::new();
        (&mut stream).take(MAX_LINE).read_line(&mut answer).await?;
        Ok((serde_json::from_str(&answer)?, stream))
    };
    match timeout(limit, exchange).await {
        Ok(Ok((Answer::Refused(refusal), _))) => Err(Error::Refused(refusal)),
        Ok(Ok(answered)) => Ok(answered),
        Ok(Err(e)) => Err(Error::Gone(e)),
        Err(_) => Err(Error::Gone(io::ErrorKind::TimedOut.into())),
    }
}

async fn ask_done(dir: &Path, operation: Operation) -> Result<()> {
    match ask(dir, operation).await? {
        (Answer::Done, _) => Ok(()),
        _ => Err(unexpected_answer()),
    }
}

fn unexpected_answer() -> Error {
    Error::Refused("the launcher sent an unexpected answer".to_owned().into())
}

/// Returns the launcher's status.
pub async fn status(dir: &Path) -> Result<Status> {
    match ask(dir, Operation::Status).await? {
        (Answer::Status(status), _) => Ok(status),
        _ => Err(unexpected_answer()),
    }
}

/// Passes the launcher's status to the callback, now and after each change, until the connection ends. Returns why it
/// ended: an `UnexpectedEof` if the launcher did.
pub async fn follow(dir: &Path, mut told: impl FnMut(Status)) -> Error {
    let mut lines = match ask(dir, Operation::Follow).await {
        Ok((Answer::Status(first), stream)) => {
            told(first);
            stream.lines()
        }
        Ok(_) => return unexpected_answer(),
        Err(e) => return e,
    };
    loop {
        match lines.next_line().await {
            Ok(Some(line)) => match serde_json::from_str(&line) {
                Ok(Answer::Status(status)) => told(status),
                _ => return unexpected_answer(),
            },
            Ok(None) => return Error::Gone(io::ErrorKind::UnexpectedEof.into()),
            Err(e) => return Error::Gone(e),
        }
    }
}

/// Returns what the environment uses. This walks the memory maps of all its nodes, so don't call it every second.
pub async fn usage(dir: &Path) -> Result<Usage> {
    match ask(dir, Operation::Usage).await? {
        (Answer::Usage(usage), _) => Ok(usage),
        _ => Err(unexpected_answer()),
    }
}

/// Reports progress until the environment is ready.
pub async fn watch(dir: &Path, progress: &Progress) -> Result<()> {
    let (_, stream) = ask(dir, Operation::Watch).await?;
    report(stream, progress).await
}

/// Adds a node and reports progress until its helper answers. Dropping the future removes the node again.
pub async fn add_node(dir: &Path, added: AddedNode, progress: &Progress) -> Result<()> {
    let (_, stream) = ask(dir, Operation::AddNode { added }).await?;
    report(stream, progress).await
}

/// Powers off a worker and frees its resources.
pub async fn remove_node(dir: &Path, node: &NodeName) -> Result<()> {
    ask_done(dir, Operation::RemoveNode { node: node.clone() }).await
}

async fn report(stream: BufReader<UnixStream>, progress: &Progress) -> Result<()> {
    let mut lines = stream.lines();
    loop {
        let line = lines.next_line().await.map_err(Error::Gone)?;
        let Some(line) = line else {
            return Err(Error::Gone(io::ErrorKind::UnexpectedEof.into()));
        };
        match serde_json::from_str(&line).map_err(|e| Error::Gone(e.into()))? {
            Notification::Event { event } => progress.report(event),
            Notification::Ready => return Ok(()),
            Notification::Failed { stage, reason } => return Err(Error::Failed { stage, reason }),
        }
    }
}

/// Sets the environment's limits, and the destinations that it may connect to.
pub async fn configure(dir: &Path, limits: Limits, egress: Vec<Egress>) -> Result<()> {
    ask_done(dir, Operation::Configure { limits, egress }).await
}

/// Freezes all nodes.
pub async fn pause(dir: &Path) -> Result<()> {
    ask_done(dir, Operation::Pause).await
}

/// Continues all nodes.
pub async fn resume(dir: &Path) -> Result<()> {
    ask_done(dir, Operation::Resume).await
}

/// Saves all nodes into a new folder. They go on, or stay paused.
pub async fn save(dir: &Path, folder: &Path) -> Result<Saved> {
    let folder = folder.to_owned();
    match ask_within(SAVE, dir, Operation::Save { folder }).await? {
        (Answer::Saved(saved), _) => Ok(saved),
        _ => Err(unexpected_answer()),
    }
}

/// Freezes all nodes into a snapshot; the launcher ends.
pub async fn freeze(dir: &Path) -> Result<()> {
    ask_done(dir, Operation::Freeze).await
}

/// Ends all nodes and the launcher.
pub async fn stop(dir: &Path) -> Result<()> {
    ask_done(dir, Operation::Stop).await
}

/// Opens a stream to a node.
pub async fn open(dir: &Path, node: &NodeName, to: Channel) -> Result<BufReader<UnixStream>> {
    match ask(
        dir,
        Operation::Open {
            node: node.clone(),
            to,
        },
    )
    .await?
    {
        (Answer::Done, stream) => Ok(stream),
        _ => Err(unexpected_answer()),
    }
}
