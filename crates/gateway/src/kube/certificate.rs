//! The platform's certificate authority, which is created once, and the gateway's server certificate.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
pub use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use time::{Duration, OffsetDateTime};

/// The validity of the authority. It is long because kubeconfigs contain the authority.
const AUTHORITY: Duration = Duration::days(3650);
/// The validity of a server certificate. Each start of the server issues a new one.
const SERVER: Duration = Duration::days(730);
/// The time before now from which certificates are valid, because a client's clock may lag.
const BEFORE: Duration = Duration::days(1);

/// A certificate, or a chain, and the private key of the first certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificates, in PEM.
    pub certificate: String,
    /// The private key, in PEM.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

/// Why a certificate can't be issued or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be issued.
    #[error("issuing the certificate failed")]
    Make(#[from] rcgen::Error),
    /// The text isn't a certificate or a private key in PEM.
    #[error("the certificate or its key is not valid PEM: {0}")]
    Pem(String),
    /// The certificate and the key don't match, or TLS doesn't support them.
    #[error("the certificate can't be used for TLS")]
    Use(#[from] rustls::Error),
}

/// Creates a certificate authority.
pub fn authority() -> Result<Pair, Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "Faultline");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    lasts(&mut params, AUTHORITY);
    Ok(Pair {
        certificate: params.self_signed(&key)?.pem(),
        key: key.serialize_pem(),
    })
}

/// Issues a server certificate for these host names and IP addresses.
pub fn issue(authority: &Pair, names: Vec<String>) -> Result<Pair, Error> {
    let issuer =
        Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "Faultline, API servers");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    lasts(&mut params, SERVER);
    Ok(Pair {
        certificate: params.signed_by(&key, &issuer)?.pem(),
        key: key.serialize_pem(),
    })
}

fn lasts(params: &mut CertificateParams, long: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BEFORE;
    params.not_after = now + long;
}

/// Returns the gateway's TLS configuration, with this certificate, for HTTP/2 and HTTP/1.1.
pub fn tls(pair: &Pair) -> Result<Arc<ServerConfig>, Error> {
    let unreadable = |e: &dyn std::fmt::Display| Error::Pem(e.to_string());
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pair.certificate.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| unreadable(&e))?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|e| unreadable(&e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
