//! Begin again on a fresh machine, within the same attempt: what was opened and checked stays counted. An attempt that
//! was solved or given up is over; a reset begins another. Also the retry of a failed start.

use faultline_domain::{AttemptId, EnvironmentId, authz::MayUse};
use faultline_store::environments::Environment;

use super::start;
use crate::{app::App, problem::Problem};

pub(crate) async fn reset(
    app: &App,
    proof: &MayUse,
    old: &Environment,
) -> Result<Environment, Problem> {
    debug_assert_eq!(proof.environment(), &old.id);
    let lab = app.lab(&old.lab).ok_or_else(Problem::lab_gone)?;
    start::ready(app, &lab.lab).await?;
    let now = app.now();
    let admit = start::admission(app, &lab.lab);
    let (id, attempt) = app.random(|rng| (EnvironmentId::generate(rng), AttemptId::generate(rng)));
    let made = app
        .store
        .replace_environment(
            id,
            attempt,
            old,
            start::spec(app, &lab.lab),
            start::lifetime(app, &lab.lab, now),
            &admit,
            now,
        )
        .await?;
    app.changed(&old.id);
    app.changed(&made.id);
    Ok(made)
}
