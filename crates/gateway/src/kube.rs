//! `kubectl` from outside: one port for all environments, routed by the server name in the first message of TLS to
//! the environment's API server, which alone ends the encryption and knows its clients by their certificates.
//!
//! An unknown, an ended and a suspended environment look alike: the connection closes without a word.

use std::{
    io::{self, Cursor},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use faultline_domain::{EnvironmentId, NodeName};
use faultline_provider::{Provider, Stream, Target};
use rustls::server::Acceptor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Directory, limit};

/// The API server's port on every control plane.
const PORT: u16 = 6443;
/// How long a client may take to say which environment it wants.
const HELLO: Duration = Duration::from_secs(10);
/// The most that it may say for it, in bytes.
const MAX_HELLO: usize = 16 * 1024;
/// How often an open connection counts as use.
const USE: Duration = Duration::from_secs(30);
/// How long connections have to end after `stop`.
const GOODBYE: Duration = Duration::from_secs(2);

/// Serves API servers on a listener until `stop`. `domain` is what follows the environment in the server's name.
pub async fn serve(
    listener: TcpListener,
    domain: &'static str,
    limits: limit::Limits,
    directory: Arc<dyn Directory>,
    provider: Arc<dyn Provider>,
    stop: CancellationToken,
) {
    let shared = Arc::new(Shared {
        domain,
        directory,
        provider,
        ledger: Mutex::new(limit::Ledger::new(limits)),
    });
    let tasks = TaskTracker::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            taken = listener.accept() => match taken {
                Ok((socket, peer)) => {
                    let (shared, stop) = (shared.clone(), stop.clone());
                    tasks.spawn(async move {
                        stop.run_until_cancelled(shared.connection(socket, peer)).await;
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

struct Shared {
    domain: &'static str,
    directory: Arc<dyn Directory>,
    provider: Arc<dyn Provider>,
    ledger: Mutex<limit::Ledger>,
}

impl Shared {
    fn ledger(&self) -> std::sync::MutexGuard<'_, limit::Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(&self, socket: TcpStream, peer: SocketAddr) {
        if let Err(refusal) = self.ledger().admit(peer.ip(), Instant::now()) {
            tracing::debug!(%peer, %refusal, "a connection to an API server is refused");
            return;
        }
        // Given back also when the server stops in the middle.
        let _place = Place(self, peer);
        if let Err(e) = self.carry(socket).await {
            tracing::debug!(%peer, error = %e, "a connection to an API server ended");
        }
    }

    async fn carry(&self, mut socket: TcpStream) -> io::Result<()> {
        let (name, said) = tokio::time::timeout(HELLO, hello(&mut socket))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let Some(id) = environment(&name, self.domain) else {
            return Ok(());
        };
        let Some(planes) = self.directory.api_server(&id).await else {
            return Ok(());
        };
        let Some(mut stream) = self.open(&id, &planes).await else {
            return Ok(());
        };
        let _ = socket.set_nodelay(true);
        stream.write_all(&said).await?;
        let used = async {
            loop {
                self.directory.used(&id).await;
                tokio::time::sleep(USE).await;
                if self.directory.api_server(&id).await.is_none() {
                    // The environment has ended: so does what led to it.
                    return;
                }
            }
        };
        tokio::select! {
            done = tokio::io::copy_bidirectional(&mut socket, &mut stream) => done.map(drop),
            () = used => Ok(()),
        }
    }

    /// A stream to the first control plane that takes one.
    async fn open(&self, id: &EnvironmentId, planes: &[NodeName]) -> Option<Stream> {
        for node in planes {
            match self.provider.open(id, node, Target::Port(PORT)).await {
                Ok(stream) => return Some(stream),
                Err(e) => tracing::debug!(environment = %id, %node, error = %e, "no API server"),
            }
        }
        None
    }
}

struct Place<'a>(&'a Shared, SocketAddr);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.ledger().ended(self.1.ip());
    }
}

/// Reads a client's first message: the name it asks for, and every byte that it sent.
async fn hello(socket: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let malformed = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let mut said = Vec::with_capacity(1024);
    let mut buffer = [0; 2048];
    loop {
        let n = socket.read(&mut buffer).await?;
        let Some(bytes) = buffer.get(..n).filter(|b| !b.is_empty()) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        said.extend_from_slice(bytes);
        if said.len() > MAX_HELLO {
            return Err(malformed("the client's first message has no end"));
        }
        if let Some(name) = server_name(&said)? {
            return Ok((name, said));
        }
    }
}

/// The server name in the bytes that a client has sent so far; nothing until its first message is whole.
fn server_name(said: &[u8]) -> io::Result<Option<String>> {
    let mut acceptor = Acceptor::default();
    let mut from = Cursor::new(said);
    while acceptor.read_tls(&mut from)? > 0 {}
    match acceptor.accept() {
        Ok(Some(accepted)) => match accepted.client_hello().server_name() {
            Some(name) => Ok(Some(name.to_owned())),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the client names no server",
            )),
        },
        Ok(None) => Ok(None),
        Err((e, _)) => Err(io::Error::new(io::ErrorKind::InvalidData, e)),
    }
}

/// The environment that a server's name is of.
fn environment(name: &str, domain: &str) -> Option<EnvironmentId> {
    name.to_ascii_lowercase()
        .strip_suffix(domain)?
        .strip_suffix('.')?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello_of(name: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut said = Vec::new();
        client.write_tls(&mut said).unwrap();
        said
    }

    #[test]
    fn the_name_is_read_once_the_message_is_whole() {
        let said = hello_of("k7f3q9xw2m.k8s.faultline.internal");
        assert_eq!(server_name(&said[..20]).unwrap(), None);
        assert_eq!(
            server_name(&said).unwrap().as_deref(),
            Some("k7f3q9xw2m.k8s.faultline.internal")
        );
    }

    #[test]
    fn what_is_not_tls_or_names_nothing_is_an_error() {
        assert!(server_name(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").is_err());
        assert!(server_name(&hello_of("127.0.0.1")).is_err());
        let mut broken = hello_of("a.k8s.faultline.internal");
        broken[5] = 0xff;
        assert!(server_name(&broken).is_err());
    }

    #[test]
    fn only_names_of_environments_lead_anywhere() {
        const DOMAIN: &str = "k8s.faultline.internal";
        assert_eq!(
            environment("K7f3.k8s.faultline.internal", DOMAIN)
                .unwrap()
                .as_str(),
            "k7f3"
        );
        for name in [
            "k8s.faultline.internal",
            ".k8s.faultline.internal",
            "a.b.k8s.faultline.internal",
            "a.example.org",
            "ak8s.faultline.internal",
        ] {
            assert_eq!(environment(name, DOMAIN), None, "{name}");
        }
    }
}
