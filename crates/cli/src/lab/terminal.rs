//! Connects this terminal to a terminal of a node.

use std::{
    io::IsTerminal,
    os::fd::{AsFd, BorrowedFd},
};

use anyhow::{Context, bail};
use faultline_domain::{NodeName, TenantId};
use faultline_guest::{
    client,
    wire::{Frame, Pty, Terminal},
};
use faultline_provider::{Provider, Target};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    signal::unix::{SignalKind, signal},
};

/// `Ctrl-]`, as in telnet: detaches from the terminal, in which programs keep running.
const LEAVE: u8 = 0x1d;

/// Keeps the local terminal in raw mode until dropped.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter(fd: BorrowedFd<'_>) -> std::io::Result<Self> {
        let before = tcgetattr(fd)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(fd, OptionalActions::Flush, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(
            std::io::stdin().as_fd(),
            OptionalActions::Flush,
            &self.before,
        );
    }
}

fn size() -> (u16, u16) {
    tcgetwinsize(std::io::stdout()).map_or((24, 80), |s| (s.ws_row.max(2), s.ws_col.max(20)))
}

/// Attaches until the terminal ends or the user detaches with `Ctrl-]`.
pub(super) async fn attach(
    provider: &dyn Provider,
    env: &TenantId,
    node: &NodeName,
    name: &str,
) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        bail!("standard input is not a terminal; run this in one");
    }
    let (rows, cols) = size();
    let stream = provider.open(env, node, Target::Guest).await?;
    let pty = Pty {
        term: std::env::var("TERM").unwrap_or_else(|_| "xterm-256color".to_owned()),
        rows,
        cols,
    };
    let request = Terminal {
        id: name.to_owned(),
        pty,
    };
    let (session, _) = client::terminal(stream, request)
        .await
        .context("cannot open a terminal on the node")?;
    println!("{node}: leave with Ctrl-], end with `exit`");
    let (mut input, mut output) = (session.input, session.output);
    let mut resized = signal(SignalKind::window_change())?;
    let raw = Raw::enter(std::io::stdin().as_fd())?;
    let (mut stdin, mut stdout) = (tokio::io::stdin(), tokio::io::stdout());
    let incoming = async {
        let mut buffer = [0; 4096];
        loop {
            tokio::select! {
                read = stdin.read(&mut buffer) => {
                    let Some(typed) = buffer.get(..read?).filter(|b| !b.is_empty()) else { return Ok(()) };
                    if let Some(before) = typed.split(|b| *b == LEAVE).next().filter(|_| typed.contains(&LEAVE)) {
                        input.stdin(bytes::Bytes::copy_from_slice(before)).await?;
                        return Ok::<_, anyhow::Error>(());
                    }
                    input.stdin(bytes::Bytes::copy_from_slice(typed)).await?;
                }
                _ = resized.recv() => {
                    let (rows, cols) = size();
                    input.send(Frame::Resize { rows, cols }).await?;
                }
            }
        }
    };
    let outgoing = async {
        loop {
            match output.next().await? {
                Some(Frame::Stdout(bytes) | Frame::Stderr(bytes)) => {
                    stdout.write_all(&bytes).await?;
                    stdout.flush().await?;
                }
                Some(Frame::Exit(_)) | None => return Ok::<_, anyhow::Error>(()),
                Some(_) => {}
            }
        }
    };
    let ended = tokio::select! {
        ended = incoming => ended,
        ended = outgoing => ended,
    };
    drop(raw);
    println!("\nback from {node}");
    ended
}
