//! Ends an environment. Idempotent. The attempt and its progress are kept.

use faultline_domain::{authz::MayManage, environment::EndReason};

use crate::{app::App, problem::Problem};

pub(crate) async fn end(app: &App, proof: &MayManage) -> Result<(), Problem> {
    let (id, by) = (&proof.environment().id, proof.person());
    let reason = if proof.environment().person == *by {
        EndReason::Ended
    } else {
        EndReason::EndedByOperator
    };
    app.store
        .end_environment(id, reason, Some(by), app.now())
        .await?;
    crash_point!(app, EndRequested);
    app.changed(id);
    Ok(())
}
