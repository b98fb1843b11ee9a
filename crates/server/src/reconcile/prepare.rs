//! The step that turns a tenant into an environment: applies limits, installs the owner's keys, and runs the lab's
//! setup. A tenant of a pool is resumed first; if it is staged, its setup is already done.

use std::time::Duration;

use faultline_domain::{
    NodeName,
    environment::{Environment, InvalidTransition, MAX_TRIES, State},
    nodes::{AddedNode, NodeState},
    pool::Pool,
    progress::Progress,
    save_point::{Purpose, SavePoint},
    tenant::Observed,
};
use faultline_lab::SetupError;
use faultline_provider::Error as ProviderError;
use faultline_store::outbox::NewMail;
use jiff::SignedDuration;

use super::{
    advance::{advance, advance_and_tell},
    authorize, describe,
    recorder::Recorder,
    steps::Failed,
    tenants, warnings,
};
use crate::{
    app::{Shared, tenant},
    mail::texts,
    web::text,
};

/// Timeout for resuming a tenant of a pool.
const RESUME: Duration = Duration::from_secs(20);

/// The time in the queue after which the owner may have left.
const LONG_WAIT: SignedDuration = SignedDuration::from_mins(1);

/// An error while preparing a tenant.
#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error("the lab is no longer offered")]
    LabGone,
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("the store failed")]
    Store(#[from] faultline_store::Error),
    /// The pooled tenant that was claimed doesn't run any more.
    #[error("the pooled tenant is dead")]
    Dead(#[source] ProviderError),
    /// Somebody else changed the environment, so this start is no longer wanted.
    #[error("the start was superseded")]
    Overtaken,
}

impl PrepareError {
    /// Returns the stage that failed and the reason, worded for the student.
    fn describe(&self) -> (String, String) {
        match self {
            Self::Provider(ProviderError::Failed { stage, reason }) => {
                (stage.clone(), reason.clone())
            }
            Self::Provider(e) => ("keys".to_owned(), describe(e)),
            Self::LabGone => ("setup".to_owned(), describe(self)),
            Self::Setup(e) => (
                "setup".to_owned(),
                format!("{}; details are in the operator's audit log", e.discreet()),
            ),
            Self::Store(_) | Self::Dead(_) | Self::Overtaken => {
                ("start".to_owned(), describe(self))
            }
        }
    }

    /// Returns true if a second attempt may succeed, because the failure is the machine's fault rather than the lab's.
    const fn is_retryable(&self) -> bool {
        match self {
            Self::Provider(e) => tenants::is_retryable(e),
            Self::Setup(e) => matches!(
                e,
                SetupError::Run { .. } | SetupError::Cluster(_) | SetupError::Node { .. }
            ),
            Self::LabGone | Self::Store(_) | Self::Dead(_) | Self::Overtaken => false,
        }
    }
}

/// Brings an environment from `Preparing` to `Active`. If that fails, retries or fails the environment.
pub(super) async fn prepare(app: Shared, mut e: Environment) -> Result<(), Failed> {
    let done = bring_up(&app, &mut e).await;
    match done {
        Ok(()) => {
            // The time in the queue says nothing about starts.
            let served = app.store.served_at(&e).await.ok().flatten();
            let took = app.now().duration_since(served.unwrap_or(e.created_at));
            app.metrics.started("active");
            app.metrics.start_seconds.observe(took.as_secs_f64());
            tracing::info!(environment = %e.id, lab = %e.lab, millis = took.as_millis(), "an environment is active");
            Ok(())
        }
        Err(PrepareError::Overtaken) => Ok(()),
        Err(error) => {
            let done = match &error {
                PrepareError::Dead(_) => replace(&app, &e, &error).await,
                _ => give_up(&app, &mut e, &error).await,
            };
            done.map_err(|error| {
                let error = &error as &dyn std::error::Error;
                tracing::error!(environment = %e.id, error, "the store failed");
                Failed
            })
        }
    }
}

/// Releases a dead tenant of a pool and lets the environment claim the next one. Each dead tenant is released, so this
/// ends.
async fn replace(
    app: &Shared,
    e: &Environment,
    error: &PrepareError,
) -> Result<(), faultline_store::Error> {
    let why = describe(error);
    tracing::warn!(environment = %e.id, reason = why, "a pooled tenant could not be resumed");
    let Ok(next) = e.state.clone().request_again(app.now()) else {
        return Ok(());
    };
    if app.store.retry_start(e, &next, app.now()).await? {
        crash_point!(app, Replaced);
        app.changed(&e.id);
    }
    Ok(())
}

async fn give_up(
    app: &Shared,
    e: &mut Environment,
    error: &PrepareError,
) -> Result<(), faultline_store::Error> {
    let (stage, reason) = error.describe();
    let why = describe(error);
    tracing::warn!(environment = %e.id, stage, reason = why, "a start failed");
    app.metrics.start_failed(&stage);
    let tries = match e.state {
        State::Preparing { tries, .. } => tries,
        _ => MAX_TRIES,
    };
    if error.is_retryable() && tries + 1 < MAX_TRIES {
        return retry(app, e, &stage, &reason, &why).await;
    }
    if matches!(error, PrepareError::Setup(_)) {
        // The details that the student isn't told.
        let (now, id) = (app.now(), e.id.as_str());
        app.store.note(now, None, "setup", id, &why).await?;
    }
    let next = e.state.clone().fail(app.now(), stage, reason);
    advance(app, e, next).await.map(drop)
}

/// Releases the tenant and starts again with another one. `reason` is for the student, `why` for the operator.
pub(super) async fn retry(
    app: &Shared,
    e: &Environment,
    stage: &str,
    reason: &str,
    why: &str,
) -> Result<(), faultline_store::Error> {
    let now = app.now();
    let Ok(next) = e.state.clone().retry(now) else {
        return Ok(());
    };
    if !app.store.retry_start(e, &next, now).await? {
        return Ok(());
    }
    crash_point!(app, Retried);
    app.metrics.started("retried");
    let detail = format!("{stage}: {why}");
    app.store
        .note(now, None, "retry", e.id.as_str(), &detail)
        .await?;
    let line = format!("failed: {reason}; retrying once");
    app.store.log_start(&e.id, stage, &line, now).await?;
    app.changed(&e.id);
    Ok(())
}

/// Resumes a tenant of a pool.
async fn resume(app: &Shared, e: &Environment) -> Result<(), PrepareError> {
    let resumed = tokio::time::timeout(RESUME, app.provider.resume(tenant(e)?));
    let late = || ProviderError::Unreachable(format!("not resumed within {} s", RESUME.as_secs()));
    let resumed = resumed.await.unwrap_or_else(|_| Err(late()));
    resumed.map_err(PrepareError::Dead)?;
    crash_point!(app, Resumed);
    let running = app.store.record_observed(tenant(e)?, Observed::Running);
    Ok(running.await?)
}

/// Installs the owner's keys, which may have changed since the save point that the tenant continues from, and says in
/// its terminals that time was turned back or has passed. Its setup is done.
async fn continue_from_save(
    app: &Shared,
    e: &mut Environment,
    point: Option<SavePoint>,
    progress: &Progress,
) -> Result<(), PrepareError> {
    let former = match &point {
        Some(point) if point.purpose == Purpose::Copy => {
            app.store.environment(&point.environment).await?
        }
        _ => None,
    };
    let (added, name) = point.map_or_else(Default::default, |point| (point.added, point.name));
    let text = match e.state.on_disk() {
        None if former.is_some() => {
            "This is a copy of somebody's environment. What you do here doesn't change theirs."
                .to_owned()
        }
        Some(on_disk) => {
            let stood = app.now().duration_since(on_disk.since).as_secs();
            format!(
                "This machine was paused for {} and goes on.",
                text::left(stood)
            )
        }
        None => {
            format!("This machine continues from “{name}”. What happened after that is undone.")
        }
    };
    let stage = progress.stage("keys", "Installing your SSH keys");
    let mut all = e.nodes();
    all.extend(added.iter().cloned());
    if let Some(former) = former {
        authorize::withdraw(app, &former.person, tenant(e)?, &all).await?;
    }
    authorize::nodes(app, e, &all).await?;
    if !added.is_empty() {
        record_added(app, e, added).await?;
    }
    crash_point!(app, Continued);
    stage.done();
    warnings::say(app, e, &text);
    Ok(())
}

/// Records that nodes besides those of the template are ready.
async fn record_added(
    app: &Shared,
    e: &mut Environment,
    added: Vec<NodeName>,
) -> Result<(), PrepareError> {
    let since = app.now();
    let ready = |name: NodeName| AddedNode {
        name,
        state: NodeState::Ready { since },
    };
    e.added = added.into_iter().map(ready).collect();
    app.store.record_setup_nodes(&e.id, &e.added).await?;
    Ok(())
}

/// Installs the owner's keys and runs the lab's setup.
async fn set_up(
    app: &Shared,
    e: &mut Environment,
    progress: &Progress,
) -> Result<(), PrepareError> {
    let stage = progress.stage("keys", "Installing your SSH keys");
    crash_point!(app, BeforeKeys);
    authorize::environment(app, e).await?;
    crash_point!(app, KeysInstalled);
    stage.done();
    let lab = app.lab_of(e).await.ok_or(PrepareError::LabGone)?;
    faultline_lab::set_up(&*app.provider, tenant(e)?, &lab, progress).await?;
    crash_point!(app, SetUp);
    let added = lab.lab.setup_nodes();
    if !added.is_empty() {
        authorize::nodes(app, e, &added).await?;
        record_added(app, e, added).await?;
    }
    Ok(())
}

async fn bring_up(app: &Shared, e: &mut Environment) -> Result<(), PrepareError> {
    let recorder = Recorder::new(app, tenant(e)?);
    let done = prepare_tenant(app, e, &recorder.progress()).await;
    // All stages must be stored before the environment is reported as running or failed.
    recorder.flush().await;
    done?;
    let next = e.state.clone().activate(app.now());
    let next = next.map_err(|_: InvalidTransition| PrepareError::Overtaken)?;
    let mail = ready(app, e).await?;
    if advance_and_tell(app, e, next, mail.as_ref()).await? {
        crash_point!(app, Active);
        Ok(())
    } else {
        Err(PrepareError::Overtaken)
    }
}

/// Returns the mail that says that an environment is ready, if its owner may have left because it waited in the queue.
async fn ready(app: &Shared, e: &Environment) -> Result<Option<NewMail>, PrepareError> {
    let served = app.store.served_at(e).await?;
    let waited = served.is_some_and(|at| at.duration_since(e.created_at) >= LONG_WAIT);
    Ok(match &app.mail {
        Some(_) if waited => Some(texts::ready(app, e).await),
        _ => None,
    })
}

/// Makes the environment's tenant ready for its owner.
async fn prepare_tenant(
    app: &Shared,
    e: &mut Environment,
    progress: &Progress,
) -> Result<(), PrepareError> {
    let row = app.store.tenant(tenant(e)?).await?;
    let pooled = row.and_then(|row| row.pooled);
    if pooled.is_some() {
        let stage = progress.stage("claim", "Waking your machine");
        resume(app, e).await?;
        stage.done();
    }
    let allowance = &e.spec.tenant.allowance;
    app.provider.configure(tenant(e)?, allowance).await?;
    crash_point!(app, Configured);
    let is_staged = pooled
        .is_some_and(|pooled| pooled.pool == Pool::Lab(e.lab.clone()) && pooled.lab == e.lab_hash);
    if let Some(id) = &e.spec.tenant.save_point {
        let point = app.store.save_point(id).await?;
        return continue_from_save(app, e, point, progress).await;
    }
    // The setup of a staged tenant is done, and its keys are installed by their reconciler while the person looks around.
    if !is_staged {
        set_up(app, e, progress).await?;
    }
    Ok(())
}
