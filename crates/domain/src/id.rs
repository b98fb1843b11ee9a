//! Identifiers. Each is validated when it is made, so that it is safe in a path, a command line, a host name or a URL.

use std::{fmt, str::FromStr};

use rand::Rng;
use serde::{Deserialize, Serialize};

/// The error for text that is not a valid identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {rule}")]
pub struct InvalidId {
    what: &'static str,
    text: String,
    rule: &'static str,
}

/// A DNS label: `[a-z]([a-z0-9-]{0,61}[a-z0-9])?`.
fn is_label(text: &str, max: usize) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.len() <= max
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

macro_rules! label_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(with = "String", extend("pattern" = "^[a-z]([a-z0-9-]*[a-z0-9])?$"))]
        pub struct $name(String);

        impl $name {
            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                if is_label(text, $max) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidId {
                        what: $what,
                        text: text.chars().take(80).collect(),
                        rule: concat!("use a lower-case letter, then lower-case letters, digits and hyphens, at most ", $max, " characters"),
                    })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

label_id!(
    /// The id of an environment, which is also its SSH user name and a part of host names. Generated ids have ten
    /// characters.
    EnvironmentId, "environment id", 32
);
label_id!(
    /// The id of a tenant. Generated ids have ten characters.
    TenantId, "tenant id", 32
);
label_id!(
    /// The name of a lab's folder.
    LabSlug, "lab name", 48
);
label_id!(
    /// The name of a node in an environment, which is also its host name.
    NodeName, "node name", 32
);
label_id!(
    /// The id of a person. It is `local` for the owner of the installation, who exists from its first start.
    PersonId, "person id", 32
);
label_id!(
    /// The name that a person signs in with. Unlike the id, it is chosen by the person.
    Login, "login name", 32
);
label_id!(
    /// The id of a save point. Generated ids have ten characters.
    SavePointId, "save point id", 32
);
label_id!(
    /// The name of something that a tenant exposes, which is a part of its host name.
    ExposureName, "name of an exposure", 48
);
label_id!(
    /// The id of an attempt.
    AttemptId, "attempt id", 32
);

const FIRST: &[u8] = b"abcdefghjkmnpqrstvwxyz";
const REST: &[u8] = b"0123456789abcdefghjkmnpqrstvwxyz";

fn random(len: usize, rng: &mut impl Rng) -> String {
    let pick = |set: &[u8], rng: &mut dyn rand::RngCore| {
        set.get(rng.random_range(0..set.len()))
            .copied()
            .map_or('x', char::from)
    };
    let mut text = String::with_capacity(len);
    text.push(pick(FIRST, rng));
    text.extend((1..len).map(|_| pick(REST, rng)));
    text
}

impl EnvironmentId {
    /// Returns a new id with 49 bits of randomness, so that ids don't collide within an installation.
    pub fn generate(rng: &mut impl Rng) -> Self {
        Self(random(10, rng))
    }
}

impl TenantId {
    /// Returns a new id with as much randomness as an environment's.
    pub fn generate(rng: &mut impl Rng) -> Self {
        Self(random(10, rng))
    }
}

impl SavePointId {
    /// Returns a new id with as much randomness as an environment's.
    pub fn generate(rng: &mut impl Rng) -> Self {
        Self(random(10, rng))
    }
}

impl AttemptId {
    /// Returns a new id with 79 bits of randomness.
    pub fn generate(rng: &mut impl Rng) -> Self {
        Self(random(16, rng))
    }
}

impl PersonId {
    /// Returns a new id with as much randomness as an environment's.
    pub fn generate(rng: &mut impl Rng) -> Self {
        Self(random(10, rng))
    }

    /// Returns the id of the owner of the installation.
    #[must_use]
    pub fn local() -> Self {
        Self("local".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_but_labels_becomes_an_id(text in "\\PC{0,80}") {
            if let Ok(id) = text.parse::<EnvironmentId>() {
                prop_assert!(id.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
                prop_assert!(!id.as_str().starts_with('-') && !id.as_str().ends_with('-'));
            }
        }

        #[test]
        fn generated_ids_parse(seed: u64) {
            use rand::SeedableRng;
            let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
            let id = EnvironmentId::generate(&mut rng);
            prop_assert_eq!(id.as_str().parse::<EnvironmentId>().unwrap(), id);
        }
    }

    #[test]
    fn paths_and_dots_are_refused() {
        for bad in ["", "..", "a/b", "a.b", "-a", "a-", "A", "1a", "a b", "a\0b"] {
            assert!(bad.parse::<EnvironmentId>().is_err(), "{bad:?}");
        }
    }
}
