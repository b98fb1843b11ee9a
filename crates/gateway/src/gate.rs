//! Applies backpressure to a client that sends faster than the guest reads.
//!
//! The SSH library enlarges the client's window as soon as data has arrived, and the connection's loop must never wait
//! for one channel, or all other channels would wait too. So input is queued without waiting and counted here. Above a
//! limit, the connection's socket is not read until the queues have shrunk. TCP then slows the client down, and memory
//! stays bounded.

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

/// The number of queued bytes at which the socket is no longer read.
const HIGH: usize = 4 * 1024 * 1024;
/// The cost of each queued item besides its bytes, in bytes. A client may send many items without data.
const EACH: usize = 512;

/// Counts the queued input of one connection, and can end its input.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    queued: AtomicUsize,
    cut: AtomicBool,
    reader: AtomicWaker,
}

impl Gate {
    /// Makes the next read from the client's socket return its end.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.reader.wake();
    }

    /// Counts these bytes until the result is dropped. They are empty for a message such as a terminal's new size.
    pub(crate) fn hold(self: &Arc<Self>, bytes: Bytes) -> Held {
        self.queued.fetch_add(bytes.len() + EACH, Ordering::AcqRel);
        Held {
            bytes,
            gate: self.clone(),
        }
    }
}

/// Bytes that are queued for the guest.
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

/// A client's socket, read only while its gate allows it.
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
