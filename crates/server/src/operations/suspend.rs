//! Pauses a machine: it uses no CPU and can't be entered. Then it is written to disk, which frees its memory, and its clock
//! stands still until it is resumed. If it can't be written, it stays in memory, and its lifetime continues. Idempotent.
//! Counts as use.

use faultline_domain::{
    authz::MayUse,
    environment::{Intent, State},
};

use super::check;
use crate::{app::App, problem::Problem};

pub(crate) async fn suspend(app: &App, proof: &MayUse) -> Result<(), Problem> {
    let environment = proof.environment();
    let runs = matches!(
        environment.state,
        State::Active { .. } | State::Suspended { .. }
    );
    if !runs || !environment.is_open() {
        return Err(not_running());
    }
    if check::is_running(app, &environment.id) {
        return Err(Problem::conflict(
            "checking",
            "The checks are still running",
            "A paused machine can't be checked. Pause it when they have finished.",
        ));
    }
    if environment.is_resizing() {
        return Err(Problem::conflict(
            "resizing",
            "A node is being added or removed",
            "Pause the machine when that has finished.",
        ));
    }
    let (id, by) = (&environment.id, proof.person());
    if !app
        .store
        .set_intent(id, Intent::Suspended, Some(by), app.now())
        .await?
    {
        return Err(not_running());
    }
    crash_point!(app, SuspendRequested);
    app.changed(id);
    Ok(())
}

fn not_running() -> Problem {
    Problem::conflict(
        "not-running",
        "There is no running machine to pause",
        "Only a machine that has started and has not ended can be paused.",
    )
}
