//! Checks whether the machine is repaired.
//!
//! An environment has at most one check run at a time; a request during a run joins it. Results are stored as they
//! arrive. The last transaction records whether all checks passed and, if so, finishes the attempt as solved.

use std::sync::Arc;

use faultline_domain::{
    EnvironmentId, TenantId,
    attempt::Attempt,
    authz::MayUse,
    environment::{Intent, State},
    score,
};
use faultline_lab::LabFolder;
use tokio::sync::mpsc;

use crate::{
    app::{App, Shared, tenant},
    lock::lock,
    problem::Problem,
};

/// Starts a check run, unless one is in progress.
pub(crate) async fn check(app: &Shared, proof: &MayUse) -> Result<(), Problem> {
    let environment = proof.environment();
    if matches!(environment.state, State::Suspended { .. })
        || environment.intent == Intent::Suspended
    {
        return Err(Problem::conflict(
            "paused",
            "The machine is paused",
            "A paused machine can't be checked. Resume it, then check again.",
        ));
    }
    if !matches!(environment.state, State::Active { .. }) || !environment.is_open() {
        return Err(Problem::conflict(
            "not-running",
            "There is no running machine to check",
            "Start the lab, or wait until it has started, then check again.",
        ));
    }
    let lab = app
        .lab_of(environment)
        .await
        .ok_or_else(Problem::lab_gone)?;
    let machine = tenant(environment)?.clone();
    let attempt = app.attempt(environment).await?;
    let Some(turn) = Turn::take(app, &environment.id) else {
        return Ok(());
    };
    let run = app.row_id();
    app.store
        .begin_checks(&run, &attempt.id, &environment.id, app.now())
        .await?;
    app.touch(&environment.id).await;
    app.changed(&environment.id);
    let app = app.clone();
    let stop = app.stopping.clone();
    app.tasks.clone().spawn(async move {
        // If the server stops during the run, the next server ends it.
        stop.run_until_cancelled(perform(&turn, &machine, &lab, &attempt, &run))
            .await;
    });
    Ok(())
}

/// Returns true while a check run is in progress.
pub(crate) fn is_running(app: &App, id: &EnvironmentId) -> bool {
    lock(&app.checking).contains(id)
}

/// The right to check an environment, released when dropped.
struct Turn(Shared, EnvironmentId);

impl Turn {
    fn take(app: &Shared, id: &EnvironmentId) -> Option<Self> {
        lock(&app.checking)
            .insert(id.clone())
            .then(|| Self(app.clone(), id.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.0.checking).remove(&self.1);
        self.0.changed(&self.1);
    }
}

async fn perform(
    turn: &Turn,
    machine: &TenantId,
    lab: &Arc<LabFolder>,
    attempt: &Attempt,
    run: &str,
) {
    let (app, id) = (&turn.0, &turn.1);
    let (send, mut receive) = mpsc::unbounded_channel();
    let checks = faultline_lab::check(&*app.provider, machine, lab, move |result| {
        // The receiver lives longer than the sender.
        let _ = send.send(result);
    });
    let checks = tokio::time::timeout(faultline_lab::longest(&lab.lab), checks);
    let write = async {
        while let Some(result) = receive.recv().await {
            if let Err(e) = app.store.record_check(run, &result).await {
                tracing::error!(
                    error = &e as &dyn std::error::Error,
                    "a check result could not be stored"
                );
            }
            app.hub.poke(id);
        }
    };
    let (outcome, ()) = tokio::join!(checks, write);
    let outcome = match &outcome {
        Ok(outcome) => Ok(outcome.passed()),
        Err(_) => Err("the machine did not respond in time"),
    };
    app.metrics.checked(match outcome {
        Ok(true) => "passed",
        Ok(false) => "failed",
        Err(_) => "timed-out",
    });
    if let Err(e) = finish(app, lab, attempt, run, outcome).await {
        tracing::error!(
            error = &e as &dyn std::error::Error,
            "the end of a check run could not be stored"
        );
    }
}

async fn finish(
    app: &App,
    lab: &LabFolder,
    attempt: &Attempt,
    run: &str,
    outcome: Result<bool, &str>,
) -> Result<(), faultline_store::Error> {
    // Hints may have been opened during the run.
    let attempt = app
        .store
        .attempt(&attempt.id)
        .await?
        .unwrap_or_else(|| attempt.clone());
    let costs: Vec<u32> = attempt.hints.iter().map(|(_, cost)| *cost).collect();
    let points = score::points(
        lab.lab.points(),
        &costs,
        attempt.gave_up || attempt.practice,
    );
    app.store
        .finish_checks(run, &attempt, outcome, points, app.now())
        .await
}
