//! The gateway to API servers: one port for the clusters of all environments, for `kubectl` and any other client.
//!
//! ```text
//! kubectl ── TLS: the platform's certificate ──► proxy.rs ── lease.rs: authorizes the token ────► ApiServers::admit
//!   /environments/<id>/api/v1/pods                  │                                                 every few s
//!   Authorization: Bearer <token>                   └── TLS: the person's identity ─────► the tenant's API server
//!                                                       /api/v1/pods                      ApiServers::connect
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `authenticate` | requests on connections of the platform's own, which impersonate the tenant's user |
//! | [`certificate`] | the platform's certificate authority, and the gateway's certificate |
//! | `lease` | the access that one token gives: rechecked regularly, and ended when it is withdrawn |
//! | `proxy` | forwards one request, including upgraded connections |
//! | [`request`] | what a request changes, as recorded in the audit log |
//! | [`status`] | refusals, as the objects that Kubernetes clients display |
//!
//! Nothing is buffered: bodies are forwarded frame by frame, and a client that reads slowly slows its API server down.

mod authenticate;
pub mod certificate;
mod lease;
mod proxy;
pub mod request;
pub mod status;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use faultline_domain::{EnvironmentId, PersonId, TenantId};
use faultline_provider::Stream;
use hyper::{HeaderMap, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{lease::Leases, proxy::Proxy};
pub use self::{request::Change, status::Refusal};
use crate::limit;

/// The interval of keepalives to a silent client.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// The time that a client may take to respond to a keepalive.
const ANSWER: Duration = Duration::from_secs(20);
/// The time that connections have to end after `stop`.
const GOODBYE: Duration = Duration::from_secs(2);

/// Proof that a person may use an environment's API server now. Only [`ApiServers`] creates it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The environment.
    pub environment: EnvironmentId,
    /// The tenant that it currently runs on.
    pub tenant: TenantId,
    /// The person.
    pub person: PersonId,
}

/// The protocol of a connection to an API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// For requests that are upgraded, each on its own connection.
    Http1,
    /// For all other requests.
    Http2,
}

/// A connection to an API server, authenticated as a person.
pub struct Connection {
    /// The stream, on which HTTP is spoken.
    pub stream: Stream,
    /// The headers that authenticate every request on it. Empty if the stream itself is authenticated as the person.
    pub headers: HeaderMap,
}

/// Decides who may use which environment's API server, and connects to it.
#[async_trait]
pub trait ApiServers: Send + Sync {
    /// Returns whether the holder of this token may use this environment's API server. Called again while requests or
    /// sessions are open, with `open` set. They end if the result changes, but not if the token has merely expired.
    async fn admit(
        &self,
        environment: &EnvironmentId,
        token: &str,
        open: bool,
    ) -> Result<Grant, Refusal>;

    /// Connects to the API server, authenticated as this person.
    async fn connect(&self, grant: &Grant, protocol: Protocol) -> Result<Connection, Refusal>;

    /// Records that the person is active. Called at most every 30 seconds for each token.
    async fn used(&self, grant: &Grant);

    /// Records in the audit log that the person requested a change.
    async fn changes(&self, grant: &Grant, change: &Change);
}

/// The configuration of the gateway to API servers.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The limits of connections.
    pub limits: limit::Limits,
    /// The timeout of the TLS handshake, of a request's headers, and of the first request with a valid token. Default:
    /// 15 s.
    pub hello: Duration,
    /// The interval at which tokens in use are authorized again. Default: 10 s.
    pub recheck: Duration,
    /// The maximum average rate of a person's requests to an environment, per second. Default: 100.
    pub per_second: u32,
    /// The maximum number of a person's open requests to an environment, including watches and sessions. Default: 500.
    pub at_once: usize,
}

impl Default for Config {
    /// Returns limits that are several times those of `kubectl`, `helm` and `k9s` themselves.
    fn default() -> Self {
        Self {
            limits: limit::Limits::default(),
            hello: Duration::from_secs(15),
            recheck: Duration::from_secs(10),
            per_second: 100,
            at_once: 500,
        }
    }
}

/// Serves API servers on a listener until `stop`.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    config: Config,
    servers: Arc<dyn ApiServers>,
    stop: CancellationToken,
) {
    let tasks = TaskTracker::new();
    let gateway = Arc::new(Gateway {
        tls: TlsAcceptor::from(tls),
        proxy: Proxy {
            leases: Leases::new(servers, config, tasks.clone(), stop.clone()),
            tasks: tasks.clone(),
        },
        ledger: Mutex::new(limit::Ledger::new(config.limits)),
        hello: config.hello,
    });
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            taken = listener.accept() => match taken {
                Ok((socket, peer)) => {
                    let (gateway, stop) = (gateway.clone(), stop.clone());
                    tasks.spawn(async move {
                        stop.run_until_cancelled(gateway.connection(socket, peer)).await;
                    });
                }
                Err(e) => {
                    tracing::warn!(error = %e, "accepting a connection to an API server failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    tasks.close();
    let _ = tokio::time::timeout(GOODBYE, tasks.wait()).await;
}

struct Gateway {
    tls: TlsAcceptor,
    proxy: Proxy,
    ledger: Mutex<limit::Ledger>,
    hello: Duration,
}

impl Gateway {
    fn ledger(&self) -> MutexGuard<'_, limit::Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(self: Arc<Self>, socket: TcpStream, peer: SocketAddr) {
        if let Err(refusal) = self.ledger().admit(peer.ip(), Instant::now()) {
            tracing::debug!(%peer, %refusal, "a connection to an API server was refused");
            return;
        }
        // Released on drop, so also when the server stops.
        let _slot = Slot(self.clone(), peer);
        if let Err(e) = self.carry(socket, peer).await {
            tracing::debug!(%peer, error = %e, "a connection to an API server ended");
        }
    }

    async fn carry(
        self: Arc<Self>,
        socket: TcpStream,
        peer: SocketAddr,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        socket.set_nodelay(true)?;
        // Detects clients that have vanished, even if nothing is sent to them.
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(ANSWER);
        SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
        let hello = self.hello;
        let stream = tokio::time::timeout(hello, self.tls.accept(socket)).await??;
        // A client is disconnected if its address has sent too many invalid tokens, or if it has sent no valid one in
        // time.
        let blocked = CancellationToken::new();
        let authenticated = Arc::new(AtomicBool::new(false));
        let (block, authenticate) = (blocked.clone(), authenticated.clone());
        let service = service_fn(move |request| {
            let (gateway, block, authenticate) =
                (self.clone(), block.clone(), authenticate.clone());
            async move {
                let answer = gateway.proxy.answer(request).await;
                let marks = answer.extensions();
                if marks.get::<status::Authenticated>().is_some() {
                    authenticate.store(true, Ordering::Release);
                }
                if marks.get::<status::Guessed>().is_some()
                    && !gateway.ledger().failed(peer.ip(), Instant::now())
                {
                    block.cancel();
                }
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        let mut server = auto::Builder::new(TokioExecutor::new());
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(hello);
        server
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(ANSWER)
            .max_concurrent_streams(512);
        let serving = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(serving);
        let unauthenticated = async {
            tokio::time::sleep(hello).await;
            if authenticated.load(Ordering::Acquire) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            done = &mut serving => done,
            () = unauthenticated => Ok(()),
            () = blocked.cancelled() => Ok(()),
        }
    }
}

/// A connection's entry in the ledger, released on drop.
struct Slot(Arc<Gateway>, SocketAddr);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.ledger().ended(self.1.ip());
    }
}

#[cfg(test)]
mod tests;
