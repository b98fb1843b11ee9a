//! A tenant: what a provider makes and frees, and an environment runs on for a while. An environment is what a person
//! has; a reset or a second try gives it another tenant.
//!
//! ```text
//! Provisioning ──► Warm ──► Claimed ──► Releasing ──► Gone
//!      │             │                      ▲
//!      └───► Failed ─┴── freed ─────────────┘
//! ```
//!
//! Its environment's reconciler asks for one, claims it once it is warm, and lets go of it; the tenants' reconciler calls
//! [`plan`] and has the provider make and free it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{EnvironmentId, TemplateRef, TenantId, lab::Egress, limits::Limits};

/// What a tenant is, from the lab to the provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// What it is cloned from.
    pub template: TemplateRef,
    /// What its lab allows it, from the claim on.
    pub allowance: Allowance,
}

/// What a lab allows a tenant. It differs from lab to lab on one template, and is given when a tenant is claimed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Allowance {
    /// What it may use.
    pub limits: Limits,
    /// Where its nodes may connect to.
    pub egress: Vec<Egress>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// The environment that it is made for.
    pub environment: EnvironmentId,
    /// What it is made of.
    pub spec: Spec,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Where in its life it is.
    pub state: State,
    /// What the provider saw last.
    pub observed: Option<Observed>,
    /// Grows with each change of its state.
    pub generation: i64,
}

/// Where in its life a tenant is; each state holds its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// The provider makes it.
    Provisioning {
        /// Since when.
        since: Timestamp,
    },
    /// It runs, and nobody has it.
    Warm {
        /// Since when.
        since: Timestamp,
    },
    /// An environment has it.
    Claimed {
        /// Since when.
        since: Timestamp,
    },
    /// What it held is being freed.
    Releasing {
        /// Since when.
        since: Timestamp,
    },
    /// Nothing of it is left.
    Gone {
        /// Since when.
        at: Timestamp,
    },
    /// It could not be made, or died before anybody had it.
    Failed {
        /// Since when.
        at: Timestamp,
        /// The stage that failed, a stable word.
        stage: String,
        /// What went wrong and what to do, for people.
        reason: String,
        /// Whether another may turn out better.
        may_pass: bool,
        /// True once everything it held was freed.
        freed: bool,
    },
}

/// The state's name alone, as stored in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names of `State`")]
pub enum Phase {
    Provisioning,
    Warm,
    Claimed,
    Releasing,
    Gone,
    Failed,
}

impl Phase {
    /// The stable word used in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Warm => "warm",
            Self::Claimed => "claimed",
            Self::Releasing => "releasing",
            Self::Gone => "gone",
            Self::Failed => "failed",
        }
    }
}

/// What the provider sees of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observed {
    /// Nothing of it exists.
    Absent,
    /// All its nodes run.
    Running,
    /// All its nodes are frozen.
    Paused,
    /// Something of it exists, but a node, or its launcher, is dead.
    Broken,
    /// It exists and could not be asked in time; nothing is decided about it.
    Unknown,
}

impl State {
    /// The state's name.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        match self {
            Self::Provisioning { .. } => Phase::Provisioning,
            Self::Warm { .. } => Phase::Warm,
            Self::Claimed { .. } => Phase::Claimed,
            Self::Releasing { .. } => Phase::Releasing,
            Self::Gone { .. } => Phase::Gone,
            Self::Failed { .. } => Phase::Failed,
        }
    }

    /// True when nothing of it is left, and nothing will ever follow.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Failed { freed: true, .. })
    }

    /// True when it is on its way out, or there is nothing left to let go of.
    #[must_use]
    pub const fn is_leaving(&self) -> bool {
        matches!(
            self,
            Self::Releasing { .. } | Self::Gone { .. } | Self::Failed { .. }
        )
    }

    /// It runs now; nothing unless it was being made.
    #[must_use]
    pub fn warm(&self, now: Timestamp) -> Option<Self> {
        matches!(self, Self::Provisioning { .. }).then_some(Self::Warm { since: now })
    }

    /// An environment takes it; nothing unless it is warm.
    #[must_use]
    pub fn claim(&self, now: Timestamp) -> Option<Self> {
        matches!(self, Self::Warm { .. }).then_some(Self::Claimed { since: now })
    }

    /// It is let go of; nothing when it leaves already.
    #[must_use]
    pub fn release(&self, now: Timestamp) -> Option<Self> {
        (!self.is_leaving()).then_some(Self::Releasing { since: now })
    }

    /// Everything that it held was freed; nothing unless it was leaving.
    #[must_use]
    pub fn freed(&self, now: Timestamp) -> Option<Self> {
        match self.clone() {
            Self::Releasing { .. } => Some(Self::Gone { at: now }),
            Self::Failed {
                at,
                stage,
                reason,
                may_pass,
                freed: false,
            } => Some(Self::Failed {
                at,
                stage,
                reason,
                may_pass,
                freed: true,
            }),
            _ => None,
        }
    }

    /// It could not be made, or died before anybody had it; nothing when it leaves, or somebody has it.
    #[must_use]
    pub fn fail(
        &self,
        now: Timestamp,
        stage: impl Into<String>,
        reason: impl Into<String>,
        may_pass: bool,
    ) -> Option<Self> {
        matches!(self, Self::Provisioning { .. } | Self::Warm { .. }).then(|| Self::Failed {
            at: now,
            stage: stage.into(),
            reason: reason.into(),
            may_pass,
            freed: false,
        })
    }
}

/// What the tenants' reconciler has to do next for one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until something changes.
    Wait,
    /// Have it made.
    Provision,
    /// Drop the making that is under way: nobody waits for it any more.
    Cancel,
    /// Have everything of it freed.
    Free,
    /// It can't be used.
    Fail {
        /// The stage that failed.
        stage: &'static str,
        /// Why, for people.
        reason: &'static str,
        /// Whether another may turn out better.
        may_pass: bool,
    },
}

/// Compares what should be with what is. `busy` says that a step for this tenant is under way; `seconds` is how long the
/// provider may take to make it. A claimed tenant is its environment's to look after.
#[must_use]
pub fn plan(state: &State, observed: Observed, seconds: i64, busy: bool, now: Timestamp) -> Step {
    match state {
        State::Provisioning { since } if now.duration_since(*since).as_secs() > seconds => {
            Step::Fail {
                stage: "clone",
                reason: "the machine took too long to clone",
                may_pass: false,
            }
        }
        State::Releasing { .. } | State::Failed { freed: false, .. } if busy => Step::Cancel,
        _ if busy => Step::Wait,
        State::Provisioning { .. } => match observed {
            Observed::Absent => Step::Provision,
            Observed::Unknown => Step::Wait,
            // No step is under way, so whatever worked on it died with the last server.
            Observed::Running | Observed::Paused | Observed::Broken => Step::Fail {
                stage: "start",
                reason: "the start was interrupted",
                may_pass: true,
            },
        },
        State::Warm { .. } => match observed {
            Observed::Absent => Step::Fail {
                stage: "run",
                reason: "the machine has disappeared",
                may_pass: true,
            },
            Observed::Broken => Step::Fail {
                stage: "run",
                reason: "a part of the machine has died",
                may_pass: true,
            },
            Observed::Running | Observed::Paused | Observed::Unknown => Step::Wait,
        },
        State::Releasing { .. } | State::Failed { freed: false, .. } => Step::Free,
        State::Claimed { .. } | State::Gone { .. } | State::Failed { freed: true, .. } => {
            Step::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn step(state: &State, observed: Observed, busy: bool, now: i64) -> Step {
        plan(state, observed, 180, busy, at(now))
    }

    #[test]
    fn a_whole_life() {
        let s = State::Provisioning { since: at(0) };
        assert_eq!(step(&s, Observed::Absent, false, 1), Step::Provision);
        assert_eq!(step(&s, Observed::Broken, true, 2), Step::Wait);
        assert!(s.claim(at(3)).is_none(), "it is not warm");
        let s = s.warm(at(3)).unwrap();
        assert_eq!(step(&s, Observed::Running, false, 4), Step::Wait);
        let s = s.claim(at(4)).unwrap();
        assert!(s.claim(at(5)).is_none(), "somebody has it");
        // Whatever happens to it, its environment decides.
        assert_eq!(step(&s, Observed::Broken, false, 5), Step::Wait);
        let s = s.release(at(6)).unwrap();
        assert!(s.release(at(6)).is_none() && s.claim(at(6)).is_none());
        assert_eq!(step(&s, Observed::Running, false, 7), Step::Free);
        let s = s.freed(at(8)).unwrap();
        assert!(s.is_final());
        assert_eq!(step(&s, Observed::Absent, false, 9), Step::Wait);
    }

    #[test]
    fn what_is_let_go_while_it_is_made_is_cancelled_first() {
        let s = State::Provisioning { since: at(0) };
        let s = s.release(at(1)).unwrap();
        assert_eq!(step(&s, Observed::Broken, true, 2), Step::Cancel);
        assert_eq!(step(&s, Observed::Broken, false, 3), Step::Free);
    }

    #[test]
    fn an_interrupted_or_late_making_fails_and_is_freed() {
        let s = State::Provisioning { since: at(0) };
        assert!(matches!(
            step(&s, Observed::Broken, false, 2),
            Step::Fail {
                stage: "start",
                may_pass: true,
                ..
            }
        ));
        assert_eq!(step(&s, Observed::Broken, true, 180), Step::Wait);
        assert!(matches!(
            step(&s, Observed::Broken, true, 181),
            Step::Fail { stage: "clone", .. }
        ));
        let s = s.fail(at(200), "clone", "slow", false).unwrap();
        assert_eq!(step(&s, Observed::Broken, false, 201), Step::Free);
        assert!(s.freed(at(202)).unwrap().is_final());
    }

    #[test]
    fn a_warm_one_that_dies_is_handed_to_nobody() {
        let s = State::Warm { since: at(0) };
        assert!(matches!(
            step(&s, Observed::Absent, false, 1),
            Step::Fail { .. }
        ));
        let s = s.fail(at(1), "run", "died", true).unwrap();
        assert!(s.claim(at(2)).is_none());
    }
}
