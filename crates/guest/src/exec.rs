//! Runs one program for one substream. The program ends when the substream does.

use std::{io, os::fd::OwnedFd, time::Duration};

use bytes::Bytes;
use faultline_guest::{
    link::Substream,
    wire::{Exec, Frame, MAX_FRAME, Reply},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    process::Child,
    sync::{broadcast, mpsc},
};

use crate::{port::Port, respond, spawn};

/// Runs the program and forwards its streams. A program on a terminal also shows the lines that are `announced`.
pub async fn serve(
    mut stream: Substream,
    order: Exec,
    announced: broadcast::Receiver<Bytes>,
) -> io::Result<()> {
    let limit = order.timeout_seconds.map(|s| Duration::from_secs(s.into()));
    let started = spawn::command(&order).and_then(|command| match &order.pty {
        Some(pty) => {
            spawn::with_pty(command, &order, pty).map(|(child, master)| (child, Some(master)))
        }
        None => spawn::with_pipes(command, &order).map(|child| (child, None)),
    });
    let (child, master) = match started {
        Ok(started) => started,
        Err(e) => return respond(&mut stream, Err(e)).await,
    };
    let pid = child.id().unwrap_or(0);
    respond(&mut stream, Ok(Reply::Started { pid })).await?;
    let shown = master.as_ref().map(|master| (master, announced));
    let result = carry(stream, child, shown, pid, limit).await;
    // A program that exited may have left others running on purpose. If the viewer left, the program is ended.
    if result.is_err() {
        spawn::signal(pid, None, libc::SIGKILL);
    }
    result
}

async fn carry(
    stream: Substream,
    mut child: Child,
    terminal: Option<(&OwnedFd, broadcast::Receiver<Bytes>)>,
    pid: u32,
    limit: Option<Duration>,
) -> io::Result<()> {
    let (mut from_host, mut to_host) = tokio::io::split(stream);
    let (frames, mut outgoing) = mpsc::channel::<Frame>(4);
    let mut pumps = tokio::task::JoinSet::new();
    let mut input: Option<Box<dyn AsyncWrite + Unpin>> = None;
    let master = terminal.as_ref().map(|(master, _)| *master);
    if let Some((master, mut announced)) = terminal {
        pumps.spawn_local(pump(Port::new(master)?, frames.clone(), Frame::Stdout));
        // Ends with the program, because a weak sender keeps nothing open.
        let shown = frames.downgrade();
        pumps.spawn_local(async move {
            loop {
                match announced.recv().await {
                    Ok(line) => match shown.upgrade() {
                        Some(to) if to.send(Frame::Stdout(line)).await.is_ok() => {}
                        _ => break,
                    },
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => break,
                }
            }
        });
        input = Some(Box::new(Port::new(master)?));
    } else {
        if let Some(out) = child.stdout.take() {
            pumps.spawn_local(pump(out, frames.clone(), Frame::Stdout));
        }
        if let Some(err) = child.stderr.take() {
            pumps.spawn_local(pump(err, frames.clone(), Frame::Stderr));
        }
        if let Some(stdin) = child.stdin.take() {
            input = Some(Box::new(stdin));
        }
    }
    drop(frames);

    let incoming = async {
        loop {
            match Frame::read(&mut from_host).await? {
                Some(Frame::Stdin(bytes)) => {
                    if let Some(to) = &mut input
                        && (to.write_all(&bytes).await.is_err() || to.flush().await.is_err())
                    {
                        input = None;
                    }
                }
                Some(Frame::StdinEnd) => match master {
                    Some(_) => {
                        if let Some(to) = &mut input {
                            to.write_all(&[4]).await?;
                        }
                    }
                    None => input = None,
                },
                Some(Frame::Resize { rows, cols }) => {
                    if let Some(master) = master {
                        spawn::resize(master, rows, cols)?;
                    }
                }
                Some(Frame::Signal(number)) => spawn::signal(pid, master, number.into()),
                Some(_) => return Err::<(), _>(io::Error::from(io::ErrorKind::InvalidData)),
                None => return Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
            }
        }
    };
    let outgoing = async {
        let mut expired = false;
        let deadline = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(deadline);
        let mut status = None;
        // The program ends when its leader exits. Children that continue may keep its output open.
        let mut grace = None;
        loop {
            tokio::select! {
                frame = outgoing.recv() => match frame {
                    Some(frame) => frame.write(&mut to_host).await?,
                    None => break,
                },
                ended = child.wait(), if status.is_none() => {
                    status = Some(ended?);
                    grace = Some(tokio::time::Instant::now() + Duration::from_millis(500));
                }
                () = tokio::time::sleep_until(grace.unwrap_or_else(tokio::time::Instant::now)), if grace.is_some() => break,
                () = &mut deadline, if !expired => {
                    expired = true;
                    spawn::signal(pid, None, libc::SIGKILL);
                }
            }
        }
        let status = match status {
            Some(status) => status,
            None => child.wait().await?,
        };
        let code = if expired { 124 } else { spawn::code(status) };
        Frame::Exit(code).write(&mut to_host).await?;
        to_host.shutdown().await
    };
    tokio::select! {
        result = outgoing => result,
        result = incoming => result,
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, to: mpsc::Sender<Frame>, wrap: fn(Bytes) -> Frame) {
    let mut buffer = vec![0; MAX_FRAME / 4];
    while let Ok(n) = from.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..n).filter(|b| !b.is_empty()) else {
            break;
        };
        if to.send(wrap(Bytes::copy_from_slice(bytes))).await.is_err() {
            break;
        }
    }
}
