//! Groups of people, such as a class or a company, and their instructors.

use jiff::Timestamp;

use crate::PersonId;

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The id.
    pub id: String,
    /// The name.
    pub name: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// The members, by name.
    pub members: Vec<Member>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The person.
    pub person: PersonId,
    /// The person's name.
    pub name: String,
    /// True if the person sees the other members' progress.
    pub instructs: bool,
}

impl Group {
    /// The maximum length of a name, in characters.
    pub const MAX_NAME: usize = 60;

    /// Returns true if this person instructs the group.
    #[must_use]
    pub fn is_instructed_by(&self, person: &PersonId) -> bool {
        self.members
            .iter()
            .any(|member| member.instructs && member.person == *person)
    }

    /// Returns true if this person is a member who doesn't instruct the group.
    #[must_use]
    pub fn has_student(&self, person: &PersonId) -> bool {
        self.members
            .iter()
            .any(|member| !member.instructs && member.person == *person)
    }
}
