//! Resumes a paused machine. One that was written to disk continues on another tenant, once there is room for it.
//! Idempotent. Counts as use.

use faultline_domain::{
    authz::MayUse,
    environment::{Environment, Intent, State},
};

use super::start;
use crate::{app::App, problem::Problem};

pub(crate) async fn resume(app: &App, proof: &MayUse) -> Result<(), Problem> {
    let environment = proof.environment();
    if environment.state.on_disk().is_some() && environment.is_open() {
        return load(app, environment).await;
    }
    // While it is being paused, it is still `Active`, and can already be resumed.
    let can_resume = matches!(
        environment.state,
        State::Active { .. } | State::Suspended { .. }
    );
    if !can_resume || !environment.is_open() {
        return Err(not_paused());
    }
    let (id, by) = (&environment.id, proof.person());
    if !app
        .store
        .set_intent(id, Intent::Active, Some(by), app.now())
        .await?
    {
        // It may have reached the disk since it was read.
        let current = app.store.environment(id).await?;
        return match current.filter(|e| e.state.is_on_disk() && e.is_open()) {
            Some(e) => load(app, &e).await,
            None => Err(not_paused()),
        };
    }
    app.changed(id);
    Ok(())
}

async fn load(app: &App, e: &Environment) -> Result<(), Problem> {
    let nodes = u32::try_from(e.taken().len()).unwrap_or(u32::MAX);
    let admit = start::admission_of(app, e.spec.is_cluster(), nodes)?;
    let idle = start::idle_seconds(app);
    let loaded = app.store.load_environment(&e.id, idle, &admit, app.now());
    loaded.await?.ok_or_else(Problem::not_found)?;
    crash_point!(app, ResumeRequested);
    app.changed(&e.id);
    Ok(())
}

fn not_paused() -> Problem {
    Problem::conflict(
        "not-paused",
        "There is no paused machine to resume",
        "Only a machine that is paused and has not ended can be resumed. Reset gives you a fresh one.",
    )
}
