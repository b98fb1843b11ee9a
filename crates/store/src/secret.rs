//! Tokens. The store has only their SHA-256, so nobody can sign in with what they read from the database.

use faultline_domain::AccessCode;
use rand::Rng;
use sha2::{Digest, Sha256};

/// An opaque random token of 256 bits. `Debug` doesn't print it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Generates a token. Outside tests, `rng` must be a cryptographic generator.
    pub fn generate(rng: &mut impl Rng) -> Self {
        let mut bytes = [0u8; 32];
        rng.fill(&mut bytes);
        Self(format!("flt_{}", hex::encode(bytes)))
    }

    /// Parses a token that a client presents. Returns `None` if it doesn't have the form of one.
    #[must_use]
    pub fn presented(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("flt_")?;
        let fits = digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then(|| Self(text.to_owned()))
    }

    /// Returns the secret of an invitation that is accepted by an access code. It has as little randomness as the code.
    #[must_use]
    pub fn of_code(code: &AccessCode) -> Self {
        Self(format!("code_{}", code.as_str()))
    }

    /// Returns the token itself, for its owner.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns the hash that is stored.
    #[must_use]
    pub fn hash(&self) -> String {
        hex::encode(Sha256::digest(self.0.as_bytes()))
    }

    /// Derives a value for one purpose, which only the token's holder can know and which reveals nothing about the
    /// token.
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
    fn a_token_is_parsed_and_its_hash_and_derived_value_differ() {
        let secret = Secret::generate(&mut rand::rngs::StdRng::seed_from_u64(1));
        assert_eq!(Secret::presented(secret.expose()), Some(secret.clone()));
        assert_ne!(secret.hash(), secret.derive("csrf"));
        assert_eq!(format!("{secret:?}"), "Secret");
        for bad in ["", "flt_", "flt_zz", "x", &"f".repeat(10_000)] {
            assert_eq!(Secret::presented(bad), None);
        }
    }
}
