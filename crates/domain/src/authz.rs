//! Who is asking, and the proofs that a handler needs before it may act.
//!
//! A proof has private fields and is made only here, so a handler that takes one cannot be called without the
//! question having been asked. What a person may not see answers like what doesn't exist.

use crate::{EnvironmentId, PersonId};

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

/// Proof: this person may see and use this environment.
#[derive(Debug, Clone)]
pub struct MayUse {
    environment: EnvironmentId,
    person: PersonId,
}

/// Proof: this person may add nodes to this environment and remove them: its owner, or an operator.
#[derive(Debug, Clone)]
pub struct MayResize {
    environment: EnvironmentId,
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

    /// May this person use the environment that `owner` has?
    pub fn may_use(
        &self,
        environment: &EnvironmentId,
        owner: &PersonId,
    ) -> Result<MayUse, NotFound> {
        if *owner == self.0.person {
            Ok(MayUse {
                environment: environment.clone(),
                person: owner.clone(),
            })
        } else {
            Err(NotFound)
        }
    }

    /// May this person change which nodes the environment has that `owner` has?
    pub fn may_resize(
        &self,
        environment: &EnvironmentId,
        owner: &PersonId,
    ) -> Result<MayResize, NotFound> {
        if *owner == self.0.person || self.0.role == Role::Operator {
            Ok(MayResize {
                environment: environment.clone(),
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
    pub const fn environment(&self) -> &EnvironmentId {
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
    pub const fn environment(&self) -> &EnvironmentId {
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
        let env: EnvironmentId = "abc".parse().unwrap();
        assert!(me.may_use(&env, &"ann".parse().unwrap()).is_ok());
        assert_eq!(
            me.may_use(&env, &"bob".parse().unwrap()).unwrap_err(),
            NotFound
        );
        assert!(me.may_operate().is_err());
        assert!(me.may_resize(&env, &"ann".parse().unwrap()).is_ok());
        assert!(me.may_resize(&env, &"bob".parse().unwrap()).is_err());
        let operator = SignedIn::verified(Principal {
            person: "olga".parse().unwrap(),
            role: Role::Operator,
        });
        let proof = operator.may_resize(&env, &"bob".parse().unwrap()).unwrap();
        assert_eq!(proof.person().as_str(), "olga");
    }
}
