//! What travels inside one substream of the guest link.
//!
//! A substream begins with one [`Request`] from the host and one [`Response`] from the guest, each a JSON document
//! behind its length (u32, big endian, at most [`MAX_HEADER`] bytes). What follows depends on the request:
//!
//! | request | then |
//! |---|---|
//! | `Exec`, `Terminal` | [`Frame`]s both ways until `Exit` or the end |
//! | `ReadFile` | the file's bytes, then the end |
//! | `WriteFile` | the host's bytes until its end, then a second `Response` |
//! | `Forward` | raw bytes both ways |
//! | all others | nothing |
//!
//! Both sides bound what they accept; a length beyond the bound ends the substream.

use std::{collections::BTreeMap, ffi::OsString, io};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The protocol's version; part of the handshake. Both sides must have the same.
pub const VERSION: u32 = 4;
/// The largest request or response, in bytes.
pub const MAX_HEADER: usize = 256 * 1024;
/// The largest frame's payload, in bytes.
pub const MAX_FRAME: usize = 64 * 1024;

/// What the host asks for. The guest never asks for anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Are you there? Answers [`Reply::Pong`].
    Ping,
    /// Stop all services until `Refresh`: this machine becomes a template. Answers [`Reply::Done`].
    Hold,
    /// Make this clone a machine of its own, and let its services go on. Answers [`Reply::Done`].
    Refresh(Refresh),
    /// Step the clock, after a pause. Answers [`Reply::Done`].
    StepClock {
        /// The time, in nanoseconds since 1970.
        unix_nanos: i64,
    },
    /// Let the holders of these public keys log in by the guest's own sshd too: replaces root's
    /// `authorized_keys`. Answers [`Reply::Done`].
    Authorize {
        /// Public keys, one OpenSSH line each.
        keys: Vec<String>,
    },
    /// Run a program. Answers [`Reply::Started`], then frames.
    Exec(Exec),
    /// Attach to a terminal that outlives the substream, making it when it doesn't exist. Answers
    /// [`Reply::Attached`], then frames: first what restores the screen, then what happens.
    Terminal(Terminal),
    /// Which terminals exist? Answers [`Reply::Terminals`].
    Terminals,
    /// End a terminal and what runs in it. Answers [`Reply::Done`].
    CloseTerminal {
        /// The terminal's id.
        id: String,
    },
    /// Print a line into every terminal. Answers [`Reply::Done`].
    Announce {
        /// The line, without control characters.
        text: String,
    },
    /// Look at a file. Answers [`Reply::Stat`].
    Stat {
        /// Absolute path.
        path: String,
    },
    /// Read a file. Answers [`Reply::Done`], then its bytes.
    ReadFile {
        /// Absolute path.
        path: String,
        /// At most so many bytes.
        max: u64,
    },
    /// Write a file, whole or not at all. Answers [`Reply::Done`], takes the bytes, answers again.
    WriteFile {
        /// Absolute path; missing folders are made.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// Connect to an address from inside the guest. Answers [`Reply::Done`], then raw bytes.
    Forward {
        /// Host name or address as the guest sees it.
        host: String,
        /// TCP port.
        port: u16,
    },
}

/// How a clone becomes a machine of its own. Randomness is mixed in before anything else is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refresh {
    /// 64 fresh random bytes, in hex.
    pub seed: String,
    /// The time to step the clock to, in nanoseconds since 1970.
    pub unix_nanos: i64,
    /// The new machine-id, 32 hex digits.
    pub machine_id: String,
    /// The node's host name.
    pub hostname: String,
    /// The new key of its sshd. Made by the host: the guest's processor may be an emulated one.
    pub host_key: HostKey,
}

/// An ed25519 key of an sshd.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostKey {
    /// In OpenSSH's own form.
    pub private: String,
    /// The line of its `.pub` file.
    pub public: String,
}

impl std::fmt::Debug for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostKey({})", self.public.trim())
    }
}

/// A program to run as root.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Exec {
    /// Program and arguments: bytes, in JSON as text where they are UTF-8. Empty: root's login shell.
    #[serde(with = "arguments")]
    pub argv: Vec<OsString>,
    /// Variables added to a clean environment.
    pub env: BTreeMap<String, String>,
    /// Working directory; root's home unless said.
    pub cwd: Option<String>,
    /// A terminal for it; without one its standard streams are pipes.
    pub pty: Option<Pty>,
    /// Seconds after which its process group is killed (exit code 124).
    pub timeout_seconds: Option<u32>,
    /// Run it with the image's own untouched tools: `/usr` is the pristine image's, mounted read-only for this
    /// program alone, the dynamic linker's configuration too; the guest's own is at `$FAULTLINE_GUEST_USR`.
    pub trusted: bool,
}

/// Arguments in JSON: text, or an array of bytes where that isn't UTF-8.
mod arguments {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Argument {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(super) fn serialize<S: Serializer>(argv: &[OsString], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(argv.iter().map(|argument| match argument.to_str() {
            Some(text) => Argument::Text(text.to_owned()),
            None => Argument::Bytes(argument.clone().into_vec()),
        }))
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<OsString>, D::Error> {
        let argv = Vec::<Argument>::deserialize(from)?;
        let each = argv.into_iter().map(|argument| match argument {
            Argument::Text(text) => text.into(),
            Argument::Bytes(bytes) => OsString::from_vec(bytes),
        });
        Ok(each.collect())
    }
}

/// A terminal's kind and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pty {
    /// `TERM`.
    pub term: String,
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// A terminal that outlives its viewers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terminal {
    /// Chosen by the caller: letters, digits and hyphens, 32 at most.
    pub id: String,
    /// Kind and size.
    pub pty: Pty,
}

impl Terminal {
    /// What a terminal's id must be, said to whoever sends another.
    pub const ID_RULE: &str = "a terminal's id is 1 to 32 letters, digits and hyphens";

    /// True when the id keeps the rule.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let id = self.id.as_bytes();
        (1..=32).contains(&id.len()) && id.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    }
}

/// What the guest answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// It was done.
    Ok(Reply),
    /// It was not, for this reason.
    Error(String),
}

/// The answer to a request that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Here.
    Pong {
        /// The protocol's version.
        version: u32,
        /// Seconds since boot.
        uptime_seconds: u64,
    },
    /// Done.
    Done,
    /// The program runs.
    Started {
        /// Its process id in the guest.
        pid: u32,
    },
    /// Attached to the terminal.
    Attached {
        /// True when it was made for this request.
        new: bool,
    },
    /// The terminals.
    Terminals {
        /// Their ids.
        ids: Vec<String>,
    },
    /// What a file is; nothing when there is none.
    Stat {
        /// The file.
        file: Option<FileStat>,
    },
}

/// What a file is, links followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// `file`, `directory`, or `other`.
    pub kind: String,
    /// Permission bits.
    pub mode: u32,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
}

/// One piece of a running program's streams. On the wire: a tag byte, a length (u32, big endian), the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Host to guest: standard input, or keys typed.
    Stdin(Bytes),
    /// Host to guest: no more standard input.
    StdinEnd,
    /// Guest to host: standard output, or what the terminal shows.
    Stdout(Bytes),
    /// Guest to host: standard error.
    Stderr(Bytes),
    /// Host to guest: the terminal's new size.
    Resize {
        /// Lines.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// Host to guest: send this signal to the program's process group.
    Signal(u8),
    /// Guest to host: the program ended; the last frame. A death by signal is 128 + its number.
    Exit(i32),
}

fn too_large(what: &str, len: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a {what} of {len} bytes is beyond the bound"),
    )
}

/// Writes a request or a response.
pub async fn write_header<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    value: &T,
) -> io::Result<()> {
    let body = serde_json::to_vec(value)?;
    if body.len() > MAX_HEADER {
        return Err(too_large("header", body.len()));
    }
    let mut message = Vec::with_capacity(body.len() + 4);
    message.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    message.extend_from_slice(&body);
    to.write_all(&message).await?;
    to.flush().await
}

/// Reads a request or a response.
pub async fn read_header<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<T> {
    let len = from.read_u32().await? as usize;
    if len > MAX_HEADER {
        return Err(too_large("header", len));
    }
    let mut body = vec![0; len];
    from.read_exact(&mut body).await?;
    Ok(serde_json::from_slice(&body)?)
}

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const RESIZE: u8 = 3;
const EXIT: u8 = 4;
const STDIN_END: u8 = 5;
const SIGNAL: u8 = 6;

impl Frame {
    /// Writes the frame. Payloads beyond [`MAX_FRAME`] are refused: split them with [`Frame::chunks`].
    pub async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let (tag, payload): (u8, Bytes) = match self {
            Self::Stdin(b) => (STDIN, b.clone()),
            Self::Stdout(b) => (STDOUT, b.clone()),
            Self::Stderr(b) => (STDERR, b.clone()),
            Self::StdinEnd => (STDIN_END, Bytes::new()),
            Self::Resize { rows, cols } => {
                let [a, b] = rows.to_be_bytes();
                let [c, d] = cols.to_be_bytes();
                (RESIZE, Bytes::copy_from_slice(&[a, b, c, d]))
            }
            Self::Signal(n) => (SIGNAL, Bytes::copy_from_slice(&[*n])),
            Self::Exit(code) => (EXIT, Bytes::copy_from_slice(&code.to_be_bytes())),
        };
        if payload.len() > MAX_FRAME {
            return Err(too_large("frame", payload.len()));
        }
        let mut message = Vec::with_capacity(payload.len() + 5);
        message.push(tag);
        message.extend_from_slice(
            &u32::try_from(payload.len())
                .unwrap_or(u32::MAX)
                .to_be_bytes(),
        );
        message.extend_from_slice(&payload);
        to.write_all(&message).await?;
        to.flush().await
    }

    /// Reads the next frame; nothing at a clean end.
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let tag = match from.read_u8().await {
            Ok(tag) => tag,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e),
        };
        let len = from.read_u32().await? as usize;
        if len > MAX_FRAME {
            return Err(too_large("frame", len));
        }
        let mut payload = vec![0; len];
        from.read_exact(&mut payload).await?;
        Self::decode(tag, payload).map(Some)
    }

    fn decode(tag: u8, payload: Vec<u8>) -> io::Result<Self> {
        let bad = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("malformed frame with tag {tag}"),
            )
        };
        Ok(match (tag, payload.as_slice()) {
            (STDIN, _) => Self::Stdin(payload.into()),
            (STDOUT, _) => Self::Stdout(payload.into()),
            (STDERR, _) => Self::Stderr(payload.into()),
            (STDIN_END, []) => Self::StdinEnd,
            (RESIZE, &[a, b, c, d]) => Self::Resize {
                rows: u16::from_be_bytes([a, b]),
                cols: u16::from_be_bytes([c, d]),
            },
            (SIGNAL, &[n]) => Self::Signal(n),
            (EXIT, &[a, b, c, d]) => Self::Exit(i32::from_be_bytes([a, b, c, d])),
            _ => return Err(bad()),
        })
    }

    /// Splits bytes into payloads that fit a frame.
    pub fn chunks(bytes: &Bytes) -> impl Iterator<Item = Bytes> + '_ {
        (0..bytes.len().div_ceil(MAX_FRAME)).map(|i| {
            let from = i * MAX_FRAME;
            bytes.slice(from..bytes.len().min(from + MAX_FRAME))
        })
    }
}
