//! A tenant: the machines that a provider makes and frees, and that an environment runs on. A person has an
//! environment; after a reset, or when a start is retried, the environment gets another tenant. A tenant is made for an
//! environment or for a [pool](crate::pool), from which an environment claims it later.
//!
//! ```text
//! Provisioning ──► Warm ──► Claimed ──► Releasing ──► Gone
//!      │             │                      ▲
//!      └───► Failed ─┴── freed ─────────────┘
//! ```
//!
//! The environment's reconciler requests a tenant, claims it once it is warm, and releases it. For pools, their
//! reconciler requests and releases tenants. The tenants' reconciler calls [`plan`] and has the provider make and free
//! them. A warm tenant of a pool is paused; it runs on when it is claimed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    EnvironmentId, SavePointId, TemplateRef, TenantId, lab::Egress, limits::Limits, pool::Pooled,
};

/// The description of a tenant, which the lab determines and the provider carries out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The template that it is cloned from.
    pub template: TemplateRef,
    /// What its lab allows it once it is claimed.
    pub allowance: Allowance,
    /// The save point that it continues from, instead of from the template's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save_point: Option<SavePointId>,
}

/// What a lab allows a tenant. Labs that share a template differ in it, so it is applied when the tenant is claimed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Allowance {
    /// The resources that it may use.
    pub limits: Limits,
    /// The destinations that its nodes may connect to.
    pub egress: Vec<Egress>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenant {
    /// The id.
    pub id: TenantId,
    /// The environment that it is made for or that has claimed it. `None` while it is in a pool.
    pub environment: Option<EnvironmentId>,
    /// What it was made of, if it was made for a pool.
    pub pooled: Option<Pooled>,
    /// The description.
    pub spec: Spec,
    /// When it was requested.
    pub created_at: Timestamp,
    /// The lifecycle state.
    pub state: State,
    /// What the provider last observed.
    pub observed: Option<Observed>,
    /// A number that increases with each change of the state.
    pub generation: i64,
}

/// The lifecycle state of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// The provider is making it.
    Provisioning {
        /// When it was requested.
        since: Timestamp,
    },
    /// It is complete and not claimed. It runs, or is paused if it is in a pool.
    Warm {
        /// When it became warm.
        since: Timestamp,
    },
    /// An environment has claimed it.
    Claimed {
        /// When it was claimed.
        since: Timestamp,
    },
    /// Its resources are being freed.
    Releasing {
        /// When it was released.
        since: Timestamp,
    },
    /// Its resources were freed.
    Gone {
        /// When its resources were freed.
        at: Timestamp,
    },
    /// It could not be made, or broke before it was claimed.
    Failed {
        /// When it failed.
        at: Timestamp,
        /// The stage that failed, as a stable word.
        stage: String,
        /// What went wrong and what to do, as a message for people.
        reason: String,
        /// True if making another tenant may succeed.
        #[serde(rename = "may_pass")]
        retryable: bool,
        /// True once its resources were freed.
        freed: bool,
    },
}

/// The name of a [`State`], without its data.
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
    /// Returns the stable word used in the store.
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

/// What the provider observes of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observed {
    /// Nothing of it exists.
    Absent,
    /// All its nodes run.
    Running,
    /// All its nodes are frozen.
    Paused,
    /// A part of it is left, but a node or its launcher is dead.
    Broken,
    /// It exists but did not answer in time. The reconcilers wait.
    Unknown,
}

impl State {
    /// Returns the name of the state.
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

    /// Returns true if its resources were freed, so that the state never changes again.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Failed { freed: true, .. })
    }

    /// Returns true if there is nothing to release: it is being freed, is gone, or failed.
    #[must_use]
    pub const fn is_leaving(&self) -> bool {
        matches!(
            self,
            Self::Releasing { .. } | Self::Gone { .. } | Self::Failed { .. }
        )
    }

    /// Moves to `Warm`; `None` unless it was being made.
    #[must_use]
    pub fn warm(&self, now: Timestamp) -> Option<Self> {
        matches!(self, Self::Provisioning { .. }).then_some(Self::Warm { since: now })
    }

    /// Moves to `Claimed`; `None` unless it is warm.
    #[must_use]
    pub fn claim(&self, now: Timestamp) -> Option<Self> {
        matches!(self, Self::Warm { .. }).then_some(Self::Claimed { since: now })
    }

    /// Moves to `Releasing`; `None` if there is nothing to release.
    #[must_use]
    pub fn release(&self, now: Timestamp) -> Option<Self> {
        (!self.is_leaving()).then_some(Self::Releasing { since: now })
    }

    /// Records that its resources were freed; `None` unless it was being released or had failed.
    #[must_use]
    pub fn freed(&self, now: Timestamp) -> Option<Self> {
        match self.clone() {
            Self::Releasing { .. } => Some(Self::Gone { at: now }),
            Self::Failed {
                at,
                stage,
                reason,
                retryable,
                freed: false,
            } => Some(Self::Failed {
                at,
                stage,
                reason,
                retryable,
                freed: true,
            }),
            _ => None,
        }
    }

    /// Moves to `Failed`; `None` unless it is being made or is warm.
    #[must_use]
    pub fn fail(
        &self,
        now: Timestamp,
        stage: impl Into<String>,
        reason: impl Into<String>,
        retryable: bool,
    ) -> Option<Self> {
        matches!(self, Self::Provisioning { .. } | Self::Warm { .. }).then(|| Self::Failed {
            at: now,
            stage: stage.into(),
            reason: reason.into(),
            retryable,
            freed: false,
        })
    }
}

/// What the tenants' reconciler must do next for a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Do nothing until something changes.
    Wait,
    /// Have the provider make it.
    Provision,
    /// Cancel the step that makes it: nobody waits for it any more.
    Cancel,
    /// Have the provider free its resources.
    Free,
    /// Record that it failed.
    Fail {
        /// The stage that failed.
        stage: &'static str,
        /// The reason, as a message for people.
        reason: &'static str,
        /// True if making another tenant may succeed.
        retryable: bool,
    },
}

/// Returns the next step, from the state and what was observed. `busy` means that a step for this tenant is already
/// running; `seconds` is how long the provider may take to make it. A claimed tenant is its environment's
/// responsibility.
#[must_use]
pub fn plan(state: &State, observed: Observed, seconds: i64, busy: bool, now: Timestamp) -> Step {
    match state {
        State::Provisioning { since } if now.duration_since(*since).as_secs() > seconds => {
            Step::Fail {
                stage: "clone",
                reason: "the machine took too long to clone",
                retryable: false,
            }
        }
        State::Releasing { .. } | State::Failed { freed: false, .. } if busy => Step::Cancel,
        _ if busy => Step::Wait,
        State::Provisioning { .. } => match observed {
            Observed::Absent => Step::Provision,
            Observed::Unknown => Step::Wait,
            // No step is running, so the one that was ended with the previous server process.
            Observed::Running | Observed::Paused | Observed::Broken => Step::Fail {
                stage: "start",
                reason: "the start was interrupted",
                retryable: true,
            },
        },
        State::Warm { .. } => match observed {
            Observed::Absent => Step::Fail {
                stage: "run",
                reason: "the machine has disappeared",
                retryable: true,
            },
            Observed::Broken => Step::Fail {
                stage: "run",
                reason: "a part of the machine has died",
                retryable: true,
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
                retryable: true,
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
