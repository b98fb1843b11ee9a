//! The protocol inside one substream of the guest link.
//!
//! A substream begins with one [`Request`] from the host and one [`Response`] from the guest, each a JSON document
//! prefixed with its length (u32, big endian, at most [`MAX_HEADER`] bytes). What follows depends on the request:
//!
//! | request | followed by |
//! |---|---|
//! | `Exec`, `Terminal`, `Look` | [`Frame`]s in both directions until `Exit` or the end |
//! | `ReadFile` | the file's bytes, then the end |
//! | `WriteFile` | the host's bytes until its end, then a second `Response` |
//! | `Forward` | raw bytes in both directions |
//! | all others | nothing |
//!
//! Both sides limit the lengths that they accept. A longer message ends the substream.

use std::{collections::BTreeMap, ffi::OsString, io};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The protocol's version, which the handshake compares. Both sides must have the same.
pub const VERSION: u32 = 4;
/// The largest request or response, in bytes.
pub const MAX_HEADER: usize = 256 * 1024;
/// The largest frame's payload, in bytes.
pub const MAX_FRAME: usize = 64 * 1024;

/// A request of the host. The guest never sends requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Check that the helper responds. The reply is [`Reply::Pong`].
    Ping,
    /// Freeze all services until `Refresh`, because this machine becomes a template. The reply is [`Reply::Done`].
    Hold,
    /// Give this clone its own identity, and thaw its services. The reply is [`Reply::Done`].
    Refresh(Refresh),
    /// Mix randomness in, because this machine continues from a save point, perhaps not for the first time. The reply is
    /// [`Reply::Done`].
    Reseed {
        /// 64 fresh random bytes, in hex.
        seed: String,
    },
    /// Set the clock, after a pause. The reply is [`Reply::Done`].
    StepClock {
        /// The time, in nanoseconds since 1970.
        unix_nanos: i64,
    },
    /// Replace root's `authorized_keys`, for logins through the guest's own sshd. The reply is [`Reply::Done`].
    Authorize {
        /// Public keys, one OpenSSH line each.
        keys: Vec<String>,
    },
    /// Run a program. The reply is [`Reply::Started`], followed by frames.
    Exec(Exec),
    /// Attach to a terminal that outlives the substream, creating it if it doesn't exist. The reply is
    /// [`Reply::Attached`], followed by frames: first those that restore the screen, then new output.
    Terminal(Terminal),
    /// Look at a terminal that exists. Such a viewer neither counts for the terminal's size nor answers queries, but its
    /// input is typed. The reply is [`Reply::Attached`], followed by frames as for `Terminal`, and by
    /// [`Frame::Resize`] with the terminal's size, first of all and after each change.
    Look {
        /// The terminal's ID.
        id: String,
    },
    /// List the terminals. The reply is [`Reply::Terminals`].
    Terminals,
    /// Close a terminal and end its programs. The reply is [`Reply::Done`].
    CloseTerminal {
        /// The terminal's ID.
        id: String,
    },
    /// Print a line in every terminal. The reply is [`Reply::Done`].
    Announce {
        /// The line, without control characters.
        text: String,
    },
    /// Return a file's metadata. The reply is [`Reply::Stat`].
    Stat {
        /// Absolute path.
        path: String,
    },
    /// Read a file. The reply is [`Reply::Done`], followed by its bytes.
    ReadFile {
        /// Absolute path.
        path: String,
        /// The maximum number of bytes.
        max: u64,
    },
    /// Write a file atomically. The reply is [`Reply::Done`], then come the bytes and a second reply.
    WriteFile {
        /// Absolute path. Missing folders are created.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// Connect to an address from inside the guest. The reply is [`Reply::Done`], followed by raw bytes.
    Forward {
        /// Host name or address as the guest sees it.
        host: String,
        /// TCP port.
        port: u16,
    },
}

/// A clone's own identity. Randomness is mixed in before anything else is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refresh {
    /// 64 fresh random bytes, in hex.
    pub seed: String,
    /// The time to set the clock to, in nanoseconds since 1970.
    pub unix_nanos: i64,
    /// The new machine ID, 32 hex digits.
    pub machine_id: String,
    /// The node's host name.
    pub hostname: String,
    /// The new host key of its sshd. The host generates it, because the guest's processor may be emulated.
    pub host_key: HostKey,
}

/// An Ed25519 host key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostKey {
    /// The private key in OpenSSH's format.
    pub private: String,
    /// The line of the `.pub` file.
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
    /// Program and arguments. In JSON, UTF-8 is text and other bytes are an array. Empty means root's login shell.
    #[serde(with = "arguments")]
    pub argv: Vec<OsString>,
    /// Variables that are added to a clean environment.
    pub env: BTreeMap<String, String>,
    /// Working directory, by default root's home.
    pub cwd: Option<String>,
    /// Its terminal. Without one, its standard streams are pipes.
    pub pty: Option<Pty>,
    /// Timeout in seconds, after which its process group is killed (exit code 124).
    pub timeout_seconds: Option<u32>,
    /// Run it with the tools of the original image: for this program, `/usr` and the dynamic linker's configuration come
    /// from the original disk, read-only. The guest's own `/usr` is at `$FAULTLINE_GUEST_USR`.
    pub trusted: bool,
}

/// Arguments in JSON: text, or an array of bytes if they aren't UTF-8.
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
    /// The value of `TERM`.
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
    /// Chosen by the caller: up to 32 letters, digits and hyphens.
    pub id: String,
    /// Its kind and size.
    pub pty: Pty,
}

impl Terminal {
    /// The rule for IDs, as an error message.
    pub const ID_RULE: &str = "a terminal's id is 1 to 32 letters, digits and hyphens";

    /// Returns true if the ID is valid.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let id = self.id.as_bytes();
        (1..=32).contains(&id.len()) && id.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    }
}

/// The guest's response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The request was carried out.
    Ok(Reply),
    /// The request failed, for this reason.
    Error(String),
}

/// The reply to a request that was carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// The helper responds.
    Pong {
        /// The protocol's version.
        version: u32,
        /// Seconds since the guest's boot.
        uptime_seconds: u64,
    },
    /// Done.
    Done,
    /// The program was started.
    Started {
        /// Its process id in the guest.
        pid: u32,
    },
    /// Attached to the terminal.
    Attached {
        /// True if it was created for this request.
        new: bool,
    },
    /// The terminals.
    Terminals {
        /// Their ids.
        ids: Vec<String>,
    },
    /// A file's metadata, or `None` if it doesn't exist.
    Stat {
        /// The file.
        file: Option<FileStat>,
    },
}

/// A file's metadata. Links are followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// `file`, `directory`, or `other`.
    pub kind: String,
    /// Permission bits.
    pub mode: u32,
    /// The owner's user ID.
    pub uid: u32,
    /// The group ID.
    pub gid: u32,
    /// The size in bytes.
    pub size: u64,
}

/// A part of a running program's streams. On the wire: a tag byte, a length (u32, big endian), the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Host to guest: standard input, or typed keys.
    Stdin(Bytes),
    /// Host to guest: no more standard input.
    StdinEnd,
    /// Guest to host: standard output, or the terminal's output.
    Stdout(Bytes),
    /// Guest to host: standard error.
    Stderr(Bytes),
    /// Host to guest: the terminal's new size. Guest to host, for [`Request::Look`] only: the size that it has.
    Resize {
        /// Lines.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// Host to guest: send this signal to the program's process group.
    Signal(u8),
    /// Guest to host: the exit code, as the last frame. If a signal ended the program, 128 plus its number.
    Exit(i32),
}

fn too_large(what: &str, len: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a {what} of {len} bytes is too long"),
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
    /// Writes the frame. Payloads longer than [`MAX_FRAME`] are refused; split them with [`Frame::chunks`].
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

    /// Reads the next frame, or `None` at a clean end.
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
