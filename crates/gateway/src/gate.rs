//! Holds a client back that sends faster than the guest takes.
//!
//! The SSH library gives a client new window as soon as data has arrived, and its loop must never wait for one
//! channel, or everything else of the connection waits too. So what has arrived is queued without waiting, is
//! counted here, and beyond a bound the connection's socket is not read until the queues have shrunk: TCP then
//! holds the client back, and memory stays bounded.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Beyond so many queued bytes the socket is not read.
const HIGH: usize = 4 * 1024 * 1024;
/// What anything queued costs beside its bytes: a client may send much of what has none.
const EACH: usize = 512;

/// Counts what is queued on one connection, and can cut it off.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    queued: AtomicUsize,
    cut: AtomicBool,
    reader: AtomicWaker,
}

impl Gate {
    /// The client's next read is its end.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.reader.wake();
    }

    /// Counts bytes until they are dropped. Without bytes: a word such as a terminal's new size.
    pub(crate) fn hold(self: &Arc<Self>, bytes: Bytes) -> Held {
        self.queued.fetch_add(bytes.len() + EACH, Ordering::AcqRel);
        Held {
            bytes,
            gate: self.clone(),
        }
    }
}

/// Bytes on their way to the guest.
#[derive(Debug)]
pub(crate) struct Held {
    bytes: Bytes,
    gate: Arc<Gate>,
}

impl Held {
    pub(crate) fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let cost = self.bytes.len() + EACH;
        let before = self.gate.queued.fetch_sub(cost, Ordering::AcqRel);
        if before >= HIGH && before - cost < HIGH {
            self.gate.reader.wake();
        }
    }
}

/// A client's socket behind its gate.
pub(crate) struct Gated {
    socket: TcpStream,
    gate: Arc<Gate>,
}

impl Gated {
    pub(crate) fn new(socket: TcpStream, gate: Arc<Gate>) -> Self {
        Self { socket, gate }
    }
}

impl AsyncRead for Gated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.gate.reader.register(cx.waker());
        if self.gate.cut.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        if self.gate.queued.load(Ordering::Acquire) >= HIGH {
            return Poll::Pending;
        }
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gated {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
