//! Ends an environment. Idempotent. The attempt and its progress are kept.

use faultline_domain::{authz::MayManage, environment::EndReason};

use crate::{app::App, problem::Problem};

pub(crate) async fn end(app: &App, proof: &MayManage) -> Result<(), Problem> {
    let (id, by) = (&proof.environment().id, proof.person());
    app.store
        .end_environment(id, EndReason::Ended, Some(by), app.now())
        .await?;
    app.changed(id);
    Ok(())
}
