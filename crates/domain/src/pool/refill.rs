//! What a pool needs next: which of its tenants to release, how many to make, and how much memory it gets.

use jiff::{SignedDuration, Timestamp};

use crate::TenantId;

/// The age at which a tenant is replaced. Its clocks stand still while it is paused, so that the tokens of its cluster
/// expire; they last an hour.
pub const MAX_AGE: SignedDuration = SignedDuration::from_mins(40);
/// The time for which a tenant that is not needed any more is kept, so that short gaps in the demand don't matter.
pub const GRACE: SignedDuration = SignedDuration::from_mins(10);
/// The delay after a failure, which doubles with each further one, and its limit.
const BACKOFF: SignedDuration = SignedDuration::from_secs(30);
const MAX_BACKOFF: SignedDuration = SignedDuration::from_mins(30);

/// A tenant of a pool that nobody has claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The id.
    pub id: TenantId,
    /// When it became warm; when it was requested, while it is made.
    pub since: Timestamp,
    /// True if it can be claimed, false while it is made.
    pub is_warm: bool,
    /// True if its template or its lab has changed.
    pub is_outdated: bool,
}

/// What to do for a pool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The tenants to release.
    pub release: Vec<TenantId>,
    /// The number of tenants to make.
    pub make: u32,
}

/// Returns what to do so that a pool has `size` tenants.
#[must_use]
pub fn plan(members: &[Member], size: u32, now: Timestamp) -> Plan {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let age = |m: &Member| now.duration_since(m.since);
    let (outdated, current): (Vec<_>, Vec<_>) = members.iter().partition(|m| m.is_outdated);
    let (old, mut young): (Vec<_>, Vec<_>) = current.into_iter().partition(|m| age(m) >= MAX_AGE);
    let mut release: Vec<TenantId> = outdated.into_iter().map(|m| m.id.clone()).collect();
    // An old tenant serves until its replacement is warm, or until it is too old even for that.
    let warm = young.iter().filter(|m| m.is_warm).count();
    let mut missing = size.saturating_sub(warm);
    for member in old {
        if missing > 0 && age(member) < MAX_AGE + GRACE {
            missing -= 1;
        } else {
            release.push(member.id.clone());
        }
    }
    // Those that are still being made go first, then the oldest.
    young.sort_by_key(|m| (m.is_warm, m.since));
    let mut excess = young.len().saturating_sub(size);
    let held = young.len();
    for member in young {
        if excess > 0 && (!member.is_warm || age(member) >= GRACE) {
            excess -= 1;
            release.push(member.id.clone());
        }
    }
    Plan {
        release,
        make: u32::try_from(size.saturating_sub(held)).unwrap_or(u32::MAX),
    }
}

/// Returns the time until the next attempt, after this many failures in a row, of which the last was then. Zero if it
/// can be made at once.
#[must_use]
pub fn backoff(failures: u32, last: Timestamp, now: Timestamp) -> SignedDuration {
    if failures == 0 {
        return SignedDuration::ZERO;
    }
    let doubled = BACKOFF * (1_i32 << failures.saturating_sub(1).min(10));
    let rest = doubled.min(MAX_BACKOFF) - now.duration_since(last);
    rest.max(SignedDuration::ZERO)
}

/// A pool that wants memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// The number of tenants that it should hold.
    pub size: u32,
    /// The memory of one of its tenants, in MiB.
    pub memory_mib: u64,
}

/// Shares memory among pools: returns the number of tenants for each, at most what it wants. Each pool gets one tenant
/// before another gets a second one, in the given order, as long as the memory lasts.
#[must_use]
pub fn share(wants: &[Want], memory_mib: u64, max_tenants: u32) -> Vec<u32> {
    let mut sizes = vec![0_u32; wants.len()];
    let (mut memory, mut tenants) = (memory_mib, max_tenants);
    loop {
        let mut given = false;
        for (want, size) in wants.iter().zip(&mut sizes) {
            if *size < want.size && want.memory_mib <= memory && tenants > 0 {
                *size += 1;
                tenants -= 1;
                memory -= want.memory_mib;
                given = true;
            }
        }
        if !given {
            return sizes;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn member(n: u32, since: i64, is_warm: bool) -> Member {
        Member {
            id: format!("k7f3q9xw{}", char::from(b'a' + u8::try_from(n).unwrap()))
                .parse()
                .unwrap(),
            since: at(since),
            is_warm,
            is_outdated: false,
        }
    }

    #[test]
    fn an_empty_pool_is_filled_and_a_full_one_left_alone() {
        assert_eq!(plan(&[], 3, at(0)).make, 3);
        let two = [member(0, 0, true), member(1, 0, false)];
        assert_eq!(plan(&two, 2, at(60)), Plan::default());
        assert_eq!(plan(&two, 3, at(60)).make, 1);
    }

    #[test]
    fn what_is_outdated_goes_at_once_and_is_replaced() {
        let outdated = Member {
            is_outdated: true,
            ..member(0, 0, true)
        };
        let done = plan(std::slice::from_ref(&outdated), 1, at(1));
        assert_eq!((done.release, done.make), (vec![outdated.id], 1));
    }

    #[test]
    fn an_old_tenant_serves_until_its_replacement_is_warm() {
        let old = member(0, -MAX_AGE.as_secs(), true);
        let alone = plan(std::slice::from_ref(&old), 1, at(0));
        assert_eq!(
            alone,
            Plan {
                release: vec![],
                make: 1
            }
        );
        let replacing = [old.clone(), member(1, -10, false)];
        assert_eq!(plan(&replacing, 1, at(0)), Plan::default());
        let replaced = [old.clone(), member(1, -30, true)];
        assert_eq!(
            plan(&replaced, 1, at(0)).release,
            std::slice::from_ref(&old.id)
        );
        let too_old = plan(std::slice::from_ref(&old), 1, at(GRACE.as_secs()));
        assert_eq!((too_old.release, too_old.make), (vec![old.id], 1));
    }

    #[test]
    fn excess_goes_after_a_while_those_being_made_first() {
        let all = [
            member(0, -900, true),
            member(1, -700, true),
            member(2, -5, false),
        ];
        let done = plan(&all, 1, at(0));
        assert_eq!(done.release, [all[2].id.clone(), all[0].id.clone()]);
        let fresh = [member(0, -60, true)];
        assert_eq!(plan(&fresh, 0, at(0)), Plan::default());
    }

    #[test]
    fn failures_delay_the_next_attempt_longer_each_time() {
        let rest = |failures, now| backoff(failures, at(0), at(now)).as_secs();
        assert_eq!(rest(0, 0), 0);
        assert_eq!(rest(1, 0), 30);
        assert_eq!(rest(2, 10), 50);
        assert_eq!(rest(40, 0), 1800);
        assert_eq!(rest(1, 31), 0);
    }

    #[test]
    fn memory_is_shared_in_turns() {
        let wants = [
            Want {
                size: 3,
                memory_mib: 100,
            },
            Want {
                size: 2,
                memory_mib: 300,
            },
        ];
        assert_eq!(share(&wants, 10_000, 20), [3, 2]);
        assert_eq!(share(&wants, 500, 20), [2, 1]);
        assert_eq!(share(&wants, 250, 20), [2, 0]);
        assert_eq!(share(&wants, 10_000, 3), [2, 1]);
    }

    proptest! {
        #[test]
        fn shares_fit_and_more_memory_never_takes_away_from_all(
            wants in proptest::collection::vec((0_u32..6, 1_u64..900), 0..8), memory in 0_u64..6000, tenants in 0_u32..20,
        ) {
            let wants: Vec<_> = wants.into_iter().map(|(size, memory_mib)| Want { size, memory_mib }).collect();
            let sizes = share(&wants, memory, tenants);
            let used: u64 = wants.iter().zip(&sizes).map(|(w, n)| w.memory_mib * u64::from(*n)).sum();
            prop_assert!(used <= memory);
            prop_assert!(sizes.iter().sum::<u32>() <= tenants);
            prop_assert!(wants.iter().zip(&sizes).all(|(w, n)| *n <= w.size));
        }

        #[test]
        fn a_plan_never_releases_what_it_would_make_again(
            ages in proptest::collection::vec((0_i64..4000, any::<bool>(), any::<bool>()), 0..10), size in 0_u32..8,
        ) {
            let members: Vec<_> = (0..).zip(ages).map(|(n, (age, is_warm, is_outdated))| Member {
                is_outdated, ..member(n, -age, is_warm)
            }).collect();
            let done = plan(&members, size, at(0));
            let kept = members.len() - done.release.len() + done.make as usize;
            prop_assert!(kept >= size as usize);
            let mut once = done.release.clone();
            once.sort();
            once.dedup();
            prop_assert_eq!(once.len(), done.release.len());
            // Young tenants that are current are released only if there are too many.
            let is_young = |m: &&Member| !m.is_outdated && at(0).duration_since(m.since) < MAX_AGE;
            let young = members.iter().filter(is_young).count();
            let young_released = members.iter().filter(is_young).filter(|m| done.release.contains(&m.id)).count();
            prop_assert!(young_released == 0 || young - young_released >= size as usize);
        }
    }
}
