//! The queue of environments that wait for room on the host: who is next, and how long they will wait.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{EnvironmentId, PersonId, limits::Denial};

/// By how much each environment that a person already has puts another one back. People with few environments go first,
/// but nobody is overtaken forever.
const HANDICAP: SignedDuration = SignedDuration::from_mins(5);

/// By how much each environment of a group puts another one back. A class that starts at once doesn't hold up those of
/// other groups for long, and is held up little itself.
const GROUP_HANDICAP: SignedDuration = SignedDuration::from_secs(30);

/// The time for which an environment keeps its place while nobody looks at it.
pub const ABSENCE: SignedDuration = SignedDuration::from_mins(10);

/// An environment that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The environment.
    pub id: EnvironmentId,
    /// Its owner.
    pub person: PersonId,
    /// The ids of the groups whose member the owner is.
    pub groups: Vec<String>,
    /// When it was requested.
    pub since: Timestamp,
    /// True if it had a place before: it was reset, or its start is retried. It gets the next one.
    pub returns: bool,
}

/// What the first environment in the queue waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lack {
    /// The maximum number of environments, or of their nodes, is reached.
    Places,
    /// There is too little free memory.
    Memory,
    /// There is too little free disk space.
    Disk,
    /// The server is in maintenance.
    Maintenance,
}

impl Lack {
    /// Returns the sentence that tells people why they wait.
    #[must_use]
    pub const fn as_sentence(self) -> &'static str {
        match self {
            Self::Places => "All places are taken.",
            Self::Memory => "The server has too little free memory for another machine now.",
            Self::Disk => "The server has too little free disk space for another machine now.",
            Self::Maintenance => "The server is in maintenance, and starts nothing now.",
        }
    }

    /// Returns what is missing, by the reason why there was no room.
    #[must_use]
    pub const fn of(denial: &Denial) -> Self {
        match denial {
            Denial::Memory { .. } => Self::Memory,
            Denial::Disk { .. } => Self::Disk,
            Denial::Maintenance { .. } => Self::Maintenance,
            Denial::Quota(_)
            | Denial::Full { .. }
            | Denial::Nodes { .. }
            | Denial::TooManyNodes { .. }
            | Denial::TooLarge { .. } => Self::Places,
        }
    }
}

/// A place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The position, from 1.
    pub position: u32,
    /// The number of environments that wait.
    pub of: u32,
    /// What the first one waits for.
    pub lack: Lack,
    /// The expected time until it gets its place, in seconds. `None` if that can't be told.
    pub seconds: Option<i64>,
}

/// The number of environments with a place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// For each person.
    pub people: HashMap<PersonId, u32>,
    /// For the members of each group together, by its id.
    pub groups: HashMap<String, u32>,
}

impl Held {
    /// Counts an environment of a person who is a member of these groups.
    pub fn add(&mut self, person: &PersonId, groups: &[String]) {
        *self.people.entry(person.clone()).or_default() += 1;
        for group in groups {
            *self.groups.entry(group.clone()).or_default() += 1;
        }
    }

    /// Returns by how much the next environment of a person who is a member of these groups is put back.
    fn handicap(&self, person: &PersonId, groups: &[String]) -> SignedDuration {
        let times = |count: Option<&u32>| {
            let count = count.copied().unwrap_or_default();
            i32::try_from(count).unwrap_or(i32::MAX)
        };
        let groups = groups.iter().map(|group| times(self.groups.get(group)));
        HANDICAP * times(self.people.get(person)) + GROUP_HANDICAP * groups.max().unwrap_or(0)
    }
}

/// Returns the environments in the order in which they get a place.
#[must_use]
pub fn order(mut waiting: Vec<Waiting>, held: &Held) -> Vec<Waiting> {
    waiting.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
    let mut ahead = held.clone();
    let mut ranked: Vec<(bool, Timestamp, Waiting)> = waiting
        .into_iter()
        .map(|each| {
            let handicap = ahead.handicap(&each.person, &each.groups);
            ahead.add(&each.person, &each.groups);
            let rank = each.since.saturating_add(handicap);
            (!each.returns, rank.unwrap_or(Timestamp::MAX), each)
        })
        .collect();
    ranked.sort_by_key(|(returns, rank, _)| (*returns, *rank));
    ranked.into_iter().map(|(_, _, each)| each).collect()
}

/// Returns the expected time until the environment at this position, from 0, gets its place. `remaining` are the
/// expected times until each environment with a place ends, shortest first, and `usual` is how long environments usually live. `None`
/// if nothing is known.
#[must_use]
pub fn estimate(
    position: usize,
    remaining: &[SignedDuration],
    usual: Option<SignedDuration>,
) -> Option<SignedDuration> {
    let places = remaining.len();
    let rounds = position.checked_div(places)?;
    let first = *remaining.get(position % places)?;
    if rounds == 0 {
        return Some(first);
    }
    let later = usual? * i32::try_from(rounds).ok()?;
    Some(first.saturating_add(later))
}

/// Returns the expected time until an environment ends, from its age, the time until it ends at the latest, and how long
/// environments usually live.
#[must_use]
pub fn remaining(
    age: SignedDuration,
    latest: SignedDuration,
    usual: Option<SignedDuration>,
) -> SignedDuration {
    let latest = latest.max(SignedDuration::ZERO);
    match usual {
        // The longer it has lived beyond what is usual, the longer it may stay.
        Some(usual) => (usual - age).max(age / 2).min(latest),
        None => latest,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn waiting(id: &str, person: &str, since: i64) -> Waiting {
        Waiting {
            id: id.parse().unwrap(),
            person: person.parse().unwrap(),
            groups: Vec::new(),
            since: at(since),
            returns: false,
        }
    }

    fn ids(of: &[Waiting]) -> Vec<&str> {
        of.iter().map(|each| each.id.as_str()).collect()
    }

    fn held(of: &[(&str, u32)]) -> Held {
        let each = of.iter().map(|(person, n)| (person.parse().unwrap(), *n));
        Held {
            people: each.collect(),
            ..Held::default()
        }
    }

    #[test]
    fn people_with_fewer_environments_go_first() {
        let all = vec![
            waiting("abc", "ann", 0),
            waiting("abd", "ann", 1),
            waiting("abe", "ben", 10),
            waiting("abf", "cleo", 20),
        ];
        assert_eq!(
            ids(&order(all.clone(), &held(&[]))),
            ["abc", "abe", "abf", "abd"]
        );
        assert_eq!(
            ids(&order(all, &held(&[("ann", 1)]))),
            ["abe", "abf", "abc", "abd"]
        );
    }

    #[test]
    fn a_class_does_not_hold_up_those_of_another_group() {
        let member = |n: i64, group: &str, since| Waiting {
            groups: vec![group.to_owned()],
            ..waiting(&format!("{group}{n}"), &format!("{group}{n}"), since)
        };
        let mut all: Vec<_> = (0..30).map(|n| member(n, "a", 0)).collect();
        all.push(member(0, "b", 60));
        all.push(waiting("x", "x", 90));
        let order = order(all, &Held::default());
        let position = |id: &str| order.iter().position(|e| e.id.as_str() == id).unwrap();
        assert_eq!((position("b0"), position("x")), (3, 5), "{:?}", ids(&order));
    }

    #[test]
    fn who_had_a_place_gets_the_next_one() {
        let back = Waiting {
            returns: true,
            ..waiting("abz", "dan", 500)
        };
        let all = vec![waiting("abc", "ann", 0), back];
        assert_eq!(ids(&order(all, &held(&[("dan", 4)]))), ["abz", "abc"]);
    }

    #[test]
    fn nobody_is_overtaken_for_ever() {
        // Newcomers without environments overtake for five minutes for each environment that ann has, and then no more.
        let mut all = vec![waiting("abc", "ann", 0)];
        all.extend((0..20).map(|n| {
            waiting(
                &format!("n{}", char::from(b'a' + u8::try_from(n).unwrap())),
                &format!("p{n}"),
                n * 60,
            )
        }));
        let order = order(all, &held(&[("ann", 2)]));
        let position = order.iter().position(|each| each.id.as_str() == "abc");
        assert_eq!(position, Some(10), "those of the first ten minutes");
    }

    #[test]
    fn the_estimate_counts_the_ends_ahead() {
        let min = SignedDuration::from_mins;
        let ends = [min(5), min(12), min(30)];
        assert_eq!(estimate(0, &ends, None), Some(min(5)));
        assert_eq!(estimate(2, &ends, None), Some(min(30)));
        assert_eq!(estimate(3, &ends, None), None);
        assert_eq!(estimate(3, &ends, Some(min(20))), Some(min(25)));
        assert_eq!(estimate(0, &[], Some(min(20))), None);
        assert_eq!(remaining(min(5), min(60), Some(min(20))), min(15));
        assert_eq!(remaining(min(26), min(60), Some(min(20))), min(13));
        assert_eq!(remaining(min(25), min(60), None), min(60));
    }

    proptest! {
        #[test]
        fn the_order_is_complete_and_each_persons_own_is_kept(
            all in proptest::collection::vec((0_u8..5, 0_i64..4000, any::<bool>()), 0..20),
            counts in proptest::collection::vec(0_u32..5, 5),
        ) {
            let all: Vec<_> = (0..).zip(all).map(|(n, (person, since, returns))| Waiting {
                returns,
                ..waiting(&format!("e{}", char::from(b'a' + n)), &format!("p{person}"), since)
            }).collect();
            let people: HashMap<PersonId, u32> = (0..).zip(counts)
                .map(|(n, count)| (format!("p{n}").parse().unwrap(), count)).collect();
            let held = Held { people, ..Held::default() };
            let done = order(all.clone(), &held);
            prop_assert_eq!(done.len(), all.len());
            for (at, a) in done.iter().enumerate() {
                for b in done.iter().skip(at + 1) {
                    prop_assert!(a.returns || !b.returns);
                    if a.person == b.person && a.returns == b.returns {
                        prop_assert!(a.since <= b.since);
                    }
                }
            }
        }
    }
}
