//! People and the invitations by which they join.

use std::str::FromStr;

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

use crate::{AccessCode, Login, MailAddress, PersonId, authz::Role};

/// A person who uses this installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The person's id.
    pub id: PersonId,
    /// The name that others see.
    pub name: String,
    /// The name that the person signs in with. `None` if the person signs in by links only.
    pub login: Option<Login>,
    /// True if the person has a password.
    pub has_password: bool,
    /// The mail address that the person has confirmed.
    pub mail: Option<MailAddress>,
    /// The person's role.
    pub role: Role,
    /// When the person joined.
    pub created_at: Timestamp,
    /// When the person last signed in. `None` if that was before it was recorded, or never.
    pub last_sign_in: Option<Timestamp>,
    /// When the person was disabled. A disabled person has no access: sessions, tokens and keys are refused.
    pub disabled_at: Option<Timestamp>,
}

impl Invitation {
    /// The maximum number of people who can accept one invitation.
    pub const MAX_USES: u32 = 500;
    /// The maximum length of a note, in characters.
    pub const MAX_NOTE: usize = 80;

    /// Returns whether the invitation can be accepted, or why it can't.
    #[must_use]
    pub fn validity(&self, now: Timestamp) -> Validity {
        if self.withdrawn_at.is_some() {
            Validity::Withdrawn
        } else if self.uses_left == 0 {
            Validity::UsedUp
        } else if self.expires_at <= now {
            Validity::Expired
        } else {
            Validity::Open
        }
    }
}

/// How long an invitation is valid: at least five minutes, at most 90 days. Written like `90m`, `3h`, `2d` or `1d 12h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValidFor(SignedDuration);

/// The error for text that is not how long an invitation is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// It is not a duration.
    #[error("use a number of hours or days, such as 3h or 2d")]
    Form,
    /// It is too short or too long.
    #[error("an invitation is valid for at least 5 minutes and at most 90 days")]
    Range,
}

impl ValidFor {
    /// A week.
    pub const DEFAULT: Self = Self(SignedDuration::from_hours(7 * 24));
    const MIN: SignedDuration = SignedDuration::from_mins(5);
    const MAX: SignedDuration = SignedDuration::from_hours(90 * 24);

    /// Returns the duration.
    #[must_use]
    pub const fn duration(self) -> SignedDuration {
        self.0
    }

    /// Returns this many days.
    pub fn days(days: u32) -> Result<Self, InvalidDuration> {
        Self::new(SignedDuration::from_hours(i64::from(days) * 24))
    }

    fn new(duration: SignedDuration) -> Result<Self, InvalidDuration> {
        let fits = (Self::MIN..=Self::MAX).contains(&duration);
        fits.then_some(Self(duration)).ok_or(InvalidDuration::Range)
    }
}

impl FromStr for ValidFor {
    type Err = InvalidDuration;
    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        let span: Span = text.trim().parse().map_err(|_| InvalidDuration::Form)?;
        // A month has no fixed length; a day of an invitation is 24 hours.
        if span.get_months() != 0 || span.get_years() != 0 {
            return Err(InvalidDuration::Form);
        }
        let duration = span.to_duration(SpanRelativeTo::days_are_24_hours());
        Self::new(duration.map_err(|_| InvalidDuration::Range)?)
    }
}

/// Whether an invitation can be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// It can be accepted.
    Open,
    /// It was accepted by as many people as it was for.
    UsedUp,
    /// Its time is up.
    Expired,
    /// It was withdrawn, or whoever created it may not invite people any more.
    Withdrawn,
}

impl Validity {
    /// Returns the name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::UsedUp => "used up",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// An invitation to join, which is accepted by a link or by an access code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The invitation's id. It is not the secret in its link.
    pub id: String,
    /// A note for operators, such as the name of a class.
    pub note: String,
    /// The role of the people who accept it.
    pub role: Role,
    /// The code by which it is accepted. `None` if it is accepted by a link.
    pub code: Option<AccessCode>,
    /// The id of the group that they become members of, if any.
    pub group: Option<String>,
    /// The number of people who can still accept it.
    pub uses_left: u32,
    /// The operator or instructor who created it.
    pub created_by: PersonId,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
    /// When it was withdrawn.
    pub withdrawn_at: Option<Timestamp>,
    /// The names of the people who have accepted it.
    pub accepted_by: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_is_valid_for_hours_or_days() {
        for (text, minutes) in [
            ("5m", 5),
            ("90m", 90),
            ("3h", 180),
            (" 2d ", 2 * 24 * 60),
            ("1d 12h", 36 * 60),
            ("1w", 7 * 24 * 60),
            ("90d", 90 * 24 * 60),
        ] {
            let valid: ValidFor = text.parse().unwrap();
            assert_eq!(valid.duration().as_mins(), minutes, "{text}");
        }
        for text in ["", "7", "soon", "3x", "1mo", "1y"] {
            assert_eq!(
                text.parse::<ValidFor>(),
                Err(InvalidDuration::Form),
                "{text}"
            );
        }
        for text in ["0h", "4m", "-3h", "91d", "90d 1h", "99999999h"] {
            assert_eq!(
                text.parse::<ValidFor>(),
                Err(InvalidDuration::Range),
                "{text}"
            );
        }
        assert_eq!(ValidFor::days(7), Ok(ValidFor::DEFAULT));
        assert_eq!(ValidFor::days(0), Err(InvalidDuration::Range));
    }
}
