//! Serves HTTP. It limits the number of connections, in total and per address, and closes idle ones and those that
//! don't send a request.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};
use tower::ServiceExt;

use crate::counts::{Counted, Counts};

/// The maximum number of connections. A browser uses up to six, and one more for each open workspace.
const MAX_CONNECTIONS: usize = 4096;
/// The maximum number of connections from one address, which a whole class may share.
const MAX_PER_ADDRESS: usize = 512;
/// A connection without traffic in either direction for this long is closed. Event streams and WebSockets send a
/// keep-alive at least twice a minute, and no request takes this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// A connection is closed if it sends nothing at first for this long, or takes this long to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait after `accept` failed, for example because no file descriptor was left.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// The address of the client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub SocketAddr);

/// Serves until `stop`. Then it accepts no connection, and returns when the requests under way are answered.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    serve_bounded(Bounded::new(listener), router, stop).await;
}

async fn serve_bounded(mut listener: Bounded, router: Router, stop: impl Future<Output = ()>) {
    let mut http = auto::Builder::new(TokioExecutor::new()).http1_only();
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(listener.head_timeout);
    let open = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        let (connection, peer) = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        let router = router.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(Peer(peer)));
            router.clone().oneshot(request.map(Body::new))
        });
        let serving = http.serve_connection_with_upgrades(TokioIo::new(connection), service);
        let serving = open.watch(serving.into_owned());
        tokio::spawn(async move {
            if let Err(e) = serving.await {
                tracing::debug!(%peer, error = %e, "a connection ended");
            }
        });
    }
    drop(listener);
    open.shutdown().await;
}

/// A listener with limits.
#[derive(Debug)]
struct Bounded {
    inner: TcpListener,
    permits: Arc<Semaphore>,
    counts: Counts<IpAddr>,
    head_timeout: Duration,
    idle_timeout: Duration,
}

impl Bounded {
    fn new(inner: TcpListener) -> Self {
        Self {
            inner,
            permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            counts: Counts::default(),
            head_timeout: HEAD_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
        }
    }

    /// Returns the next connection that the limits allow.
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
                            // hyper measures the head's time from its first byte on.
                            idle: Box::pin(tokio::time::sleep(self.head_timeout)),
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
}

/// A connection that is closed when it has been idle for too long.
#[derive(Debug)]
struct Connection {
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
    async fn connections_without_a_whole_request_are_closed_and_answers_may_take_longer() {
        let (mut listener, at) = bounded(IDLE_TIMEOUT).await;
        let head_timeout = Duration::from_millis(300);
        listener.head_timeout = head_timeout;
        let slow = axum::routing::get(async move || {
            tokio::time::sleep(3 * head_timeout).await;
            "answered"
        });
        let stop = tokio_util::sync::CancellationToken::new();
        let router = Router::new().route("/", slow);
        let serving = tokio::spawn(serve_bounded(
            listener,
            router,
            stop.clone().cancelled_owned(),
        ));
        for begun in ["", "GET / HTTP/1.1\r\nHost: here\r\nX-Slow: "] {
            let mut client = TcpStream::connect(at).await.unwrap();
            client.write_all(begun.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let closing = client.read_to_end(&mut answer);
            let closed = tokio::time::timeout(20 * head_timeout, closing).await;
            assert!(closed.is_ok(), "still open after {begun:?}");
        }
        let mut client = TcpStream::connect(at).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n";
        client.write_all(request).await.unwrap();
        // A stop waits for it.
        tokio::time::sleep(head_timeout / 3).await;
        stop.cancel();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("answered"), "{answer}");
        serving.await.unwrap();
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
