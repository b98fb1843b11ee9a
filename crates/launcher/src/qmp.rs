//! QEMU's control channel: JSON lines, one command at a time, events in between.
//!
//! Every command has an id, which QEMU repeats in its answer. An answer to a command that timed out, or whose future
//! was dropped, is discarded by the next command.
//!
//! This is our own client, since the stream of the public one fails on unknown events.

use std::{fs::File, io::IoSlice, mem::MaybeUninit, os::fd::AsFd, time::Duration};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::{Mutex, mpsc},
    time::timeout,
};

/// The error of a command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// QEMU has exited.
    #[error("QEMU has exited")]
    Gone,
    /// QEMU refused the command.
    #[error("QEMU refused {command}: {text}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's message.
        text: String,
    },
    /// QEMU did not answer in time.
    #[error("QEMU did not answer {0} in time")]
    Silent(String),
}

/// The result of a command.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The time limit for an answer.
const ANSWER: Duration = Duration::from_secs(30);

/// A control channel.
#[derive(Debug)]
pub struct Qmp {
    channel: Mutex<Channel>,
}

#[derive(Debug)]
struct Channel {
    write: tokio::net::unix::OwnedWriteHalf,
    answers: mpsc::Receiver<Value>,
    /// The id of the latest command.
    latest: u64,
}

impl Channel {
    /// Adds the next id to a command and formats it as a line.
    fn command(&mut self, mut message: Value) -> String {
        self.latest += 1;
        if let Some(object) = message.as_object_mut() {
            object.insert("id".to_owned(), self.latest.into());
        }
        format!("{message}\n")
    }

    /// Waits for the answer to the latest command.
    async fn answer(&mut self, command: &str) -> Result<Value> {
        let own = async {
            loop {
                let answer = self.answers.recv().await.ok_or(Error::Gone)?;
                if answer.get("id").and_then(Value::as_u64) == Some(self.latest) {
                    return Ok(answer);
                }
            }
        };
        let answer = timeout(ANSWER, own)
            .await
            .map_err(|_| Error::Silent(command.to_owned()))??;
        match (answer.get("return"), answer.get("error")) {
            (Some(value), _) => Ok(value.clone()),
            (None, error) => Err(Error::Refused {
                command: command.to_owned(),
                text: error
                    .and_then(|e| e.get("desc"))
                    .and_then(Value::as_str)
                    .unwrap_or("no reason given")
                    .to_owned(),
            }),
        }
    }
}

/// An event from QEMU.
#[derive(Debug, Clone)]
pub struct Event {
    /// The name, such as `VSERPORT_CHANGE`.
    pub name: String,
    /// The data.
    pub data: Value,
}

impl Qmp {
    /// Starts the control channel. Events are sent to `events`, and dropped if it is full.
    pub async fn start(stream: UnixStream, events: mpsc::Sender<Event>) -> Result<Self> {
        let (read, write) = stream.into_split();
        let (give, answers) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(mut value) = serde_json::from_str::<Value>(&line) else {
                    continue;
                };
                if let Some(name) = value
                    .get("event")
                    .and_then(Value::as_str)
                    .map(str::to_owned)
                {
                    let data = value.get_mut("data").map(Value::take).unwrap_or_default();
                    let _ = events.try_send(Event { name, data });
                } else if value.get("QMP").is_none() && give.send(value).await.is_err() {
                    break;
                }
            }
        });
        let qmp = Self {
            channel: Mutex::new(Channel {
                write,
                answers,
                latest: 0,
            }),
        };
        qmp.run("qmp_capabilities", Value::Null).await?;
        Ok(qmp)
    }

    /// Runs a command and returns its result.
    pub async fn run(&self, command: &str, arguments: Value) -> Result<Value> {
        let mut message = json!({ "execute": command });
        if !arguments.is_null()
            && let Some(object) = message.as_object_mut()
        {
            object.insert("arguments".to_owned(), arguments);
        }
        let mut channel = self.channel.lock().await;
        let line = channel.command(message);
        channel
            .write
            .write_all(line.as_bytes())
            .await
            .map_err(|_| Error::Gone)?;
        channel.answer(command).await
    }

    /// Excludes memory in a shared file from migration streams.
    pub async fn ignore_shared_memory(&self) -> Result<()> {
        let on = json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] });
        self.run("migrate-set-capabilities", on).await.map(drop)
    }

    /// Passes a file descriptor to QEMU under the name `state`.
    async fn give_state(&self, file: &File) -> Result<()> {
        let mut channel = self.channel.lock().await;
        let line =
            channel.command(json!({ "execute": "getfd", "arguments": { "fdname": "state" } }));
        let socket: &UnixStream = channel.write.as_ref();
        socket
            .async_io(tokio::io::Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let fds = [file.as_fd()];
                control.push(SendAncillaryMessage::ScmRights(&fds));
                Ok(sendmsg(
                    socket,
                    &[IoSlice::new(line.as_bytes())],
                    &mut control,
                    SendFlags::empty(),
                )?)
            })
            .await
            .map_err(|_| Error::Gone)?;
        channel.answer("getfd").await.map(drop)
    }

    /// Loads the device state from a file and waits until the VM can be continued.
    pub async fn restore(&self, state: &File) -> Result<()> {
        self.ignore_shared_memory().await?;
        self.give_state(state).await?;
        self.run("migrate-incoming", json!({ "uri": "fd:state" }))
            .await?;
        self.wait("query-status", |v| {
            v.get("status").and_then(Value::as_str) != Some("inmigrate")
        })
        .await
    }

    /// Saves the device state of a stopped VM to a file.
    pub async fn save(&self, state: &File) -> Result<()> {
        self.ignore_shared_memory().await?;
        self.run(
            "migrate-set-parameters",
            json!({ "max-bandwidth": 4_000_000_000_u64 }),
        )
        .await?;
        self.give_state(state).await?;
        self.run("migrate", json!({ "uri": "fd:state" })).await?;
        self.wait("query-migrate", |v| {
            matches!(
                v.get("status").and_then(Value::as_str),
                Some("completed" | "failed" | "cancelled")
            )
        })
        .await?;
        let end = self.run("query-migrate", Value::Null).await?;
        if end.get("status").and_then(Value::as_str) == Some("completed") {
            Ok(())
        } else {
            Err(Error::Refused {
                command: "migrate".to_owned(),
                text: end.to_string(),
            })
        }
    }

    async fn wait(&self, command: &str, done: impl Fn(&Value) -> bool) -> Result<()> {
        let ask = async {
            loop {
                if done(&self.run(command, Value::Null).await?) {
                    return Ok(());
                }
                // A longer interval would dominate the time of a clone.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(ANSWER * 4, ask)
            .await
            .map_err(|_| Error::Silent(command.to_owned()))?
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{Lines, ReadHalf, WriteHalf};

    use super::*;

    /// QEMU's end of a channel in a test: reads commands and answers on request.
    struct Peer {
        lines: Lines<BufReader<ReadHalf<UnixStream>>>,
        write: WriteHalf<UnixStream>,
    }

    impl Peer {
        /// Returns the name and id of the next command.
        async fn command(&mut self) -> (String, Value) {
            let line = self.lines.next_line().await.unwrap().unwrap();
            let command: Value = serde_json::from_str(&line).unwrap();
            let name = command["execute"].as_str().unwrap().to_owned();
            (name, command["id"].clone())
        }

        async fn answer(&mut self, id: &Value, value: &str) {
            let line = json!({ "return": { "of": value }, "id": id }).to_string() + "\n";
            self.write.write_all(line.as_bytes()).await.unwrap();
        }
    }

    async fn connected() -> (Qmp, Peer) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (read, write) = tokio::io::split(theirs);
        let mut peer = Peer {
            lines: BufReader::new(read).lines(),
            write,
        };
        let greet = async {
            let (_, id) = peer.command().await;
            peer.answer(&id, "qmp_capabilities").await;
        };
        let (events, _) = mpsc::channel(1);
        let (qmp, ()) = tokio::join!(Qmp::start(ours, events), greet);
        (qmp.unwrap(), peer)
    }

    #[tokio::test]
    async fn a_late_answer_is_not_the_next_commands() {
        let (qmp, mut peer) = connected().await;
        // More commands than the channel has room for answers.
        for _ in 0..8 {
            let dropped = timeout(
                Duration::from_millis(5),
                qmp.run("query-status", Value::Null),
            );
            assert!(dropped.await.is_err());
        }
        for _ in 0..8 {
            let (name, id) = peer.command().await;
            assert_eq!(name, "query-status");
            peer.answer(&id, "query-status").await;
        }
        let answer = async {
            let (name, id) = peer.command().await;
            assert_eq!(name, "query-migrate");
            peer.answer(&id, "query-migrate").await;
        };
        let (value, ()) = tokio::join!(qmp.run("query-migrate", Value::Null), answer);
        assert_eq!(value.unwrap(), json!({ "of": "query-migrate" }));
    }
}
