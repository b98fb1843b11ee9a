//! Restores an environment to one of its save points, or makes another environment of one (a fork). Both get a new
//! tenant, which continues from the save point. Restoring keeps the environment's ID, page, address, SSH name and
//! terminals, and like a reset it can be undone.

use faultline_domain::{
    AttemptId, EnvironmentId,
    authz::{MayUse, MayUseSavePoint},
    environment::{Environment, Spec},
    save_point::SavePoint,
    tenant,
};
use faultline_store::{environments::Renewal, lab_contents::LabContent};

use super::{save, start};
use crate::{app::App, problem::Problem};

pub(crate) async fn restore(
    app: &App,
    proof: &MayUse,
    to: &MayUseSavePoint,
) -> Result<Environment, Problem> {
    let (e, point) = (proof.environment(), to.save_point());
    if point.environment != e.id {
        return Err(Problem::conflict(
            "other-environment",
            "This save point belongs to another environment",
            "Make a new environment of it instead.",
        ));
    }
    if e.is_resizing() {
        return Err(Problem::conflict(
            "resizing",
            "A node is being added or removed",
            "Restore the save point when that has finished.",
        ));
    }
    let content = content(app, point).await?;
    let undo = save::for_undo(app, e, format!("Before going back to “{}”", point.name)).await;
    let renewal = Renewal {
        undo,
        ..renewal(app, point, &content)?
    };
    let nodes = nodes_of(point);
    let admit = start::admission_of(app, point.spec.is_cluster(), nodes)?;
    let restored = app
        .store
        .restore_environment(e, point, renewal, &admit, app.now());
    let made = restored.await?.ok_or_else(not_usable)?;
    crash_point!(app, RestoreRequested);
    app.changed(&made.id);
    Ok(made)
}

pub(crate) async fn fork(app: &App, of: &MayUseSavePoint) -> Result<Environment, Problem> {
    let point = of.save_point();
    let content = content(app, point).await?;
    let id = app.random(EnvironmentId::generate);
    let renewal = renewal(app, point, &content)?;
    let admit = start::admission_of(app, point.spec.is_cluster(), nodes_of(point))?;
    let forked = app
        .store
        .fork_environment(id, point, renewal, &admit, app.now());
    let made = forked.await?.ok_or_else(not_usable)?;
    crash_point!(app, ForkRequested);
    app.changed(&made.id);
    Ok(made)
}

fn nodes_of(point: &SavePoint) -> u32 {
    u32::try_from(point.spec.nodes().len() + point.added.len()).unwrap_or(u32::MAX)
}

/// Returns the lab's content at the time of the save point, as its hash and its text.
async fn content(app: &App, point: &SavePoint) -> Result<(String, String), Problem> {
    let hash = point.lab_hash.clone().ok_or_else(Problem::lab_gone)?;
    let text = app.store.lab_content(&hash).await?;
    Ok((hash, text.ok_or_else(Problem::lab_gone)?))
}

fn renewal<'a>(
    app: &App,
    point: &SavePoint,
    (hash, text): &'a (String, String),
) -> Result<Renewal<'a>, Problem> {
    let lab = app.lab(&point.lab).ok_or_else(Problem::lab_gone)?;
    Ok(Renewal {
        attempt: app.random(AttemptId::generate),
        content: LabContent { hash, text },
        spec: Spec {
            tenant: tenant::Spec {
                save_point: Some(point.id.clone()),
                ..point.spec.tenant.clone()
            },
            ..point.spec.clone()
        },
        nodes: point.added.clone(),
        lifetime: start::lifetime(app, &lab.lab, app.now()),
        undo: None,
    })
}

fn not_usable() -> Problem {
    Problem::conflict(
        "not-usable",
        "This save point can't be used",
        "It is still being made, could not be made, or is being deleted.",
    )
}
