//! A Kubernetes client over the provider's streams: one HTTP/2 connection to the API server, made with the
//! platform's or a person's certificate, which verifies the server against the cluster's own authority.

use std::{sync::Arc, time::Duration};

use faultline_domain::{NodeName, TenantId};
use faultline_provider::{ClusterKeys, Provider, Stream, Target};
use futures::{StreamExt, stream::FuturesUnordered};
use hyper::{Uri, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::Body;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::ServiceExt;

use crate::credentials::ClientCertificate;

/// The API server's port on every control plane.
pub const PORT: u16 = 6443;
/// A name that kubeadm puts into every API server's certificate.
const SERVER: &str = "kubernetes";
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

/// Connects to the first control plane that answers.
pub async fn connect(
    provider: &dyn Provider,
    tenant: &TenantId,
    keys: &ClusterKeys,
    identity: &ClientCertificate,
) -> Result<kube::Client, Error> {
    let stream = dial(provider, tenant, keys, identity, HTTP2).await?;
    tokio::time::timeout(HANDSHAKE, begin(stream))
        .await
        .map_err(|_| Error::Silent(HANDSHAKE))?
}

/// An encrypted connection to the first control plane that answers: one that takes the connection and says nothing, as
/// a stopped process does, holds nobody up for long.
pub async fn dial(
    provider: &dyn Provider,
    tenant: &TenantId,
    keys: &ClusterKeys,
    identity: &ClientCertificate,
    protocol: &[u8],
) -> Result<TlsStream<Stream>, Error> {
    let tls = tls(keys, identity, protocol)?;
    let mut last = Error::Unreachable("it has no control plane".to_owned());
    let mut planes = keys.control_planes.iter();
    let mut under_way = FuturesUnordered::new();
    loop {
        if let Some(node) = planes.next() {
            under_way.push(shake_hands(provider, tenant, node, &tls));
        }
        let more = planes.len() > 0;
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
    provider: &dyn Provider,
    tenant: &TenantId,
    node: &NodeName,
    tls: &TlsConnector,
) -> Result<TlsStream<Stream>, Error> {
    let name = ServerName::try_from(SERVER).map_err(|e| Error::Credentials(e.to_string()))?;
    let shaken = async {
        let stream = provider.open(tenant, node, Target::Port(PORT)).await;
        let stream = stream.map_err(|e| Error::Unreachable(format!("{node}: {e}")))?;
        tls.connect(name, stream).await.map_err(Error::Tls)
    };
    tokio::time::timeout(HANDSHAKE, shaken)
        .await
        .map_err(|_| Error::Silent(HANDSHAKE))?
}

fn tls(
    keys: &ClusterKeys,
    identity: &ClientCertificate,
    protocol: &[u8],
) -> Result<TlsConnector, Error> {
    let unusable = |e: &dyn std::fmt::Display| Error::Credentials(e.to_string());
    let mut roots = RootCertStore::empty();
    for found in CertificateDer::pem_slice_iter(keys.authority.as_bytes()) {
        let authority = found.map_err(|e| unusable(&e))?;
        roots.add(authority).map_err(|e| unusable(&e))?;
    }
    let chain: Vec<_> = CertificateDer::pem_slice_iter(identity.certificate.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| unusable(&e))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(|e| unusable(&e))?;
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
