//! Gives up an attempt: the solution is shown and the attempt earns no points. The machine stays, so that the person
//! can follow the solution on it.

use faultline_domain::authz::MayUse;

use crate::{app::App, problem::Problem};

pub(crate) async fn give_up(app: &App, proof: &MayUse) -> Result<(), Problem> {
    let environment = proof.environment();
    let attempt = app.attempt(environment).await?;
    app.store.give_up(&attempt, app.now()).await?;
    app.changed(&environment.id);
    Ok(())
}
