//! People and the invitations by which they join.

use jiff::Timestamp;

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
    /// The maximum number of days for which an invitation is valid.
    pub const MAX_DAYS: u32 = 90;
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
