//! The pages' port, bounded: so many connections in all and from one address, and none that says nothing.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex},
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

use crate::lock::lock;

/// Connections at once. A browser has up to six, and one more for each workspace that is open.
const ALL: usize = 4096;
/// From one address, behind which a class may sit.
const OF_ADDRESS: u32 = 512;
/// A connection on which nothing was said for so long, in either direction, ends. What lives on says something more often:
/// streams of events and WebSockets send a sign of life at least twice a minute, and no request takes so long.
const SILENT: Duration = Duration::from_secs(600);
/// How long to wait when the system has no descriptor left.
const PAUSE: Duration = Duration::from_millis(200);

/// Who is at the other end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub SocketAddr);

impl Connected<IncomingStream<'_, Bounded>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Self {
        Self(*stream.remote_addr())
    }
}

type Counts = Arc<Mutex<HashMap<IpAddr, u32>>>;

/// The listener.
#[derive(Debug)]
pub(crate) struct Bounded {
    inner: TcpListener,
    places: Arc<Semaphore>,
    counts: Counts,
    silent: Duration,
}

impl Bounded {
    pub(crate) fn new(inner: TcpListener) -> Self {
        Self {
            inner,
            places: Arc::new(Semaphore::new(ALL)),
            counts: Counts::default(),
            silent: SILENT,
        }
    }

    fn sit(&self, address: IpAddr) -> Option<Seat> {
        let mut counts = lock(&self.counts);
        let count = counts.entry(address).or_default();
        if *count >= OF_ADDRESS {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Seat {
            address,
            counts: self.counts.clone(),
        })
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            // Never closed; were it, nobody else could be let in.
            let Ok(place) = self.places.clone().acquire_owned().await else {
                std::future::pending::<()>().await;
                continue;
            };
            match self.inner.accept().await {
                Ok((socket, peer)) => {
                    if let Some(seat) = self.sit(peer.ip()) {
                        let connection = Connection {
                            socket,
                            silence: Box::pin(tokio::time::sleep(self.silent)),
                            silent: self.silent,
                            _place: place,
                            _seat: seat,
                        };
                        return (connection, peer);
                    }
                }
                Err(e) => {
                    tracing::debug!(error = %e, "a connection was not accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// One of an address's connections.
#[derive(Debug)]
struct Seat {
    address: IpAddr,
    counts: Counts,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// A connection that ends when it has been silent for too long.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: TcpStream,
    silence: Pin<Box<Sleep>>,
    silent: Duration,
    _place: OwnedSemaphorePermit,
    _seat: Seat,
}

impl Connection {
    fn heard(&mut self) {
        let until = Instant::now() + self.silent;
        self.silence.as_mut().reset(until);
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
            self.heard();
            return read;
        }
        match self.silence.as_mut().poll(cx) {
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
            self.heard();
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

    async fn bounded(silent: Duration) -> (Bounded, SocketAddr) {
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = inner.local_addr().unwrap();
        let bounded = Bounded {
            silent,
            ..Bounded::new(inner)
        };
        (bounded, at)
    }

    #[tokio::test]
    async fn one_address_has_so_many_and_gives_them_back() {
        let (mut listener, at) = bounded(SILENT).await;
        let (mut clients, mut served) = (Vec::new(), Vec::new());
        for _ in 0..OF_ADDRESS {
            clients.push(TcpStream::connect(at).await.unwrap());
            served.push(listener.accept().await.0);
        }
        let mut refused = TcpStream::connect(at).await.unwrap();
        let accepting = tokio::spawn(async move { listener.accept().await.0 });
        assert_eq!(refused.read(&mut [0]).await.unwrap(), 0, "it is closed");
        drop(served.pop());
        let mut taken = TcpStream::connect(at).await.unwrap();
        let mut connection = accepting.await.unwrap();
        taken.write_all(b"x").await.unwrap();
        assert_eq!(connection.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn who_says_nothing_is_let_go() {
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
