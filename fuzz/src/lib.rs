//! What the targets share.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Runs a future on a clock that leaps over every wait. One that needs more than a day of that clock hangs.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(86_400), future)
            .await
            .expect("it hangs")
    })
}

/// The other side of a stream: says `input`, in pieces of `step` bytes, then ends; takes whatever it is told.
#[derive(Debug)]
pub struct Peer {
    input: Vec<u8>,
    at: usize,
    step: usize,
}

impl Peer {
    pub fn new(input: &[u8], step: usize) -> Self {
        Self {
            input: input.to_vec(),
            at: 0,
            step: step.max(1),
        }
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let end = (self.at + self.step.min(buf.remaining())).min(self.input.len());
        let at = self.at;
        buf.put_slice(&self.input[at..end]);
        self.at = end;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
