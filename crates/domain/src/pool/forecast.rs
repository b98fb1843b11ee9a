//! How many tenants a pool should hold: a pure function of the demand so far, announced events, and what it takes to
//! make one.
//!
//! Starts are modelled as a Poisson process. Its rate is the highest of three estimates: recent starts, weighted by
//! age; the same time of day in the last days; and the same time of the week in the last weeks. The pool holds enough
//! for [`SERVICE_LEVEL`] of the starts until it could be refilled. An event adds its seats shortly before it begins.

use jiff::{SignedDuration, Timestamp};

use super::Bounds;
use crate::LabSlug;

/// The share of starts that should find a tenant in the pool.
pub const SERVICE_LEVEL: f64 = 0.95;
/// The time constant of the weight of recent starts, in seconds.
const MEMORY: f64 = 15.0 * 60.0;
/// The shortest time for which a pool must last, in seconds.
const MIN_HORIZON: f64 = 5.0 * 60.0;
/// The number of days and of weeks that are looked back.
const DAYS: i64 = 7;
const WEEKS: i64 = 4;
/// The history that a forecast can use.
pub const HISTORY: SignedDuration = SignedDuration::from_hours(24 * 7 * WEEKS + 1);
/// Half the width of the window around the same time on an earlier day, in seconds.
const WINDOW: i64 = 15 * 60;
/// The expected number of starts from which a lab gets tenants of its own. Below, its template's pool serves it.
const WORTH_STAGING: f64 = 0.5;
/// The time before an event at which its tenants should be ready, and people begin to come.
const AHEAD: SignedDuration = SignedDuration::from_mins(3);
/// How long after an event's beginning its seats are kept for it.
const ARRIVAL: SignedDuration = SignedDuration::from_mins(20);

/// An announced event: many people will start a lab at about the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The id.
    pub id: String,
    /// The lab that they will start.
    pub lab: LabSlug,
    /// When it begins.
    pub at: Timestamp,
    /// The number of people.
    pub seats: u32,
    /// A note for operators, such as the name of a class.
    pub note: String,
}

impl Event {
    /// The highest number of people.
    pub const MAX_SEATS: u32 = 500;

    /// Returns when its tenants begin to be made, if one takes this many seconds.
    #[must_use]
    pub fn preparation(&self, make_seconds: f64) -> Timestamp {
        #[expect(clippy::cast_possible_truncation, reason = "bounded by the seats")]
        let needed = (f64::from(self.seats) * make_seconds * 1.2).min(86_400.0) as i64;
        let early = AHEAD + SignedDuration::from_secs(needed);
        self.at.saturating_sub(early).unwrap_or(Timestamp::MIN)
    }

    /// Returns when no more people are expected.
    #[must_use]
    pub fn end(&self) -> Timestamp {
        self.at.saturating_add(ARRIVAL).unwrap_or(Timestamp::MAX)
    }
}

/// What a forecast is based on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The current time.
    pub now: Timestamp,
    /// The starts and resets within [`HISTORY`], oldest first.
    pub starts: &'a [Timestamp],
    /// The starts among them that are no resets, oldest first: each is somebody who takes a seat of an event.
    pub arrivals: &'a [Timestamp],
    /// The events that people will start this pool's lab at. Past ones are ignored.
    pub events: &'a [Event],
    /// How long it takes to make a tenant, in seconds.
    pub make_seconds: f64,
    /// The operator's limits.
    pub bounds: Bounds,
}

/// Why a pool has its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Nobody is expected.
    NoDemand,
    /// The operator's floor.
    Floor,
    /// The operator's ceiling; more would be expected.
    Ceiling,
    /// Starts, now or at this time on earlier days.
    Demand,
    /// An announced event.
    Event,
}

/// The size of a pool at a later time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upcoming {
    /// When its tenants begin to be made.
    pub from: Timestamp,
    /// The number of tenants.
    pub size: u32,
    /// The event.
    pub event: Event,
}

/// How many tenants a pool should hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// The number of tenants now.
    pub size: u32,
    /// Why.
    pub reason: Reason,
    /// The expected starts per hour.
    pub per_hour: f64,
    /// The next event that changes the size.
    pub next: Option<Upcoming>,
}

/// Returns the number of tenants that a pool should hold.
#[must_use]
pub fn forecast(of: Inputs<'_>) -> Forecast {
    let rate = rate(of.now, of.starts, horizon(of.make_seconds));
    let expected = rate * horizon(of.make_seconds);
    let demand = quantile(expected, SERVICE_LEVEL);
    let event = due(&of);
    let next = of
        .events
        .iter()
        .map(|event| (event.preparation(of.make_seconds), event))
        .filter(|(from, _)| *from > of.now)
        .min_by_key(|(from, _)| *from)
        .map(|(from, event)| Upcoming {
            from,
            size: event.seats.clamp(of.bounds.floor, of.bounds.ceiling),
            event: event.clone(),
        });
    let wanted = demand.max(event).max(of.bounds.floor);
    let reason = match wanted {
        0 => Reason::NoDemand,
        n if n > of.bounds.ceiling => Reason::Ceiling,
        n if n == event => Reason::Event,
        n if n == demand => Reason::Demand,
        _ => Reason::Floor,
    };
    Forecast {
        size: wanted.min(of.bounds.ceiling),
        reason,
        per_hour: rate * 3600.0,
        next,
    }
}

/// Returns true if a lab is worth a pool of its own: it has a floor, an event is near, or its starts are frequent.
#[must_use]
pub fn is_worth_staging(of: Inputs<'_>) -> bool {
    let horizon = horizon(of.make_seconds);
    of.bounds.floor > 0
        || due(&of) > 0
        || rate(of.now, of.starts, horizon) * horizon >= WORTH_STAGING
}

/// Returns the seats of the events whose tenants are due now, without the seats that are taken. Whoever came takes one
/// seat of one event.
fn due(of: &Inputs<'_>) -> u32 {
    let is_due =
        |event: &&Event| of.now >= event.preparation(of.make_seconds) && of.now <= event.end();
    let mut events: Vec<&Event> = of.events.iter().filter(is_due).collect();
    events.sort_by_key(|event| event.at);
    let (mut seats, mut taken) = (0_u32, 0_u32);
    for event in events {
        let doors = event.at.saturating_sub(AHEAD).unwrap_or(event.at);
        let came = of.arrivals.iter().filter(|at| **at >= doors).count();
        let came = u32::try_from(came).unwrap_or(u32::MAX);
        let here = came.saturating_sub(taken).min(event.seats);
        taken += here;
        seats = seats.saturating_add(event.seats - here);
    }
    seats
}

/// Returns for how long a pool must last, in seconds: until it could be refilled.
fn horizon(make_seconds: f64) -> f64 {
    (2.0 * make_seconds).max(MIN_HORIZON)
}

/// Returns the expected rate of starts within the horizon, per second.
fn rate(now: Timestamp, starts: &[Timestamp], horizon: f64) -> f64 {
    let recent: f64 = starts
        .iter()
        .map(|at| age(now, *at))
        .filter(|age| *age >= 0.0)
        .map(|age| (-age / MEMORY).exp() / MEMORY)
        .sum();
    let Some(first) = starts.first() else {
        return 0.0;
    };
    let known = now.duration_since(*first);
    let mean = |days: i64, times: i64| {
        let each = SignedDuration::from_hours(24 * days);
        // A period without a start counts as well, as long as there was somebody to start something.
        let periods = (known.as_secs() + WINDOW).div_euclid(each.as_secs());
        let periods = periods.min(times);
        let counts: usize = (1..=periods)
            .map(|n| around(now, each * i32::try_from(n).unwrap_or(1), starts, horizon))
            .sum();
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let per_period = counts as f64 / periods.max(1) as f64;
        #[expect(clippy::cast_precision_loss, reason = "half an hour")]
        let width = (2 * WINDOW) as f64 + horizon;
        per_period / width
    };
    recent.max(mean(1, DAYS)).max(mean(7, WEEKS))
}

/// Counts the starts around the same time, this long ago.
fn around(now: Timestamp, ago: SignedDuration, starts: &[Timestamp], horizon: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "at most some hours")]
    let horizon = horizon as i64;
    let then = now.saturating_sub(ago).unwrap_or(Timestamp::MIN);
    let from = then.as_second() - WINDOW;
    let to = then.as_second() + WINDOW + horizon;
    let first = starts.partition_point(|at| at.as_second() < from);
    let end = starts.partition_point(|at| at.as_second() < to);
    end - first
}

fn age(now: Timestamp, at: Timestamp) -> f64 {
    now.duration_since(at).as_secs_f64()
}

/// Returns the smallest number that a Poisson variable with this mean doesn't exceed with probability `level`.
fn quantile(mean: f64, level: f64) -> u32 {
    // Beyond this, the sum below would underflow, and the normal distribution is exact enough.
    if mean > 500.0 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates"
        )]
        let size = mean.mul_add(1.0, 1.645 * mean.sqrt()).ceil() as u32;
        return size;
    }
    let mut probability = (-mean).exp();
    let mut sum = probability;
    let mut n = 0_u32;
    while sum < level && n < 10_000 {
        n += 1;
        probability *= mean / f64::from(n);
        sum += probability;
    }
    n
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(NOW + seconds).unwrap()
    }

    fn inputs<'a>(starts: &'a [Timestamp], events: &'a [Event]) -> Inputs<'a> {
        Inputs {
            now: at(0),
            starts,
            arrivals: starts,
            events,
            make_seconds: 20.0,
            bounds: Bounds::default(),
        }
    }

    fn event(begins: i64, seats: u32) -> Event {
        Event {
            id: "e".to_owned(),
            lab: "some-lab".parse().unwrap(),
            at: at(begins),
            seats,
            note: String::new(),
        }
    }

    #[test]
    fn without_demand_nothing_is_kept() {
        let f = forecast(inputs(&[], &[]));
        assert_eq!((f.size, f.reason), (0, Reason::NoDemand));
        assert!(!is_worth_staging(inputs(&[], &[])));
        let old = [at(-5 * 3600)];
        assert_eq!(forecast(inputs(&old, &[])).size, 0);
    }

    #[test]
    fn a_start_makes_another_likely_for_a_while() {
        let f = forecast(inputs(&[at(-60)], &[]));
        assert_eq!((f.size, f.reason), (1, Reason::Demand));
        assert!(!is_worth_staging(inputs(&[at(-60)], &[])));
        let burst: Vec<_> = (0..12).map(|n| at(-600 + n * 50)).collect();
        let f = forecast(inputs(&burst, &[]));
        assert!((4..=8).contains(&f.size), "{f:?}");
        assert!(is_worth_staging(inputs(&burst, &[])));
    }

    #[test]
    fn the_same_time_on_earlier_days_counts() {
        let day = 24 * 3600;
        let daily: Vec<_> = (1..=6)
            .rev()
            .flat_map(|d| (0..6).map(move |n| at(-d * day + n * 60)))
            .collect();
        let f = forecast(inputs(&daily, &[]));
        assert!(f.size >= 2, "{f:?}");
        let noon = Inputs {
            now: at(6 * 3600),
            ..inputs(&daily, &[])
        };
        assert_eq!(forecast(noon).size, 0);
    }

    #[test]
    fn an_event_is_prepared_for_and_its_seats_are_taken() {
        // 20 tenants of 20 s take 8 min, and they should be ready 3 min before.
        let soon = [event(12 * 60, 20)];
        let f = forecast(inputs(&[], &soon));
        assert_eq!(f.size, 0);
        let next = f.next.unwrap();
        assert_eq!((next.from, next.size), (at(60), 20));
        let later = Inputs {
            now: at(61),
            ..inputs(&[], &soon)
        };
        assert_eq!(
            (forecast(later).size, forecast(later).reason),
            (20, Reason::Event)
        );
        assert!(is_worth_staging(later));
        let came: Vec<_> = (0..15).map(|n| at(12 * 60 + n)).collect();
        let during = Inputs {
            now: at(13 * 60),
            ..inputs(&came, &soon)
        };
        // Five seats are left; the demand of the fifteen who came is higher.
        assert_eq!(due(&during), 5);
        // Two events at the same time need the seats of both, and an earlier start takes none.
        let two = [event(600, 5), event(600, 5)];
        let early = [at(0)];
        let both = Inputs {
            now: at(500),
            ..inputs(&early, &two)
        };
        assert_eq!(due(&both), 10);
        let came = [at(0), at(590), at(610)];
        let some = Inputs {
            now: at(620),
            ..inputs(&came, &two)
        };
        assert_eq!(due(&some), 8);
        let past = Inputs {
            now: at(33 * 60),
            ..inputs(&[], &soon)
        };
        assert_eq!(forecast(past).size, 0);
    }

    #[test]
    fn the_operators_bounds_hold() {
        let floor = Inputs {
            bounds: Bounds {
                floor: 2,
                ceiling: 3,
            },
            ..inputs(&[], &[])
        };
        assert_eq!(
            (forecast(floor).size, forecast(floor).reason),
            (2, Reason::Floor)
        );
        let events = [event(60, 9)];
        let ceiling = Inputs {
            events: &events,
            ..floor
        };
        assert_eq!(
            (forecast(ceiling).size, forecast(ceiling).reason),
            (3, Reason::Ceiling)
        );
    }

    #[test]
    fn quantiles_are_those_of_the_poisson_distribution() {
        assert_eq!(quantile(0.0, 0.95), 0);
        assert_eq!(quantile(0.05, 0.95), 0);
        assert_eq!(quantile(0.06, 0.95), 1);
        assert_eq!(quantile(1.0, 0.95), 3);
        assert_eq!(quantile(10.0, 0.95), 15);
        assert_eq!(quantile(100.0, 0.95), 117);
        let (below, above) = (quantile(499.0, 0.95), quantile(501.0, 0.95));
        assert!(above.abs_diff(below) < 6, "{below} {above}");
    }

    proptest! {
        #[test]
        fn sizes_are_within_bounds_and_grow_with_demand(
            mut ages in proptest::collection::vec(0_i64..2_400_000, 0..60),
            floor in 0_u32..5, more in 0_u32..20, make in 0.1_f64..400.0, seats in 0_u32..50, begins in -3000_i64..3000,
        ) {
            ages.sort_unstable_by(|a, b| b.cmp(a));
            let starts: Vec<_> = ages.iter().map(|age| at(-age)).collect();
            let bounds = Bounds { floor, ceiling: floor + more };
            let events = [event(begins, seats)];
            let of = Inputs { make_seconds: make, bounds, ..inputs(&starts, &events) };
            let f = forecast(of);
            prop_assert!((floor..=floor + more).contains(&f.size));
            prop_assert_eq!(f.size == 0, f.reason == Reason::NoDemand || more + floor == 0);
            let without = Inputs { events: &[], ..of };
            prop_assert!(forecast(without).size <= f.size);
            let mut one_more = starts.clone();
            one_more.push(at(0));
            let busier = Inputs { starts: &one_more, arrivals: &one_more, ..without };
            prop_assert!(forecast(busier).size >= forecast(without).size);
        }
    }
}
