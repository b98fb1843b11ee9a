//! The host's client of the guest link, with one function per request.
//!
//! Every function takes a new stream from `Provider::open(…, Target::Guest)` and consumes it.

use std::{io, time::Duration};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::wire::{
    Exec, FileStat, Frame, Refresh, Reply, Request, Response, Terminal, read_header, write_header,
};

/// The error of a request to the guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The link failed.
    #[error("the guest link broke")]
    Io(#[from] io::Error),
    /// The guest refused the request.
    #[error("the guest refused: {0}")]
    Refused(String),
    /// The guest sent a response that doesn't match the request.
    #[error("the guest answered out of turn")]
    Protocol,
    /// The guest did not respond in time.
    #[error("the guest did not answer within {} seconds", .0.as_secs())]
    Silent(Duration),
}

/// The result of a request to the guest.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A bidirectional byte stream.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// Timeout for the guest's response, long enough for a loaded machine under emulation.
const ANSWER: Duration = Duration::from_secs(60);

async fn ask(stream: &mut impl Duplex, request: &Request) -> Result<Reply> {
    let answer = async {
        write_header(stream, request).await?;
        match read_header(stream).await? {
            Response::Ok(reply) => Ok(reply),
            Response::Error(reason) => Err(refused(&reason)),
        }
    };
    tokio::time::timeout(ANSWER, answer)
        .await
        .map_err(|_| Error::Silent(ANSWER))?
}

/// Returns the error for a refusal. The reason comes from the guest, so it is cut to one short line.
fn refused(reason: &str) -> Error {
    const MOST: usize = 300;
    let line = reason
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MOST)
        .collect();
    Error::Refused(line)
}

async fn ask_done(stream: &mut impl Duplex, request: &Request) -> Result<()> {
    match ask(stream, request).await? {
        Reply::Done => Ok(()),
        _ => Err(Error::Protocol),
    }
}

/// Checks that the helper responds. Returns the seconds since the guest's boot.
pub async fn ping(mut stream: impl Duplex) -> Result<u64> {
    match ask(&mut stream, &Request::Ping).await? {
        Reply::Pong { uptime_seconds, .. } => Ok(uptime_seconds),
        _ => Err(Error::Protocol),
    }
}

/// Freezes the guest's services until it is refreshed.
pub async fn hold(mut stream: impl Duplex) -> Result<()> {
    ask_done(&mut stream, &Request::Hold).await
}

/// Gives a clone its own identity, and thaws its services.
pub async fn refresh(mut stream: impl Duplex, refresh: Refresh) -> Result<()> {
    ask_done(&mut stream, &Request::Refresh(refresh)).await
}

/// Mixes 64 random bytes, in hex, into the guest's random pool.
pub async fn reseed(mut stream: impl Duplex, seed: String) -> Result<()> {
    ask_done(&mut stream, &Request::Reseed { seed }).await
}

/// Sets the guest's clock to a time in nanoseconds since 1970.
pub async fn step_clock(mut stream: impl Duplex, unix_nanos: i64) -> Result<()> {
    ask_done(&mut stream, &Request::StepClock { unix_nanos }).await
}

/// Replaces the public keys with which people can log in through the guest's own sshd.
pub async fn authorize(mut stream: impl Duplex, keys: Vec<String>) -> Result<()> {
    ask_done(&mut stream, &Request::Authorize { keys }).await
}

/// Prints a line in every terminal.
pub async fn announce(mut stream: impl Duplex, text: &str) -> Result<()> {
    ask_done(
        &mut stream,
        &Request::Announce {
            text: text.to_owned(),
        },
    )
    .await
}

/// Lists the IDs of the terminals.
pub async fn terminals(mut stream: impl Duplex) -> Result<Vec<String>> {
    match ask(&mut stream, &Request::Terminals).await? {
        Reply::Terminals { ids } => Ok(ids),
        _ => Err(Error::Protocol),
    }
}

/// Closes a terminal.
pub async fn close_terminal(mut stream: impl Duplex, id: &str) -> Result<()> {
    ask_done(&mut stream, &Request::CloseTerminal { id: id.to_owned() }).await
}

/// Returns a file's metadata, or `None` if it doesn't exist.
pub async fn stat(mut stream: impl Duplex, path: &str) -> Result<Option<FileStat>> {
    match ask(
        &mut stream,
        &Request::Stat {
            path: path.to_owned(),
        },
    )
    .await?
    {
        Reply::Stat { file } => Ok(file),
        _ => Err(Error::Protocol),
    }
}

/// Reads the first `max` bytes of a file.
pub async fn read_file(mut stream: impl Duplex, path: &str, max: u64) -> Result<Vec<u8>> {
    ask_done(
        &mut stream,
        &Request::ReadFile {
            path: path.to_owned(),
            max,
        },
    )
    .await?;
    let mut content = Vec::new();
    stream.take(max).read_to_end(&mut content).await?;
    Ok(content)
}

/// Writes a file atomically.
pub async fn write_file(
    mut stream: impl Duplex,
    path: &str,
    mode: u32,
    content: &[u8],
) -> Result<()> {
    ask_done(
        &mut stream,
        &Request::WriteFile {
            path: path.to_owned(),
            mode,
        },
    )
    .await?;
    stream.write_all(content).await?;
    stream.shutdown().await?;
    match read_header(&mut stream).await? {
        Response::Ok(Reply::Done) => Ok(()),
        Response::Ok(_) => Err(Error::Protocol),
        Response::Error(reason) => Err(refused(&reason)),
    }
}

/// Connects to an address from inside the guest. The stream then carries the connection's bytes.
pub async fn forward<S: Duplex>(mut stream: S, host: &str, port: u16) -> Result<S> {
    ask_done(
        &mut stream,
        &Request::Forward {
            host: host.to_owned(),
            port,
        },
    )
    .await?;
    Ok(stream)
}

/// A running program or an attached terminal.
#[derive(Debug)]
pub struct Session<S> {
    /// The frames from the guest.
    pub output: Output<S>,
    /// The frames to the guest.
    pub input: Input<S>,
}

/// The receiving half: `Stdout`, `Stderr` and `Exit` frames, and `Resize` frames of a look.
#[derive(Debug)]
pub struct Output<S>(ReadHalf<S>);

/// The sending half: `Stdin`, `StdinEnd`, `Resize` and `Signal` frames.
#[derive(Debug)]
pub struct Input<S>(WriteHalf<S>);

impl<S: Duplex> Output<S> {
    /// Returns the next frame, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        Ok(Frame::read(&mut self.0).await?)
    }
}

impl<S: Duplex> Input<S> {
    /// Sends a frame.
    pub async fn send(&mut self, frame: Frame) -> Result<()> {
        Ok(frame.write(&mut self.0).await?)
    }

    /// Sends standard input of any length.
    pub async fn stdin(&mut self, bytes: Bytes) -> Result<()> {
        for chunk in Frame::chunks(&bytes) {
            self.send(Frame::Stdin(chunk)).await?;
        }
        Ok(())
    }
}

/// Runs a program.
pub async fn exec<S: Duplex>(mut stream: S, exec: Exec) -> Result<Session<S>> {
    match ask(&mut stream, &Request::Exec(exec)).await? {
        Reply::Started { .. } => Ok(session(stream)),
        _ => Err(Error::Protocol),
    }
}

/// Attaches to a terminal. The flag is true if the terminal was created.
pub async fn terminal<S: Duplex>(mut stream: S, terminal: Terminal) -> Result<(Session<S>, bool)> {
    match ask(&mut stream, &Request::Terminal(terminal)).await? {
        Reply::Attached { new } => Ok((session(stream), new)),
        _ => Err(Error::Protocol),
    }
}

/// Looks at a terminal that exists, without counting for its size or answering queries.
pub async fn look<S: Duplex>(mut stream: S, id: &str) -> Result<Session<S>> {
    match ask(&mut stream, &Request::Look { id: id.to_owned() }).await? {
        Reply::Attached { .. } => Ok(session(stream)),
        _ => Err(Error::Protocol),
    }
}

fn session<S: Duplex>(stream: S) -> Session<S> {
    let (read, write) = tokio::io::split(stream);
    Session {
        output: Output(read),
        input: Input(write),
    }
}

/// The result of a finished program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The exit code: 128 plus the number of the signal that ended it, 124 after the time limit.
    pub code: i32,
    /// Its standard output, up to the bound.
    pub stdout: Vec<u8>,
    /// Its standard error, up to the bound.
    pub stderr: Vec<u8>,
}

/// Runs a program to its end with empty standard input, and keeps at most `bound` bytes of each output.
pub async fn run(stream: impl Duplex, request: Exec, bound: usize) -> Result<Finished> {
    let mut session = exec(stream, request).await?;
    session.input.send(Frame::StdinEnd).await?;
    let mut finished = Finished {
        code: -1,
        stdout: Vec::new(),
        stderr: Vec::new(),
    };
    loop {
        let (kept, bytes) = match session.output.next().await? {
            Some(Frame::Stdout(bytes)) => (&mut finished.stdout, bytes),
            Some(Frame::Stderr(bytes)) => (&mut finished.stderr, bytes),
            Some(Frame::Exit(code)) => {
                finished.code = code;
                return Ok(finished);
            }
            Some(_) => return Err(Error::Protocol),
            None => return Err(Error::Io(io::ErrorKind::UnexpectedEof.into())),
        };
        let room = bound.saturating_sub(kept.len()).min(bytes.len());
        kept.extend_from_slice(bytes.get(..room).unwrap_or_default());
    }
}
