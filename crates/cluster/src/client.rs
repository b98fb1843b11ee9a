//! A Kubernetes client over the provider's streams: one HTTP/2 connection to the API server, made with the
//! platform's or a person's certificate, which verifies the server against the cluster's own authority.

use std::{sync::Arc, time::Duration};

use faultline_provider::{
    ApiAccess, Identity, Stream,
    api::{ApiServer, ClientCertificate},
};
use futures::{StreamExt, stream::FuturesUnordered};
use hyper::{Uri, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::{SignedDuration, Timestamp};
use kube::client::Body;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::ServiceExt;

/// How long the platform's own credential lasts; it gets a new one for each piece of work.
const PLATFORM: SignedDuration = SignedDuration::from_hours(2);
/// How long a control plane may take to shake hands, under emulation and load.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// How long one may have before the next is asked beside it.
const NEXT: Duration = Duration::from_secs(2);

/// Why there is no connection to the API server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No control plane took the connection.
    #[error("the API server takes no connection: {0}")]
    Unreachable(String),
    /// It answered, but not as this cluster's API server.
    #[error("what answers on the API server's port is not this cluster's API server")]
    Tls(#[source] std::io::Error),
    /// The connection was made and the server did not go on.
    #[error("the API server does not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// HTTP/2 could not be begun.
    #[error("the API server does not speak HTTP/2")]
    Http(#[source] hyper::Error),
    /// The credentials are malformed.
    #[error("the credentials can't be used: {0}")]
    Credentials(String),
}

/// Application protocols, as TLS names them.
pub const HTTP1: &[u8] = b"http/1.1";
/// See [`HTTP1`].
pub const HTTP2: &[u8] = b"h2";

/// Who the platform is to a cluster: its administrator.
#[must_use]
pub fn platform(now: Timestamp) -> Identity {
    Identity {
        user: "faultline:platform".to_owned(),
        groups: vec!["system:masters".to_owned()],
        from: now,
        until: now.saturating_add(PLATFORM).unwrap_or(Timestamp::MAX),
    }
}

/// Connects to the first control plane that answers.
pub async fn connect(access: &ApiAccess) -> Result<kube::Client, Error> {
    let stream = dial(access, HTTP2).await?;
    tokio::time::timeout(HANDSHAKE, begin(stream))
        .await
        .map_err(|_| Error::Silent(HANDSHAKE))?
}

/// An encrypted connection to the first control plane that answers: one that takes the connection and says nothing, as
/// a stopped process does, holds nobody up for long.
pub async fn dial(access: &ApiAccess, protocol: &[u8]) -> Result<TlsStream<Stream>, Error> {
    let tls = tls(&access.authority, &access.credential, protocol)?;
    let name = ServerName::try_from(access.server_name.clone());
    let name = name.map_err(|e| Error::Credentials(e.to_string()))?;
    let mut last = Error::Unreachable("it has no control plane".to_owned());
    let mut servers = access.servers.iter();
    let mut under_way = FuturesUnordered::new();
    loop {
        if let Some(server) = servers.next() {
            under_way.push(shake_hands(server.as_ref(), name.clone(), &tls));
        }
        let more = servers.len() > 0;
        loop {
            tokio::select! {
                done = under_way.next() => match done {
                    Some(Ok(stream)) => return Ok(stream),
                    Some(Err(e)) => {
                        last = e;
                        if more || under_way.is_empty() {
                            break;
                        }
                    }
                    None => break,
                },
                () = tokio::time::sleep(NEXT), if more => break,
            }
        }
        if !more && under_way.is_empty() {
            return Err(last);
        }
    }
}

async fn shake_hands(
    server: &dyn ApiServer,
    name: ServerName<'static>,
    tls: &TlsConnector,
) -> Result<TlsStream<Stream>, Error> {
    let shaken = async {
        let stream = server.connect().await;
        let stream = stream.map_err(|e| Error::Unreachable(format!("{}: {e}", server.name())))?;
        tls.connect(name, stream).await.map_err(Error::Tls)
    };
    tokio::time::timeout(HANDSHAKE, shaken)
        .await
        .map_err(|_| Error::Silent(HANDSHAKE))?
}

fn tls(
    authority: &str,
    credential: &ClientCertificate,
    protocol: &[u8],
) -> Result<TlsConnector, Error> {
    let unusable = |e: &dyn std::fmt::Display| Error::Credentials(e.to_string());
    let mut roots = RootCertStore::empty();
    for found in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        let authority = found.map_err(|e| unusable(&e))?;
        roots.add(authority).map_err(|e| unusable(&e))?;
    }
    let chain: Vec<_> = CertificateDer::pem_slice_iter(credential.certificate.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| unusable(&e))?;
    let key = PrivateKeyDer::from_pem_slice(credential.key.as_bytes()).map_err(|e| unusable(&e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(&e))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|e| unusable(&e))?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn begin(stream: TlsStream<Stream>) -> Result<kube::Client, Error> {
    let (sender, connection) =
        http2::handshake::<_, _, Body>(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(Error::Http)?;
    // Ends with the client: the connection closes when its last sender is dropped.
    tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!(error = %e, "a connection to an API server ended");
        }
    });
    let requests = tower::service_fn(move |request| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    let base = Uri::from_static("https://kubernetes:6443");
    let service = requests.map_request(move |mut request: hyper::Request<Body>| {
        let mut parts = request.uri().clone().into_parts();
        parts.scheme = base.scheme().cloned();
        parts.authority = base.authority().cloned();
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        request
    });
    Ok(kube::Client::new(service, "default"))
}
