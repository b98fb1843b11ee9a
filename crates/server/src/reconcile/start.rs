//! The longest step: clone the machine, let its owner's keys in, break it as the lab says.

use std::time::Instant;

use faultline_domain::{
    NodeName,
    environment::MAX_TRIES,
    nodes::{AddedNode, NodeState},
};
use faultline_lab::SetupError;
use faultline_provider::{Error as ProviderError, Spec};
use faultline_store::environments::Environment;

use super::{authorize, describe, environments::advance, recorder::Recorder, steps::Failed};
use crate::app::Shared;

/// Why a start did not work.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error("the lab is no longer offered")]
    LabGone,
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("the store failed")]
    Store(#[from] faultline_store::Error),
    /// Somebody else changed the environment: this start is not wanted any more.
    #[error("the start was overtaken")]
    Overtaken,
}

impl StartError {
    /// The stage that failed, and why, for the student.
    fn describe(&self) -> (String, String) {
        match self {
            Self::Provider(ProviderError::Failed { stage, reason }) => {
                (stage.clone(), reason.clone())
            }
            Self::Provider(e) => ("clone".to_owned(), describe(e)),
            Self::LabGone => ("setup".to_owned(), describe(self)),
            Self::Setup(e) => (
                "setup".to_owned(),
                format!("{}; the operator's audit says more", e.discreet()),
            ),
            Self::Store(_) | Self::Overtaken => ("start".to_owned(), describe(self)),
        }
    }

    /// Another try may go better: the machine's fault rather than the lab's.
    const fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Provider(ProviderError::Failed { .. } | ProviderError::Unreachable(_))
                | Self::Setup(
                    SetupError::Run { .. } | SetupError::Cluster(_) | SetupError::Node { .. }
                )
        )
    }
}

/// Brings an environment that is `Provisioning` to `Active`, or to what follows from a failure.
pub(super) async fn start(app: Shared, mut e: Environment) -> Result<(), Failed> {
    let began = Instant::now();
    let recorder = Recorder::new(&app, &e.id);
    let done = bring_up(&app, &mut e, &recorder).await;
    // Nothing that was reported comes after what follows from it.
    recorder.flush().await;
    match done {
        Ok(()) => {
            app.metrics.started("active");
            app.metrics
                .start_seconds
                .observe(began.elapsed().as_secs_f64());
            tracing::info!(environment = %e.id, lab = %e.lab, millis = began.elapsed().as_millis(), "active");
            Ok(())
        }
        Err(StartError::Overtaken) => Ok(()),
        Err(error) => {
            let (stage, reason) = error.describe();
            tracing::warn!(environment = %e.id, stage, reason = describe(&error), "a start failed");
            give_back(&app, &mut e, &error, stage, reason).await
        }
    }
}

async fn give_back(
    app: &Shared,
    e: &mut Environment,
    error: &StartError,
    stage: String,
    reason: String,
) -> Result<(), Failed> {
    app.metrics.start_failed(&stage);
    let again = match &e.state {
        faultline_domain::environment::State::Provisioning { tries, .. }
        | faultline_domain::environment::State::Preparing { tries, .. } => {
            error.may_pass() && tries + 1 < MAX_TRIES
        }
        _ => false,
    };
    let now = app.now();
    if again
        && let Ok(()) = app.provider.destroy(&e.id).await
        && let Ok(next) = e.state.clone().retry(now)
    {
        app.metrics.started("retried");
        let subject = e.id.as_str();
        let detail = format!("{stage}: {}", describe(error));
        let _ = app
            .store
            .note(now, None, "retry", subject, &detail)
            .await
            .inspect_err(log);
        let line = format!("failed: {reason}; trying once more");
        let _ = app
            .store
            .log_start(&e.id, &stage, &line, now)
            .await
            .inspect_err(log);
        advance(app, e, next).await.map_err(|e| {
            log(&e);
            Failed
        })?;
        return Ok(());
    }
    app.metrics.started("failed");
    if matches!(error, StartError::Setup(_)) {
        // What the student is not told.
        let _ = app
            .store
            .note(now, None, "setup", e.id.as_str(), &describe(error))
            .await
            .inspect_err(log);
    }
    let next = e.state.clone().fail(now, stage, reason);
    advance(app, e, next).await.map_err(|e| {
        log(&e);
        Failed
    })?;
    Ok(())
}

fn log(e: &faultline_store::Error) {
    tracing::error!(error = e as &dyn std::error::Error, "the store failed");
}

async fn bring_up(
    app: &Shared,
    e: &mut Environment,
    recorder: &Recorder,
) -> Result<(), StartError> {
    let progress = recorder.progress();
    let spec = Spec {
        id: e.id.clone(),
        image: e.spec.image.clone(),
        shape: e.spec.shape(),
        limits: e.spec.limits,
        egress: e.spec.egress.clone(),
    };
    app.provider.create(&spec, &progress).await?;
    let next = e.state.clone().prepare(app.now());
    proceed(app, e, next).await?;

    let stage = progress.stage("keys", "Letting your keys in");
    authorize::environment(app, e).await?;
    stage.done();

    let lab = app.lab(&e.lab).ok_or(StartError::LabGone)?;
    faultline_lab::set_up(&*app.provider, &e.id, &lab, &progress).await?;
    let (added, since) = (lab.lab.setup_nodes(), app.now());
    if !added.is_empty() {
        authorize::nodes(app, e, &added).await?;
        let ready = |name: NodeName| AddedNode {
            name,
            state: NodeState::Ready { since },
        };
        e.added = added.into_iter().map(ready).collect();
        app.store.record_setup_nodes(&e.id, &e.added).await?;
    }

    // All stages are written before anybody is told that it runs.
    recorder.flush().await;
    let next = e.state.clone().activate(app.now());
    proceed(app, e, next).await
}

async fn proceed(
    app: &Shared,
    e: &mut Environment,
    next: Result<
        faultline_domain::environment::State,
        faultline_domain::environment::InvalidTransition,
    >,
) -> Result<(), StartError> {
    let next = next.map_err(|_| StartError::Overtaken)?;
    if advance(app, e, next).await? {
        Ok(())
    } else {
        Err(StartError::Overtaken)
    }
}
