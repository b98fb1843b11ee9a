//! Pause a machine: its memory stays, it uses no CPU, nobody may enter. Its time goes on, so a machine that was
//! forgotten ends like any other. Asking twice is asking once. It counts as use.

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
            "The checks still run",
            "A paused machine can't answer them. Pause it once they have ended.",
        ));
    }
    if environment.is_resizing() {
        return Err(Problem::conflict(
            "resizing",
            "A node comes or goes",
            "A paused machine can't do that. Pause it once that is done.",
        ));
    }
    let (id, by) = (&environment.id, proof.person());
    if !app
        .store
        .set_intent(id, Intent::Suspended, by, app.now())
        .await?
    {
        return Err(not_running());
    }
    app.changed(id);
    Ok(())
}

fn not_running() -> Problem {
    Problem::conflict(
        "not-running",
        "There is no running machine to pause",
        "Only one that has started and has not ended can be paused.",
    )
}
