//! Access codes: secrets of invitations that people read from a board and type.

use std::{fmt, str::FromStr};

use rand::Rng;

/// Digits and letters that aren't mistaken for each other: without 0, 1, I, L, O and U.
const ALPHABET: &[u8] = b"23456789ABCDEFGHJKMNPQRSTVWXYZ";
/// The number of characters.
const LENGTH: usize = 9;
/// The number of characters between hyphens.
const PART: usize = 3;

/// An access code, such as `K7F-3Q9-XWM`. It has 44 bits of randomness, so guesses must be limited.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct AccessCode(String);

/// The error for text that is not an access code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an access code has nine digits and letters, without 0, 1, I, L, O and U, such as K7F-3Q9-XWM"
)]
pub struct NoCode;

impl AccessCode {
    /// Generates a code. Outside tests, `rng` must be a cryptographic generator.
    pub fn generate(rng: &mut impl Rng) -> Self {
        let pick = || ALPHABET.get(rng.random_range(0..ALPHABET.len()));
        let code = std::iter::repeat_with(pick).take(LENGTH);
        Self(code.flatten().map(|byte| char::from(*byte)).collect())
    }

    /// Returns the code without hyphens.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Accepts lower-case letters, and spaces and hyphens anywhere.
impl FromStr for AccessCode {
    type Err = NoCode;
    fn from_str(text: &str) -> Result<Self, NoCode> {
        let typed = |c: &char| !c.is_whitespace() && !matches!(c, '-' | '–' | '‑');
        // More than enough for spaces, and not as much as somebody may send.
        let code: String = text.chars().take(64).filter(typed).collect();
        let code = code.to_ascii_uppercase();
        let fits = code.len() == LENGTH && code.bytes().all(|byte| ALPHABET.contains(&byte));
        fits.then_some(Self(code)).ok_or(NoCode)
    }
}

impl fmt::Display for AccessCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, c) in self.0.chars().enumerate() {
            if at > 0 && at % PART == 0 {
                f.write_str("-")?;
            }
            write!(f, "{c}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for AccessCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessCode")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    proptest! {
        #[test]
        fn a_code_is_read_as_it_was_shown(seed: u64) {
            let code = AccessCode::generate(&mut rand::rngs::StdRng::seed_from_u64(seed));
            prop_assert_eq!(code.to_string().len(), LENGTH + 2);
            prop_assert_eq!(code.to_string().parse(), Ok(code.clone()));
            let sloppy = format!(" {} ", code.to_string().to_lowercase().replace('-', " "));
            prop_assert_eq!(sloppy.parse(), Ok(code));
        }

        #[test]
        fn anything_may_be_typed(text in "\\PC{0,90}") {
            if let Ok(code) = text.parse::<AccessCode>() {
                prop_assert_eq!(code.as_str().len(), LENGTH);
            }
        }
    }

    #[test]
    fn ambiguous_characters_and_other_lengths_are_refused() {
        for bad in [
            "",
            "K7F-3Q9-XW",
            "K7F-3Q9-XWMM",
            "O7F-3Q9-XWM",
            "K1F-3Q9-XWM",
            "K7F-3Q9-XWÜ",
        ] {
            assert_eq!(bad.parse::<AccessCode>(), Err(NoCode), "{bad}");
        }
        assert_eq!(
            format!("{:?}", "K7F3Q9XWM".parse::<AccessCode>().unwrap()),
            "AccessCode"
        );
    }
}
