//! An environment's intent, its states, and the pure [`plan`] that compares the two with what was observed.
//!
//! ```text
//! Requested ──► Provisioning ──► Preparing ──► Active ◄──► Suspended
//!     ▲              │               │            │            │
//!     └── retry ─────┴───────────────┘            ▼            │
//!                    │                         Expired ◄───────┘
//!                    ▼                            │
//!                 Failed ──► Releasing ◄──────────┘
//!                               │
//!                               ▼
//!                             Gone
//! ```
//!
//! A request changes the [`Intent`] in the store; the reconciler calls [`plan`] and carries out the [`Step`];
//! what comes of it is written back as [`State`]. `Requested`, `Provisioning`, `Preparing` and `Releasing` have
//! a deadline; a missed one is a visible failure. (The design's `Warm` comes with the pools.)

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// What a person asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// It should run.
    Active,
    /// It should exist but use no CPU.
    Suspended,
    /// It should not exist, for this reason.
    Gone(EndReason),
}

/// Why an environment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Its owner ended it.
    Ended,
    /// Its owner asked for a fresh one.
    Reset,
    /// Its time to live ran out.
    TimeUp,
    /// Nobody used it for the idle time.
    Idle,
    /// It reached the hard end of life.
    HardEnd,
    /// It failed, and what it held was freed.
    Failed,
}

/// Where in its life an environment is; each state holds its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Asked for; nothing exists yet.
    Requested {
        /// Since when.
        since: Timestamp,
        /// How many times it was tried before.
        tries: u32,
    },
    /// The provider clones its nodes.
    Provisioning {
        /// Since when.
        since: Timestamp,
        /// How many times it was tried before.
        tries: u32,
    },
    /// It runs; its identity is refreshed and the lab's setup breaks it.
    Preparing {
        /// Since when.
        since: Timestamp,
        /// How many times it was tried before.
        tries: u32,
    },
    /// Its owner may enter.
    Active {
        /// Since when.
        since: Timestamp,
    },
    /// Frozen: no CPU is used, nobody may enter.
    Suspended {
        /// Since when.
        since: Timestamp,
    },
    /// Its time is over; nobody may enter.
    Expired {
        /// Since when.
        since: Timestamp,
        /// Why it ended.
        reason: EndReason,
    },
    /// What it held is being freed.
    Releasing {
        /// Since when.
        since: Timestamp,
        /// Why it ended.
        reason: EndReason,
    },
    /// Nothing of it is left on the machine.
    Gone {
        /// Since when.
        at: Timestamp,
        /// Why it ended.
        reason: EndReason,
    },
    /// It could not be brought to the next state.
    Failed {
        /// Since when.
        at: Timestamp,
        /// The stage that failed, a stable word.
        stage: String,
        /// What went wrong and what to do, for people.
        reason: String,
        /// True once everything it held was freed.
        freed: bool,
    },
}

/// The state's name alone, as stored in a column and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names of `State`")]
pub enum Phase {
    Requested,
    Provisioning,
    Preparing,
    Active,
    Suspended,
    Expired,
    Releasing,
    Gone,
    Failed,
}

impl Phase {
    /// The stable word used in the store, the API and the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Provisioning => "provisioning",
            Self::Preparing => "preparing",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Expired => "expired",
            Self::Releasing => "releasing",
            Self::Gone => "gone",
            Self::Failed => "failed",
        }
    }
}

/// A transition that the diagram doesn't have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an environment that is {from} cannot {verb}")]
pub struct InvalidTransition {
    from: &'static str,
    verb: &'static str,
}

/// How often a start is tried before it counts as failed.
pub const MAX_TRIES: u32 = 2;

impl State {
    /// A new environment.
    #[must_use]
    pub const fn requested(now: Timestamp) -> Self {
        Self::Requested {
            since: now,
            tries: 0,
        }
    }

    /// The state's name.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        match self {
            Self::Requested { .. } => Phase::Requested,
            Self::Provisioning { .. } => Phase::Provisioning,
            Self::Preparing { .. } => Phase::Preparing,
            Self::Active { .. } => Phase::Active,
            Self::Suspended { .. } => Phase::Suspended,
            Self::Expired { .. } => Phase::Expired,
            Self::Releasing { .. } => Phase::Releasing,
            Self::Gone { .. } => Phase::Gone,
            Self::Failed { .. } => Phase::Failed,
        }
    }

    /// True while the provider may hold something for it.
    #[must_use]
    pub const fn holds_resources(&self) -> bool {
        match self {
            Self::Gone { .. } => false,
            Self::Failed { freed, .. } => !*freed,
            _ => true,
        }
    }

    /// True when no step will ever follow.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Failed { freed: true, .. })
    }

    /// True on the way to `Active`.
    #[must_use]
    pub const fn is_starting(&self) -> bool {
        matches!(
            self,
            Self::Requested { .. } | Self::Provisioning { .. } | Self::Preparing { .. }
        )
    }

    fn refuse(&self, verb: &'static str) -> InvalidTransition {
        InvalidTransition {
            from: self.phase().as_str(),
            verb,
        }
    }

    /// The provider begins to clone.
    pub fn provision(self, now: Timestamp) -> Result<Self, InvalidTransition> {
        match self {
            Self::Requested { tries, .. } => Ok(Self::Provisioning { since: now, tries }),
            other => Err(other.refuse("be provisioned")),
        }
    }

    /// The clone runs.
    pub fn prepare(self, now: Timestamp) -> Result<Self, InvalidTransition> {
        match self {
            Self::Provisioning { tries, .. } => Ok(Self::Preparing { since: now, tries }),
            other => Err(other.refuse("be prepared")),
        }
    }

    /// Its owner may enter.
    pub fn activate(self, now: Timestamp) -> Result<Self, InvalidTransition> {
        match self {
            Self::Preparing { .. } | Self::Suspended { .. } => Ok(Self::Active { since: now }),
            other => Err(other.refuse("become active")),
        }
    }

    /// It was frozen.
    pub fn suspend(self, now: Timestamp) -> Result<Self, InvalidTransition> {
        match self {
            Self::Active { .. } => Ok(Self::Suspended { since: now }),
            other => Err(other.refuse("be suspended")),
        }
    }

    /// The start did not work; what it held was freed and it begins again.
    pub fn retry(self, now: Timestamp) -> Result<Self, InvalidTransition> {
        match self {
            Self::Requested { tries, .. }
            | Self::Provisioning { tries, .. }
            | Self::Preparing { tries, .. } => Ok(Self::Requested {
                since: now,
                tries: tries + 1,
            }),
            other => Err(other.refuse("be tried again")),
        }
    }

    /// Its time is over.
    pub fn expire(self, now: Timestamp, reason: EndReason) -> Result<Self, InvalidTransition> {
        if self.is_final() || matches!(self, Self::Releasing { .. } | Self::Expired { .. }) {
            return Err(self.refuse("expire"));
        }
        Ok(Self::Expired { since: now, reason })
    }

    /// What it held is being freed.
    pub fn release(self, now: Timestamp) -> Result<Self, InvalidTransition> {
        match self {
            Self::Expired { reason, .. } => Ok(Self::Releasing { since: now, reason }),
            other => Err(other.refuse("be released")),
        }
    }

    /// Nothing is left of it.
    pub fn gone(self, now: Timestamp) -> Result<Self, InvalidTransition> {
        match self {
            Self::Releasing { reason, .. } => Ok(Self::Gone { at: now, reason }),
            other => Err(other.refuse("be gone")),
        }
    }

    /// It could not be brought further. Never refused: failure is possible anywhere but after the end.
    #[must_use]
    pub fn fail(self, now: Timestamp, stage: impl Into<String>, reason: impl Into<String>) -> Self {
        if self.is_final() {
            return self;
        }
        Self::Failed {
            at: now,
            stage: stage.into(),
            reason: reason.into(),
            freed: false,
        }
    }

    /// Everything that a failed environment held was freed.
    #[must_use]
    pub fn freed(self) -> Self {
        match self {
            Self::Failed {
                at, stage, reason, ..
            } => Self::Failed {
                at,
                stage,
                reason,
                freed: true,
            },
            other => other,
        }
    }
}

/// What the provider sees of an environment.
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

/// The times that bound an environment's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifetime {
    /// It ends then, unless extended.
    pub expires_at: Timestamp,
    /// No extension goes beyond this.
    pub hard_end: Timestamp,
    /// When its owner last did something in it.
    pub last_used: Timestamp,
    /// It ends after so many seconds without use.
    pub idle_seconds: i64,
}

impl Lifetime {
    /// When and why it will end if nothing happens.
    #[must_use]
    pub fn end(&self) -> (Timestamp, EndReason) {
        let idle = self
            .last_used
            .saturating_add(SignedDuration::from_secs(self.idle_seconds))
            .unwrap_or(self.hard_end);
        let mut end = (self.hard_end, EndReason::HardEnd);
        if self.expires_at < end.0 {
            end = (self.expires_at, EndReason::TimeUp);
        }
        if idle < end.0 {
            end = (idle, EndReason::Idle);
        }
        end
    }

    /// Seconds until it ends; negative afterwards.
    #[must_use]
    pub fn remaining(&self, now: Timestamp) -> i64 {
        self.end().0.duration_since(now).as_secs()
    }

    /// The same, with more time, bounded by the hard end.
    #[must_use]
    pub fn extended(self, by: SignedDuration) -> Self {
        let later = self.expires_at.saturating_add(by).unwrap_or(self.hard_end);
        Self {
            expires_at: later.min(self.hard_end),
            ..self
        }
    }
}

/// How long a state may last before it counts as failed, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Waiting for its turn.
    pub requested: i64,
    /// Cloning.
    pub provisioning: i64,
    /// Refreshing identity and the lab's setup.
    pub preparing: i64,
    /// Freeing.
    pub releasing: i64,
}

impl Default for Deadlines {
    /// Wide enough for emulation on a loaded machine of two cores.
    fn default() -> Self {
        Self {
            requested: 600,
            provisioning: 180,
            preparing: 420,
            releasing: 120,
        }
    }
}

/// What the reconciler has to do next for one environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until something changes.
    Wait,
    /// Clone, refresh, set up; ends in `Active`.
    Start,
    /// Free what a broken start left and begin again.
    Restart,
    /// Freeze all nodes.
    Suspend,
    /// Continue all nodes.
    Resume,
    /// Its time is over.
    Expire(EndReason),
    /// Free everything.
    Release,
    /// Free what a failed environment held.
    Free,
    /// It cannot go on.
    Fail {
        /// The stage that failed.
        stage: &'static str,
        /// Why, for people.
        reason: &'static str,
    },
}

/// Compares what should be with what is. `busy` says that a step for this environment is under way; then only
/// a missed deadline is acted on.
#[must_use]
pub fn plan(
    intent: Intent,
    state: &State,
    observed: Observed,
    lifetime: &Lifetime,
    deadlines: &Deadlines,
    busy: bool,
    now: Timestamp,
) -> Step {
    let late = |since: &Timestamp, seconds: i64| now.duration_since(*since).as_secs() > seconds;
    if busy {
        return match state {
            State::Provisioning { since, .. } if late(since, deadlines.provisioning) => {
                Step::Fail {
                    stage: "clone",
                    reason: "the machine took too long to clone",
                }
            }
            State::Preparing { since, .. } if late(since, deadlines.preparing) => Step::Fail {
                stage: "setup",
                reason: "preparing the machine took too long",
            },
            State::Releasing { since, .. } if late(since, deadlines.releasing) => Step::Fail {
                stage: "release",
                reason: "freeing the machine took too long",
            },
            _ => Step::Wait,
        };
    }
    match state {
        State::Gone { .. } | State::Failed { freed: true, .. } => Step::Wait,
        State::Failed { freed: false, .. } => Step::Free,
        State::Expired { .. } | State::Releasing { .. } => Step::Release,
        State::Requested { .. }
        | State::Provisioning { .. }
        | State::Preparing { .. }
        | State::Active { .. }
        | State::Suspended { .. }
            if matches!(intent, Intent::Gone(_)) =>
        {
            match intent {
                Intent::Gone(reason) => Step::Expire(reason),
                _ => Step::Wait,
            }
        }
        State::Requested { since, .. } if late(since, deadlines.requested) => Step::Fail {
            stage: "queue",
            reason: "no place became free in time",
        },
        State::Requested { .. } => Step::Start,
        // No step is under way, so whatever worked on it died with the last server.
        State::Provisioning { tries, .. } | State::Preparing { tries, .. } => {
            if *tries + 1 < MAX_TRIES {
                Step::Restart
            } else {
                Step::Fail {
                    stage: "start",
                    reason: "the start was interrupted more than once",
                }
            }
        }
        State::Active { .. } | State::Suspended { .. } => {
            let (end, reason) = lifetime.end();
            if now >= end {
                return Step::Expire(reason);
            }
            match (state, observed, intent) {
                (_, Observed::Absent, _) => Step::Fail {
                    stage: "run",
                    reason: "the machine has disappeared",
                },
                (_, Observed::Unknown, _) => Step::Wait,
                (_, Observed::Broken, _) => Step::Fail {
                    stage: "run",
                    reason: "a part of the machine has died",
                },
                (State::Active { .. }, _, Intent::Suspended) => Step::Suspend,
                (State::Suspended { .. }, _, Intent::Active) => Step::Resume,
                (State::Active { .. }, Observed::Paused, Intent::Active) => Step::Resume,
                (State::Suspended { .. }, Observed::Running, Intent::Suspended) => Step::Suspend,
                _ => Step::Wait,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn life() -> Lifetime {
        Lifetime {
            expires_at: at(3600),
            hard_end: at(7200),
            last_used: at(0),
            idle_seconds: 1800,
        }
    }

    fn step(intent: Intent, state: &State, observed: Observed, now: i64) -> Step {
        plan(
            intent,
            state,
            observed,
            &life(),
            &Deadlines::default(),
            false,
            at(now),
        )
    }

    #[test]
    fn a_whole_life() {
        let s = State::requested(at(0));
        assert_eq!(step(Intent::Active, &s, Observed::Absent, 1), Step::Start);
        let s = s
            .provision(at(1))
            .unwrap()
            .prepare(at(2))
            .unwrap()
            .activate(at(3))
            .unwrap();
        assert_eq!(step(Intent::Active, &s, Observed::Running, 4), Step::Wait);
        assert_eq!(
            step(Intent::Suspended, &s, Observed::Running, 4),
            Step::Suspend
        );
        assert_eq!(
            step(Intent::Active, &s, Observed::Broken, 4),
            Step::Fail {
                stage: "run",
                reason: "a part of the machine has died"
            }
        );
        assert_eq!(
            step(Intent::Active, &s, Observed::Running, 1800),
            Step::Expire(EndReason::Idle)
        );
        let s = s.expire(at(1800), EndReason::Idle).unwrap();
        assert_eq!(
            step(Intent::Active, &s, Observed::Running, 1801),
            Step::Release
        );
        let s = s.release(at(1801)).unwrap().gone(at(1802)).unwrap();
        assert_eq!(step(Intent::Active, &s, Observed::Absent, 1803), Step::Wait);
        assert!(s.is_final() && !s.holds_resources());
    }

    #[test]
    fn an_interrupted_start_is_tried_again_and_then_fails() {
        let s = State::requested(at(0)).provision(at(1)).unwrap();
        assert_eq!(step(Intent::Active, &s, Observed::Broken, 2), Step::Restart);
        let s = s.retry(at(2)).unwrap().provision(at(3)).unwrap();
        assert!(matches!(
            step(Intent::Active, &s, Observed::Broken, 4),
            Step::Fail { stage: "start", .. }
        ));
    }

    #[test]
    fn a_missed_deadline_is_seen_while_busy() {
        let s = State::requested(at(0)).provision(at(1)).unwrap();
        let step = plan(
            Intent::Active,
            &s,
            Observed::Absent,
            &life(),
            &Deadlines::default(),
            true,
            at(1000),
        );
        assert!(matches!(step, Step::Fail { stage: "clone", .. }));
    }

    #[test]
    fn nothing_leaves_the_end() {
        let gone = State::Gone {
            at: at(0),
            reason: EndReason::Ended,
        };
        assert!(gone.clone().provision(at(1)).is_err());
        assert!(gone.clone().expire(at(1), EndReason::Idle).is_err());
        assert_eq!(gone.clone().fail(at(1), "x", "y"), gone);
    }

    #[test]
    fn extending_stops_at_the_hard_end() {
        let l = life().extended(SignedDuration::from_hours(9));
        assert_eq!(l.expires_at, l.hard_end);
    }
}
