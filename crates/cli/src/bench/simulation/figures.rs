//! What is measured.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use faultline_domain::EnvironmentId;
use faultline_store::pools::StartTimes;
use jiff::{SignedDuration, Timestamp};

use super::host::Host;
use crate::bench::Report;

/// A wait that is longer than this many times the median of equals counts as starvation.
const FAIR: f64 = 4.0;
/// The number of waits from which a median says something.
const ENOUGH: usize = 20;

/// The time after the last start of a class within which starts are repeated that got no response.
const RETRIES: SignedDuration = SignedDuration::from_secs(30);
/// The milliseconds from which a claim outside of classes counts as a wait for a place.
const QUEUED: f64 = 5000.0;

/// A class that began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Class {
    pub begins: Timestamp,
    /// The last of its starts.
    pub ends: Timestamp,
    /// The number of free places when it began.
    pub free: usize,
}

/// What was measured so far.
#[derive(Debug)]
pub(super) struct Figures {
    began: Instant,
    passes: BTreeMap<&'static str, Vec<f64>>,
    /// The number of runs of each reconciler that were already measured.
    runs: BTreeMap<&'static str, u64>,
    pub starts: Vec<f64>,
    memory: Vec<f64>,
    commits: Vec<f64>,
    sampled: (Instant, u64),
    pub recoveries: Vec<f64>,
    pub refused: u64,
}

impl Figures {
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            passes: BTreeMap::new(),
            runs: BTreeMap::new(),
            starts: Vec::new(),
            memory: Vec::new(),
            commits: Vec::new(),
            sampled: (now, 0),
            recoveries: Vec::new(),
            refused: 0,
        }
    }

    /// Takes note of the reconcilers' last runs, and once a second of memory and transactions.
    pub fn sample(&mut self, host: &Host) -> anyhow::Result<()> {
        for run in host.reconcilers()?.runs() {
            if self.runs.insert(run.reconciler, run.runs) != Some(run.runs) {
                let all = self.passes.entry(run.reconciler).or_default();
                all.push(millis(run.last));
            }
        }
        let (at, before) = self.sampled;
        let seconds = at.elapsed().as_secs_f64();
        if seconds >= 1.0 {
            let commits = host.commits();
            #[expect(clippy::cast_precision_loss, reason = "a number of transactions")]
            let rate = commits.saturating_sub(before) as f64 / seconds;
            self.commits.push(rate);
            self.sampled = (Instant::now(), commits);
            self.memory.extend(memory_mib());
        }
        Ok(())
    }

    /// Writes the report. Fails if somebody waited much longer than equals.
    pub fn report(self, times: &[StartTimes], classes: &[Class]) -> anyhow::Result<Report> {
        let mut report = Report::new("simulation", "none");
        report.add("environments started", "1", &[count(times.len())]);
        report.add("starts refused by a quota", "1", &[count(self.refused)]);
        report.add(
            "crashes of the server",
            "1",
            &[count(self.recoveries.len())],
        );
        let waits = Waits::of(times, classes);
        for (name, samples) in [
            ("claim in a peak", &waits.claims_in_peaks),
            ("claim at other times", &waits.claims),
            ("start in a peak, until active", &waits.starts_in_peaks),
            ("start at other times, until active", &waits.starts),
        ] {
            add_all(&mut report, name, "ms", samples);
        }
        add_all(&mut report, "request to start", "ms", &self.starts);
        let in_classes = waits.in_queue.concat();
        add_all(&mut report, "wait for a place in a class", "s", &in_classes);
        let others = &waits.others_in_queue;
        add_all(&mut report, "wait for a place at other times", "s", others);
        for waited in waits.in_queue.iter().filter(|w| w.len() >= ENOUGH) {
            let mut sorted = waited.clone();
            sorted.sort_by(f64::total_cmp);
            let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
            let longest = sorted.last().copied().unwrap_or_default();
            let ratio = longest / median.max(1.0);
            report.add(
                "longest wait of a class, relative to its median",
                "1",
                &[ratio],
            );
            anyhow::ensure!(
                ratio <= FAIR,
                "somebody in a class waited {longest} s for a place, {ratio} times its median"
            );
        }
        for (name, samples) in &self.passes {
            report.add(&format!("pass of the reconciler {name}"), "ms", samples);
        }
        report.add("recovery after a crash", "ms", &self.recoveries);
        report.add("transactions", "1/s", &self.commits);
        let most = |all: &[f64]| all.iter().copied().fold(0.0, f64::max);
        report.add(
            "most transactions in a second",
            "1/s",
            &[most(&self.commits)],
        );
        let first = self.memory.first().copied().unwrap_or_default();
        report.add("memory of the process at the beginning", "MiB", &[first]);
        report.add("most memory of the process", "MiB", &[most(&self.memory)]);
        report.add("real time", "s", &[self.began.elapsed().as_secs_f64()]);
        Ok(report)
    }
}

/// Adds a figure, if it was measured at all.
fn add_all(report: &mut Report, name: &str, unit: &str, samples: &[f64]) {
    if !samples.is_empty() {
        report.add(name, unit, samples);
    }
}

/// How long people waited.
#[derive(Debug, Default)]
struct Waits {
    claims_in_peaks: Vec<f64>,
    claims: Vec<f64>,
    starts_in_peaks: Vec<f64>,
    starts: Vec<f64>,
    /// In seconds, of each class.
    in_queue: Vec<Vec<f64>>,
    /// In seconds, outside of classes.
    others_in_queue: Vec<f64>,
}

impl Waits {
    fn of(times: &[StartTimes], classes: &[Class]) -> Self {
        let mut waits = Self::default();
        let mut rest: Vec<&StartTimes> = Vec::new();
        let mut peaks: Vec<Vec<&StartTimes>> = vec![Vec::new(); classes.len()];
        for start in times {
            let is_in = |c: &Class| {
                let late = c.ends.saturating_add(RETRIES).unwrap_or(c.ends);
                (c.begins..=late).contains(&start.requested)
            };
            let class = classes.iter().position(is_in);
            match class.and_then(|class| peaks.get_mut(class)) {
                Some(peak) => peak.push(start),
                None => rest.push(start),
            }
        }
        for (class, mut peak) in classes.iter().zip(peaks) {
            peak.retain(|start| start.served.is_some());
            peak.sort_by_key(|start| start.served.map(|(_, at)| at));
            let (placed, queued) = peak.split_at(class.free.min(peak.len()));
            for start in placed {
                add(
                    start,
                    &mut waits.claims_in_peaks,
                    &mut waits.starts_in_peaks,
                );
            }
            let seconds = |start: &&StartTimes| Some(claim(start)? / 1000.0);
            waits
                .in_queue
                .push(queued.iter().filter_map(seconds).collect());
        }
        for start in rest {
            match claim(start) {
                Some(millis) if millis >= QUEUED => waits.others_in_queue.push(millis / 1000.0),
                Some(_) => add(start, &mut waits.claims, &mut waits.starts),
                None => {}
            }
        }
        waits
    }
}

/// Returns the milliseconds until a start got its tenant.
fn claim(of: &StartTimes) -> Option<f64> {
    let (_, at) = of.served?;
    Some(at.duration_since(of.requested).as_secs_f64() * 1000.0)
}

fn add(start: &StartTimes, claims: &mut Vec<f64>, starts: &mut Vec<f64>) {
    claims.extend(claim(start));
    let active = start.active.map(|at| at.duration_since(start.requested));
    starts.extend(active.map(|took| took.as_secs_f64() * 1000.0));
}

/// Returns the environments that never got a tenant.
pub(super) fn unserved(times: &[StartTimes]) -> impl Iterator<Item = &EnvironmentId> {
    let unserved = times.iter().filter(|start| start.served.is_none());
    unserved.map(|start| &start.environment)
}

pub(super) fn millis(of: Duration) -> f64 {
    of.as_secs_f64() * 1000.0
}

fn count(n: impl TryInto<u32>) -> f64 {
    n.try_into().unwrap_or(u32::MAX).into()
}

/// Returns the memory of this process, in MiB.
fn memory_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}
