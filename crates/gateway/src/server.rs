//! Accepts SSH connections and enforces their limits.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use faultline_provider::Provider;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config, Directory, HostKey,
    connection::Connection,
    gate::{Gate, Gated},
    limit::Ledger,
    ssh::Library,
};

/// The time that connections have to end after `stop`.
const GOODBYE: Duration = Duration::from_secs(5);

/// Serves SSH on a listener until `stop`, then ends all connections and returns. Environments keep running.
pub async fn serve(
    listener: TcpListener,
    key: &HostKey,
    config: Config,
    directory: Arc<dyn Directory>,
    provider: Arc<dyn Provider>,
    stop: CancellationToken,
) -> io::Result<()> {
    let shared = Arc::new(Shared {
        library: Library::new(key, &config),
        ledger: Arc::new(Mutex::new(Ledger::new(config.limits))),
        config: Arc::new(config),
        directory,
        provider,
    });
    let tasks = TaskTracker::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            taken = listener.accept() => match taken {
                Ok((socket, peer)) => {
                    tasks.spawn(shared.clone().connection(socket, peer, stop.clone()));
                }
                // Out of file descriptors, or the client has already disconnected. Later connections may succeed.
                Err(e) => {
                    tracing::warn!(error = %e, "accepting an SSH connection failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    tasks.close();
    if tokio::time::timeout(GOODBYE, tasks.wait()).await.is_err() {
        tracing::warn!(left = tasks.len(), "SSH connections did not end in time");
    }
    Ok(())
}

struct Shared {
    library: Library,
    ledger: Arc<Mutex<Ledger>>,
    config: Arc<Config>,
    directory: Arc<dyn Directory>,
    provider: Arc<dyn Provider>,
}

impl Shared {
    async fn connection(
        self: Arc<Self>,
        mut socket: TcpStream,
        peer: SocketAddr,
        stop: CancellationToken,
    ) {
        let admitted = self
            .ledger
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .admit(peer.ip(), Instant::now());
        if let Err(refusal) = admitted {
            tracing::debug!(%peer, %refusal, "SSH connection refused");
            let line = format!("{refusal}\r\n");
            let _ = tokio::time::timeout(Duration::from_secs(2), socket.write_all(line.as_bytes()))
                .await;
            return;
        }
        self.converse(socket, peer, stop).await;
        self.ledger
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ended(peer.ip());
    }

    async fn converse(&self, socket: TcpStream, peer: SocketAddr, stop: CancellationToken) {
        let gate = Arc::new(Gate::default());
        let greeting = self.library.run(
            Gated::new(socket, gate.clone()),
            gate.clone(),
            peer.ip(),
            self.directory.clone(),
            self.ledger.clone(),
        );
        let greeted = tokio::select! {
            greeted = tokio::time::timeout(self.config.login_grace, greeting) => greeted,
            () = stop.cancelled() => return,
        };
        match greeted {
            Ok(Ok((running, events))) => {
                Connection::new(
                    self.config.clone(),
                    self.directory.clone(),
                    self.provider.clone(),
                    gate,
                )
                .serve(running, events, stop)
                .await;
            }
            Ok(Err(e)) => tracing::debug!(%peer, error = %e, "the SSH version exchange failed"),
            Err(_) => tracing::debug!(%peer, "the SSH version exchange timed out"),
        }
    }
}
