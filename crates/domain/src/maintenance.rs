//! Maintenance: a time in which nothing can be started, announced by an operator.
//!
//! What runs goes on. If the operator also gives a time at which environments end, the server is *drained* until then:
//! pools are emptied, and everybody whose environment runs is notified when it ends. Then the host can be rebooted. If
//! environments can be suspended to disk, they are, and can be resumed afterwards; otherwise they end.
//!
//! [`plan`] decides for each environment. Nothing happens to it before the announced time, and nothing unless its owner
//! was notified of this time at least [`MIN_NOTICE`] before.

use jiff::{SignedDuration, Timestamp};

use crate::{
    clock::utc,
    environment::{EndReason, Environment, Intent, State},
};

/// The shortest time between the announcement of an end and the end.
pub const MIN_NOTICE: SignedDuration = SignedDuration::from_mins(2);
/// The time within which a suspended environment must be on disk, before it ends after all.
pub const MAX_STORING: SignedDuration = SignedDuration::from_mins(10);
/// The maximum length of an operator's message, in characters.
pub const MAX_MESSAGE: usize = 200;

/// A maintenance that is in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintenance {
    /// When it began.
    pub since: Timestamp,
    /// The operator's message for everybody; empty if there is none.
    pub message: String,
    /// When it is expected to end. It doesn't end by itself.
    pub until: Option<Timestamp>,
    /// When running environments end. `None` if they go on.
    pub end_environments_at: Option<Timestamp>,
}

impl Maintenance {
    /// Returns the sentences that tell people what they can't do, why, and for how long.
    #[must_use]
    pub fn explanation(&self, now: Timestamp) -> String {
        let mut text = "Nothing can be started, reset or resumed now.".to_owned();
        if !self.message.is_empty() {
            text.push(' ');
            text.push_str(&self.message);
            if !self.message.ends_with(['.', '!', '?']) {
                text.push('.');
            }
        }
        if let Some(until) = self.until.filter(|until| *until > now) {
            let until = utc(until, now);
            text.push_str(&format!(" Maintenance is expected to end at {until}."));
        }
        text
    }

    /// Returns the sentences for everybody: the explanation, and when running environments end, or are suspended.
    #[must_use]
    pub fn announcement(&self, suspends: bool, now: Timestamp) -> String {
        let text = self.explanation(now);
        let Some(at) = self.end_environments_at else {
            return format!("{text} Running machines go on.");
        };
        let when = match at > now {
            true => format!("at {}", utc(at, now)),
            false => "now".to_owned(),
        };
        match suspends {
            true => format!("{text} Running machines are paused {when}; resume them afterwards."),
            false => format!("{text} Running machines end {when}; progress is kept."),
        }
    }

    /// Returns the time until its expected end; none if that is unknown or over.
    #[must_use]
    pub fn remaining(&self, now: Timestamp) -> Option<SignedDuration> {
        let remaining = self.until?.duration_since(now);
        remaining.is_positive().then_some(remaining)
    }
}

/// Returns when and why an environment ends if nothing changes. `ends_at` is when the maintenance ends environments.
#[must_use]
pub fn end(of: &Environment, ends_at: Option<Timestamp>) -> (Timestamp, EndReason) {
    let own = of.lifetime.end();
    match ends_at {
        // In the queue, it keeps its place.
        Some(at) if at < own.0 && of.tenant.is_some() => (at, EndReason::Maintenance),
        _ => own,
    }
}

/// The end that an environment's owner was notified of, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// The end.
    pub ends_at: Timestamp,
    /// When the owner was notified.
    pub told_at: Timestamp,
}

/// Whether environments can be suspended to disk now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspension {
    /// They can't be at all.
    Off,
    /// There is no disk space for more.
    Full,
    /// They can be.
    Possible,
}

/// What must be done next for an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Do nothing until something changes.
    Wait,
    /// Tell its owner that it ends at this time.
    Tell(Timestamp),
    /// Tell its owner that it doesn't end after all.
    TakeBack,
    /// Suspend it to disk.
    Suspend,
    /// It was being resumed from disk: let it return there.
    ReturnToDisk,
    /// End it.
    End,
}

/// Returns the next step for an environment. `ends_at` is when the maintenance ends environments, `told` is what its
/// owner was notified of, and `suspension` says whether it can be suspended to disk instead.
#[must_use]
pub fn plan(
    of: &Environment,
    ends_at: Option<Timestamp>,
    told: Option<Notice>,
    suspension: Suspension,
    now: Timestamp,
) -> Step {
    if !of.is_open() || of.tenant.is_none() {
        return Step::Wait;
    }
    let is_usable = matches!(of.state, State::Active { .. } | State::Suspended { .. });
    match (ends_at, told) {
        (None, None) => Step::Wait,
        (None, Some(_)) => Step::TakeBack,
        // Nobody works on it yet. Its page shows the announcement.
        (Some(at), _) if !is_usable => match (now >= at, of.state.on_disk()) {
            (false, _) => Step::Wait,
            (true, Some(_)) => Step::ReturnToDisk,
            (true, None) => Step::End,
        },
        (Some(at), Some(told)) if told.ends_at == at => {
            let due = at.max(told.told_at.saturating_add(MIN_NOTICE).unwrap_or(at));
            if now < due {
                return Step::Wait;
            }
            match of.intent {
                Intent::Active if suspension == Suspension::Possible => Step::Suspend,
                // What has begun is not ended because the disk is full for others now.
                Intent::Suspended
                    if suspension != Suspension::Off && now.duration_since(due) < MAX_STORING =>
                {
                    Step::Wait
                }
                _ => Step::End,
            }
        }
        (Some(at), _) => Step::Tell(at),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::environment::{CurrentTenant, Lifetime};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn environment(state: State) -> Environment {
        let mut of = Environment::example("ann".parse().unwrap());
        of.lifetime = Lifetime {
            expires_at: at(9000),
            hard_end: at(20_000),
            last_used: at(0),
            idle_seconds: 3600,
        };
        of.tenant = Some(CurrentTenant {
            id: "xyz".parse().unwrap(),
            state: crate::tenant::State::Claimed { since: at(0) },
            observed: None,
        });
        of.state = state;
        of
    }

    fn active() -> Environment {
        environment(State::Active { since: at(0) })
    }

    fn told(ends_at: i64, told_at: i64) -> Option<Notice> {
        Some(Notice {
            ends_at: at(ends_at),
            told_at: at(told_at),
        })
    }

    #[test]
    fn people_are_told_before_the_end() {
        let of = active();
        for (ends_at, told, now, step) in [
            (None, None, 0, Step::Wait),
            (Some(600), None, 0, Step::Tell(at(600))),
            (Some(600), told(600, 0), 1, Step::Wait),
            (Some(600), told(600, 0), 599, Step::Wait),
            (Some(600), told(600, 0), 600, Step::End),
            // The operator changes the time.
            (Some(900), told(600, 0), 600, Step::Tell(at(900))),
            (Some(300), told(600, 0), 100, Step::Tell(at(300))),
            (None, told(600, 0), 700, Step::TakeBack),
            // The server was down until after the end.
            (Some(600), None, 900, Step::Tell(at(600))),
            (Some(600), told(600, 900), 1019, Step::Wait),
            (Some(600), told(600, 900), 1020, Step::End),
        ] {
            assert_eq!(
                plan(&of, ends_at.map(at), told, Suspension::Off, at(now)),
                step,
                "{now}"
            );
        }
    }

    #[test]
    fn what_waits_in_the_queue_stays_and_what_starts_ends_in_time() {
        let requested = State::requested(at(0));
        let mut of = environment(requested);
        assert_eq!(
            plan(&of, Some(at(600)), None, Suspension::Off, at(599)),
            Step::Wait
        );
        assert_eq!(
            plan(&of, Some(at(600)), None, Suspension::Off, at(600)),
            Step::End
        );
        assert_eq!(end(&of, Some(at(600))), (at(600), EndReason::Maintenance));
        of.tenant = None;
        assert_eq!(
            plan(&of, Some(at(600)), None, Suspension::Off, at(900)),
            Step::Wait
        );
        assert_eq!(end(&of, Some(at(600))), (at(3600), EndReason::Idle));
        let mut ending = active();
        ending.intent = Intent::Gone(EndReason::Ended);
        assert_eq!(
            plan(&ending, Some(at(600)), None, Suspension::Off, at(900)),
            Step::Wait
        );
    }

    #[test]
    fn what_can_be_suspended_ends_only_if_it_does_not_reach_the_disk() {
        let mut of = active();
        let with = |of: &Environment, suspension, now| {
            plan(of, Some(at(600)), told(600, 0), suspension, at(now))
        };
        let step = |of: &Environment, now| with(of, Suspension::Possible, now);
        assert_eq!(step(&of, 599), Step::Wait);
        assert_eq!(step(&of, 600), Step::Suspend);
        of.intent = Intent::Suspended;
        assert_eq!(step(&of, 601), Step::Wait);
        assert_eq!(
            with(&of, Suspension::Full, 601),
            Step::Wait,
            "it is being written"
        );
        assert_eq!(with(&of, Suspension::Off, 601), Step::End);
        assert_eq!(step(&of, 1200), Step::End);
        of.tenant = None;
        assert_eq!(step(&of, 1200), Step::Wait, "it is on disk");
    }

    #[test]
    fn an_earlier_end_of_its_own_counts() {
        let of = active();
        assert_eq!(end(&of, None), (at(3600), EndReason::Idle));
        assert_eq!(end(&of, Some(at(4000))), (at(3600), EndReason::Idle));
        assert_eq!(end(&of, Some(at(60))), (at(60), EndReason::Maintenance));
    }

    #[test]
    fn the_explanation_has_the_message_and_the_end() {
        let of = |message: &str, until: Option<i64>| Maintenance {
            since: at(0),
            message: message.to_owned(),
            until: until.map(at),
            end_environments_at: None,
        };
        assert_eq!(
            of("", None).explanation(at(0)),
            "Nothing can be started, reset or resumed now."
        );
        // 2027-01-15 08:00 UTC.
        assert_eq!(
            of("The disks are replaced", Some(3600)).explanation(at(0)),
            "Nothing can be started, reset or resumed now. The disks are replaced. Maintenance is expected to end at 09:00 UTC."
        );
        let mut over = of("We upgrade!", Some(3600));
        assert_eq!(
            over.announcement(false, at(3600)),
            "Nothing can be started, reset or resumed now. We upgrade! Running machines go on."
        );
        over.end_environments_at = Some(at(100_000));
        assert_eq!(
            over.announcement(false, at(3600)),
            "Nothing can be started, reset or resumed now. We upgrade! Running machines end at Sat 16 Jan, 11:46 UTC; progress is kept."
        );
    }

    proptest! {
        /// However the operator changes the time and however long the server is down, nothing ends too soon.
        #[test]
        fn nothing_ends_early_or_untold(
            changes in proptest::collection::vec((1i64..400, proptest::option::of(0i64..2000)), 1..30),
            suspends in any::<bool>(),
        ) {
            let suspension = if suspends { Suspension::Possible } else { Suspension::Full };
            let of = active();
            let (mut now, mut notice) = (0, None);
            for (passes, ends_at) in changes {
                now += passes;
                match plan(&of, ends_at.map(at), notice, suspension, at(now)) {
                    Step::Wait => {}
                    Step::Tell(ends_at) => notice = Some(Notice { ends_at, told_at: at(now) }),
                    Step::TakeBack => notice = None,
                    Step::ReturnToDisk => prop_assert!(false, "it is not on disk"),
                    end @ (Step::End | Step::Suspend) => {
                        prop_assert_eq!(end == Step::Suspend, suspension == Suspension::Possible);
                        let told = notice.unwrap();
                        prop_assert_eq!(ends_at.map(at), Some(told.ends_at));
                        prop_assert!(at(now) >= told.ends_at);
                        prop_assert!(at(now).duration_since(told.told_at) >= MIN_NOTICE);
                        break;
                    }
                }
            }
        }
    }
}
