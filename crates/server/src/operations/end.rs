//! Ends an environment. Idempotent. The attempt and its progress are kept.

use faultline_domain::{authz::MayUse, environment::EndReason};

use crate::{app::App, problem::Problem};

pub(crate) async fn end(app: &App, proof: &MayUse) -> Result<(), Problem> {
    let (id, by) = (&proof.environment().id, proof.person());
    app.store
        .end_environment(id, EndReason::Ended, Some(by), app.now())
        .await?;
    app.changed(id);
    Ok(())
}
