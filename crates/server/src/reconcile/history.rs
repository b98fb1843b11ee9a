//! Samples the server's state every minute, for the charts of operators, and measures what tenants use.

use std::sync::{Arc, Mutex};

use faultline_domain::environment::State;
use faultline_store::samples::Sample;
use jiff::{SignedDuration, Timestamp};

use super::Done;
use crate::{
    app::{App, Shared},
    capacity::{Free, Host},
    lock::lock,
    metrics::Outcome,
    pools::percentile,
    status::Counts,
    usage,
};

/// The least time between two samples.
const INTERVAL: SignedDuration = SignedDuration::from_secs(50);

/// The previous sample's time, and the numbers of starts that succeeded and failed until then.
#[derive(Debug, Clone, Copy, Default)]
struct Last {
    at: Option<Timestamp>,
    started: u64,
    failed: u64,
}

/// What this reconciler remembers between runs.
#[derive(Debug, Clone, Default)]
pub(super) struct Sampler(Arc<Mutex<Last>>);

pub(super) async fn pass(app: Shared, sampler: Sampler) -> Done {
    let now = app.now();
    let last = *lock(&sampler.0);
    if last
        .at
        .is_some_and(|at| now.duration_since(at).abs() < INTERVAL)
    {
        return Ok(Counts::new());
    }
    let (started, failed) = (outcomes(&app, "active"), outcomes(&app, "failed"));
    let environments = app.store.unfinished_environments().await?;
    let running = |s: &State| matches!(s, State::Active { .. });
    let hour = now.saturating_sub(SignedDuration::from_hours(1));
    let waits = app.store.waits_since(hour.unwrap_or(now)).await?;
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let sample = Sample {
        at: now,
        environments: number(environments.iter().filter(|e| running(&e.state)).count() as u64),
        queued: number(lock(&app.queue).len() as u64),
        free_memory_mib: Free::now(&app).memory_mib,
        load: Host::now().load,
        starts: number(started.saturating_sub(last.started)),
        failed_starts: number(failed.saturating_sub(last.failed)),
        wait_p95_millis: percentile(waits, 95),
    };
    app.store.record_sample(&sample).await?;
    *lock(&sampler.0) = Last {
        at: Some(now),
        started,
        failed,
    };
    let measured = usage::measure_all(&app).await?;
    Ok(Counts::from([("samples", 1), ("measured", measured)]))
}

/// Returns the number of starts with this outcome since the server started.
fn outcomes(app: &App, outcome: &'static str) -> u64 {
    app.metrics.starts.get_or_create(&Outcome { outcome }).get()
}
