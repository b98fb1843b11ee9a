//! The platform's own authority, made once, and the certificate by which clients know the door.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
pub use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use time::{Duration, OffsetDateTime};

/// How long an authority lasts: kubeconfigs hold it.
const AUTHORITY: Duration = Duration::days(3650);
/// How long a certificate lasts; each start of the server makes one.
const SERVER: Duration = Duration::days(730);
/// A client's clock may lag.
const BEFORE: Duration = Duration::days(1);

/// A certificate, or a chain of them, and the key of the first.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

/// Why a certificate could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be made.
    #[error("the certificate can't be made")]
    Make(#[from] rcgen::Error),
    /// What is there is not PEM, or not of this kind.
    #[error("no certificate and key in PEM: {0}")]
    Pem(String),
    /// The two don't fit, or are of a kind that TLS can't use.
    #[error("the certificate can't be used")]
    Use(#[from] rustls::Error),
}

/// A new authority.
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

/// A certificate by this authority for a server of these host names and addresses.
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

/// What the door serves with: this certificate, HTTP/2 and HTTP/1.1.
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
