//! Let a paused machine go on where it stood. Asking twice is asking once. It counts as use.

use faultline_domain::{
    authz::MayUse,
    environment::{Intent, State},
};

use crate::{app::App, problem::Problem};

pub(crate) async fn resume(app: &App, proof: &MayUse) -> Result<(), Problem> {
    let environment = proof.environment();
    // One that is still being paused is `Active`: it may be wanted back at once.
    let stands = matches!(
        environment.state,
        State::Active { .. } | State::Suspended { .. }
    );
    if !stands || !environment.is_open() {
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
        "Only one that was paused and has not ended can go on. Reset gives a fresh one.",
    )
}
