//! CPU credits: an environment may use its whole CPU limit for a while, and only its baseline for ever.
//!
//! Credits grow with the baseline and shrink with what is used. Repairing a cluster takes bursts; mining takes all day.
//! When the credits are used up, the environment is slowed down to its baseline, until it has been quiet for a while.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// An operator's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Burst {
    /// Minutes for which a rested environment can use its whole CPU limit. 0 means for ever. Default: 45.
    pub minutes: u32,
    /// The share of its CPU limit that it can use for ever, in percent, from 1 to 100. Default: 40.
    pub baseline_percent: u32,
}

impl Default for Burst {
    fn default() -> Self {
        Self {
            minutes: 45,
            baseline_percent: 40,
        }
    }
}

/// The share of all credits, as a divisor, that must be earned before a slowed environment gets its whole limit back.
const REST: i64 = 6;

impl Burst {
    /// Returns the baseline for a CPU limit, both in thousandths of a core.
    #[must_use]
    pub fn baseline(&self, cpu_millis: u32) -> u32 {
        let percent = u64::from(self.baseline_percent.clamp(1, 100));
        u32::try_from(u64::from(cpu_millis) * percent / 100).unwrap_or(u32::MAX)
    }

    /// Returns the credits of a rested environment with this CPU limit, in milliseconds of CPU time.
    fn most(&self, cpu_millis: u32) -> i64 {
        let beyond = i64::from(cpu_millis) - i64::from(self.baseline(cpu_millis));
        i64::from(self.minutes) * 60 * beyond
    }
}

/// What an environment may use now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Its whole CPU limit.
    Full,
    /// Its baseline.
    Slow,
}

/// The credits of one environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credits {
    /// What is left, in milliseconds of CPU time.
    left: i64,
    /// The CPU time that it had used when it was last observed, in milliseconds.
    used: u64,
    /// When it was last observed.
    at: Timestamp,
    /// What it may use.
    pub pace: Pace,
}

impl Credits {
    /// Returns the credits of an environment that is observed for the first time: all of them.
    #[must_use]
    pub fn new(burst: &Burst, cpu_millis: u32, used: u64, now: Timestamp) -> Self {
        Self {
            left: burst.most(cpu_millis),
            used,
            at: now,
            pace: Pace::Full,
        }
    }

    /// Returns the same credits for another tenant, which has used this much CPU time, in milliseconds. It isn't slowed
    /// down yet.
    #[must_use]
    pub const fn moved(self, used: u64) -> Self {
        Self { used, ..self }
    }

    /// Returns the credits after a tenant with this CPU limit, in thousandths of a core, has used this much CPU time since
    /// its start, in milliseconds.
    #[must_use]
    pub fn observe(self, burst: &Burst, cpu_millis: u32, used: u64, now: Timestamp) -> Self {
        let most = burst.most(cpu_millis);
        let passed = now.duration_since(self.at).as_millis().max(0);
        let passed = i64::try_from(passed).unwrap_or(i64::MAX);
        let earned = passed.saturating_mul(burst.baseline(cpu_millis).into()) / 1000;
        let spent = i64::try_from(used.saturating_sub(self.used)).unwrap_or(i64::MAX);
        let left = self.left.saturating_add(earned).saturating_sub(spent);
        let left = left.clamp(0, most.max(0));
        let pace = match self.pace {
            _ if most <= 0 => Pace::Full,
            Pace::Full if left == 0 => Pace::Slow,
            Pace::Slow if left >= most / REST => Pace::Full,
            pace => pace,
        };
        Self {
            left,
            used,
            at: now,
            pace,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BURST: Burst = Burst {
        minutes: 30,
        baseline_percent: 40,
    };
    const LIMIT: u32 = 1500;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minutes * 60).unwrap()
    }

    /// Lets a tenant use this share of its limit for some minutes. Returns after how many its pace changed.
    fn run(credits: &mut Credits, from: i64, minutes: i64, percent: u64) -> Option<i64> {
        let before = credits.pace;
        let mut changed = None;
        for minute in 1..=minutes {
            let limit = match credits.pace {
                Pace::Full => LIMIT,
                Pace::Slow => BURST.baseline(LIMIT),
            };
            let uses = (u64::from(LIMIT) * percent / 100).min(limit.into()) * 60;
            let used = credits.used + uses;
            *credits = credits.observe(&BURST, LIMIT, used, at(from + minute));
            if credits.pace != before && changed.is_none() {
                changed = Some(minute);
            }
        }
        changed
    }

    #[test]
    fn full_load_lasts_for_the_burst_and_rest_gives_it_back() {
        let mut credits = Credits::new(&BURST, LIMIT, 0, at(0));
        assert_eq!(run(&mut credits, 0, 30, 100), Some(30));
        assert_eq!(run(&mut credits, 30, 600, 100), None, "a miner stays slow");
        let rested = run(&mut credits, 630, 30, 0);
        assert_eq!(rested, Some(8), "a sixth of the credits");
    }

    #[test]
    fn bursts_with_rests_between_them_are_never_slowed() {
        let mut credits = Credits::new(&BURST, LIMIT, 0, at(0));
        for hour in 0..8 {
            assert_eq!(run(&mut credits, hour * 60, 20, 100), None);
            assert_eq!(run(&mut credits, hour * 60 + 20, 40, 10), None);
        }
        let unlimited = Burst {
            minutes: 0,
            ..BURST
        };
        let everything = Burst {
            baseline_percent: 100,
            ..BURST
        };
        for off in [unlimited, everything] {
            let credits = credits.observe(&off, LIMIT, u64::MAX, at(1000));
            assert_eq!(credits.pace, Pace::Full);
        }
    }

    proptest! {
        #[test]
        fn the_baseline_can_be_used_for_ever(
            loads in proptest::collection::vec(0_u64..=40, 1..200),
        ) {
            let mut credits = Credits::new(&BURST, LIMIT, 0, at(0));
            for (minute, percent) in (0..).zip(loads) {
                prop_assert_eq!(run(&mut credits, minute, 1, percent), None);
            }
        }
    }
}
