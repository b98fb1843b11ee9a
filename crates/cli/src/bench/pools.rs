//! `bench pools`: warm pools over traces of starts, in a simulation, by how their size is determined.

use faultline_domain::pool::{
    forecast::Event,
    replay::{Cost, Outcome, Sizing, replay},
};
use jiff::{SignedDuration, Timestamp};
use rand::{SeedableRng, rngs::StdRng};

use super::{
    Report,
    demand::{self, DAY, HOUR, at, class_begins, trickle, weekdays},
};

/// A cluster of one node on two processors under emulation.
const COST: Cost = Cost {
    make_seconds: 20.0,
    parallel: 2,
    memory_mib: 800,
};
const DAYS: i64 = 14;

struct Trace {
    name: &'static str,
    starts: Vec<Timestamp>,
    events: Vec<Event>,
}

/// Self-learners during the day and the evening, every day.
fn learners(rng: &mut StdRng) -> Trace {
    Trace {
        name: "learners",
        starts: demand::learners(rng, DAYS, 4.0),
        events: Vec::new(),
    }
}

/// A class of twenty on each weekday morning, announced or not.
fn class(rng: &mut StdRng, announced: bool) -> Trace {
    let (mut starts, mut events) = (Vec::new(), Vec::new());
    for day in weekdays(DAYS) {
        let begins = class_begins(day);
        starts.extend(demand::class(rng, begins, 20, 240));
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
    trickle(rng, 0, DAYS * DAY, 0.5, &mut starts);
    let begins = 9 * DAY + 15 * HOUR;
    starts.extend(demand::class(rng, begins, 60, 600));
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
