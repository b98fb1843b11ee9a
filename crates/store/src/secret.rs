//! Tokens. People hold the token, the store only its SHA-256: whoever reads the database signs in as nobody.

use rand::Rng;
use sha2::{Digest, Sha256};

/// An opaque random token of 256 bits. Not printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// A new token. `rng` must be a cryptographic generator outside tests.
    pub fn generate(rng: &mut impl Rng) -> Self {
        let mut bytes = [0u8; 32];
        rng.fill(&mut bytes);
        Self(format!("flt_{}", hex::encode(bytes)))
    }

    /// A token that somebody presents; nothing when it can't be one.
    #[must_use]
    pub fn presented(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("flt_")?;
        let fits = digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then(|| Self(text.to_owned()))
    }

    /// The token itself, to hand to its owner.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is stored.
    #[must_use]
    pub fn hash(&self) -> String {
        hex::encode(Sha256::digest(self.0.as_bytes()))
    }

    /// A value that only the holder of this token can know, for one purpose; says nothing about the token.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(purpose.as_bytes());
        hash.update([0]);
        hash.update(self.0.as_bytes());
        hex::encode(hash.finalize()).chars().take(40).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_token_is_recognised_and_its_hash_and_derivation_differ() {
        let secret = Secret::generate(&mut rand::rngs::StdRng::seed_from_u64(1));
        assert_eq!(Secret::presented(secret.expose()), Some(secret.clone()));
        assert_ne!(secret.hash(), secret.derive("csrf"));
        assert_eq!(format!("{secret:?}"), "Secret");
        for bad in ["", "flt_", "flt_zz", "x", &"f".repeat(10_000)] {
            assert_eq!(Secret::presented(bad), None);
        }
    }
}
