//! Takes the next step for each environment.

use std::{sync::atomic::Ordering, time::Duration};

use faultline_domain::{
    EnvironmentId, TenantId,
    environment::{Deadlines, Environment, Intent, Lifetime, State, Step, plan},
    tenant::{self, Observed},
};

use jiff::Timestamp;

use super::{
    Done, Error,
    advance::advance,
    authorize, describe, nodes, prepare, pressure, queue,
    steps::{Failed, Kind, Steps},
};
use crate::{
    Config, app,
    app::Shared,
    operations::{save, start::idle_seconds},
    status::Counts,
};

/// Timeout for pausing and resuming.
const QUICK: Duration = Duration::from_secs(110);
/// Failed attempts to pause or resume after which the environment fails.
const MAX_TRIES: u32 = 3;

pub(super) async fn pass(app: Shared, steps: Steps<EnvironmentId>) -> Done {
    let (app, steps) = (&app, &steps);
    // The order matters, see `tenants::pass`.
    let busy = steps.busy();
    let rows = app.store.unfinished_environments().await?;
    let (mut active, mut begun) = (0, 0);
    let mut asking = Vec::new();
    let space = save::can_suspend(app) && save::has_space_to_suspend(app).await?;
    app.space_to_suspend.store(space, Ordering::Relaxed);
    let suspends = app.suspends();
    let saving = app.store.tenants_being_saved().await?;
    for row in &rows {
        let seen = row.tenant.as_ref().map(|tenant| {
            let observed = tenant.observed.unwrap_or(Observed::Unknown);
            (&tenant.state, observed)
        });
        let observed = seen.map_or(Observed::Absent, |(_, observed)| observed);
        active += u64::from(matches!(row.state, State::Active { .. }));
        let is_busy = busy.contains(&row.id) || steps.kind(&row.id).is_some();
        let resizing = steps.kind(&row.id) == Some(Kind::Nodes);
        let ends = matches!(row.intent, Intent::Gone(_));
        // A reset has replaced the tenant that the step works on.
        let overtaken = matches!(row.state, State::Requested { .. });
        if is_busy && (overtaken || (ends && (row.state.is_starting() || resizing))) {
            // The step's result is no longer needed. The next steps free what it had begun.
            steps.cancel(&row.id);
            continue;
        }
        if resizing {
            nodes::cancel_if_obsolete(app, steps, row, observed);
            continue;
        }
        if !is_busy && steps.is_resting(&row.id) {
            continue;
        }
        // Only the deadline of the setup depends on the lab.
        let deadlines = match row.state {
            State::Preparing { .. } => deadlines(app, row).await,
            _ => Config::deadlines(),
        };
        let deadlines = Deadlines {
            suspends,
            ..deadlines
        };
        // While the server was down, nobody could show that they still wait.
        let waits = matches!(row.state, State::Requested { .. });
        let seen_at = if waits {
            app.started_at
        } else {
            Timestamp::MIN
        };
        // Pressure shortens the idle time so that an environment is suspended, never so that it ends.
        let keeps_time = !suspends || matches!(row.state, State::Suspended { .. });
        let idle_seconds = if keeps_time { idle_seconds(app) } else { 0 };
        let lifetime = Lifetime {
            last_used: row.lifetime.last_used.max(seen_at),
            idle_seconds: row.lifetime.idle_seconds.max(idle_seconds),
            ..row.lifetime
        };
        let step = plan(
            row.intent,
            &row.state,
            seen,
            &lifetime,
            &deadlines,
            is_busy,
            app.now(),
        );
        if step == Step::Wait && !is_busy && observed == Observed::Running {
            begun += u64::from(nodes::begin(app, steps, row));
            continue;
        }
        // The provider pauses and resumes it once it is saved.
        let is_saved = row.tenant_id().is_some_and(|id| saving.contains(id));
        if is_saved && matches!(step, Step::Suspend | Step::Resume) {
            continue;
        }
        begun += u64::from(step != Step::Wait);
        if step == Step::Ask {
            asking.push(row.clone());
            continue;
        }
        apply(app, steps, row, step).await?;
    }
    let decision = queue::decide(app, &rows, asking).await?;
    for e in decision.admitted {
        ask(app, steps, &e).await?;
    }
    if let Some((mut e, denial)) = decision.refused {
        let next = e.state.clone().fail(app.now(), "queue", denial.to_string());
        advance(app, &mut e, next).await?;
    }
    pressure::pass(app, &rows).await?;
    Ok(Counts::from([
        ("checked", rows.len() as u64),
        ("active", active),
        ("steps", begun),
    ]))
}

/// Seconds that a setup may take in addition to the timeouts of its steps.
const MARGIN: i64 = 60;

/// Returns the deadlines of an environment in setup: longer than the defaults if the timeouts of the lab's steps are,
/// or if the setup adds nodes.
async fn deadlines(app: &Shared, row: &Environment) -> Deadlines {
    let usual = Config::deadlines();
    let lab = app.lab_at_start(row).await;
    let steps = lab.iter().flat_map(|lab| &lab.lab.setup);
    let steps: i64 = steps.map(|step| i64::from(step.timeout_seconds)).sum();
    let added = i64::try_from(row.spec.setup_nodes.len()).unwrap_or_default();
    Deadlines {
        preparing: usual.preparing.max(steps + MARGIN) + added * nodes::ADD.as_secs().cast_signed(),
        ..usual
    }
}

async fn apply(
    app: &Shared,
    steps: &Steps<EnvironmentId>,
    row: &Environment,
    step: Step,
) -> Result<(), Error> {
    let mut e = row.clone();
    let now = app.now();
    match given_up(steps, row, step) {
        // Those who ask are served in the order of the queue.
        Step::Wait | Step::Ask => {}
        Step::Prepare => {
            let Ok(next) = e.state.clone().prepare(now) else {
                return Ok(());
            };
            if app.store.claim_tenant(&e, &next, now).await? {
                crash_point!(app, Claimed);
                e.state = next;
                e.generation += 1;
                begin_preparing(app, steps, e);
            }
        }
        Step::Retry => {
            let (stage, reason) = match e.tenant.as_ref().map(|tenant| &tenant.state) {
                Some(tenant::State::Failed { stage, reason, .. }) => (&**stage, &**reason),
                _ => ("start", "the start was interrupted"),
            };
            prepare::retry(app, &e, stage, reason, reason).await?;
        }
        Step::Expire(reason) => {
            if let Ok(next) = e.state.clone().expire(now, reason) {
                advance(app, &mut e, next).await?;
                crash_point!(app, Expired);
            }
        }
        Step::Release => {
            if let Some(tenant) = e.tenant_id() {
                app.store.release_tenant(tenant, now).await?;
                crash_point!(app, Released);
                app.changed(&e.id);
            }
        }
        Step::Conclude => {
            let next = match e.state.clone().gone(now) {
                Ok(gone) => gone,
                Err(_) => e.state.clone().freed(),
            };
            advance(app, &mut e, next).await?;
            crash_point!(app, Concluded);
        }
        // What adds a node would meet a machine that stands still.
        Step::SuspendIdle | Step::Store if e.is_resizing() => {}
        Step::SuspendIdle => {
            let done = app.store.set_intent(&e.id, Intent::Suspended, None, now);
            if done.await? {
                app.changed(&e.id);
            }
        }
        Step::Store => {
            if save::request_suspension(app, &e).await? {
                crash_point!(app, SuspensionRequested);
                app.wake.all();
            }
        }
        Step::ReturnToDisk => {
            if let Ok(next) = e.state.clone().return_to_disk(None, now) {
                advance(app, &mut e, next).await?;
            }
        }
        Step::Suspend => begin(app, steps, e, Kind::Suspend, |app, mut e| async move {
            let tenant = app::tenant(&e)?;
            app.provider.pause(tenant).await?;
            crash_point!(app, Paused);
            app.store.record_observed(tenant, Observed::Paused).await?;
            if let Ok(next) = e.state.clone().suspend(app.now()) {
                advance(&app, &mut e, next).await?;
            }
            Ok(())
        }),
        Step::Resume => begin(app, steps, e, Kind::Resume, |app, mut e| async move {
            let tenant = app::tenant(&e)?;
            app.provider.resume(tenant).await?;
            app.store.record_observed(tenant, Observed::Running).await?;
            // The keys may have changed during the pause, and nobody may enter with old ones.
            if let Err(error) = authorize::outdated(&app, &e).await {
                tracing::warn!(environment = %e.id, error = describe(&error), "could not apply keys; will retry");
            }
            if let Ok(next) = e.state.clone().activate(app.now()) {
                advance(&app, &mut e, next).await?;
            }
            Ok(())
        }),
        Step::Fail { stage, reason } => {
            steps.cancel(&e.id);
            let next = e.state.clone().fail(now, stage, reason);
            advance(app, &mut e, next).await?;
        }
    }
    Ok(())
}

/// Gets a tenant for an environment: a warm one of a pool, one that is being made for a pool, or one of its own, which
/// may continue from a save point.
async fn ask(app: &Shared, steps: &Steps<EnvironmentId>, e: &Environment) -> Result<(), Error> {
    let now = app.now();
    if e.spec.tenant.save_point.is_none() && claim(app, steps, e).await? {
        return Ok(());
    }
    let id = app.random(TenantId::generate);
    if app.store.ask_for_tenant(e, &id, now).await? {
        crash_point!(app, TenantRequested);
        app.changed(&e.id);
        app.wake.pools_changed();
    }
    Ok(())
}

/// Gives an environment a tenant of a pool. Returns false if there is none.
async fn claim(app: &Shared, steps: &Steps<EnvironmentId>, e: &Environment) -> Result<bool, Error> {
    let now = app.now();
    if let Ok(next) = e.state.clone().prepare(now)
        && let Some(claimed) = app.store.claim_from_pool(e, &next, now).await?
    {
        crash_point!(app, ClaimedFromPool);
        begin_preparing(app, steps, claimed);
        app.wake.pools_changed();
        return Ok(true);
    }
    if let Some(tenant) = app.store.take_over_from_pool(e, now).await? {
        crash_point!(app, TakenOver);
        app.changed(&e.id);
        app.wake.pools_changed();
        if let Err(error) = app.provider.prioritize(&tenant).await {
            tracing::warn!(%tenant, error = describe(&error), "its priority could not be raised");
        }
        return Ok(true);
    }
    Ok(false)
}

fn begin_preparing(app: &Shared, steps: &Steps<EnvironmentId>, e: Environment) {
    app.changed(&e.id);
    let id = e.id.clone();
    let work = prepare::prepare(app.clone(), e);
    steps.begin(app, &id, Kind::Prepare, work);
}

/// Replaces pausing or resuming with a failure if it failed too often, because people wait for it. Freeing, in
/// contrast, is retried forever.
fn given_up(steps: &Steps<EnvironmentId>, row: &Environment, step: Step) -> Step {
    let too_often = |kind| steps.failures(&row.id, kind) >= MAX_TRIES;
    match step {
        Step::Suspend if too_often(Kind::Suspend) => Step::Fail {
            stage: "suspend".to_owned(),
            reason: "the machine could not be paused".to_owned(),
        },
        Step::Resume if too_often(Kind::Resume) => Step::Fail {
            stage: "resume".to_owned(),
            reason: "the machine could not be resumed".to_owned(),
        },
        step => step,
    }
}

/// Begins a quick step. If it fails, the failure is logged and the step is planned again after a delay.
fn begin<F>(
    app: &Shared,
    steps: &Steps<EnvironmentId>,
    e: Environment,
    kind: Kind,
    work: impl FnOnce(Shared, Environment) -> F,
) where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let id = e.id.clone();
    let work = work(app.clone(), e);
    let named = id.clone();
    steps.begin(app, &id, kind, async move {
        let done = tokio::time::timeout(QUICK, work).await;
        done.unwrap_or(Err(Error::TimedOut(QUICK))).map_err(|e| {
            tracing::error!(
                environment = %named,
                step = ?kind,
                error = &e as &dyn std::error::Error,
                "a step failed"
            );
            Failed
        })
    });
}

#[cfg(test)]
mod tests;
