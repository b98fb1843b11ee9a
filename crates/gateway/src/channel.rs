//! The task of one channel: a program, file transfer, a forward, or the serial console.

use std::{fmt::Display, sync::Arc};

use faultline_guest::{
    client,
    wire::{Exec, Frame},
};
use faultline_provider::{Provider, Stream, Target};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc::UnboundedReceiver,
};

use crate::{
    Access,
    gate::Held,
    ssh::{Opening, Sender},
};

/// Input from the client on one channel. When the queue ends, the channel is closed.
#[derive(Debug)]
pub(crate) enum Input {
    Data(Held),
    Eof,
    Resize { rows: u16, cols: u16, held: Held },
    Signal(u8, Held),
}

/// The node that a connection may use.
#[derive(Clone)]
pub(crate) struct Guest {
    pub provider: Arc<dyn Provider>,
    pub access: Access,
}

impl Guest {
    async fn open(&self, target: Target) -> Result<Stream, String> {
        self.provider
            .open(&self.access.tenant, &self.access.node, target)
            .await
            .map_err(|e| e.to_string())
    }

    async fn exec(&self, exec: Exec) -> Result<client::Session<Stream>, String> {
        let stream = self.open(Target::Guest).await?;
        client::exec(stream, exec).await.map_err(chain)
    }
}

fn chain(error: client::Error) -> String {
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// How a program's channel ended.
enum Ended {
    /// The program exited, with this code.
    Exit(i32),
    /// The client closed the channel.
    Closed,
    /// The guest link was lost.
    Lost,
}

/// Runs a program. A shell on a terminal falls back to the serial console if the guest link is lost.
pub(crate) async fn run(
    guest: Guest,
    sender: Sender,
    exec: Exec,
    mut input: UnboundedReceiver<Input>,
) {
    let shell = exec.argv.is_empty() && exec.pty.is_some();
    let why = match guest.exec(exec).await {
        Ok(session) => match pump(session, &sender, &mut input).await {
            Ended::Exit(code) => {
                sender.exit(u32::try_from(code).unwrap_or(255)).await;
                return;
            }
            Ended::Closed => {
                sender.close().await;
                return;
            }
            Ended::Lost => "the guest link is lost".to_owned(),
        },
        Err(why) => why,
    };
    if shell {
        console(&guest, &sender, &mut input, &why).await;
    } else {
        sender
            .say(&format!(
                "faultline: {}: {}",
                guest.access.node,
                plain(&why)
            ))
            .await;
        sender.exit(255).await;
    }
}

/// The guest's SFTP server.
const SFTP: &str = "/usr/lib/openssh/sftp-server";

/// Runs the guest's SFTP server, or the one from the image's original disk if the guest's is missing.
pub(crate) async fn sftp(guest: Guest, sender: Sender, input: UnboundedReceiver<Input>) {
    let there = match guest.open(Target::Guest).await {
        Ok(stream) => client::stat(stream, SFTP)
            .await
            .is_ok_and(|file| file.is_some_and(|f| f.kind == "file" && f.mode & 0o111 != 0)),
        Err(_) => false,
    };
    let exec = Exec {
        argv: vec![SFTP.into()],
        trusted: !there,
        ..Exec::default()
    };
    run(guest, sender, exec, input).await;
}

/// Copies a program's streams until one side ends.
async fn pump(
    session: client::Session<Stream>,
    sender: &Sender,
    input: &mut UnboundedReceiver<Input>,
) -> Ended {
    let (mut to_guest, mut from_guest) = (session.input, session.output);
    let incoming = async {
        let mut takes = true;
        while let Some(item) = input.recv().await {
            // A program that accepts no more input may still write output.
            if !takes {
                continue;
            }
            let sent = match item {
                Input::Data(held) => to_guest.stdin(held.bytes()).await,
                Input::Eof => to_guest.send(Frame::StdinEnd).await,
                Input::Resize {
                    rows,
                    cols,
                    held: _held,
                } => to_guest.send(Frame::Resize { rows, cols }).await,
                Input::Signal(number, _held) => to_guest.send(Frame::Signal(number)).await,
            };
            takes = sent.is_ok();
        }
        Ended::Closed
    };
    let outgoing = async {
        let (mut stdout, mut stderr) = (sender.stdout(), sender.stderr());
        loop {
            let (to, bytes) = match from_guest.next().await {
                Ok(Some(Frame::Stdout(bytes))) => (&mut stdout, bytes),
                Ok(Some(Frame::Stderr(bytes))) => (&mut stderr, bytes),
                Ok(Some(Frame::Exit(code))) => return Ended::Exit(code),
                // The protocol allows no other frames here.
                Ok(Some(_) | None) | Err(_) => return Ended::Lost,
            };
            if !bytes.is_empty() && to.write_all(&bytes).await.is_err() {
                return Ended::Closed;
            }
        }
    };
    tokio::select! {
        ended = outgoing => ended,
        ended = incoming => ended,
    }
}

/// Serves the serial console, as the terminal of last resort.
async fn console(guest: &Guest, sender: &Sender, input: &mut UnboundedReceiver<Input>, why: &str) {
    let node = &guest.access.node;
    sender
        .say(&format!("\r\nfaultline: {node}: {}", plain(why)))
        .await;
    let stream = match guest.open(Target::Console).await {
        Ok(stream) => stream,
        Err(why) => {
            sender
                .say(&format!(
                    "faultline: the serial console can't be opened either: {}",
                    plain(&why)
                ))
                .await;
            sender.exit(255).await;
            return;
        }
    };
    sender
        .say(&format!(
            "faultline: connected to the serial console of {node} instead; press Enter for its prompt, and Enter ~ . to leave"
        ))
        .await;
    carry(stream, sender, input).await;
    sender.exit(0).await;
}

/// Connects to an address from inside the guest.
pub(crate) async fn forward(
    guest: Guest,
    sender: Sender,
    opening: Opening,
    host: String,
    port: u16,
    mut input: UnboundedReceiver<Input>,
) {
    let connected = match guest.open(Target::Guest).await {
        Ok(stream) => client::forward(stream, &host, port).await.map_err(chain),
        Err(why) => Err(why),
    };
    match connected {
        Ok(stream) => {
            opening.accept().await;
            carry(stream, &sender, &mut input).await;
            sender.close().await;
        }
        Err(why) => {
            tracing::debug!(environment = %guest.access.environment, %why, "forward refused");
            opening.unreachable().await;
        }
    }
}

/// Copies raw bytes both ways until the guest's side ends or the client closes the channel.
async fn carry(stream: Stream, sender: &Sender, input: &mut UnboundedReceiver<Input>) {
    let (mut read, mut write) = tokio::io::split(stream);
    let incoming = async {
        let mut takes = true;
        while let Some(item) = input.recv().await {
            if !takes {
                continue;
            }
            let sent = match item {
                Input::Data(held) => {
                    let bytes = held.bytes();
                    match write.write_all(&bytes).await {
                        Ok(()) => write.flush().await,
                        Err(e) => Err(e),
                    }
                }
                Input::Eof => write.shutdown().await,
                Input::Resize { .. } | Input::Signal(..) => Ok(()),
            };
            takes = sent.is_ok();
        }
    };
    let outgoing = async {
        let mut stdout = sender.stdout();
        let mut buffer = vec![0; 32 * 1024];
        while let Ok(n) = read.read(&mut buffer).await {
            let Some(bytes) = buffer.get(..n).filter(|b| !b.is_empty()) else {
                break;
            };
            if stdout.write_all(bytes).await.is_err() {
                return;
            }
        }
        sender.eof().await;
    };
    // When the guest's side ends, nothing reads what the client still sends. A client that has only ended its own input
    // keeps receiving.
    tokio::select! {
        () = outgoing => {}
        () = incoming => {}
    }
}

/// Removes control characters from a guest's text and shortens it to one line of at most 300 characters.
fn plain(text: &(impl Display + ?Sized)) -> String {
    text.to_string()
        .chars()
        .filter(|c| !c.is_control())
        .take(300)
        .collect()
}
