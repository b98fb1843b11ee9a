//! Reconcilers compare what should be with what is, and act. Each is a task of its own that takes no input, is
//! idempotent and doesn't retry inside. It is woken by a signal and periodically. Each run records a [`Status`] for the
//! operator.
//!
//! | module | does |
//! |---|---|
//! | [`observe`] | stores the changes that the provider reports |
//! | [`tenants`] | takes a step for each tenant (observe → `plan` → apply → record): creates and frees it |
//! | [`environments`] | takes a step for each environment, based on what was observed of its tenant |
//! | [`prepare`] | the step that turns a tenant into an environment: limits and egress, keys, setup |
//! | [`pools`] | keeps warm pools at the sizes of their forecasts |
//! | [`save_points`] | makes and deletes save points |
//! | [`pool_saves`] | writes tenants of pools to disk, and deletes those that were used |
//! | [`queue`] | gives environments in the queue their tenants |
//! | [`nodes`] | adds and removes nodes |
//! | [`steps`] | the steps in progress, at most one per environment, per tenant, and per node for its keys |
//! | [`recorder`] | stores the stages of a start as they happen |
//! | [`keys`] | compares the versions of people's keys with those on their nodes |
//! | [`authorize`] | applies people's keys to their nodes |
//! | [`exposures`] | observes what running environments expose |
//! | [`maintenance`] | announces that maintenance suspends environments, or ends those that can't be, and does it then |
//! | [`pressure`] | gets memory back when the host is short of it |
//! | [`burst`] | slows environments down that use all of their CPU for long |
//! | [`history`] | samples the state every minute, for the charts of operators |
//! | [`mail`] | sends the mail of the outbox |
//! | [`warnings`] | warns people before their environment ends |
//! | [`orphans`] | frees tenants that nobody owns |
//! | [`cleaning`] | deletes expired sessions and old audit entries, reloads the labs, updates metrics |
//!
//! ```text
//! request ──► intent in the store ──────┐
//! provider ──► observation in the store ┴─► wake ─► plan ─► step ─► state in the store ─► wake, notify
//! ```

mod advance;
pub(crate) mod authorize;
pub(crate) mod burst;
mod cleaning;
mod environments;
mod exposures;
mod history;
mod keys;
mod mail;
pub(crate) mod maintenance;
mod nodes;
mod observe;
mod orphans;
mod pool_saves;
mod pools;
mod prepare;
pub(crate) mod pressure;
mod queue;
mod recorder;
mod save_points;
mod steps;
mod tenants;
pub(crate) mod warnings;

use std::time::{Duration, Instant};

use faultline_domain::{EnvironmentId, SavePointId};
use tokio::sync::Notify;

use self::{exposures::Observer, history::Sampler, keys::Machine, steps::Steps, tenants::Tenants};
use crate::{
    app::Shared,
    lock::lock,
    metrics::ReconcilerLabel,
    status::{Counts, Status},
};

/// The error of a reconciler's run. The reconciler runs again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the store failed")]
    Store(#[from] faultline_store::Error),
    #[error("the provider failed")]
    Provider(#[from] faultline_provider::Error),
    #[error("the provider did not respond within {} s", .0.as_secs())]
    TimedOut(Duration),
}

/// The result of a run.
pub(crate) type Done = Result<Counts, Error>;

/// The maximum time between two runs of each reconciler.
const PERIOD: Duration = Duration::from_secs(1);
const POOLS: Duration = Duration::from_secs(3);
const ORPHANS: Duration = Duration::from_secs(10);
const CLEANING: Duration = Duration::from_secs(300);
const HISTORY: Duration = Duration::from_secs(60);
const BURST: Duration = Duration::from_secs(20);
const MAIL: Duration = Duration::from_secs(10);
const LABS: Duration = Duration::from_secs(5);

/// Wakes the reconcilers of tenants, environments, keys, pools, save points and mail.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    tenants: Notify,
    environments: Notify,
    keys: Notify,
    pools: Notify,
    save_points: Notify,
    mail: Notify,
}

/// Selects the signal that wakes a reconciler.
type Woken = fn(&Wake) -> &Notify;

impl Wake {
    const fn tenants(&self) -> &Notify {
        &self.tenants
    }

    const fn environments(&self) -> &Notify {
        &self.environments
    }

    const fn keys(&self) -> &Notify {
        &self.keys
    }

    const fn save_points(&self) -> &Notify {
        &self.save_points
    }

    const fn pools(&self) -> &Notify {
        &self.pools
    }

    const fn mail(&self) -> &Notify {
        &self.mail
    }

    /// Wakes the reconciler of mail, because some was written.
    pub(crate) fn mail_written(&self) {
        self.mail.notify_one();
    }

    /// Wakes the reconciler of keys, because a person's or a node's keys changed.
    pub(crate) fn keys_changed(&self) {
        self.keys.notify_one();
    }

    /// Wakes the reconciler of pools, because a tenant was claimed, or bounds or events were changed.
    pub(crate) fn pools_changed(&self) {
        self.pools.notify_one();
    }

    /// Wakes all of them but those of pools and mail, because an environment, its tenant, or an observation of it changed.
    pub(crate) fn all(&self) {
        self.tenants.notify_one();
        self.environments.notify_one();
        self.keys.notify_one();
        self.save_points.notify_one();
    }
}

/// What the reconcilers remember between runs. All of it may be lost.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    tenants: Tenants,
    environments: Steps<EnvironmentId>,
    keys: Steps<Machine>,
    save_points: Steps<SavePointId>,
    sampler: Sampler,
    observer: Observer,
}

/// Starts each reconciler in a task of its own, until the server stops.
pub(crate) fn begin(app: &Shared) {
    let Memory {
        tenants,
        environments,
        keys,
        save_points,
        sampler,
        observer,
    } = Memory::default();
    let (it, tasks) = (|| app.clone(), &app.tasks);
    // Subscribe to changes before anything is listed.
    let changes = app.provider.changes();
    tasks.spawn(observe::run(it(), changes, tenants.clone()));
    let (app, steps) = (it(), tenants.steps.clone());
    let orphans = move || orphans::pass(app.clone(), steps.clone());
    tasks.spawn(every(it(), "orphans", ORPHANS, None, orphans));
    let app = it();
    let tenants = move || tenants::pass(app.clone(), tenants.clone());
    let woken = Some(Wake::tenants as Woken);
    tasks.spawn(every(it(), "tenants", PERIOD, woken, tenants));
    let app = it();
    let environments = move || environments::pass(app.clone(), environments.clone());
    let woken = Some(Wake::environments as Woken);
    tasks.spawn(every(it(), "environments", PERIOD, woken, environments));
    let app = it();
    let keys = move || keys::pass(app.clone(), keys.clone());
    let woken = Some(Wake::keys as Woken);
    tasks.spawn(every(it(), "keys", PERIOD, woken, keys));
    let app = it();
    let save_points = move || save_points::pass(app.clone(), save_points.clone());
    let woken = Some(Wake::save_points as Woken);
    tasks.spawn(every(it(), "save points", PERIOD, woken, save_points));
    let app = it();
    let pools = move || pools::pass(app.clone());
    let woken = Some(Wake::pools as Woken);
    tasks.spawn(every(it(), "pools", POOLS, woken, pools));
    let app = it();
    let exposures = move || exposures::pass(app.clone(), observer.clone());
    tasks.spawn(every(it(), "exposures", PERIOD, None, exposures));
    let app = it();
    let maintenance = move || maintenance::pass(app.clone());
    tasks.spawn(every(it(), "maintenance", PERIOD, None, maintenance));
    let app = it();
    let warnings = move || warnings::pass(app.clone());
    tasks.spawn(every(it(), "warnings", PERIOD, None, warnings));
    let app = it();
    let mail = move || mail::pass(app.clone());
    tasks.spawn(every(it(), "mail", MAIL, Some(Wake::mail as Woken), mail));
    let app = it();
    let history = move || history::pass(app.clone(), sampler.clone());
    tasks.spawn(every(it(), "history", HISTORY, None, history));
    let app = it();
    let burst = move || burst::pass(app.clone());
    tasks.spawn(every(it(), "burst", BURST, None, burst));
    let app = it();
    let labs = move || cleaning::labs(app.clone());
    tasks.spawn(every(it(), "labs", LABS, None, labs));
    let app = it();
    let cleaning = move || cleaning::pass(app.clone());
    tasks.spawn(every(it(), "cleaning", CLEANING, None, cleaning));
}

/// Runs a reconciler whenever it is woken, and at least once per period, until the server stops.
async fn every<F: Future<Output = Done> + Send>(
    app: Shared,
    name: &'static str,
    period: Duration,
    woken: Option<Woken>,
    pass: impl Fn() -> F + Send + 'static,
) {
    while !app.stopping.is_cancelled() {
        record(&app, name, pass()).await;
        let woken = async {
            match woken {
                Some(notify) => notify(&app.wake).notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = woken => {}
            () = tokio::time::sleep(period) => {}
            () = app.stopping.cancelled() => {}
        }
    }
}

/// Runs each reconciler once, in order, with a fresh list of tenants. For tests.
#[cfg(test)]
pub(crate) async fn each(app: &Shared, memory: &Memory) {
    let it = || app.clone();
    let Memory {
        tenants,
        environments,
        keys,
        save_points,
        sampler,
        observer,
    } = memory.clone();
    tenants.list_again();
    record(app, "tenants", tenants::pass(it(), tenants.clone())).await;
    record(app, "environments", environments::pass(it(), environments)).await;
    record(app, "keys", keys::pass(it(), keys)).await;
    record(app, "save points", save_points::pass(it(), save_points)).await;
    record(app, "pools", pools::pass(it())).await;
    record(app, "exposures", exposures::pass(it(), observer)).await;
    record(app, "maintenance", maintenance::pass(it())).await;
    record(app, "warnings", warnings::pass(it())).await;
    record(app, "mail", mail::pass(it())).await;
    record(app, "orphans", orphans::pass(it(), tenants.steps)).await;
    record(app, "history", history::pass(it(), sampler)).await;
    record(app, "burst", burst::pass(it())).await;
    record(app, "labs", cleaning::labs(it())).await;
    record(app, "cleaning", cleaning::pass(it())).await;
}

async fn record(app: &Shared, name: &'static str, pass: impl Future<Output = Done>) {
    let began = Instant::now();
    let done = pass.await;
    let took = began.elapsed();
    let label = ReconcilerLabel { reconciler: name };
    let seconds = app.metrics.reconcile_seconds.get_or_create(&label);
    seconds.set(took.as_secs_f64());
    let done = done.map_err(|e| {
        app.metrics.reconcile_errors.get_or_create(&label).inc();
        tracing::error!(
            reconciler = name,
            error = &e as &dyn std::error::Error,
            "a reconciler failed"
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
            done,
        },
    );
}

/// Returns an error with its causes, in one line.
pub(crate) fn describe(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
