//! An environment's intent, its states, and the pure [`plan`] that compares them with the observed tenant.
//!
//! ```text
//!   ┌──────── resume from disk ───────────────┐
//!   ▼                                         │
//! Requested ──► Preparing ──► Active ◄──► Suspended
//!   ▲  ▲            │            │            │
//!   │  └── retry ───┤            ▼            │
//!   │               │         Expired ◄───────┘
//! reset             ▼            │
//!   │            Failed          ▼
//!   └────────────── any        Gone
//! ```
//!
//! A request changes the [`Intent`] in the store. The reconciler calls [`plan`], carries out the [`Step`], and records
//! the result as [`State`]. An environment runs on a [tenant](crate::tenant): `Requested` waits until one is warm;
//! `Expired` and `Failed` wait until theirs is freed. Without room on the host, `Requested` waits in the
//! [queue](crate::queue). `Preparing` has a deadline, after which the environment fails.
//!
//! A `Suspended` environment is paused in memory at first. Then it is written to disk as a
//! [save point](crate::save_point), and its tenant is freed. It continues from there on another tenant. If that fails, or
//! if nobody waits for it, it becomes `Suspended` again.

mod entity;

use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use self::entity::{CurrentTenant, Environment, Spec};
pub use crate::tenant::Observed;
use crate::{SavePointId, queue, tenant};

/// What a person requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// It should run.
    Active,
    /// It should exist but use no CPU.
    Suspended,
    /// It should end, for this reason.
    Gone(EndReason),
}

/// Why an environment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Its owner ended it.
    Ended,
    /// An operator ended it.
    EndedByOperator,
    /// Its owner reset it.
    Reset,
    /// Its lifetime ran out.
    TimeUp,
    /// It waited in the queue, and nobody looked at it any more.
    LeftQueue,
    /// It was not used for the idle time.
    Idle,
    /// It was suspended for longer than suspended environments are kept.
    NotResumed,
    /// It reached the hard end, beyond which it cannot be extended.
    HardEnd,
    /// It failed, and its resources were freed.
    Failed,
    /// The server went into maintenance.
    Maintenance,
}

/// The lifecycle state of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It was requested and waits for a tenant.
    Requested {
        /// When this attempt to start it was requested.
        since: Timestamp,
        /// The number of failed attempts to start it.
        tries: u32,
        /// True if it had a tenant before, so that it doesn't queue again.
        #[serde(default)]
        returns: bool,
        /// What it continues from if it was suspended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on_disk: Option<Box<OnDisk>>,
    },
    /// It has a running tenant. The owner's keys are installed, and the lab's setup runs.
    Preparing {
        /// When the preparation began.
        since: Timestamp,
        /// The number of failed attempts to start it.
        tries: u32,
        /// What it continues from if it was suspended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on_disk: Option<Box<OnDisk>>,
    },
    /// The owner has access.
    Active {
        /// When it became active.
        since: Timestamp,
    },
    /// It is frozen: it uses no CPU, and nobody has access.
    Suspended {
        /// When it was suspended.
        since: Timestamp,
        /// Where it is, once it was written to disk and its tenant was released.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on_disk: Option<Box<OnDisk>>,
    },
    /// It has ended: nobody has access, and its tenant is being freed.
    Expired {
        /// When it ended.
        since: Timestamp,
        /// Why it ended.
        reason: EndReason,
    },
    /// It has ended, and its resources were freed.
    Gone {
        /// When its resources were freed.
        at: Timestamp,
        /// Why it ended.
        reason: EndReason,
    },
    /// It failed.
    Failed {
        /// When it failed.
        at: Timestamp,
        /// The stage that failed, as a stable word.
        stage: String,
        /// What went wrong and what to do, as a message for people.
        reason: String,
        /// True once its resources were freed.
        freed: bool,
    },
}

/// A suspended environment that was written to disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnDisk {
    /// Its memory, devices and disks.
    pub save_point: SavePointId,
    /// When it was suspended.
    pub since: Timestamp,
    /// Its lifetime at that time. The clock stands still on disk.
    pub lifetime: Lifetime,
    /// When it ends if it isn't resumed.
    pub kept_until: Timestamp,
    /// Why it could not be resumed when that was last tried, as a message for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl OnDisk {
    /// Returns the lifetime while it is suspended.
    #[must_use]
    pub fn kept(&self) -> Lifetime {
        Lifetime {
            expires_at: self.kept_until,
            hard_end: self.kept_until,
            last_used: self.since,
            // It isn't expected to be used.
            idle_seconds: self.kept_until.duration_since(self.since).as_secs() + 1,
        }
    }

    /// Returns the lifetime with which it continues now.
    #[must_use]
    pub fn continued(&self, now: Timestamp) -> Lifetime {
        // The clock may have been set back.
        let stood = now.duration_since(self.since).max(SignedDuration::ZERO);
        let later = |at: Timestamp| at.saturating_add(stood).unwrap_or(Timestamp::MAX);
        Lifetime {
            expires_at: later(self.lifetime.expires_at),
            hard_end: later(self.lifetime.hard_end),
            last_used: now,
            ..self.lifetime
        }
    }
}

/// The name of a [`State`], without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names of `State`")]
pub enum Phase {
    Requested,
    Preparing,
    Active,
    Suspended,
    Expired,
    Gone,
    Failed,
}

impl Phase {
    /// All phases.
    pub const ALL: [Self; 7] = [
        Self::Requested,
        Self::Preparing,
        Self::Active,
        Self::Suspended,
        Self::Expired,
        Self::Gone,
        Self::Failed,
    ];

    /// Returns the stable word used in the store, the API and the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Preparing => "preparing",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Expired => "expired",
            Self::Gone => "gone",
            Self::Failed => "failed",
        }
    }
}

/// The error for text that is not the name of a phase.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a phase of an environment")]
pub struct InvalidPhase(String);

impl FromStr for Phase {
    type Err = InvalidPhase;
    fn from_str(text: &str) -> Result<Self, InvalidPhase> {
        let found = Self::ALL.into_iter().find(|phase| phase.as_str() == text);
        found.ok_or_else(|| InvalidPhase(text.chars().take(40).collect()))
    }
}

/// The error for a transition that is not in the diagram.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an environment that is {from} cannot {verb}")]
pub struct InvalidTransition {
    from: &'static str,
    verb: &'static str,
}

/// How long a paused environment may take to be written to disk after its time was up.
const STORING: SignedDuration = SignedDuration::from_mins(12);

/// The number of attempts after which a start counts as failed.
pub const MAX_TRIES: u32 = 2;

impl State {
    /// Returns the state of a new environment.
    #[must_use]
    pub const fn requested(now: Timestamp) -> Self {
        Self::Requested {
            since: now,
            tries: 0,
            returns: false,
            on_disk: None,
        }
    }

    /// Returns the state of an environment that was reset.
    #[must_use]
    pub const fn requested_again(now: Timestamp) -> Self {
        Self::Requested {
            since: now,
            tries: 0,
            returns: true,
            on_disk: None,
        }
    }

    /// Returns where it is or what it continues from, if it was written to disk.
    #[must_use]
    pub fn on_disk(&self) -> Option<&OnDisk> {
        match self {
            Self::Requested { on_disk, .. }
            | Self::Preparing { on_disk, .. }
            | Self::Suspended { on_disk, .. } => on_disk.as_deref(),
            _ => None,
        }
    }

    /// Returns true if it is suspended and has no tenant.
    #[must_use]
    pub fn is_on_disk(&self) -> bool {
        matches!(self, Self::Suspended { .. }) && self.on_disk().is_some()
    }

    /// Returns the name of the state.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        match self {
            Self::Requested { .. } => Phase::Requested,
            Self::Preparing { .. } => Phase::Preparing,
            Self::Active { .. } => Phase::Active,
            Self::Suspended { .. } => Phase::Suspended,
            Self::Expired { .. } => Phase::Expired,
            Self::Gone { .. } => Phase::Gone,
            Self::Failed { .. } => Phase::Failed,
        }
    }

    /// Returns true while the provider may hold resources for it.
    #[must_use]
    pub const fn holds_resources(&self) -> bool {
        match self {
            Self::Gone { .. } => false,
            Self::Failed { freed, .. } => !*freed,
            _ => true,
        }
    }

    /// Returns true if the state never changes again.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Failed { freed: true, .. })
    }

    /// Returns true on the way to `Active`.
    #[must_use]
    pub const fn is_starting(&self) -> bool {
        matches!(self, Self::Requested { .. } | Self::Preparing { .. })
    }

    fn refuse(&self, verb: &'static str) -> InvalidTransition {
        InvalidTransition {
            from: self.phase().as_str(),
            verb,
        }
    }

    /// Moves to `Preparing`, after a tenant was claimed.
    pub fn prepare(self, now: Timestamp) -> Result<Self, InvalidTransition> {
        match self {
            Self::Requested { tries, on_disk, .. } => Ok(Self::Preparing {
                since: now,
                tries,
                on_disk,
            }),
            other => Err(other.refuse("be prepared")),
        }
    }

    /// Moves to `Active`.
    pub fn activate(self, now: Timestamp) -> Result<Self, InvalidTransition> {
        match self {
            Self::Preparing { .. } | Self::Suspended { on_disk: None, .. } => {
                Ok(Self::Active { since: now })
            }
            other => Err(other.refuse("become active")),
        }
    }

    /// Moves to `Suspended`.
    pub fn suspend(self, now: Timestamp) -> Result<Self, InvalidTransition> {
        match self {
            Self::Active { .. } => Ok(Self::Suspended {
                since: now,
                on_disk: None,
            }),
            other => Err(other.refuse("be suspended")),
        }
    }

    /// Records that a suspended environment was written to disk.
    pub fn store(self, on_disk: OnDisk) -> Result<Self, InvalidTransition> {
        match self {
            Self::Suspended {
                since,
                on_disk: None,
            } => Ok(Self::Suspended {
                since,
                on_disk: Some(Box::new(on_disk)),
            }),
            other => Err(other.refuse("be written to disk")),
        }
    }

    /// Moves from disk back to `Requested`.
    pub fn load(self, now: Timestamp) -> Result<Self, InvalidTransition> {
        match self {
            Self::Suspended {
                on_disk: Some(on_disk),
                ..
            } => Ok(Self::Requested {
                since: now,
                tries: 0,
                returns: false,
                on_disk: Some(on_disk),
            }),
            other => Err(other.refuse("be read from disk")),
        }
    }

    /// Moves back to disk, because it could not be resumed or nobody waits for it. It is kept for another day at least.
    pub fn return_to_disk(
        self,
        problem: Option<String>,
        now: Timestamp,
    ) -> Result<Self, InvalidTransition> {
        let day = SignedDuration::from_hours(24);
        let least = now.saturating_add(day).unwrap_or(Timestamp::MAX);
        match self {
            Self::Requested {
                on_disk: Some(before),
                ..
            }
            | Self::Preparing {
                on_disk: Some(before),
                ..
            } => Ok(Self::Suspended {
                since: before.since,
                on_disk: Some(Box::new(OnDisk {
                    problem,
                    kept_until: before.kept_until.max(least),
                    ..*before
                })),
            }),
            other => Err(other.refuse("return to disk")),
        }
    }

    /// Moves back to `Requested` after a failed start, to begin again with another tenant.
    pub fn retry(self, now: Timestamp) -> Result<Self, InvalidTransition> {
        match self {
            Self::Requested { tries, on_disk, .. } | Self::Preparing { tries, on_disk, .. } => {
                Ok(Self::Requested {
                    since: now,
                    tries: tries + 1,
                    returns: true,
                    on_disk,
                })
            }
            other => Err(other.refuse("be tried again")),
        }
    }

    /// Moves back to `Requested` because the pooled tenant that it claimed was dead. This doesn't count as a try.
    pub fn request_again(self, now: Timestamp) -> Result<Self, InvalidTransition> {
        match self {
            Self::Preparing { tries, on_disk, .. } => Ok(Self::Requested {
                since: now,
                tries,
                returns: true,
                on_disk,
            }),
            other => Err(other.refuse("be requested again")),
        }
    }

    /// Moves to `Expired`, for this reason.
    pub fn expire(self, now: Timestamp, reason: EndReason) -> Result<Self, InvalidTransition> {
        if self.is_final() || matches!(self, Self::Expired { .. }) {
            return Err(self.refuse("expire"));
        }
        Ok(Self::Expired { since: now, reason })
    }

    /// Moves to `Gone`, after its resources were freed.
    pub fn gone(self, now: Timestamp) -> Result<Self, InvalidTransition> {
        match self {
            Self::Expired { reason, .. } => Ok(Self::Gone { at: now, reason }),
            other => Err(other.refuse("be gone")),
        }
    }

    /// Moves to `Failed`, or back to disk if it continues from there. A final state stays as it is.
    #[must_use]
    pub fn fail(self, now: Timestamp, stage: impl Into<String>, reason: impl Into<String>) -> Self {
        if self.is_final() {
            return self;
        }
        let reason = reason.into();
        if let Ok(suspended) = self.clone().return_to_disk(Some(reason.clone()), now) {
            return suspended;
        }
        Self::Failed {
            at: now,
            stage: stage.into(),
            reason,
            freed: false,
        }
    }

    /// Marks a failed environment's resources as freed.
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

/// The times that limit an environment's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifetime {
    /// When it ends, unless it is extended.
    pub expires_at: Timestamp,
    /// The latest end that extensions can reach.
    pub hard_end: Timestamp,
    /// When its owner last used it.
    pub last_used: Timestamp,
    /// The number of seconds without use after which it ends.
    pub idle_seconds: i64,
}

impl Lifetime {
    /// Returns when and why it will end if nothing changes.
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

    /// Returns the seconds until it ends; negative afterwards.
    #[must_use]
    pub fn remaining(&self, now: Timestamp) -> i64 {
        self.end().0.duration_since(now).as_secs()
    }

    /// Returns this lifetime extended by `by`, at most to the hard end.
    #[must_use]
    pub fn extended(self, by: SignedDuration) -> Self {
        let later = self.expires_at.saturating_add(by).unwrap_or(self.hard_end);
        Self {
            expires_at: later.min(self.hard_end),
            ..self
        }
    }
}

/// The time limits of states, in seconds. An environment that exceeds one fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Waiting for another tenant after one has failed.
    pub requested: i64,
    /// Cloning the tenant.
    pub provisioning: i64,
    /// Running the lab's setup.
    pub preparing: i64,
    /// True if idle environments are suspended instead of ended, and suspended ones are written to disk.
    pub suspends: bool,
}

impl Default for Deadlines {
    /// Long enough for emulation on a loaded machine with two cores.
    fn default() -> Self {
        Self {
            requested: 600,
            provisioning: 180,
            preparing: 420,
            suspends: false,
        }
    }
}

/// What the reconciler must do next for an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Do nothing until something changes.
    Wait,
    /// Give it a tenant once there is room and it is next in the queue.
    Ask,
    /// Claim its tenant and set it up. The next state is `Active`.
    Prepare,
    /// Release its tenant and begin again with another.
    Retry,
    /// Freeze all nodes.
    Suspend,
    /// Continue all nodes.
    Resume,
    /// Change its intent to `Suspended`, because nobody uses it.
    SuspendIdle,
    /// Write all nodes to disk. Its tenant is released afterwards.
    Store,
    /// Move back to disk, because nobody waits for it any more.
    ReturnToDisk,
    /// End it, for this reason.
    Expire(EndReason),
    /// Release its tenant.
    Release,
    /// Record that its resources were freed.
    Conclude,
    /// Record that it failed.
    Fail {
        /// The stage that failed.
        stage: String,
        /// The reason, as a message for people.
        reason: String,
    },
}

impl Step {
    fn fail(stage: &str, reason: &str) -> Self {
        Self::Fail {
            stage: stage.to_owned(),
            reason: reason.to_owned(),
        }
    }
}

/// Returns the next step, from what is intended and what is. `tenant` is the state of its tenant and what the provider
/// observed of it. `busy` means that a step for this environment is already running; then only a missed deadline has an
/// effect.
#[must_use]
pub fn plan(
    intent: Intent,
    state: &State,
    tenant: Option<(&tenant::State, Observed)>,
    lifetime: &Lifetime,
    deadlines: &Deadlines,
    busy: bool,
    now: Timestamp,
) -> Step {
    let late = |since: &Timestamp, seconds: i64| now.duration_since(*since).as_secs() > seconds;
    if busy {
        return match state {
            State::Preparing { since, .. } if late(since, deadlines.preparing) => {
                Step::fail("setup", "preparing the machine took too long")
            }
            _ => Step::Wait,
        };
    }
    match state {
        State::Gone { .. } | State::Failed { freed: true, .. } => Step::Wait,
        State::Failed { freed: false, .. } | State::Expired { .. } => match tenant {
            None => Step::Conclude,
            Some((t, _)) if t.is_final() => Step::Conclude,
            Some((t, _)) if t.is_leaving() => Step::Wait,
            Some(_) => Step::Release,
        },
        State::Requested { since, tries, .. } => match (intent, tenant) {
            (Intent::Gone(reason), _) => Step::Expire(reason),
            // Whoever waits in the queue keeps the place while they look at it, and for a while afterwards.
            (_, None) if now.duration_since(lifetime.last_used.max(*since)) > queue::ABSENCE => {
                match state.on_disk() {
                    Some(_) => Step::ReturnToDisk,
                    None => Step::Expire(EndReason::LeftQueue),
                }
            }
            (_, None) => Step::Ask,
            (_, Some((t, _))) => start(t, *tries, |at| late(at, deadlines.requested)),
        },
        State::Preparing { tries, .. } => match intent {
            Intent::Gone(reason) => Step::Expire(reason),
            // No step is running, so the one that was ended with the previous server process.
            _ if *tries + 1 < MAX_TRIES => Step::Retry,
            _ => Step::fail("start", "the start was interrupted more than once"),
        },
        State::Active { .. } | State::Suspended { .. } => {
            if let Intent::Gone(reason) = intent {
                return Step::Expire(reason);
            }
            let (end, reason) = lifetime.end();
            if state.is_on_disk() {
                return match now >= end {
                    true => Step::Expire(EndReason::NotResumed),
                    false => Step::Wait,
                };
            }
            // What is being written to disk keeps the time that it had.
            let is_stored = matches!(
                (state, intent),
                (State::Suspended { .. }, Intent::Suspended)
            );
            let grace = if is_stored && deadlines.suspends {
                STORING
            } else {
                SignedDuration::ZERO
            };
            if now.duration_since(end) >= grace {
                let goes_on = deadlines.suspends
                    && reason == EndReason::Idle
                    && now < lifetime.expires_at.min(lifetime.hard_end)
                    && matches!((state, intent), (State::Active { .. }, Intent::Active));
                return match goes_on {
                    true => Step::SuspendIdle,
                    false => Step::Expire(reason),
                };
            }
            let observed = match tenant {
                Some((t, observed)) if !t.is_leaving() => observed,
                _ => Observed::Absent,
            };
            match (state, observed, intent) {
                (_, Observed::Absent, _) => Step::fail("run", "the machine has disappeared"),
                (_, Observed::Unknown, _) => Step::Wait,
                (_, Observed::Broken, _) => Step::fail("run", "a part of the machine has died"),
                (State::Active { .. }, _, Intent::Suspended) => Step::Suspend,
                (State::Suspended { .. }, _, Intent::Active) => Step::Resume,
                (State::Active { .. }, Observed::Paused, Intent::Active) => Step::Resume,
                (State::Suspended { .. }, Observed::Running, Intent::Suspended) => Step::Suspend,
                (State::Suspended { .. }, Observed::Paused, Intent::Suspended)
                    if deadlines.suspends =>
                {
                    Step::Store
                }
                _ => Step::Wait,
            }
        }
    }
}

/// Returns the next step of an environment that waits for this tenant.
fn start(tenant: &tenant::State, tries: u32, late: impl Fn(&Timestamp) -> bool) -> Step {
    let again = tries + 1 < MAX_TRIES;
    match tenant {
        tenant::State::Provisioning { .. } => Step::Wait,
        tenant::State::Warm { .. } => Step::Prepare,
        tenant::State::Failed {
            retryable: true,
            freed: true,
            ..
        } if again => Step::Retry,
        // The failed tenant's resources must be freed before another takes its place.
        tenant::State::Failed {
            at,
            retryable: true,
            ..
        } if again && !late(at) => Step::Wait,
        tenant::State::Failed { stage, reason, .. } => Step::fail(stage, reason),
        tenant::State::Claimed { .. }
        | tenant::State::Releasing { .. }
        | tenant::State::Gone { .. }
            if again =>
        {
            Step::Retry
        }
        _ => Step::fail("start", "the machine was taken away"),
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

    fn claimed() -> tenant::State {
        tenant::State::Claimed { since: at(0) }
    }

    fn step(
        intent: Intent,
        state: &State,
        tenant: Option<(&tenant::State, Observed)>,
        now: i64,
    ) -> Step {
        let usual = Deadlines::default();
        plan(intent, state, tenant, &life(), &usual, false, at(now))
    }

    #[test]
    fn a_whole_life() {
        let s = State::requested(at(0));
        assert_eq!(step(Intent::Active, &s, None, 1), Step::Ask);
        let made = tenant::State::Provisioning { since: at(1) };
        let seen = Some((&made, Observed::Broken));
        assert_eq!(step(Intent::Active, &s, seen, 2), Step::Wait);
        let warm = made.warm(at(2)).unwrap();
        let seen = Some((&warm, Observed::Running));
        assert_eq!(step(Intent::Active, &s, seen, 3), Step::Prepare);
        let s = s.prepare(at(3)).unwrap().activate(at(4)).unwrap();
        let mine = claimed();
        let of = |observed| Some((&mine, observed));
        let runs = of(Observed::Running);
        assert_eq!(step(Intent::Active, &s, runs, 4), Step::Wait);
        assert_eq!(step(Intent::Suspended, &s, runs, 4), Step::Suspend);
        assert_eq!(
            step(Intent::Active, &s, of(Observed::Broken), 4),
            Step::fail("run", "a part of the machine has died")
        );
        assert_eq!(
            step(Intent::Active, &s, runs, 1800),
            Step::Expire(EndReason::Idle)
        );
        let s = s.expire(at(1800), EndReason::Idle).unwrap();
        assert_eq!(step(Intent::Active, &s, runs, 1801), Step::Release);
        let leaves = mine.release(at(1801)).unwrap();
        let seen = Some((&leaves, Observed::Running));
        assert_eq!(step(Intent::Active, &s, seen, 1802), Step::Wait);
        let freed = leaves.freed(at(1802)).unwrap();
        let seen = Some((&freed, Observed::Absent));
        assert_eq!(step(Intent::Active, &s, seen, 1803), Step::Conclude);
        let s = s.gone(at(1803)).unwrap();
        assert_eq!(step(Intent::Active, &s, seen, 1804), Step::Wait);
        assert!(s.is_final() && !s.holds_resources());
    }

    #[test]
    fn an_interrupted_setup_is_tried_again_and_then_fails() {
        let mine = claimed();
        let seen = Some((&mine, Observed::Running));
        let s = State::requested(at(0)).prepare(at(1)).unwrap();
        assert_eq!(step(Intent::Active, &s, seen, 2), Step::Retry);
        let s = s.retry(at(2)).unwrap().prepare(at(3)).unwrap();
        let failed = step(Intent::Active, &s, seen, 4);
        assert!(matches!(failed, Step::Fail { stage, .. } if stage == "start"));
    }

    #[test]
    fn a_failed_tenant_is_replaced_once_it_is_freed_and_once_only() {
        let s = State::requested(at(0));
        let made = tenant::State::Provisioning { since: at(1) };
        let failed = made.fail(at(2), "refresh", "stuck", true).unwrap();
        let seen = Some((&failed, Observed::Broken));
        assert_eq!(step(Intent::Active, &s, seen, 3), Step::Wait);
        let resists = step(Intent::Active, &s, seen, 603);
        assert_eq!(resists, Step::fail("refresh", "stuck"));
        let freed = failed.freed(at(4)).unwrap();
        let seen = Some((&freed, Observed::Absent));
        assert_eq!(step(Intent::Active, &s, seen, 5), Step::Retry);
        let s = s.retry(at(5)).unwrap();
        let told = Step::fail("refresh", "stuck");
        assert_eq!(step(Intent::Active, &s, seen, 6), told);
        let hopeless = made.fail(at(2), "refresh", "stuck", false).unwrap();
        let seen = Some((&hopeless, Observed::Broken));
        let first = State::requested(at(0));
        assert_eq!(step(Intent::Active, &first, seen, 3), told);
    }

    #[test]
    fn a_missed_deadline_is_seen_while_busy() {
        let s = State::requested(at(0)).prepare(at(1)).unwrap();
        let mine = claimed();
        let step = plan(
            Intent::Active,
            &s,
            Some((&mine, Observed::Running)),
            &life(),
            &Deadlines::default(),
            true,
            at(1000),
        );
        assert!(matches!(step, Step::Fail { stage, .. } if stage == "setup"));
    }

    #[test]
    fn nothing_leaves_the_end() {
        let gone = State::Gone {
            at: at(0),
            reason: EndReason::Ended,
        };
        assert!(gone.clone().prepare(at(1)).is_err());
        assert!(gone.clone().expire(at(1), EndReason::Idle).is_err());
        assert_eq!(gone.clone().fail(at(1), "x", "y"), gone);
    }

    #[test]
    fn an_idle_environment_is_suspended_to_disk_and_continues_with_the_time_it_had() {
        let usual = Deadlines {
            suspends: true,
            ..Deadlines::default()
        };
        let mine = claimed();
        let seen = |observed| Some((&mine, observed));
        let step = |intent, state: &State, tenant, life: &Lifetime, now| {
            plan(intent, state, tenant, life, &usual, false, at(now))
        };
        let active = State::Active { since: at(0) };
        let runs = seen(Observed::Running);
        let next = step(Intent::Active, &active, runs, &life(), 1800);
        assert_eq!(next, Step::SuspendIdle);
        let next = step(Intent::Active, &active, runs, &life(), 7200);
        assert_eq!(next, Step::Expire(EndReason::Idle), "its time is up too");
        let s = active.suspend(at(1801)).unwrap();
        let paused = seen(Observed::Paused);
        let next = step(Intent::Suspended, &s, paused, &life(), 1790);
        assert_eq!(next, Step::Store);
        let on_disk = OnDisk {
            save_point: "save".parse().unwrap(),
            since: at(1801),
            lifetime: life(),
            kept_until: at(90_000),
            problem: None,
        };
        let kept = on_disk.kept();
        let s = s.store(on_disk).unwrap();
        assert!(s.is_on_disk());
        let wait = step(Intent::Suspended, &s, None, &kept, 89_999);
        assert_eq!(wait, Step::Wait);
        let over = step(Intent::Suspended, &s, None, &kept, 90_000);
        assert_eq!(over, Step::Expire(EndReason::NotResumed));
        let life = s.on_disk().unwrap().continued(at(11_801));
        assert_eq!(life.remaining(at(11_801)), 1799, "until its time is up");
        let s = s.load(at(11_801)).unwrap();
        assert_eq!(step(Intent::Active, &s, None, &life, 11_802), Step::Ask);
        let absent = 11_802 + queue::ABSENCE.as_secs();
        let left = step(Intent::Active, &s, None, &life, absent);
        assert_eq!(left, Step::ReturnToDisk);
        let s = s
            .prepare(at(11_803))
            .unwrap()
            .fail(at(11_804), "x", "broken");
        let why = s.on_disk().and_then(|d| d.problem.as_deref());
        assert!(s.is_on_disk() && why == Some("broken"), "nothing is lost");
    }

    #[test]
    fn extending_stops_at_the_hard_end() {
        let l = life().extended(SignedDuration::from_hours(9));
        assert_eq!(l.expires_at, l.hard_end);
    }
}
