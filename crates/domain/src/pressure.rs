//! What happens when the host is short of memory. In this order: pools aren't refilled, pools give memory back, and
//! environments that nobody uses are suspended, after a notice. New starts wait in the [queue](crate::queue). Nobody's
//! work is ended.

use jiff::{SignedDuration, Timestamp};

use crate::EnvironmentId;

/// The time between the notice and the suspension. Using the environment withdraws the notice.
pub const NOTICE: SignedDuration = SignedDuration::from_mins(2);

/// A running environment that could be suspended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The id.
    pub id: EnvironmentId,
    /// When it was last used.
    pub last_used: Timestamp,
    /// The memory that it would give back, in MiB.
    pub memory_mib: u64,
}

/// Returns which of these environments get a notice so that `missing_mib` of memory become free: those that were unused the
/// longest. If all of them would not be enough, none get one, since suspending them would help nobody who waits; but if
/// `partly`, all do.
#[must_use]
pub fn choose(
    mut candidates: Vec<Candidate>,
    missing_mib: u64,
    partly: bool,
) -> Vec<EnvironmentId> {
    candidates.sort_by(|a, b| (a.last_used, &a.id).cmp(&(b.last_used, &b.id)));
    let (mut chosen, mut freed) = (Vec::new(), 0_u64);
    for candidate in candidates {
        if freed >= missing_mib {
            break;
        }
        freed = freed.saturating_add(candidate.memory_mib);
        chosen.push(candidate.id);
    }
    if freed < missing_mib && !partly {
        return Vec::new();
    }
    chosen
}

/// Returns the idle limit, in seconds, with which an environment that was last used at `last_used` is suspended after the
/// notice.
#[must_use]
pub fn idle_limit(last_used: Timestamp, now: Timestamp) -> i64 {
    (now.duration_since(last_used) + NOTICE).as_secs()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minutes * 60).unwrap()
    }

    fn candidate((n, (unused, memory_mib)): (usize, (i64, u64))) -> Candidate {
        Candidate {
            id: format!("e{n}").parse().unwrap(),
            last_used: at(-unused),
            memory_mib,
        }
    }

    proptest! {
        #[test]
        fn only_the_longest_unused_are_chosen_and_not_more_than_needed(
            all in proptest::collection::vec((0_i64..60, 1_u64..500), 0..12),
            missing in 0_u64..2000,
        ) {
            let all: Vec<_> = all.into_iter().enumerate().map(candidate).collect();
            let chosen = choose(all.clone(), missing, false);
            let of = |id: &EnvironmentId| all.iter().find(|c| c.id == *id).unwrap();
            let freed = |ids: &[EnvironmentId]| ids.iter().map(|id| of(id).memory_mib).sum::<u64>();
            prop_assert!(choose(all.clone(), missing, true).len() >= chosen.len());
            if let Some((last, before)) = chosen.split_last() {
                prop_assert!(freed(&chosen) >= missing, "not enough");
                prop_assert!(freed(before) < missing, "one too many");
                let mut rest = all.iter().filter(|c| !chosen.contains(&c.id));
                prop_assert!(rest.all(|c| c.last_used >= of(last).last_used));
            } else {
                let most = all.iter().map(|c| c.memory_mib).sum::<u64>();
                prop_assert!(missing == 0 || most < missing, "{most} would have been enough");
            }
        }
    }

    #[test]
    fn it_is_suspended_after_the_notice() {
        assert_eq!(idle_limit(at(-30), at(0)), 32 * 60);
    }
}
