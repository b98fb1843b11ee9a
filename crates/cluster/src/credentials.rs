//! Client certificates, signed with the cluster's own authority.

use faultline_provider::ClusterKeys;
use jiff::{SignedDuration, Timestamp};
use pkcs8::{
    AlgorithmIdentifierRef, EncodePrivateKey, LineEnding, ObjectIdentifier, PrivateKeyInfoRef,
    der::asn1::{AnyRef, OctetStringRef},
};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};

/// How long the platform's own certificate lasts; it makes a new one for each piece of work.
const PLATFORM: SignedDuration = SignedDuration::from_hours(2);
/// A guest's clock may lag: certificates begin this much in the past.
const BEFORE: SignedDuration = SignedDuration::from_hours(1);

/// A client certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
    /// When it ends.
    pub not_after: Timestamp,
}

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster's key is not one that can be used.
    #[error("the cluster's authority can't be used: {0}")]
    Authority(String),
    /// Signing failed.
    #[error("the certificate could not be signed")]
    Sign(#[from] rcgen::Error),
}

/// The platform's own certificate for a cluster, as its administrator.
pub fn platform(keys: &ClusterKeys, now: Timestamp) -> Result<ClientCertificate, Error> {
    mint(keys, "faultline:platform", "system:masters", now, PLATFORM)
}

/// A certificate for `user` in one group, from a little before `now` for `lifetime`.
pub fn mint(
    keys: &ClusterKeys,
    user: &str,
    group: &str,
    now: Timestamp,
    lifetime: SignedDuration,
) -> Result<ClientCertificate, Error> {
    let authority = authority(keys)?;
    let key = KeyPair::generate()?;
    let not_after = now.saturating_add(lifetime).unwrap_or(Timestamp::MAX);
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, user);
    subject.push(DnType::OrganizationName, group);
    params.distinguished_name = subject;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = date(now.saturating_sub(BEFORE).unwrap_or(now));
    params.not_after = date(not_after);
    let certificate = params.signed_by(&key, &authority)?;
    Ok(ClientCertificate {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        not_after,
    })
}

fn date(at: Timestamp) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(at.as_second())
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
}

fn authority(keys: &ClusterKeys) -> Result<Issuer<'static, KeyPair>, Error> {
    let key = KeyPair::from_pem(&pkcs8_pem(&keys.authority_key)?)?;
    Ok(Issuer::from_ca_cert_pem(&keys.authority, key)?)
}

/// kubeadm writes keys in the older forms of their kind; what signs reads PKCS #8 alone.
fn pkcs8_pem(pem: &str) -> Result<String, Error> {
    const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
    const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
    const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
    let unusable = |why: &str| Error::Authority(why.to_owned());
    let parts = PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| Error::Authority(e.to_string()))?;
    let (algorithm, parameters, der): (_, AnyRef<'_>, &[u8]) = match &parts {
        PrivateKeyDer::Pkcs8(_) => return Ok(pem.to_owned()),
        PrivateKeyDer::Pkcs1(der) => (RSA, AnyRef::NULL, der.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(der) => (EC, AnyRef::from(&P256), der.secret_sec1_der()),
        _ => return Err(unusable("its key is of an unknown form")),
    };
    let info = PrivateKeyInfoRef::new(
        AlgorithmIdentifierRef {
            oid: algorithm,
            parameters: Some(parameters),
        },
        OctetStringRef::new(der).map_err(|_| unusable("its key is malformed"))?,
    );
    info.to_pkcs8_pem(LineEnding::LF)
        .map(|text| text.to_string())
        .map_err(|_| unusable("its key can't be rewritten"))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, IsCa, PKCS_ECDSA_P256_SHA256};
    use x509_parser::prelude::*;

    use super::*;

    fn keys(key: String) -> ClusterKeys {
        let pair = KeyPair::from_pem(&pkcs8_pem(&key).unwrap()).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "kubernetes");
        ClusterKeys {
            authority: params.self_signed(&pair).unwrap().pem(),
            authority_key: key,
            control_planes: vec!["node1".parse().unwrap()],
        }
    }

    /// The key as kubeadm writes it: SEC 1.
    fn sec1() -> String {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let info = PrivateKeyInfoRef::try_from(pair.serialized_der()).unwrap();
        pkcs8::der::pem::encode_string(
            "EC PRIVATE KEY",
            LineEnding::LF,
            info.private_key.as_bytes(),
        )
        .unwrap()
    }

    #[test]
    fn a_certificate_says_who_and_how_long() {
        let keys = keys(sec1());
        let now: Timestamp = "2026-11-24T10:00:00Z".parse().unwrap();
        let made = mint(
            &keys,
            "ada",
            "faultline:students",
            now,
            SignedDuration::from_mins(30),
        )
        .unwrap();
        let (_, pem) = parse_x509_pem(made.certificate.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        let subject = certificate.subject().to_string();
        assert!(
            subject.contains("CN=ada") && subject.contains("O=faultline:students"),
            "{subject}"
        );
        assert_eq!(
            certificate.validity().not_after.timestamp(),
            now.as_second() + 1800
        );
        let (_, authority) = parse_x509_pem(keys.authority.as_bytes()).unwrap();
        let authority = authority.parse_x509().unwrap();
        certificate
            .verify_signature(Some(authority.public_key()))
            .unwrap();
    }

    #[test]
    fn a_key_that_is_none_is_said_to_be() {
        let mut keys = keys(sec1());
        keys.authority_key =
            "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n".to_owned();
        let error = platform(&keys, Timestamp::UNIX_EPOCH).unwrap_err();
        assert!(
            matches!(error, Error::Authority(_) | Error::Sign(_)),
            "{error}"
        );
    }
}
