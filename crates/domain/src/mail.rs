//! Mail: addresses, what mail is for, and when a mail that could not be sent is tried again.

use std::{fmt, str::FromStr};

use jiff::{SignedDuration, Timestamp};

/// A mail address, such as `ann@example.org`.
///
/// Only what is common is accepted: no quotes, no comments, no address literals, and ASCII only. So an address never has
/// a character that means something in a header or in a command to a mail server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MailAddress(String);

/// The error for text that is not a mail address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    /// It is longer than [`MailAddress::MAX`].
    #[error("a mail address has at most {} characters", MailAddress::MAX)]
    Long,
    /// It has a character that is not ASCII.
    #[error(
        "a mail address has only ASCII characters; write an international domain in its ASCII form, which begins with xn--"
    )]
    NotAscii,
    /// It has another form.
    #[error("a mail address looks like ann@example.org")]
    Form,
}

impl MailAddress {
    /// The maximum length, in characters.
    pub const MAX: usize = 254;
    /// The maximum length of the part before `@`.
    const MAX_LOCAL: usize = 64;
    /// The maximum length of each part of the domain.
    const MAX_LABEL: usize = 63;

    /// Returns the address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_local(text: &str) -> bool {
    let is_char = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~-".contains(&c);
    text.len() <= MailAddress::MAX_LOCAL
        && text
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(is_char))
}

fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=MailAddress::MAX_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    // A domain without a dot is more often a mistake than meant.
    text.split('.').all(is_label) && (text.contains('.') || text == "localhost")
}

/// Accepts surrounding white space.
impl FromStr for MailAddress {
    type Err = NoAddress;
    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let text = text.trim();
        if !text.is_ascii() {
            return Err(NoAddress::NotAscii);
        }
        if text.len() > Self::MAX {
            return Err(NoAddress::Long);
        }
        match text.rsplit_once('@') {
            Some((local, domain)) if is_local(local) && is_domain(domain) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(NoAddress::Form),
        }
    }
}

impl fmt::Display for MailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a mail is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Invites somebody to join.
    Invitation,
    /// Has the link with which a person whose password was reset signs in.
    PasswordReset,
    /// Has the code with which a person confirms a mail address.
    Confirmation,
    /// Says that an environment that waited in the queue is ready.
    Ready,
    /// Says that an environment ends or is suspended soon.
    Ending,
}

impl Purpose {
    /// All purposes.
    pub const ALL: [Self; 5] = [
        Self::Invitation,
        Self::PasswordReset,
        Self::Confirmation,
        Self::Ready,
        Self::Ending,
    ];

    /// Returns the name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invitation => "invitation",
            Self::PasswordReset => "password-reset",
            Self::Confirmation => "confirmation",
            Self::Ready => "ready",
            Self::Ending => "ending",
        }
    }
}

/// The error for text that is not the name of a purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such purpose of mail")]
pub struct UnknownPurpose;

impl FromStr for Purpose {
    type Err = UnknownPurpose;
    fn from_str(text: &str) -> Result<Self, UnknownPurpose> {
        let mut all = Self::ALL.into_iter();
        all.find(|one| one.as_str() == text).ok_or(UnknownPurpose)
    }
}

/// How long sending a mail is tried.
pub const KEEP: SignedDuration = SignedDuration::from_hours(24);
/// The delay after the first failure. It doubles with each further one.
const FIRST_DELAY: SignedDuration = SignedDuration::from_secs(30);
/// The longest delay.
const LONGEST_DELAY: SignedDuration = SignedDuration::from_hours(1);

/// Returns when a mail that has failed this many times is tried again. `None` if that would be too late.
#[must_use]
pub fn next_attempt(failed: u32, give_up_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let doubled = 1_i32
        .checked_shl(failed.saturating_sub(1))
        .unwrap_or(i32::MAX);
    let delay = FIRST_DELAY
        .checked_mul(doubled.max(1))
        .map_or(LONGEST_DELAY, |delay| delay.min(LONGEST_DELAY));
    let next = now.checked_add(delay).ok()?;
    (next < give_up_at).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_addresses_are_accepted() {
        for good in [
            "ann@example.org",
            "Ann.O'Hara+labs@mail.example.co.uk",
            "a@xn--bcher-kva.example",
            "root@localhost",
            "  ann@example.org\n",
        ] {
            let address: MailAddress = good.parse().unwrap();
            assert_eq!(address.as_str(), good.trim());
        }
    }

    #[test]
    fn what_could_be_more_than_an_address_is_refused() {
        for bad in [
            "",
            "ann",
            "ann@",
            "@example.org",
            "ann@example",
            "ann@@example.org",
            "ann@example..org",
            "ann@-example.org",
            "ann@example.org.",
            ".ann@example.org",
            "ann.@example.org",
            "ann example@example.org",
            "ann@example.org, ben@example.org",
            "Ann <ann@example.org>",
            "\"ann\"@example.org",
            "ann@[127.0.0.1]",
            "ann@example.org\r\nBcc: ben@example.org",
            "ann@example.org\nRCPT TO:<ben@example.org>",
            "ann\0@example.org",
        ] {
            assert_eq!(bad.parse::<MailAddress>(), Err(NoAddress::Form), "{bad:?}");
        }
        assert_eq!(
            "änn@example.org".parse::<MailAddress>(),
            Err(NoAddress::NotAscii)
        );
        let long = format!("{}@{}.org", "a".repeat(64), "b.".repeat(100));
        assert_eq!(long.parse::<MailAddress>(), Err(NoAddress::Long));
        let local = format!("{}@example.org", "a".repeat(65));
        assert_eq!(local.parse::<MailAddress>(), Err(NoAddress::Form));
    }

    #[test]
    fn attempts_become_rarer_and_end_after_a_day() {
        let begin = Timestamp::from_second(1_800_000_000).unwrap();
        let give_up_at = begin + KEEP;
        let (mut now, mut delays) = (begin, Vec::new());
        for failed in 1.. {
            let Some(next) = next_attempt(failed, give_up_at, now) else {
                break;
            };
            delays.push(next.duration_since(now).as_secs());
            now = next;
        }
        assert_eq!(delays[..8], [30, 60, 120, 240, 480, 960, 1920, 3600]);
        assert!(delays[8..].iter().all(|delay| *delay == 3600));
        assert!((25..40).contains(&delays.len()), "{delays:?}");
        assert!(next_attempt(u32::MAX, give_up_at, begin).is_some());
    }

    #[test]
    fn purposes_have_names() {
        for purpose in Purpose::ALL {
            assert_eq!(purpose.as_str().parse(), Ok(purpose));
        }
        assert_eq!("test".parse::<Purpose>(), Err(UnknownPurpose));
    }
}
