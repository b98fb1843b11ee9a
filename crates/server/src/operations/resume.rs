//! Resumes a paused machine. Idempotent. Counts as use.

use faultline_domain::{
    authz::MayUse,
    environment::{Intent, State},
};

use crate::{app::App, problem::Problem};

pub(crate) async fn resume(app: &App, proof: &MayUse) -> Result<(), Problem> {
    let environment = proof.environment();
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
        .set_intent(id, Intent::Active, by, app.now())
        .await?
    {
        return Err(not_paused());
    }
    app.changed(id);
    Ok(())
}

fn not_paused() -> Problem {
    Problem::conflict(
        "not-paused",
        "There is no paused machine to resume",
        "Only a machine that is paused and has not ended can be resumed. Reset gives you a fresh one.",
    )
}
