//! Resets an environment: it gets a new tenant, but keeps its ID, page, address and SSH name. It also keeps its attempt
//! with the opened hints and check results, unless that was solved or given up; then a new attempt begins. The previous
//! tenant is saved before it is freed, so that the reset can be undone. Also used to retry a failed start.

use faultline_domain::{AttemptId, authz::MayUse, environment::Environment};
use faultline_store::{environments::Renewal, lab_contents::LabContent};

use super::{save, start};
use crate::{app::App, problem::Problem};

pub(crate) async fn reset(app: &App, proof: &MayUse) -> Result<Environment, Problem> {
    let old = proof.environment();
    let lab = app.lab(&old.lab).ok_or_else(Problem::lab_gone)?;
    start::ready(app, &lab.lab).await?;
    let now = app.now();
    let admit = start::admission(app, &lab.lab)?;
    let attempt = app.random(AttemptId::generate);
    let spec = start::spec(app, &lab.lab);
    let made = app
        .store
        .reset_environment(
            old,
            Renewal {
                attempt,
                content: LabContent {
                    hash: &lab.hash,
                    text: &lab.content(),
                },
                nodes: spec.setup_nodes.clone(),
                spec,
                lifetime: start::lifetime(app, &lab.lab, now),
                undo: save::for_undo(app, old, "Before the reset".to_owned()).await,
            },
            &admit,
            now,
        )
        .await?;
    crash_point!(app, ResetRequested);
    app.changed(&made.id);
    Ok(made)
}
