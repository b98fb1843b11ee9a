//! Saves an environment: memory, devices and disks of all its nodes at one instant, while it goes on. The reconciler
//! `reconcile/save_points.rs` has the provider make the save point. A suspended environment is written to disk alike.

use faultline_domain::{
    SavePointId,
    authz::{MayLook, MayUse, MayUseSavePoint},
    environment::{Environment, State as EnvironmentState},
    save_point::{self, MAX_NAME, Purpose, SavePoint, State},
};
use faultline_provider::Capability;
use jiff::SignedDuration;

use crate::{app::App, capacity::Free, problem::Problem};

/// How long a copy is kept at most. It is made to be used now.
const KEEP_COPY: SignedDuration = SignedDuration::from_hours(24);

pub(crate) async fn save(app: &App, proof: &MayUse, name: &str) -> Result<SavePoint, Problem> {
    let e = proof.environment();
    let name = super::tidy(name, usize::MAX);
    if name.chars().count() > MAX_NAME {
        let detail = format!("The name may have at most {MAX_NAME} characters.");
        return Err(Problem::bad_request(detail));
    }
    check_can_be_saved(app, e)?;
    let name = match name.as_str() {
        "" => default_name(app, e).await?,
        _ => name,
    };
    let keep = app.config.save_points.bounds().keep;
    let wanted = new(app, e, Purpose::Manual, name, keep);
    request(app, e, wanted.ok_or_else(Problem::not_found)?).await
}

/// Makes a save point of somebody's environment for the person who may look into it, who can start an environment of
/// their own from it. The owner is notified in the terminals when it is made.
pub(crate) async fn copy(app: &App, proof: &MayLook) -> Result<SavePoint, Problem> {
    let e = proof.environment();
    check_can_be_saved(app, e)?;
    let name = format!("Copy of {}’s environment", app.name_of(&e.person).await?);
    let keep = KEEP_COPY.min(app.config.save_points.bounds().keep);
    let name: String = name.chars().take(MAX_NAME).collect();
    let wanted = new(app, e, Purpose::Copy, name, keep).ok_or_else(Problem::not_found)?;
    let person = proof.person().clone();
    request(app, e, SavePoint { person, ..wanted }).await
}

/// Requests a save point if its owner may have another one.
async fn request(app: &App, e: &Environment, save: SavePoint) -> Result<SavePoint, Problem> {
    let bounds = app.config.save_points.bounds();
    let (estimate, free) = (estimate(app, e).await, free_bytes(app));
    let may = |all: &[SavePoint]| save_point::may_save(all, estimate, free, &bounds);
    app.store.request_save_point(&save, &may).await?;
    crash_point!(app, SaveRequested);
    app.changed(&e.id);
    Ok(save)
}

fn check_can_be_saved(app: &App, e: &Environment) -> Result<(), Problem> {
    if !can_save(app) {
        return Err(Problem::conflict(
            "cannot-save",
            "This environment can't be saved",
            "Only environments of virtual machines can.",
        ));
    }
    if !can_be_saved(e) {
        return Err(Problem::conflict(
            "not-running",
            "There is no running machine to save",
            "Only a machine that has started and has not ended can be saved. If it is paused, resume it first.",
        ));
    }
    if e.is_resizing() {
        return Err(Problem::conflict(
            "resizing",
            "A node is being added or removed",
            "Save the machine when that has finished.",
        ));
    }
    Ok(())
}

async fn default_name(app: &App, e: &Environment) -> Result<String, Problem> {
    let all = app.store.save_points_of_environment(&e.id).await?;
    let taken = |n: usize| {
        all.iter()
            .any(|save| save.name == format!("Save point {n}"))
    };
    let free = (1..).find(|n| !taken(*n)).unwrap_or_default();
    Ok(format!("Save point {free}"))
}

/// Deletes a save point.
pub(crate) async fn delete(app: &App, proof: &MayUseSavePoint) -> Result<(), Problem> {
    let save = proof.save_point();
    let by = Some(proof.person());
    app.store.delete_save_point(save, by, app.now()).await?;
    crash_point!(app, SaveDeletionRequested);
    app.changed(&save.environment);
    Ok(())
}

/// Returns the save point with which a reset or a restore can be undone. `None` if the environment has nothing to go
/// back to, or the host has too little disk space.
pub(super) async fn for_undo(app: &App, e: &Environment, name: String) -> Option<SavePoint> {
    let keep = app.config.save_points.bounds().keep_for_undo;
    if keep.is_zero() || !can_save(app) {
        return None;
    }
    if let Some(on_disk) = e.state.on_disk() {
        let save = app.store.save_point(&on_disk.save_point).await.ok()??;
        return Some(SavePoint {
            purpose: Purpose::Undo,
            name,
            expires_at: app.now().saturating_add(keep).ok()?,
            ..save
        });
    }
    if !can_be_saved(e) {
        return None;
    }
    let estimate = estimate(app, e).await;
    if let Err(denial) = save_point::has_space(estimate, free_bytes(app)) {
        tracing::warn!(environment = %e.id, %denial, "this reset can't be undone");
        return None;
    }
    new(app, e, Purpose::Undo, name, keep)
}

fn can_save(app: &App) -> bool {
    app.provider.capabilities().contains(&Capability::Save)
}

/// Returns true if environments can be suspended to disk at all.
pub(crate) fn can_suspend(app: &App) -> bool {
    can_save(app) && !app.config.save_points.bounds().keep_suspended.is_zero()
}

/// Returns true if there is disk space for one more suspended environment.
pub(crate) async fn has_space_to_suspend(app: &App) -> Result<bool, faultline_store::Error> {
    let all = app.store.suspensions().await?;
    let used = all.iter().filter_map(SavePoint::saved).map(|s| s.bytes);
    let bounds = app.config.save_points.bounds();
    Ok(used.sum::<u64>() < bounds.bytes_suspended && free_bytes(app) > 0)
}

/// Requests that a paused environment is written to disk. Returns false if it can't be now.
pub(crate) async fn request_suspension(
    app: &App,
    e: &Environment,
) -> Result<bool, faultline_store::Error> {
    let estimate = estimate(app, e).await;
    let bounds = app.config.save_points.bounds();
    let keep = bounds.keep_suspended;
    match new(app, e, Purpose::Suspension, String::new(), keep) {
        Some(save) if save_point::has_space(estimate, free_bytes(app)).is_ok() => {
            app.store.request_suspension(&save, estimate, &bounds).await
        }
        _ => Ok(false),
    }
}

fn can_be_saved(e: &Environment) -> bool {
    let runs = matches!(
        e.state,
        EnvironmentState::Active { .. } | EnvironmentState::Suspended { .. }
    );
    runs && e.is_open() && !e.state.is_on_disk()
}

fn new(
    app: &App,
    e: &Environment,
    purpose: Purpose,
    name: String,
    keep: SignedDuration,
) -> Option<SavePoint> {
    // If the host's clock was set back, it must still be later than the server's start, or it would count as interrupted.
    let (nodes, now) = (e.spec.nodes(), app.now().max(app.started_at));
    let added = e.nodes().into_iter().filter(|node| !nodes.contains(node));
    Some(SavePoint {
        id: app.random(SavePointId::generate),
        environment: e.id.clone(),
        tenant: e.tenant_id()?.clone(),
        person: e.person.clone(),
        lab: e.lab.clone(),
        lab_hash: e.lab_hash.clone(),
        spec: e.spec.clone(),
        added: added.collect(),
        purpose,
        name,
        created_at: now,
        expires_at: now.saturating_add(keep).unwrap_or(now),
        state: State::Saving,
    })
}

/// Returns the expected size of an environment's save point, in bytes: all that its tenant doesn't share. 0 if that is
/// unknown.
pub(crate) async fn estimate(app: &App, e: &Environment) -> u64 {
    let Some(tenant) = e.tenant_id() else {
        return 0;
    };
    let usage = app.provider.usage(tenant).await;
    usage.map_or(0, |usage| usage.private_bytes + usage.disk_bytes)
}

/// Returns the space on the host's disk beyond the operator's reserve, in bytes.
pub(crate) fn free_bytes(app: &App) -> u64 {
    let free = Free::now(app).disk_mib;
    let free = free.saturating_sub(app.config.reserve_disk_mib);
    free.saturating_mul(1 << 20)
}
