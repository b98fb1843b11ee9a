//! `bench pools`: warm pools over traces of starts, in a simulation, by how their size is determined.

use faultline_domain::pool::{
    forecast::Event,
    replay::{Cost, Outcome, Sizing, replay},
};
use jiff::{SignedDuration, Timestamp};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::Report;

/// A cluster of one node on two processors under emulation.
const COST: Cost = Cost {
    make_seconds: 20.0,
    parallel: 2,
    memory_mib: 800,
};
/// A Monday, so that days are weekdays.
const BEGIN: i64 = 1_799_625_600;
const DAYS: i64 = 14;
const HOUR: i64 = 3600;

struct Trace {
    name: &'static str,
    starts: Vec<Timestamp>,
    events: Vec<Event>,
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(BEGIN + seconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Adds starts at random times, this many per hour on average.
fn trickle(rng: &mut StdRng, from: i64, to: i64, per_hour: f64, starts: &mut Vec<Timestamp>) {
    #[expect(clippy::cast_precision_loss, reason = "some hours")]
    let mut time = from as f64;
    #[expect(clippy::cast_precision_loss, reason = "some hours")]
    let end = to as f64;
    loop {
        let even: f64 = rng.random_range(f64::EPSILON..1.0);
        time -= even.ln() * 3600.0 / per_hour;
        if time >= end {
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "seconds")]
        starts.push(at(time as i64));
    }
}

/// Self-learners during the day and the evening, every day.
fn learners(rng: &mut StdRng) -> Trace {
    let mut starts = Vec::new();
    for day in 0..DAYS {
        let midnight = day * 24 * HOUR;
        trickle(
            rng,
            midnight + 8 * HOUR,
            midnight + 18 * HOUR,
            4.0,
            &mut starts,
        );
        trickle(
            rng,
            midnight + 18 * HOUR,
            midnight + 23 * HOUR,
            9.0,
            &mut starts,
        );
    }
    Trace {
        name: "learners",
        starts,
        events: Vec::new(),
    }
}

/// A class of twenty on each weekday morning, announced or not.
fn class(rng: &mut StdRng, announced: bool) -> Trace {
    let (mut starts, mut events) = (Vec::new(), Vec::new());
    for day in (0..DAYS).filter(|day| day % 7 < 5) {
        let begins = day * 24 * HOUR + 9 * HOUR;
        starts.extend((0..20).map(|_| at(begins + rng.random_range(0..240))));
        if let (true, Ok(lab)) = (announced, "some-lab".parse()) {
            events.push(Event {
                id: day.to_string(),
                lab,
                at: at(begins),
                seats: 20,
                note: String::new(),
            });
        }
    }
    starts.sort_unstable();
    Trace {
        name: if announced {
            "class, announced"
        } else {
            "class, not announced"
        },
        starts,
        events,
    }
}

/// A link in a newsletter: little demand, and one afternoon with 60 starts in ten minutes.
fn spike(rng: &mut StdRng) -> Trace {
    let mut starts = Vec::new();
    trickle(rng, 0, DAYS * 24 * HOUR, 0.5, &mut starts);
    let begins = 9 * 24 * HOUR + 15 * HOUR;
    starts.extend((0..60).map(|_| at(begins + rng.random_range(0..600))));
    starts.sort_unstable();
    Trace {
        name: "spike",
        starts,
        events: Vec::new(),
    }
}

/// Runs `bench pools`. The traces are always the same.
pub fn pools() -> Report {
    let mut rng = StdRng::seed_from_u64(1);
    let traces = [
        learners(&mut rng),
        class(&mut rng, true),
        class(&mut rng, false),
        spike(&mut rng),
    ];
    let job = SignedDuration::from_mins(15);
    let sizings = [
        ("none", Sizing::None),
        ("forecast", Sizing::Forecast),
        ("fixed 3", Sizing::Fixed(3)),
        ("fixed 20", Sizing::Fixed(20)),
        ("job, 3 every 15 min", Sizing::Periodic(3, job)),
    ];
    let mut report = Report::new("pools", "none");
    for trace in &traces {
        for (sizing, of) in sizings {
            let outcome = replay(&trace.starts, &trace.events, COST, of);
            add(&mut report, &format!("{}, {sizing}", trace.name), &outcome);
        }
    }
    report
}

fn add(report: &mut Report, name: &str, of: &Outcome) {
    report.add(
        &format!("{name}: served from the pool"),
        "%",
        &[of.served * 100.0],
    );
    let waits = [of.p50, of.p95, of.longest].map(|seconds| seconds * 1000.0);
    for (what, wait) in ["median wait", "95 % wait", "longest wait"]
        .into_iter()
        .zip(waits)
    {
        report.add(&format!("{name}: {what}"), "ms", &[wait]);
    }
    report.add(&format!("{name}: mean memory"), "MiB", &[of.memory_mib]);
}
