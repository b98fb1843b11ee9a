//! A Kubernetes client over the provider's streams. It uses one HTTP/2 connection to the API server, authenticates as the
//! platform or a person, and verifies the server with the cluster's own CA.

use std::{sync::Arc, time::Duration};

use faultline_provider::{
    ApiAccess, Identity, Stream,
    api::{ApiServer, ClientCertificate, Credential, PlatformCredential},
    attempts::first,
};
use hyper::{
    Uri,
    client::conn::http2,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::{SignedDuration, Timestamp};
use kube::client::Body;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::ServiceExt;

/// The platform's user name in clusters. People's names have a prefix.
pub const PLATFORM: &str = "faultline:platform";
/// The validity of the platform's own credential. It gets a new one for each operation.
const VALIDITY: SignedDuration = SignedDuration::from_hours(2);
/// The timeout of connecting to a control plane, which may be emulated or under load.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// The delay after which the next control plane is tried in parallel.
const NEXT: Duration = Duration::from_secs(2);

/// Why connecting to the API server failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No control plane accepted the connection.
    #[error("connecting to the API server failed: {0}")]
    Unreachable(String),
    /// The TLS handshake failed.
    #[error("the TLS handshake with the cluster's API server failed")]
    Tls(#[source] std::io::Error),
    /// The server didn't respond in time.
    #[error("the API server did not respond within {} s", .0.as_secs())]
    Silent(Duration),
    /// The HTTP/2 handshake failed.
    #[error("the HTTP/2 handshake with the API server failed")]
    Http(#[source] hyper::Error),
    /// The credentials are malformed.
    #[error("the credentials can't be used: {0}")]
    Credentials(String),
}

/// The TLS protocol name (ALPN) of HTTP/1.1.
pub const HTTP1: &[u8] = b"http/1.1";
/// The TLS protocol name (ALPN) of HTTP/2.
pub const HTTP2: &[u8] = b"h2";

/// Returns the platform's identity in a cluster, which is an administrator's.
#[must_use]
pub fn platform(now: Timestamp) -> Identity {
    Identity {
        user: PLATFORM.to_owned(),
        groups: vec!["system:masters".to_owned()],
        from: now,
        until: now.saturating_add(VALIDITY).unwrap_or(Timestamp::MAX),
    }
}

/// Returns a client that is connected to the first control plane that responds.
pub async fn connect(access: &ApiAccess) -> Result<kube::Client, Error> {
    let headers = headers(&access.credential)?;
    let stream = dial(access, HTTP2).await?;
    let namespace = access.namespace.as_deref().unwrap_or("default");
    tokio::time::timeout(HANDSHAKE, begin(stream, headers, namespace))
        .await
        .map_err(|_| Error::Silent(HANDSHAKE))?
}

/// Returns the headers that every request needs in addition to the connection: none for a certificate in the identity's
/// own name.
pub fn headers(credential: &Credential) -> Result<HeaderMap, Error> {
    let Credential::Impersonation {
        platform,
        user,
        groups,
    } = credential
    else {
        return Ok(HeaderMap::new());
    };
    let mut headers = impersonation(user, groups)?;
    if let PlatformCredential::Token(token) = platform {
        let mut bearer = header(&format!("Bearer {token}"))?;
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
    }
    Ok(headers)
}

/// Returns the headers with which a request is made as another user.
pub fn impersonation(user: &str, groups: &[String]) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    headers.insert("impersonate-user", header(user)?);
    for group in groups {
        headers.append("impersonate-group", header(group)?);
    }
    Ok(headers)
}

fn header(text: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(text).map_err(|e| Error::Credentials(e.to_string()))
}

/// Opens a TLS connection to the first control plane that responds. If one accepts the connection but doesn't respond,
/// as a stopped process does, the next is tried after a short delay.
pub async fn dial(access: &ApiAccess, protocol: &[u8]) -> Result<TlsStream<Stream>, Error> {
    let certificate = match &access.credential {
        Credential::Certificate(certificate)
        | Credential::Impersonation {
            platform: PlatformCredential::Certificate(certificate),
            ..
        } => Some(certificate),
        Credential::Impersonation { .. } => None,
    };
    let tls = tls(&access.authority, certificate, protocol)?;
    let name = ServerName::try_from(access.server_name.clone());
    let name = name.map_err(|e| Error::Credentials(e.to_string()))?;
    let shaken = access
        .servers
        .iter()
        .map(|server| shake_hands(server.as_ref(), name.clone(), &tls))
        .collect();
    first(shaken, NEXT).await.map_err(|last| {
        last.unwrap_or_else(|| Error::Unreachable("the cluster has no control plane".to_owned()))
    })
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
    certificate: Option<&ClientCertificate>,
    protocol: &[u8],
) -> Result<TlsConnector, Error> {
    let unusable = |e: &dyn std::fmt::Display| Error::Credentials(e.to_string());
    let mut roots = RootCertStore::empty();
    for found in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        let authority = found.map_err(|e| unusable(&e))?;
        roots.add(authority).map_err(|e| unusable(&e))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(&e))?
        .with_root_certificates(roots);
    let mut config = match certificate {
        Some(ClientCertificate { certificate, key }) => {
            let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|e| unusable(&e))?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| unusable(&e))?;
            config
                .with_client_auth_cert(chain, key)
                .map_err(|e| unusable(&e))?
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn begin(
    stream: TlsStream<Stream>,
    headers: HeaderMap,
    namespace: &str,
) -> Result<kube::Client, Error> {
    let (sender, connection) =
        http2::handshake::<_, _, Body>(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(Error::Http)?;
    // The task ends with the client, because the connection closes when its last sender is dropped.
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
        request.headers_mut().extend(headers.clone());
        request
    });
    Ok(kube::Client::new(service, namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_platforms_own_credential_needs_headers() {
        let certificate = ClientCertificate {
            certificate: String::new(),
            key: String::new(),
        };
        let own = Credential::Certificate(certificate.clone());
        assert!(headers(&own).unwrap().is_empty());
        let as_tenant = |platform| Credential::Impersonation {
            platform,
            user: "tenant".to_owned(),
            groups: vec!["a".to_owned(), "b".to_owned()],
        };
        let by_certificate = as_tenant(PlatformCredential::Certificate(certificate));
        let sent = headers(&by_certificate).unwrap();
        assert_eq!(sent["impersonate-user"], "tenant");
        let groups: Vec<_> = sent.get_all("impersonate-group").iter().collect();
        assert_eq!(groups, ["a", "b"]);
        assert!(!sent.contains_key(AUTHORIZATION));
        let by_token = as_tenant(PlatformCredential::Token("secret".to_owned()));
        let sent = headers(&by_token).unwrap();
        assert_eq!(sent[AUTHORIZATION], "Bearer secret");
        assert!(!format!("{sent:?} {by_token:?}").contains("secret"));
        assert!(impersonation("two\nlines", &[]).is_err());
    }
}
