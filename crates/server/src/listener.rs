//! The listener for HTTP. It limits the number of connections, in total and per address, and closes idle ones.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};

use crate::counts::{Counted, Counts};

/// The maximum number of connections. A browser uses up to six, and one more for each open workspace.
const MAX_CONNECTIONS: usize = 4096;
/// The maximum number of connections from one address, which a whole class may share.
const MAX_PER_ADDRESS: usize = 512;
/// A connection without traffic in either direction for this long is closed. Event streams and WebSockets send a
/// keep-alive at least twice a minute, and no request takes this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long to wait after `accept` failed, for example because no file descriptor was left.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// The address of the client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub SocketAddr);

impl Connected<IncomingStream<'_, Bounded>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// A listener with limits.
#[derive(Debug)]
pub(crate) struct Bounded {
    inner: TcpListener,
    permits: Arc<Semaphore>,
    counts: Counts<IpAddr>,
    idle_timeout: Duration,
}

impl Bounded {
    pub(crate) fn new(inner: TcpListener) -> Self {
        Self {
            inner,
            permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            counts: Counts::default(),
            idle_timeout: IDLE_TIMEOUT,
        }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            // The semaphore is never closed. If it were, no more connections could be accepted.
            let Ok(permit) = self.permits.clone().acquire_owned().await else {
                std::future::pending::<()>().await;
                continue;
            };
            match self.inner.accept().await {
                Ok((socket, peer)) => {
                    if let Some(counted) = self.counts.admit(&peer.ip(), MAX_PER_ADDRESS) {
                        let connection = Connection {
                            socket,
                            idle: Box::pin(tokio::time::sleep(self.idle_timeout)),
                            idle_timeout: self.idle_timeout,
                            _permit: permit,
                            _counted: counted,
                        };
                        return (connection, peer);
                    }
                }
                Err(e) => {
                    tracing::debug!(error = %e, "a connection could not be accepted");
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// A connection that is closed when it has been idle for too long.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: TcpStream,
    idle: Pin<Box<Sleep>>,
    idle_timeout: Duration,
    _permit: OwnedSemaphorePermit,
    _counted: Counted<IpAddr>,
}

impl Connection {
    fn reset_idle(&mut self) {
        let until = Instant::now() + self.idle_timeout;
        self.idle.as_mut().reset(until);
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        if read.is_ready() {
            self.reset_idle();
            return read;
        }
        match self.idle.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        if written.is_ready() {
            self.reset_idle();
        }
        written
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn bounded(idle_timeout: Duration) -> (Bounded, SocketAddr) {
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = inner.local_addr().unwrap();
        let bounded = Bounded {
            idle_timeout,
            ..Bounded::new(inner)
        };
        (bounded, at)
    }

    #[tokio::test]
    async fn connections_per_address_are_limited_and_freed_when_closed() {
        let (mut listener, at) = bounded(IDLE_TIMEOUT).await;
        let (mut clients, mut served) = (Vec::new(), Vec::new());
        for _ in 0..MAX_PER_ADDRESS {
            clients.push(TcpStream::connect(at).await.unwrap());
            served.push(listener.accept().await.0);
        }
        let mut refused = TcpStream::connect(at).await.unwrap();
        let accepting = tokio::spawn(async move { listener.accept().await.0 });
        assert_eq!(refused.read(&mut [0]).await.unwrap(), 0, "closed");
        drop(served.pop());
        let mut taken = TcpStream::connect(at).await.unwrap();
        let mut connection = accepting.await.unwrap();
        taken.write_all(b"x").await.unwrap();
        assert_eq!(connection.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn idle_connections_are_closed() {
        let (mut listener, at) = bounded(Duration::from_millis(300)).await;
        let mut client = TcpStream::connect(at).await.unwrap();
        let (mut connection, _) = listener.accept().await;
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            client.write_all(b"x").await.unwrap();
            assert_eq!(connection.read_u8().await.unwrap(), b'x');
        }
        let error = connection.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
