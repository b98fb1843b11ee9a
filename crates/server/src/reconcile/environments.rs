//! One step for each environment that has one to make.

use std::{collections::HashMap, time::Duration};

use faultline_domain::environment::{Deadlines, Intent, Observed, State, Step, plan};
use faultline_store::environments::Environment;

use super::{
    Done, Error, authorize, describe, nodes, start,
    steps::{Failed, Kind, Steps},
};
use crate::{Config, app::Shared};

/// How long the provider may take to say what exists.
pub(super) const LIST: Duration = Duration::from_secs(20);
/// How long freeing, pausing and resuming may take.
const QUICK: Duration = Duration::from_secs(110);
/// How often pausing and resuming is tried before the machine counts as failed.
const TRIES: u32 = 3;

pub(super) async fn pass(app: &Shared, steps: &Steps) -> Done {
    // In this order: a step that ends between these lines leaves its environment busy for this pass, and one that
    // begins does so below. So what is read never lags behind what is thought to be under way.
    let busy = steps.busy();
    let rows = app.store.unfinished_environments().await?;
    if rows.is_empty() {
        return Ok("nothing to look after".to_owned());
    }
    let listed = tokio::time::timeout(LIST, app.provider.list())
        .await
        .map_err(|_| Error::Silent(LIST))??;
    let listed: HashMap<_, _> = listed.into_iter().collect();
    let (mut active, mut acted) = (0, 0);
    for row in &rows {
        let observed = listed.get(&row.id).copied().unwrap_or(Observed::Absent);
        if row.observed != Some(observed) {
            app.store.record_observed(&row.id, observed).await?;
        }
        active += u32::from(matches!(row.state, State::Active { .. }));
        let is_busy = busy.contains(&row.id) || steps.kind(&row.id).is_some();
        let resizing = steps.kind(&row.id) == Some(Kind::Nodes);
        let ends = matches!(row.intent, Intent::Gone(_));
        if is_busy && ends && (row.state.is_starting() || resizing) {
            // Nobody waits for it any more. What it had begun is freed by the next steps.
            steps.cancel(&row.id);
            continue;
        }
        if resizing {
            nodes::look_after(app, steps, row, observed);
            continue;
        }
        if !is_busy && steps.is_resting(&row.id) {
            continue;
        }
        let step = plan(
            row.intent,
            &row.state,
            observed,
            &row.lifetime,
            &deadlines(app, row),
            is_busy,
            app.now(),
        );
        if step == Step::Wait && !is_busy && observed == Observed::Running {
            acted += u32::from(nodes::begin(app, steps, row));
            continue;
        }
        acted += u32::from(step != Step::Wait);
        apply(app, steps, row, step).await?;
    }
    Ok(format!(
        "{} to look after, {active} active, {acted} steps",
        rows.len()
    ))
}

/// How much longer a cluster may take until it is handed out: keys of its own, and probing. Each step of both has a
/// limit in the recipe; this one is for a provider that hangs.
const CLUSTER: i64 = 40 * 60;

/// What a setup may take beyond its steps' own limits.
const MARGIN: i64 = 60;

/// A cluster takes its time, and so does a node that the setup adds. No setup is ended before its steps' own limits.
fn deadlines(app: &Shared, row: &Environment) -> Deadlines {
    let usual = Config::deadlines();
    let lab = app.lab(&row.lab);
    let steps = lab.iter().flat_map(|lab| &lab.lab.setup);
    let steps: i64 = steps.map(|step| i64::from(step.timeout_seconds)).sum();
    let added = i64::try_from(row.spec.setup_nodes.len()).unwrap_or_default();
    Deadlines {
        provisioning: usual.provisioning + if row.spec.is_cluster() { CLUSTER } else { 0 },
        preparing: usual.preparing.max(steps + MARGIN) + added * nodes::ADD.as_secs().cast_signed(),
        ..usual
    }
}

/// Writes the state that a step leads to, and says whether it is ours to act on.
pub(super) async fn advance(
    app: &Shared,
    e: &mut Environment,
    to: State,
) -> Result<bool, faultline_store::Error> {
    let now = app.now();
    let written = app.store.record_state(e, &to, now).await?;
    if written {
        if e.state.is_starting()
            && let State::Failed { stage, reason, .. } = &to
        {
            // Whichever way it failed, the log's last line says so.
            let line = format!("failed: {reason}");
            app.store.log_start(&e.id, stage, &line, now).await?;
        }
        e.state = to;
        e.generation += 1;
        e.updated_at = now;
        app.changed(&e.id);
    }
    Ok(written)
}

async fn apply(app: &Shared, steps: &Steps, row: &Environment, step: Step) -> Result<(), Error> {
    let mut e = row.clone();
    let now = app.now();
    match given_up(steps, row, step) {
        Step::Wait => {}
        Step::Start => {
            let Ok(next) = e.state.clone().provision(now) else {
                return Ok(());
            };
            if advance(app, &mut e, next).await? {
                app.store.forget_stages(&e.id).await?;
                app.store.record_setup_nodes(&e.id, &[]).await?;
                let id = e.id.clone();
                let work = start::start(app.clone(), e);
                steps.begin(app, &id, Kind::Start, work);
            }
        }
        Step::Restart => begin(app, steps, e, Kind::Restart, |app, mut e| async move {
            app.provider.destroy(&e.id).await?;
            if let Ok(next) = e.state.clone().retry(app.now()) {
                advance(&app, &mut e, next).await?;
            }
            Ok(())
        }),
        Step::Expire(reason) => {
            if let Ok(next) = e.state.clone().expire(now, reason) {
                advance(app, &mut e, next).await?;
            }
        }
        Step::Release => {
            if let Ok(next) = e.state.clone().release(now)
                && !advance(app, &mut e, next).await?
            {
                return Ok(());
            }
            begin(app, steps, e, Kind::Release, |app, mut e| async move {
                app.provider.destroy(&e.id).await?;
                if let Ok(next) = e.state.clone().gone(app.now()) {
                    advance(&app, &mut e, next).await?;
                }
                Ok(())
            });
        }
        Step::Free => begin(app, steps, e, Kind::Free, |app, mut e| async move {
            app.provider.destroy(&e.id).await?;
            let next = e.state.clone().freed();
            advance(&app, &mut e, next).await?;
            Ok(())
        }),
        Step::Suspend => begin(app, steps, e, Kind::Suspend, |app, mut e| async move {
            app.provider.pause(&e.id).await?;
            if let Ok(next) = e.state.clone().suspend(app.now()) {
                advance(&app, &mut e, next).await?;
            }
            Ok(())
        }),
        Step::Resume => begin(app, steps, e, Kind::Resume, |app, mut e| async move {
            app.provider.resume(&e.id).await?;
            if let Ok(next) = e.state.clone().activate(app.now()) {
                advance(&app, &mut e, next).await?;
            }
            // Keys may have changed while nobody could enter; the gateway knows them anyway.
            if let Err(error) = authorize::environment(&app, &e).await {
                tracing::warn!(environment = %e.id, error = describe(&error), "keys were not placed");
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

/// The step, unless it is one that failed too often: freeing is tried for ever, but somebody waits for these.
fn given_up(steps: &Steps, row: &Environment, step: Step) -> Step {
    let too_often = |kind| steps.failures(&row.id, kind) >= TRIES;
    match step {
        Step::Suspend if too_often(Kind::Suspend) => Step::Fail {
            stage: "suspend",
            reason: "the machine could not be paused",
        },
        Step::Resume if too_often(Kind::Resume) => Step::Fail {
            stage: "resume",
            reason: "the machine could not be resumed",
        },
        step => step,
    }
}

/// Begins a quick step. A failure is logged and the step planned anew after a rest.
fn begin<F>(
    app: &Shared,
    steps: &Steps,
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
        done.unwrap_or(Err(Error::Silent(QUICK))).map_err(|e| {
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
