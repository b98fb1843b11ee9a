//! Reconcilers: they compare what should be with what is, and act. No input, idempotent, no retries inside; woken by
//! a signal and by a period; each run leaves a [`Status`] for the operator.
//!
//! | module | does |
//! |---|---|
//! | [`tenants`] | one step for each tenant: observe → `plan` → apply → record; made and freed |
//! | [`environments`] | likewise for each environment, on what the tenants' pass has seen |
//! | [`prepare`] | the step that makes an environment of a tenant: keys, setup |
//! | [`nodes`] | a node more, a node less |
//! | [`steps`] | which steps are under way, at most one an environment and a tenant |
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

mod advance;
pub(crate) mod authorize;
mod cleaning;
mod environments;
mod nodes;
mod orphans;
mod prepare;
mod recorder;
mod steps;
mod tenants;
pub(crate) mod warnings;

use std::time::{Duration, Instant};

use faultline_domain::{EnvironmentId, TenantId};

use crate::{app::Shared, lock::lock, metrics::ReconcilerLabel, status::Status};

pub(crate) use self::steps::Steps;

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
    steps: Steps<EnvironmentId>,
    tenants: Steps<TenantId>,
    orphans: Option<Instant>,
    cleaning: Option<Instant>,
    labs: Option<Instant>,
}

impl Reconcilers {
    pub(crate) fn new(app: Shared) -> Self {
        Self {
            app,
            steps: Steps::default(),
            tenants: Steps::default(),
            orphans: None,
            cleaning: None,
            labs: None,
        }
    }

    /// Runs each that is due.
    pub(crate) async fn pass(&mut self) {
        let app = self.app.clone();
        record(&app, "tenants", tenants::pass(&app, &self.tenants)).await;
        record(&app, "environments", environments::pass(&app, &self.steps)).await;
        record(&app, "warnings", warnings::pass(&app)).await;
        if due(&mut self.orphans, ORPHANS) {
            record(&app, "orphans", orphans::pass(&app, &self.tenants)).await;
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
