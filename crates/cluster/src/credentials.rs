//! Client certificates, signed with a cluster's own CA.

use faultline_provider::api::{ClientCertificate, Identity};
use jiff::{SignedDuration, Timestamp};
use pkcs8::{
    AlgorithmIdentifierRef, EncodePrivateKey, LineEnding, ObjectIdentifier, PrivateKeyInfoRef,
    der::asn1::{AnyRef, OctetStringRef},
};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, PublicKeyData, SigningKey};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use signature::Keypair;
use x509_cert::{
    Certificate, TbsCertificate,
    attr::AttributeTypeAndValue,
    builder::{self, Builder, CertificateBuilder, profile::BuilderProfile},
    der::{
        self, Any, DecodePem, Document, EncodePem,
        asn1::{BitString, Utf8StringRef},
        oid::db::{
            rfc4519::{COMMON_NAME, ORGANIZATION_NAME},
            rfc5280::ID_KP_CLIENT_AUTH,
            rfc5912::{ECDSA_WITH_SHA_256, SHA_256_WITH_RSA_ENCRYPTION},
        },
    },
    ext::{
        Extension,
        pkix::{ExtendedKeyUsage, KeyUsage, KeyUsages},
    },
    name::{Name, RdnSequence},
    serial_number::SerialNumber,
    spki::{
        self, AlgorithmIdentifierOwned, DynSignatureAlgorithmIdentifier, EncodePublicKey,
        SubjectPublicKeyInfo, SubjectPublicKeyInfoRef,
    },
    time::{Time, Validity},
};

/// The time by which certificates are valid earlier than requested, because a guest's clock may lag.
const BEFORE: SignedDuration = SignedDuration::from_hours(1);

/// A cluster's CA. Anyone who has its key can become the cluster's administrator.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityKeys {
    /// The CA's certificate, in PEM.
    pub authority: String,
    /// The CA's private key, in PEM.
    pub authority_key: String,
}

impl std::fmt::Debug for AuthorityKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthorityKeys").finish_non_exhaustive()
    }
}

/// Why a certificate can't be issued.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The CA's key can't be used.
    #[error("the cluster's CA key can't be used: {0}")]
    Authority(String),
    /// Signing failed.
    #[error("signing the certificate failed")]
    Sign(#[from] rcgen::Error),
    /// Reading the CA's certificate or encoding the new one failed.
    #[error("encoding the certificate failed")]
    Encode(#[from] builder::Error),
}

impl From<der::Error> for Error {
    fn from(e: der::Error) -> Self {
        Self::Encode(e.into())
    }
}

impl From<spki::Error> for Error {
    fn from(e: spki::Error) -> Self {
        Self::Encode(e.into())
    }
}

/// Issues a client certificate for an identity. It is valid from an hour before `identity.from`.
pub fn mint(keys: &AuthorityKeys, identity: &Identity) -> Result<ClientCertificate, Error> {
    let key = KeyPair::generate()?;
    let not_before = identity.from.saturating_sub(BEFORE);
    let not_before = not_before.unwrap_or(identity.from);
    let public = SubjectPublicKeyInfo::try_from(key.subject_public_key_info().as_slice())?;
    let authority = Authority::read(keys)?;
    let parties = Parties {
        issuer: authority.name.clone(),
        subject: subject(&identity.user, &identity.groups)?,
    };
    let serial = SerialNumber::new(&rand::random::<[u8; 16]>())?;
    let validity = Validity::new(time(not_before)?, time(identity.until)?);
    let mut certificate = CertificateBuilder::new(parties, serial, validity, public)?;
    certificate.add_extension(&KeyUsage(KeyUsages::DigitalSignature.into()))?;
    certificate.add_extension(&ExtendedKeyUsage(vec![ID_KP_CLIENT_AUTH]))?;
    let signature = authority.key.sign(&certificate.finalize(&authority)?)?;
    let certificate = certificate.assemble(BitString::from_bytes(&signature)?, &authority)?;
    Ok(ClientCertificate {
        certificate: certificate.to_pem(LineEnding::LF)?,
        key: key.serialize_pem(),
    })
}

/// Encodes a user and groups as a subject: the user is the common name, and each group an organization. `rcgen`
/// supports only one organization, so this isn't done with it.
fn subject(user: &str, groups: &[String]) -> Result<Name, Error> {
    let mut names = RdnSequence::default();
    let groups = groups
        .iter()
        .map(|group| (ORGANIZATION_NAME, group.as_str()));
    for (oid, value) in groups.chain([(COMMON_NAME, user)]) {
        let value = Any::from(Utf8StringRef::new(value)?);
        names.push(vec![AttributeTypeAndValue { oid, value }].try_into()?);
    }
    Ok(Name::hazmat_from_rdn_sequence(names))
}

fn time(at: Timestamp) -> Result<Time, Error> {
    let seconds = u64::try_from(at.as_second()).unwrap_or(0);
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    Ok(Time::try_from(at)?)
}

/// The issuer and subject of a certificate. Its extensions are added by [`mint`].
struct Parties {
    issuer: Name,
    subject: Name,
}

impl BuilderProfile for Parties {
    fn get_issuer(&self, _: &Name) -> Name {
        self.issuer.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        _: SubjectPublicKeyInfoRef<'_>,
        _: SubjectPublicKeyInfoRef<'_>,
        _: &TbsCertificate,
    ) -> builder::Result<Vec<Extension>> {
        Ok(Vec::new())
    }
}

/// A cluster's CA, ready to sign.
struct Authority {
    name: Name,
    key: KeyPair,
}

impl Authority {
    fn read(keys: &AuthorityKeys) -> Result<Self, Error> {
        let certificate = Certificate::from_pem(&keys.authority)?;
        Ok(Self {
            name: certificate.tbs_certificate().subject().clone(),
            key: KeyPair::from_pem(&pkcs8_pem(&keys.authority_key)?)?,
        })
    }
}

impl Keypair for Authority {
    type VerifyingKey = PublicKey;

    fn verifying_key(&self) -> PublicKey {
        PublicKey(self.key.subject_public_key_info())
    }
}

impl DynSignatureAlgorithmIdentifier for Authority {
    fn signature_algorithm_identifier(&self) -> spki::Result<AlgorithmIdentifierOwned> {
        let (oid, parameters) = match self.key.algorithm() {
            a if a == &PKCS_ECDSA_P256_SHA256 => (ECDSA_WITH_SHA_256, None),
            a if a == &PKCS_RSA_SHA256 => (SHA_256_WITH_RSA_ENCRYPTION, Some(Any::null())),
            _ => return Err(spki::Error::KeyMalformed),
        };
        Ok(AlgorithmIdentifierOwned { oid, parameters })
    }
}

/// A public key with its algorithm, in DER.
#[derive(Clone)]
struct PublicKey(Vec<u8>);

impl EncodePublicKey for PublicKey {
    fn to_public_key_der(&self) -> spki::Result<Document> {
        Ok(Document::try_from(self.0.as_slice())?)
    }
}

/// Converts a private key to PKCS #8, which signing requires. kubeadm writes the older formats PKCS #1 and SEC 1.
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
        _ => return Err(unusable("its format is unknown")),
    };
    let info = PrivateKeyInfoRef::new(
        AlgorithmIdentifierRef {
            oid: algorithm,
            parameters: Some(parameters),
        },
        OctetStringRef::new(der).map_err(|_| unusable("it is malformed"))?,
    );
    info.to_pkcs8_pem(LineEnding::LF)
        .map(|text| text.to_string())
        .map_err(|_| unusable("it can't be converted to PKCS #8"))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa};
    use x509_parser::prelude::*;

    use super::*;

    fn keys(key: String) -> AuthorityKeys {
        let pair = KeyPair::from_pem(&pkcs8_pem(&key).unwrap()).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "kubernetes");
        AuthorityKeys {
            authority: params.self_signed(&pair).unwrap().pem(),
            authority_key: key,
        }
    }

    /// Generates a key in the format of kubeadm, SEC 1.
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
    fn a_certificate_has_subject_issuer_and_validity() {
        let keys = keys(sec1());
        let now: Timestamp = "2026-11-24T10:00:00Z".parse().unwrap();
        let identity = Identity {
            user: "ada".to_owned(),
            groups: ["faultline:students", "shop, \"night\""]
                .map(str::to_owned)
                .to_vec(),
            from: now,
            until: now + SignedDuration::from_mins(30),
        };
        let made = mint(&keys, &identity).unwrap();
        let (_, pem) = parse_x509_pem(made.certificate.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        let said = |of: &X509Name<'_>| -> Vec<String> {
            of.iter_attributes()
                .map(|a| a.as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(
            said(certificate.subject()),
            ["faultline:students", "shop, \"night\"", "ada"]
        );
        assert_eq!(said(certificate.issuer()), ["kubernetes"]);
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
    fn an_invalid_key_is_an_error() {
        let mut keys = keys(sec1());
        keys.authority_key =
            "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n".to_owned();
        let nobody = Identity {
            user: "nobody".to_owned(),
            groups: Vec::new(),
            from: Timestamp::UNIX_EPOCH,
            until: Timestamp::UNIX_EPOCH,
        };
        let error = mint(&keys, &nobody).unwrap_err();
        assert!(
            matches!(error, Error::Authority(_) | Error::Sign(_)),
            "{error}"
        );
    }
}
