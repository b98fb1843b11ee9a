//! The door to API servers: one port for the clusters of all environments, for `kubectl` and every other client.
//!
//! ```text
//! kubectl ── TLS: the platform's certificate ──► proxy.rs ── lease.rs: whose token, may they? ──► ApiServers::admit
//!   /environments/<id>/api/v1/pods                  │                                                 every few s
//!   Authorization: Bearer <token>                   └── TLS: the person's certificate ──► the tenant's API server
//!                                                       /api/v1/pods                      ApiServers::connect
//! ```
//!
//! | module | does |
//! |---|---|
//! | [`certificate`] | the platform's authority, and the door's certificate by it |
//! | `lease` | what one token opens: asked for again and again, and ended when it is withdrawn |
//! | `proxy` | carries one request, whatever it is upgraded to |
//! | [`request`] | what a request is about, in the words of the audit |
//! | [`status`] | refusals, as the objects that Kubernetes clients show |
//!
//! Nothing is buffered: bodies go on frame by frame, and a client that reads slowly holds its API server back.

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
use hyper::service::service_fn;
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

/// How long a client may take for the handshake, and to say what it wants.
const HELLO: Duration = Duration::from_secs(15);
/// How often a client that says nothing is asked whether it is there, and how long it may take to answer.
const KEEPALIVE: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(20);
/// How long connections have to end after `stop`.
const GOODBYE: Duration = Duration::from_secs(2);

/// That a person may use an environment's API server now: made only by [`ApiServers`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The environment.
    pub environment: EnvironmentId,
    /// What it runs on now.
    pub tenant: TenantId,
    /// Who uses it.
    pub person: PersonId,
}

/// The protocol of a connection to an API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// For requests that are upgraded, each on a connection of its own.
    Http1,
    /// For all others.
    Http2,
}

/// Who may use which environment's API server, and the way to it.
#[async_trait]
pub trait ApiServers: Send + Sync {
    /// May the holder of this token use this environment's API server? Asked again, with `open`, while what it opened is
    /// open, which ends once the answer is another; that its time has run out ends nothing that is open.
    async fn admit(
        &self,
        environment: &EnvironmentId,
        token: &str,
        open: bool,
    ) -> Result<Grant, Refusal>;

    /// A connection to the API server that knows its client as this person.
    async fn connect(&self, grant: &Grant, protocol: Protocol) -> Result<Stream, Refusal>;

    /// The person does something: called at most every half minute.
    async fn used(&self, grant: &Grant);

    /// The person asks for a change.
    async fn changes(&self, grant: &Grant, change: &Change);
}

/// How the door behaves.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Limits of connections.
    pub limits: limit::Limits,
    /// How often it is asked again whether who is connected still may be.
    pub recheck: Duration,
    /// The most requests of a person to an environment within a second, on average.
    pub per_second: u32,
    /// The most of them at once, watches and sessions included.
    pub at_once: usize,
}

impl Default for Config {
    /// Several times what `kubectl`, `helm` and `k9s` allow themselves.
    fn default() -> Self {
        Self {
            limits: limit::Limits::default(),
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
    let door = Arc::new(Door {
        tls: TlsAcceptor::from(tls),
        proxy: Proxy {
            leases: Leases::new(servers, config, tasks.clone(), stop.clone()),
            tasks: tasks.clone(),
        },
        ledger: Mutex::new(limit::Ledger::new(config.limits)),
    });
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            taken = listener.accept() => match taken {
                Ok((socket, peer)) => {
                    let (door, stop) = (door.clone(), stop.clone());
                    tasks.spawn(async move {
                        stop.run_until_cancelled(door.connection(socket, peer)).await;
                    });
                }
                Err(e) => {
                    tracing::warn!(error = %e, "a connection to an API server can't be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    tasks.close();
    let _ = tokio::time::timeout(GOODBYE, tasks.wait()).await;
}

struct Door {
    tls: TlsAcceptor,
    proxy: Proxy,
    ledger: Mutex<limit::Ledger>,
}

impl Door {
    fn ledger(&self) -> MutexGuard<'_, limit::Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(self: Arc<Self>, socket: TcpStream, peer: SocketAddr) {
        if let Err(refusal) = self.ledger().admit(peer.ip(), Instant::now()) {
            tracing::debug!(%peer, %refusal, "a connection to an API server is refused");
            return;
        }
        // Given back also when the server stops in the middle.
        let _place = Place(self.clone(), peer);
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
        // A client that vanished without a word is found out also where nothing is sent to it.
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(ANSWER);
        SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
        let stream = tokio::time::timeout(HELLO, self.tls.accept(socket)).await??;
        // Whoever guesses too often is put out, and so is who has not been let through in time.
        let (out, known) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let (put_out, is_known) = (out.clone(), known.clone());
        let service = service_fn(move |request| {
            let (door, out, known) = (self.clone(), put_out.clone(), is_known.clone());
            async move {
                let answer = door.proxy.answer(request).await;
                if answer.extensions().get::<status::Guessed>().is_none() {
                    known.store(true, Ordering::Release);
                } else if !door.ledger().failed(peer.ip(), Instant::now()) {
                    out.cancel();
                }
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        let mut server = auto::Builder::new(TokioExecutor::new());
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HELLO);
        server
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(ANSWER)
            .max_concurrent_streams(512);
        let serving = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(serving);
        let stranger = async {
            tokio::time::sleep(HELLO).await;
            if known.load(Ordering::Acquire) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            done = &mut serving => done,
            () = stranger => Ok(()),
            () = out.cancelled() => Ok(()),
        }
    }
}

struct Place(Arc<Door>, SocketAddr);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.ledger().ended(self.1.ip());
    }
}

#[cfg(test)]
mod tests;
