//! People and invitations.

use faultline_domain::person::{Invitation, Person};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::operations::invitations::Made;

/// A person.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PersonView {
    pub id: String,
    pub name: String,
    /// The name that the person signs in with; none if the person signs in by links only.
    pub login: Option<String>,
    /// The mail address that the person has confirmed, if any.
    pub mail: Option<String>,
    /// `student`, `author`, `instructor` or `operator`.
    pub role: &'static str,
    pub created_at: String,
    pub last_sign_in: Option<String>,
    /// When the person was disabled; none if the person has access.
    pub disabled_at: Option<String>,
}

impl From<Person> for PersonView {
    fn from(p: Person) -> Self {
        Self {
            id: p.id.to_string(),
            name: p.name,
            login: p.login.map(|login| login.to_string()),
            mail: p.mail.map(|address| address.to_string()),
            role: p.role.as_str(),
            created_at: p.created_at.to_string(),
            last_sign_in: p.last_sign_in.map(|at| at.to_string()),
            disabled_at: p.disabled_at.map(|at| at.to_string()),
        }
    }
}

/// A change of a person. What is left out stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PersonUpdate {
    /// `student`, `author`, `instructor` or `operator`.
    #[serde(default)]
    pub role: Option<String>,
    /// True to refuse the person's credentials, false to accept them again.
    #[serde(default)]
    pub disabled: Option<bool>,
}

/// An invitation, without its link.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InvitationView {
    pub id: String,
    pub note: String,
    /// The role of the people who accept it.
    pub role: &'static str,
    /// The access code; none if it is accepted by a link.
    pub code: Option<String>,
    /// The ID of the group that people join, if any.
    pub group: Option<String>,
    /// `open`, `used up`, `expired` or `withdrawn`.
    pub state: &'static str,
    /// The number of people who can still accept it; 0 if it was used up or withdrawn.
    pub uses_left: u32,
    pub created_by: String,
    pub created_at: String,
    pub expires_at: String,
    /// The names of the people who have accepted it.
    pub accepted_by: Vec<String>,
}

impl InvitationView {
    pub(crate) fn new(i: Invitation, now: Timestamp) -> Self {
        Self {
            state: i.validity(now).as_str(),
            code: i.code.map(|code| code.to_string()),
            group: i.group,
            id: i.id,
            note: i.note,
            role: i.role.as_str(),
            uses_left: i.uses_left,
            created_by: i.created_by.to_string(),
            created_at: i.created_at.to_string(),
            expires_at: i.expires_at.to_string(),
            accepted_by: i.accepted_by,
        }
    }
}

/// An invitation to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewInvitationView {
    /// A note for operators. Default: empty.
    #[serde(default)]
    pub note: String,
    /// The role of the people who accept it: `student`, `author`, `instructor` or `operator`. Default: `student`.
    #[serde(default = "student")]
    pub role: String,
    /// The number of people who can accept it, at most 500. Default: 1.
    #[serde(default = "one")]
    pub uses: u32,
    /// How long it is valid, such as `3h` or `2d`: at least five minutes, at most 90 days. Default: `7d`.
    #[serde(default)]
    pub expires: Option<String>,
    /// The number of days for which it is valid, instead of `expires`.
    #[serde(default)]
    pub days: Option<u32>,
    /// True for an access code that students type, false for a link. Default: false.
    #[serde(default)]
    pub by_code: bool,
    /// A mail address that it is sent to. Default: empty, for none.
    #[serde(default)]
    pub mail_to: String,
}

fn student() -> String {
    "student".to_owned()
}

pub(super) const fn one() -> u32 {
    1
}

/// A new invitation, with its link.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MadeInvitation {
    pub id: String,
    /// The link by which people join. With an access code, it leads to the page where the code is entered. None if the link
    /// is in the mail only.
    pub url: Option<String>,
    /// The mail address that it is sent to, if any.
    pub mailed_to: Option<String>,
    /// The access code; none if it is accepted by the link.
    pub code: Option<String>,
    /// When it expires.
    pub expires_at: String,
}

impl From<Made> for MadeInvitation {
    fn from(made: Made) -> Self {
        let Made {
            invitation,
            link,
            mailed_to,
        } = made;
        Self {
            id: invitation.id,
            url: link,
            mailed_to: mailed_to.map(|address| address.to_string()),
            code: invitation.code.map(|code| code.to_string()),
            expires_at: invitation.expires_at.to_string(),
        }
    }
}
