//! Give up: the solution is shown, and the attempt is worth nothing. The machine stays, to follow the solution on it.

use faultline_domain::authz::MayUse;

use crate::{app::App, problem::Problem};

pub(crate) async fn give_up(app: &App, proof: &MayUse) -> Result<(), Problem> {
    let environment = proof.environment();
    let attempt = app.attempt(environment).await?;
    app.store.give_up(&attempt, app.now()).await?;
    app.changed(&environment.id);
    Ok(())
}
