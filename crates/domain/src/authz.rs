//! Who is asking, and the proofs that a handler needs before it may act.
//!
//! A proof has private fields and is made only here, so a handler that takes one cannot be called without the
//! question having been asked. What a person may not see answers like what doesn't exist.

use crate::{PersonId, environment::Environment};

/// Who is asking, once a session or a token was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The person.
    pub person: PersonId,
    /// What the person may do.
    pub role: Role,
}

/// What a person may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes labs.
    Student,
    /// Also sees pools, capacity, everybody's environments, and the audit.
    Operator,
}

/// The thing does not exist, or the person may not see it: on purpose the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not found")]
pub struct NotFound;

/// Proof: this person is signed in.
#[derive(Debug, Clone)]
pub struct SignedIn(Principal);

/// Proof: this person may see and use this environment. It holds the environment, so that what is acted on is what was
/// asked about.
#[derive(Debug, Clone)]
pub struct MayUse {
    environment: Environment,
    person: PersonId,
}

/// Proof: this person may add nodes to this environment and remove them: its owner, or an operator.
#[derive(Debug, Clone)]
pub struct MayResize {
    environment: Environment,
    person: PersonId,
}

/// Proof: this person operates the installation.
#[derive(Debug, Clone)]
pub struct MayOperate(PersonId);

impl SignedIn {
    /// Called by the one place that verifies sessions and tokens.
    #[must_use]
    pub const fn verified(principal: Principal) -> Self {
        Self(principal)
    }

    /// The person.
    #[must_use]
    pub const fn person(&self) -> &PersonId {
        &self.0.person
    }

    /// The person's role.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.0.role
    }

    /// May this person use this environment?
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

    /// May this person change which nodes this environment has?
    pub fn may_resize(&self, environment: Environment) -> Result<MayResize, NotFound> {
        if environment.person == self.0.person || self.0.role == Role::Operator {
            Ok(MayResize {
                environment,
                person: self.0.person.clone(),
            })
        } else {
            Err(NotFound)
        }
    }

    /// Does this person operate the installation?
    pub fn may_operate(&self) -> Result<MayOperate, NotFound> {
        match self.0.role {
            Role::Operator => Ok(MayOperate(self.0.person.clone())),
            Role::Student => Err(NotFound),
        }
    }
}

impl MayUse {
    /// The environment that may be used.
    #[must_use]
    pub const fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Who may use it.
    #[must_use]
    pub const fn person(&self) -> &PersonId {
        &self.person
    }
}

impl MayResize {
    /// The environment whose nodes may be changed.
    #[must_use]
    pub const fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Who may change them.
    #[must_use]
    pub const fn person(&self) -> &PersonId {
        &self.person
    }
}

impl MayOperate {
    /// Who operates.
    #[must_use]
    pub const fn person(&self) -> &PersonId {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(me.may_resize(of("ann")).is_ok());
        assert!(me.may_resize(of("bob")).is_err());
        let operator = SignedIn::verified(Principal {
            person: "olga".parse().unwrap(),
            role: Role::Operator,
        });
        let proof = operator.may_resize(of("bob")).unwrap();
        assert_eq!(proof.environment().person.as_str(), "bob");
        assert_eq!(proof.person().as_str(), "olga");
    }
}
