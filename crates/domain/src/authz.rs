//! The person who makes a request, and the proofs of authorization that handlers need.
//!
//! A proof has private fields and is made only in this module, so a handler that takes one cannot run without the
//! authorization check. What a person may not see gets the same answer as what doesn't exist.

use crate::{PersonId, environment::Environment, group::Group, save_point::SavePoint};

/// The person who makes a request, after a session or a token was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The person.
    pub person: PersonId,
    /// The person's role.
    pub role: Role,
}

/// What an API token may do on behalf of its person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everything that the person may do.
    #[default]
    Full,
    /// Only read: no changes and no terminals.
    Read,
}

impl Scope {
    /// Returns the scope's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Read => "read",
        }
    }
}

/// The role of a person, which determines what the person may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May work on labs.
    Student,
    /// Like a student; may also read the hints, the solution and the checks of every lab, and why labs can't be loaded.
    Author,
    /// Like a student; may also see the progress of their groups' members, look into these members' terminals, and
    /// invite students to these groups.
    Instructor,
    /// May do all of this, in all groups; may also invite and disable people, and see capacity, everybody's environments,
    /// and the audit log.
    Operator,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [
        Self::Student,
        Self::Author,
        Self::Instructor,
        Self::Operator,
    ];

    /// Returns the role's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Student => "student",
            Self::Author => "author",
            Self::Instructor => "instructor",
            Self::Operator => "operator",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = UnknownRole;
    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        let mut all = Self::ALL.into_iter();
        all.find(|role| role.as_str() == text).ok_or(UnknownRole)
    }
}

/// The error for text that is not the name of a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the role is not one of: student, author, instructor, operator")]
pub struct UnknownRole;

/// The error for what does not exist, and deliberately also for what the person may not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not found")]
pub struct NotFound;

/// Proof: this person is signed in.
#[derive(Debug, Clone)]
pub struct SignedIn(Principal);

/// Proof: this person may see and use this environment. It holds the environment, so that handlers act on the one that
/// was checked.
#[derive(Debug, Clone)]
pub struct MayUse {
    environment: Environment,
    person: PersonId,
}

/// Proof: this person may use this save point: restore it, make another environment of it, and delete it.
#[derive(Debug, Clone)]
pub struct MayUseSavePoint {
    save_point: SavePoint,
    person: PersonId,
}

/// Proof: this person may end this environment, and add and remove its nodes, as its owner or as an operator.
#[derive(Debug, Clone)]
pub struct MayManage {
    environment: Environment,
    person: PersonId,
}

/// Proof: this person may look into the terminals of this environment, and type there together with its owner.
#[derive(Debug, Clone)]
pub struct MayLook {
    environment: Environment,
    person: PersonId,
}

/// Proof: this person may open what this environment exposes, as its owner or because they may look into it.
#[derive(Debug, Clone)]
pub struct MayVisit {
    environment: Environment,
    person: PersonId,
}

/// Proof: this person may see this group's members and their progress, and invite students to it.
#[derive(Debug, Clone)]
pub struct MayInstruct {
    group: Group,
    person: PersonId,
}

/// Proof: this person may read what labs keep from students.
#[derive(Debug, Clone)]
pub struct MayAuthor(PersonId);

/// Proof: this person operates the installation.
#[derive(Debug, Clone)]
pub struct MayOperate(PersonId);

impl SignedIn {
    /// Makes the proof. Called only where sessions and tokens are verified.
    #[must_use]
    pub const fn verified(principal: Principal) -> Self {
        Self(principal)
    }

    /// Returns the person.
    #[must_use]
    pub const fn person(&self) -> &PersonId {
        &self.0.person
    }

    /// Returns the person's role.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.0.role
    }

    /// Returns the proof if the person owns this environment.
    pub fn may_use(&self, environment: Environment) -> Result<MayUse, NotFound> {
        if environment.person == self.0.person {
            Ok(MayUse {
                environment,
                person: self.0.person.clone(),
            })
        } else {
            Err(NotFound)
        }
    }

    /// Returns the proof if the person owns this save point.
    pub fn may_use_save_point(&self, save_point: SavePoint) -> Result<MayUseSavePoint, NotFound> {
        if save_point.person == self.0.person {
            Ok(MayUseSavePoint {
                save_point,
                person: self.0.person.clone(),
            })
        } else {
            Err(NotFound)
        }
    }

    /// Returns the proof if the person owns this environment or is an operator.
    pub fn may_manage(&self, environment: Environment) -> Result<MayManage, NotFound> {
        if environment.person == self.0.person || self.0.role == Role::Operator {
            Ok(MayManage {
                environment,
                person: self.0.person.clone(),
            })
        } else {
            Err(NotFound)
        }
    }

    /// Returns the proof if the person instructs this group or is an operator.
    pub fn may_instruct(&self, group: Group) -> Result<MayInstruct, NotFound> {
        let instructs = self.0.role == Role::Instructor && group.is_instructed_by(self.person());
        if instructs || self.0.role == Role::Operator {
            Ok(MayInstruct {
                group,
                person: self.0.person.clone(),
            })
        } else {
            Err(NotFound)
        }
    }

    /// Returns the proof if the person instructs one of these groups of which the environment's owner is a member, or
    /// is an operator. Nobody looks into the terminals of a colleague who instructs the same group.
    pub fn may_look(
        &self,
        environment: Environment,
        groups: &[Group],
    ) -> Result<MayLook, NotFound> {
        let instructs = |group: &Group| {
            group.is_instructed_by(self.person()) && group.has_student(&environment.person)
        };
        let instructor = self.0.role == Role::Instructor && groups.iter().any(instructs);
        if instructor || self.0.role == Role::Operator {
            Ok(MayLook {
                environment,
                person: self.0.person.clone(),
            })
        } else {
            Err(NotFound)
        }
    }

    /// Returns the proof if the person owns this environment, or may look into it.
    pub fn may_visit(
        &self,
        environment: Environment,
        groups: &[Group],
    ) -> Result<MayVisit, NotFound> {
        let environment = if environment.person == self.0.person {
            environment
        } else {
            self.may_look(environment, groups)?.environment
        };
        Ok(MayVisit {
            environment,
            person: self.0.person.clone(),
        })
    }

    /// Returns the proof if the person is an author or an operator.
    pub fn may_author(&self) -> Result<MayAuthor, NotFound> {
        match self.0.role {
            Role::Author | Role::Operator => Ok(MayAuthor(self.0.person.clone())),
            Role::Student | Role::Instructor => Err(NotFound),
        }
    }

    /// Returns the proof if the person is an operator.
    pub fn may_operate(&self) -> Result<MayOperate, NotFound> {
        match self.0.role {
            Role::Operator => Ok(MayOperate(self.0.person.clone())),
            Role::Student | Role::Author | Role::Instructor => Err(NotFound),
        }
    }
}

impl MayUse {
    /// Returns the environment.
    #[must_use]
    pub const fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Returns the person.
    #[must_use]
    pub const fn person(&self) -> &PersonId {
        &self.person
    }
}

impl MayUseSavePoint {
    /// Returns the save point.
    #[must_use]
    pub const fn save_point(&self) -> &SavePoint {
        &self.save_point
    }

    /// Returns the person.
    #[must_use]
    pub const fn person(&self) -> &PersonId {
        &self.person
    }
}

impl MayManage {
    /// Returns the environment.
    #[must_use]
    pub const fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Returns the person.
    #[must_use]
    pub const fn person(&self) -> &PersonId {
        &self.person
    }
}

impl MayLook {
    /// Returns the environment.
    #[must_use]
    pub const fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Returns the person who looks.
    #[must_use]
    pub const fn person(&self) -> &PersonId {
        &self.person
    }
}

impl MayVisit {
    /// Returns the environment.
    #[must_use]
    pub const fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Returns the person who visits.
    #[must_use]
    pub const fn person(&self) -> &PersonId {
        &self.person
    }

    /// Returns true if the person owns the environment.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        self.environment.person == self.person
    }
}

impl MayInstruct {
    /// Returns the group.
    #[must_use]
    pub const fn group(&self) -> &Group {
        &self.group
    }

    /// Returns the person.
    #[must_use]
    pub const fn person(&self) -> &PersonId {
        &self.person
    }
}

impl MayAuthor {
    /// Returns the person.
    #[must_use]
    pub const fn person(&self) -> &PersonId {
        &self.0
    }
}

impl MayOperate {
    /// Returns the person.
    #[must_use]
    pub const fn person(&self) -> &PersonId {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who may do what, by role. A group has one instructor and the member `bob`; an environment belongs to `ann` or
    /// `bob`.
    #[test]
    fn roles_have_their_permissions() {
        use crate::group::Member;
        let ann: PersonId = "ann".parse().unwrap();
        let group = |instructor: &str| Group {
            id: "g".to_owned(),
            name: "Class".to_owned(),
            created_at: jiff::Timestamp::UNIX_EPOCH,
            members: [(instructor, true), ("bob", false)]
                .map(|(person, instructs)| Member {
                    person: person.parse().unwrap(),
                    name: String::new(),
                    instructs,
                })
                .to_vec(),
        };
        let of = |person: &str| Environment::example(person.parse().unwrap());
        // Permissions that only some roles have; everyone may use their own environment.
        let table: [(Role, &[&str]); 4] = [
            (Role::Student, &[]),
            (Role::Author, &["author"]),
            (Role::Instructor, &["own group", "look at a member"]),
            (
                Role::Operator,
                &[
                    "end another's",
                    "own group",
                    "another's group",
                    "look at a member",
                    "look at another group's member",
                    "look at who is in no group",
                    "author",
                    "operate",
                ],
            ),
        ];
        assert_eq!(table.map(|(role, _)| role), Role::ALL);
        for (role, may) in table {
            let me = SignedIn::verified(Principal {
                person: ann.clone(),
                role,
            });
            let looks = |owner, groups: &[Group]| me.may_look(of(owner), groups).is_ok();
            assert!(me.may_use(of("ann")).is_ok());
            let can = [
                ("use another's", me.may_use(of("bob")).is_ok()),
                ("end another's", me.may_manage(of("bob")).is_ok()),
                ("own group", me.may_instruct(group("ann")).is_ok()),
                ("another's group", me.may_instruct(group("eve")).is_ok()),
                (
                    "look at a member",
                    looks("bob", &[group("eve"), group("ann")]),
                ),
                (
                    "look at another group's member",
                    looks("bob", &[group("eve")]),
                ),
                ("look at who is in no group", looks("eve", &[group("ann")])),
                ("author", me.may_author().is_ok()),
                ("operate", me.may_operate().is_ok()),
            ];
            let can = can.into_iter().filter(|(_, can)| *can);
            assert_eq!(
                can.map(|(what, _)| what).collect::<Vec<_>>(),
                may,
                "{role:?}"
            );
        }
    }

    #[test]
    fn instructors_look_only_at_members_who_do_not_instruct() {
        use crate::group::Member;
        let member = |person: &str, instructs| Member {
            person: person.parse().unwrap(),
            name: String::new(),
            instructs,
        };
        let group = Group {
            id: "g".to_owned(),
            name: "Class".to_owned(),
            created_at: jiff::Timestamp::UNIX_EPOCH,
            members: vec![
                member("ann", true),
                member("ida", true),
                member("bob", false),
            ],
        };
        let me = SignedIn::verified(Principal {
            person: "ann".parse().unwrap(),
            role: Role::Instructor,
        });
        let of = |person: &str| Environment::example(person.parse().unwrap());
        let proof = me
            .may_look(of("bob"), std::slice::from_ref(&group))
            .unwrap();
        assert_eq!(proof.environment().person.as_str(), "bob");
        assert_eq!(proof.person().as_str(), "ann");
        let visits = |owner| me.may_visit(of(owner), std::slice::from_ref(&group));
        assert!(visits("ann").unwrap().is_owner());
        assert!(!visits("bob").unwrap().is_owner());
        assert!(visits("ida").is_err() && visits("eve").is_err());
        for owner in ["ida", "ann", "eve"] {
            assert!(
                me.may_look(of(owner), std::slice::from_ref(&group))
                    .is_err(),
                "{owner}"
            );
        }
    }

    #[test]
    fn strangers_and_students_find_nothing() {
        let me = SignedIn::verified(Principal {
            person: "ann".parse().unwrap(),
            role: Role::Student,
        });
        let of = |person: &str| Environment::example(person.parse().unwrap());
        assert!(me.may_use(of("ann")).is_ok());
        assert_eq!(me.may_use(of("bob")).unwrap_err(), NotFound);
        assert!(me.may_operate().is_err());
        assert!(me.may_manage(of("ann")).is_ok());
        assert!(me.may_manage(of("bob")).is_err());
        let operator = SignedIn::verified(Principal {
            person: "olga".parse().unwrap(),
            role: Role::Operator,
        });
        let proof = operator.may_manage(of("bob")).unwrap();
        assert_eq!(proof.environment().person.as_str(), "bob");
        assert_eq!(proof.person().as_str(), "olga");
    }
}
