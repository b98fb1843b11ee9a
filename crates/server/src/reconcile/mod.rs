//! Reconcilers: they compare what should be with what is, and act. No input, idempotent, no retries inside; woken by
//! a signal and by a period; each run leaves a [`Status`] for the operator.
//!
//! | module | does |
//! |---|---|
//! | [`environments`] | one step for each environment: observe → `plan` → apply → record |
//! | [`start`] | the longest step: clone, keys, setup |
//! | [`nodes`] | a node more, a node less |
//! | [`steps`] | which steps are under way, at most one an environment |
//! | [`recorder`] | writes the stages of a start as they happen |
//! | [`authorize`] | lets people's keys into their machines |
//! | [`warnings`] | says before an end that it comes |
//! | [`orphans`] | frees what nobody owns |
//! | [`cleaning`] | forgets old sessions and lines of the audit, reads the labs again, counts |
//!
//! ```text
//! request ──► intent in the store ──► wake ──► observe (store, provider) ──► plan ──► step ──► state in the store
//!                                                 ▲                                              │ poke
//!                                                 └──────────────── every second ◄───────────────┘
//! ```

pub(crate) mod authorize;
mod cleaning;
mod environments;
mod nodes;
mod orphans;
mod recorder;
mod start;
mod steps;
pub(crate) mod warnings;

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::{app::Shared, app::lock, metrics::ReconcilerLabel};

pub(crate) use self::steps::Steps;

/// How the last run of a reconciler went.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub last: Timestamp,
    pub took: Duration,
    pub runs: u64,
    /// What it did, or why it could not.
    pub text: String,
    pub failed: bool,
}

/// Why a reconciler's run failed; it runs again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the store failed")]
    Store(#[from] faultline_store::Error),
    #[error("the provider failed")]
    Provider(#[from] faultline_provider::Error),
    #[error("the provider did not answer within {} s", .0.as_secs())]
    Silent(Duration),
}

/// What a run did, in a few words.
pub(crate) type Done = Result<String, Error>;

/// How often each runs at least.
const PERIOD: Duration = Duration::from_secs(1);
const ORPHANS: Duration = Duration::from_secs(10);
const CLEANING: Duration = Duration::from_secs(300);
const LABS: Duration = Duration::from_secs(5);

/// All reconcilers of one server, and when each ran last.
pub(crate) struct Reconcilers {
    app: Shared,
    steps: Steps,
    orphans: Option<Instant>,
    cleaning: Option<Instant>,
    labs: Option<Instant>,
}

impl Reconcilers {
    pub(crate) fn new(app: Shared) -> Self {
        Self {
            app,
            steps: Steps::default(),
            orphans: None,
            cleaning: None,
            labs: None,
        }
    }

    /// Runs each that is due.
    pub(crate) async fn pass(&mut self) {
        let app = self.app.clone();
        record(&app, "environments", environments::pass(&app, &self.steps)).await;
        record(&app, "warnings", warnings::pass(&app)).await;
        if due(&mut self.orphans, ORPHANS) {
            record(&app, "orphans", orphans::pass(&app, &self.steps)).await;
        }
        if due(&mut self.labs, LABS) {
            record(&app, "labs", cleaning::labs(&app)).await;
        }
        if due(&mut self.cleaning, CLEANING) {
            record(&app, "cleaning", cleaning::pass(&app)).await;
        }
    }
}

fn due(last: &mut Option<Instant>, period: Duration) -> bool {
    let due = last.is_none_or(|at| at.elapsed() >= period);
    if due {
        *last = Some(Instant::now());
    }
    due
}

async fn record(app: &Shared, name: &'static str, pass: impl Future<Output = Done>) {
    let began = Instant::now();
    let done = pass.await;
    let took = began.elapsed();
    let label = ReconcilerLabel { reconciler: name };
    let seconds = app.metrics.reconcile_seconds.get_or_create(&label);
    seconds.set(took.as_secs_f64());
    let failed = done.is_err();
    let text = done.unwrap_or_else(|e| {
        app.metrics.reconcile_errors.get_or_create(&label).inc();
        tracing::error!(
            reconciler = name,
            error = &e as &dyn std::error::Error,
            "failed"
        );
        describe(&e)
    });
    let mut all = lock(&app.statuses);
    let runs = all.get(name).map_or(0, |s| s.runs) + 1;
    all.insert(
        name,
        Status {
            last: app.now(),
            took,
            runs,
            text,
            failed,
        },
    );
}

/// An error with its causes, in one line.
pub(crate) fn describe(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// Runs until the server stops.
pub(crate) async fn run(app: Shared) {
    let mut all = Reconcilers::new(app.clone());
    while !app.stopping.is_cancelled() {
        all.pass().await;
        tokio::select! {
            () = app.wake.notified() => {}
            () = tokio::time::sleep(PERIOD) => {}
            () = app.stopping.cancelled() => {}
        }
    }
}
