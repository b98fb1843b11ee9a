//! A simulation of one pool over a trace of starts, for comparing ways to size it. It has no tenants and no clock, so days
//! take milliseconds.

use std::collections::BinaryHeap;

use jiff::{SignedDuration, Timestamp};

use super::{
    Bounds,
    forecast::{Event, HISTORY, Inputs, forecast},
};

/// The interval at which the size is computed again.
const STEP: i64 = 5;
/// The time before the first and after the last start that is simulated, in seconds.
const MARGIN: i64 = 3600;

/// How the size of a pool is determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sizing {
    /// By the forecast, with refills at once.
    Forecast,
    /// Always the same size, with refills at once.
    Fixed(u32),
    /// Always the same size, filled up by a job that runs at this interval.
    Periodic(u32, SignedDuration),
    /// No pool: each start makes its own tenant.
    None,
}

/// What it takes to make tenants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// The time to make one, in seconds, if no other is being made.
    pub make_seconds: f64,
    /// The number of tenants that can be made at this speed at the same time.
    pub parallel: u32,
    /// The memory of one, in MiB.
    pub memory_mib: u64,
}

/// The result of a simulation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// The number of starts.
    pub starts: usize,
    /// The share of starts that found a warm tenant.
    pub served: f64,
    /// The median wait, in seconds.
    pub p50: f64,
    /// The 95th percentile of the waits, in seconds.
    pub p95: f64,
    /// The longest wait, in seconds.
    pub longest: f64,
    /// The mean memory of warm tenants, in MiB.
    pub memory_mib: f64,
    /// The most memory of warm tenants, in MiB.
    pub most_memory_mib: u64,
}

/// Simulates a pool over the starts of a trace, oldest first.
#[must_use]
pub fn replay(trace: &[Timestamp], events: &[Event], cost: Cost, sizing: Sizing) -> Outcome {
    let (Some(first), Some(last)) = (trace.first(), trace.last()) else {
        return Outcome {
            starts: 0,
            served: 0.0,
            p50: 0.0,
            p95: 0.0,
            longest: 0.0,
            memory_mib: 0.0,
            most_memory_mib: 0,
        };
    };
    let mut simulation = Simulation::new(cost);
    let (begin, end) = (first.as_second() - MARGIN, last.as_second() + MARGIN);
    let mut waits = Vec::with_capacity(trace.len());
    let mut next = 0;
    let mut held = 0.0;
    let mut most = 0;
    let mut now = begin;
    while now < end {
        let size = size(trace, next, events, cost, sizing, now, begin);
        simulation.advance(now, size);
        while let Some(at) = trace.get(next).filter(|at| at.as_second() < now + STEP) {
            waits.push(simulation.start(at.as_second()));
            next += 1;
        }
        held += f64::from(simulation.warm);
        most = most.max(u64::from(simulation.warm));
        now += STEP;
    }
    #[expect(clippy::cast_precision_loss, reason = "numbers of starts and steps")]
    let (starts, steps) = (waits.len() as f64, ((end - begin) / STEP).max(1) as f64);
    #[expect(clippy::cast_precision_loss, reason = "memory in MiB")]
    let each = cost.memory_mib as f64;
    #[expect(clippy::cast_precision_loss, reason = "a number of starts")]
    let served = waits.iter().filter(|wait| **wait == 0.0).count() as f64;
    waits.sort_by(f64::total_cmp);
    let rank = |percent: usize| {
        let at = (waits.len() * percent / 100).min(waits.len() - 1);
        waits.get(at).copied().unwrap_or_default()
    };
    Outcome {
        starts: waits.len(),
        served: served / starts,
        p50: rank(50),
        p95: rank(95),
        longest: rank(100),
        memory_mib: held / steps * each,
        most_memory_mib: most * cost.memory_mib,
    }
}

/// Returns the size to fill the pool up to now; nothing if it isn't filled up now.
fn size(
    trace: &[Timestamp],
    next: usize,
    events: &[Event],
    cost: Cost,
    sizing: Sizing,
    now: i64,
    begin: i64,
) -> Option<u32> {
    match sizing {
        Sizing::None => Some(0),
        Sizing::Fixed(size) => Some(size),
        Sizing::Periodic(size, every) => {
            ((now - begin) % every.as_secs().max(STEP) < STEP).then_some(size)
        }
        Sizing::Forecast => {
            let now = Timestamp::from_second(now).unwrap_or(Timestamp::MAX);
            let oldest = now.saturating_sub(HISTORY).unwrap_or(Timestamp::MIN);
            let past = trace.get(..next).unwrap_or(trace);
            let from = past.partition_point(|at| *at < oldest);
            let starts = past.get(from..).unwrap_or_default();
            let forecast = forecast(Inputs {
                now,
                starts,
                arrivals: starts,
                events,
                make_seconds: cost.make_seconds,
                bounds: Bounds::default(),
            });
            Some(forecast.size)
        }
    }
}

struct Simulation {
    cost: Cost,
    warm: u32,
    /// When tenants of the pool will be warm, as the negative second, so that the earliest comes first.
    making: BinaryHeap<i64>,
    /// When starts' own tenants will be done, likewise.
    own: BinaryHeap<i64>,
}

impl Simulation {
    fn new(cost: Cost) -> Self {
        Self {
            cost,
            warm: 0,
            making: BinaryHeap::new(),
            own: BinaryHeap::new(),
        }
    }

    /// Finishes what is done by now, and fills the pool up to a size. Tenants of the pool are made one at a time, and
    /// none while a start makes its own.
    fn advance(&mut self, now: i64, size: Option<u32>) {
        while self.own.peek().is_some_and(|at| -at <= now) {
            self.own.pop();
        }
        while self.making.peek().is_some_and(|at| -at <= now) {
            self.making.pop();
            self.warm += 1;
        }
        let Some(size) = size else { return };
        self.warm = self.warm.min(size);
        let held = self.warm + u32::try_from(self.making.len()).unwrap_or(u32::MAX);
        if held < size && self.making.is_empty() && self.own.is_empty() {
            self.making.push(-(now + self.seconds(1)));
        }
    }

    /// Returns how long a start waits.
    fn start(&mut self, now: i64) -> f64 {
        if self.warm > 0 {
            self.warm -= 1;
            return 0.0;
        }
        let busy = self.own.len() + 1;
        let seconds = self.seconds(busy);
        self.own.push(-(now + seconds));
        #[expect(clippy::cast_precision_loss, reason = "seconds")]
        let wait = seconds as f64;
        wait
    }

    /// Returns how long it takes to make a tenant while this many are being made.
    fn seconds(&self, busy: usize) -> i64 {
        #[expect(clippy::cast_precision_loss, reason = "a number of tenants")]
        let crowd = (busy as f64 / f64::from(self.cost.parallel.max(1))).max(1.0);
        #[expect(clippy::cast_possible_truncation, reason = "seconds")]
        let seconds = (self.cost.make_seconds * crowd).ceil() as i64;
        seconds.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    const COST: Cost = Cost {
        make_seconds: 20.0,
        parallel: 2,
        memory_mib: 800,
    };

    #[test]
    fn an_announced_class_waits_for_nothing() {
        let class: Vec<_> = (0..20).map(|n| at(4 * 3600 + n * 6)).collect();
        let event = Event {
            id: "e".to_owned(),
            lab: "some-lab".parse().unwrap(),
            at: at(4 * 3600),
            seats: 20,
            note: String::new(),
        };
        let told = replay(&class, &[event], COST, Sizing::Forecast);
        assert_eq!((told.starts, told.served, told.longest), (20, 1.0, 0.0));
        let untold = replay(&class, &[], COST, Sizing::Forecast);
        assert!(untold.p50 > 0.0, "nobody knew of it: {untold:?}");
        let none = replay(&class, &[], COST, Sizing::None);
        assert_eq!((none.served, none.memory_mib), (0.0, 0.0));
        assert!(none.longest > untold.p50);
    }

    #[test]
    fn a_forecast_serves_a_trickle_with_less_memory_than_a_fixed_size() {
        let days: Vec<_> = (0..5)
            .flat_map(|day| (0..20).map(move |n| at(day * 86_400 + n * 700)))
            .collect();
        let forecast = replay(&days, &[], COST, Sizing::Forecast);
        let fixed = replay(&days, &[], COST, Sizing::Fixed(3));
        let job = replay(
            &days,
            &[],
            COST,
            Sizing::Periodic(3, SignedDuration::from_mins(5)),
        );
        assert!(forecast.served > 0.9, "{forecast:?}");
        assert!(
            forecast.memory_mib * 2.0 < fixed.memory_mib,
            "{forecast:?} {fixed:?}"
        );
        assert!(job.memory_mib > forecast.memory_mib, "{job:?}");
    }
}
