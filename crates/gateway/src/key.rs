//! SSH keys, without the SSH library's types.

use rand::Rng;
use russh::keys::{HashAlg, PrivateKey, ssh_key};

/// The reason why a text isn't a valid key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidKey(String);

/// A person's public key, without its comment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    line: String,
    fingerprint: String,
}

impl PublicKey {
    /// Parses a line such as `ssh-ed25519 AAAA… comment`.
    pub fn parse(line: &str) -> Result<Self, InvalidKey> {
        let line = line.trim();
        if line.contains("PRIVATE KEY") {
            return Err(InvalidKey(
                "this is a private key; keep it secret, and use the public key in the file that ends in .pub"
                    .to_owned(),
            ));
        }
        if line.len() > 16 * 1024 || line.contains('\n') {
            return Err(InvalidKey("a public key is a single line".to_owned()));
        }
        let key = ssh_key::PublicKey::from_openssh(line).map_err(|_| {
            InvalidKey(
                "not a public key in OpenSSH format, such as `ssh-ed25519 AAAA… you@host`"
                    .to_owned(),
            )
        })?;
        match key.algorithm() {
            ssh_key::Algorithm::Dsa => Err(InvalidKey(
                "DSA keys are insecure; create a key with `ssh-keygen -t ed25519`".to_owned(),
            )),
            _ => Self::from_library(&key).ok_or_else(|| InvalidKey("not a public key".to_owned())),
        }
    }

    pub(crate) fn from_library(key: &ssh_key::PublicKey) -> Option<Self> {
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        let plain = ssh_key::PublicKey::new(key.key_data().clone(), "");
        Some(Self {
            line: plain.to_openssh().ok()?.trim().to_owned(),
            fingerprint,
        })
    }

    /// Returns the key in OpenSSH format, without a comment.
    #[must_use]
    pub fn as_openssh(&self) -> &str {
        &self.line
    }

    /// Returns the fingerprint as `ssh-keygen -l` prints it: `SHA256:…`.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// The gateway's host key. The caller generates it once and stores it where nobody else can read it.
#[derive(Clone)]
pub struct HostKey(PrivateKey);

impl std::fmt::Debug for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostKey({})", self.public().fingerprint)
    }
}

impl HostKey {
    /// Generates an Ed25519 key.
    #[must_use]
    pub fn generate(rng: &mut impl Rng) -> Self {
        let pair = ssh_key::private::Ed25519Keypair::from_seed(&rng.random());
        Self(PrivateKey::from(pair))
    }

    /// Parses the output of [`Self::to_openssh`].
    pub fn from_openssh(text: &str) -> Result<Self, InvalidKey> {
        PrivateKey::from_openssh(text)
            .map(Self)
            .map_err(|_| InvalidKey("not a private key in OpenSSH format".to_owned()))
    }

    /// Returns the private key in OpenSSH format.
    #[must_use]
    pub fn to_openssh(&self) -> String {
        self.0
            .to_openssh(ssh_key::LineEnding::LF)
            .map(|text| text.to_string())
            .unwrap_or_default()
    }

    /// Returns its public key, for `known_hosts`.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey::from_library(self.0.public_key()).unwrap_or_else(|| PublicKey {
            line: String::new(),
            fingerprint: String::new(),
        })
    }

    pub(crate) fn library(&self) -> PrivateKey {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_keys_survive_a_round_trip() {
        let key = HostKey::generate(&mut rand::rng());
        let again = HostKey::from_openssh(&key.to_openssh()).unwrap();
        assert_eq!(key.public(), again.public());
        assert!(key.public().fingerprint().starts_with("SHA256:"));
        assert!(HostKey::from_openssh("nonsense").is_err());
    }

    #[test]
    fn comments_and_spaces_are_ignored_and_private_keys_refused() {
        let key = HostKey::generate(&mut rand::rng()).public();
        let line = format!("  {} ann@laptop \n", key.as_openssh());
        assert_eq!(PublicKey::parse(&line).unwrap(), key);
        assert!(PublicKey::parse("").is_err());
        assert!(PublicKey::parse("ssh-ed25519 AAAA").is_err());
        let private = HostKey::generate(&mut rand::rng()).to_openssh();
        assert!(
            PublicKey::parse(&private)
                .unwrap_err()
                .to_string()
                .contains("private")
        );
    }
}
