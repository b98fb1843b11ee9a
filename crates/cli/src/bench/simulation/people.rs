//! Who starts which lab when, and what they do with it.

use faultline_domain::pool::forecast::Event;
use jiff::{SignedDuration, Timestamp};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{Settings, host::LABS};
use crate::bench::demand::{self, DAY, HOUR, at, class_begins, weekdays};

/// What a person does with an environment besides starting it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    /// Ends it after a while.
    Ends,
    /// Forgets it, so that it ends by itself.
    Forgets,
    /// Resets it halfway.
    Resets,
    /// Saves it and goes back to that.
    Saves,
}

/// One environment of a person.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    pub person: usize,
    pub lab: usize,
    pub at: Timestamp,
    /// How long the person stays, from the time at which it is active.
    pub stay: SignedDuration,
    pub habit: Habit,
    /// False if the person doesn't wait for a place for long.
    pub is_patient: bool,
}

/// Everything that people will do.
#[derive(Debug)]
pub(super) struct Plan {
    /// In the order of their starts.
    pub visits: Vec<Visit>,
    /// When each class begins, and the last of its starts.
    pub classes: Vec<(Timestamp, Timestamp)>,
    /// The classes that are announced.
    pub events: Vec<Event>,
}

/// Half of the starts are those of classes, at a fixed rate. Two fifths are those of learners, and the rest comes within
/// ten minutes on the last day.
pub(super) fn plan(settings: &Settings) -> Plan {
    let mut rng = StdRng::seed_from_u64(settings.seed);
    let days = i64::from(settings.days.max(1));
    let class_days: Vec<i64> = weekdays(days).collect();
    let seats = (settings.environments / 2 / class_days.len().max(1)).min(settings.people);
    let spike = settings.environments / 10;
    let mut visits = Vec::new();
    let mut classes = Vec::new();
    let mut events = Vec::new();
    let mut everybody: Vec<usize> = (0..settings.people).collect();
    for day in class_days {
        let begins = class_begins(day);
        everybody.shuffle(&mut rng);
        let lab = rng.random_range(0..LABS);
        let gap = SignedDuration::from_micros(1_000_000 / i64::from(settings.peak.max(1)));
        let mut next = at(begins);
        for person in everybody.iter().take(seats) {
            visits.push(visit(&mut rng, *person, lab, next));
            next = next.saturating_add(gap).unwrap_or(next);
        }
        classes.push((at(begins), next));
        if day % 2 == 0
            && let Ok(lab) = super::host::slug(lab).parse()
        {
            events.push(Event {
                id: format!("class{day}"),
                lab,
                at: at(begins),
                seats: u32::try_from(seats).unwrap_or(u32::MAX),
                note: String::new(),
            });
        }
    }
    let rest = settings.environments.saturating_sub(visits.len() + spike);
    #[expect(clippy::cast_precision_loss, reason = "a number of starts")]
    let per_hour = rest as f64 / days as f64 / (10.0 + 5.0 * 2.25);
    let mut others = demand::learners(&mut rng, days, per_hour.max(0.1));
    let afternoon = (days - 1) * DAY + 15 * HOUR;
    others.extend(demand::class(&mut rng, afternoon, spike, 600));
    for at in others {
        let person = rng.random_range(0..settings.people);
        let lab = rng.random_range(0..LABS);
        visits.push(visit(&mut rng, person, lab, at));
    }
    visits.sort_by_key(|v| v.at);
    Plan {
        visits,
        classes,
        events,
    }
}

fn visit(rng: &mut StdRng, person: usize, lab: usize, at: Timestamp) -> Visit {
    let habit = match rng.random_range(0..100) {
        0..8 => Habit::Forgets,
        8..14 => Habit::Resets,
        14..18 => Habit::Saves,
        _ => Habit::Ends,
    };
    Visit {
        person,
        lab,
        at,
        stay: SignedDuration::from_secs(rng.random_range(300..2700)),
        habit,
        is_patient: rng.random_bool(0.9),
    }
}
