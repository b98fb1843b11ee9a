//! Groups, their members and progress.

use faultline_domain::{
    attempt::Attempt,
    group::{Group, Member},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::people::one;
use crate::operations::groups::{OpenLab, Progress};

/// A group of people.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GroupView {
    pub id: String,
    pub name: String,
    pub created_at: String,
    pub members: Vec<MemberView>,
}

impl From<&Group> for GroupView {
    fn from(group: &Group) -> Self {
        Self {
            id: group.id.clone(),
            name: group.name.clone(),
            created_at: group.created_at.to_string(),
            members: group.members.iter().map(MemberView::from).collect(),
        }
    }
}

/// A member of a group.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MemberView {
    pub person: String,
    pub name: String,
    /// True if the member sees the others' progress.
    pub instructs: bool,
}

impl From<&Member> for MemberView {
    fn from(member: &Member) -> Self {
        Self {
            person: member.person.to_string(),
            name: member.name.clone(),
            instructs: member.instructs,
        }
    }
}

/// A group with its members' progress.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GroupDetail {
    #[serde(flatten)]
    pub group: GroupView,
    pub progress: Vec<ProgressView>,
}

/// A member's progress.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProgressView {
    pub person: String,
    pub name: String,
    /// True if the member sees the others' progress.
    pub instructs: bool,
    /// The number of solved labs.
    pub solved: usize,
    /// What the member works on now.
    pub open: Vec<OpenLabView>,
}

impl From<&Progress> for ProgressView {
    fn from(of: &Progress) -> Self {
        Self {
            person: of.member.person.to_string(),
            name: of.member.name.clone(),
            instructs: of.member.instructs,
            solved: of.solved,
            open: of.open.iter().map(OpenLabView::from).collect(),
        }
    }
}

/// A lab that a member works on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OpenLabView {
    /// The environment's ID.
    pub environment: String,
    pub lab: String,
    /// The environment's phase.
    pub phase: &'static str,
    /// When the environment was started or last reset.
    pub since: String,
    /// True if all checks have passed.
    pub repaired: bool,
    /// True while it waits in the queue.
    pub waits: bool,
    pub hints: usize,
    /// The number of checks that held in the last run; none if they were not run.
    pub checks_passed: Option<usize>,
    /// The number of checks; none if they were not run.
    pub checks: Option<usize>,
}

impl From<&OpenLab> for OpenLabView {
    fn from(of: &OpenLab) -> Self {
        let attempt = of.attempt.as_ref();
        Self {
            environment: of.environment.id.to_string(),
            lab: of.environment.lab.to_string(),
            phase: of.environment.state.phase().as_str(),
            since: of.environment.created_at.to_string(),
            waits: of.waits,
            repaired: attempt.is_some_and(Attempt::is_repaired),
            hints: attempt.map_or(0, |attempt| attempt.hints.len()),
            checks_passed: of.checks.map(|(held, _)| held),
            checks: of.checks.map(|(_, all)| all),
        }
    }
}

/// A group to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewGroup {
    /// The name, at most 60 characters.
    pub name: String,
}

/// A member's part in a group.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MemberUpdate {
    /// True if the member sees the others' progress. Default: false.
    #[serde(default)]
    pub instructs: bool,
}

/// An invitation of students to a group.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewGroupInvitation {
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
