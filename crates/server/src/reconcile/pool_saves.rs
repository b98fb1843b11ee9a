//! Writes tenants of pools to disk when the server is drained, and deletes what was used or is outdated.
//!
//! [`pools`](super::pools) requests them and makes tenants from them. Each is used once: like every tenant of a pool, it
//! has an identity of its own.

use faultline_domain::{
    SavePointId,
    pool::{PoolSave, PoolSavePhase as Phase, Pooled},
    tenant::State,
};
use faultline_provider::Capability;
use faultline_store::pools::PoolTenant;

use super::{
    Error, describe,
    save_points::{delete_files, save_now},
    steps::{Failed, Kind, Steps},
};
use crate::{
    app::{App, Shared},
    operations::save,
};

/// Returns how many bytes tenants of pools may take on the disk, so that all environments can still be written there.
pub(super) async fn budget(app: &App) -> Result<u64, faultline_store::Error> {
    if !app.provider.capabilities().contains(&Capability::Save) {
        return Ok(0);
    }
    let mut needed = 0;
    for e in app.store.unfinished_environments().await? {
        needed += save::estimate(app, &e).await;
    }
    Ok(save::free_bytes(app).saturating_sub(needed))
}

/// Requests that a warm tenant is written to disk, which releases it. Returns false if it isn't: `budget` doesn't suffice,
/// or it was claimed.
pub(super) async fn request(
    app: &App,
    held: &PoolTenant,
    budget: &mut u64,
) -> Result<bool, faultline_store::Error> {
    let usage = app.provider.usage(&held.tenant.id).await;
    let Ok(usage) = usage else { return Ok(false) };
    let Some(left) = budget.checked_sub(usage.private_bytes + usage.disk_bytes) else {
        return Ok(false);
    };
    let save = PoolSave {
        id: app.random(SavePointId::generate),
        tenant: held.tenant.id.clone(),
        pooled: held.pooled.clone(),
        created_at: app.now().max(app.started_at),
        phase: Phase::Saving,
    };
    let requested = app.store.save_to_pool(&save, app.now()).await?;
    crash_point!(app, PoolSaveRequested);
    if requested {
        *budget = left;
    }
    Ok(requested)
}

/// Requests the deletion of those that no tenant will be made from any more, by what pools make tenants of now.
pub(super) async fn discard(app: &App, wanted: &[Pooled]) -> Result<(), faultline_store::Error> {
    for save in app.store.pool_saves().await? {
        if save.is_outdated(wanted, app.now()) {
            turn(app, &save, Phase::Deleting).await?;
        }
    }
    Ok(())
}

async fn turn(app: &App, save: &PoolSave, to: Phase) -> Result<(), faultline_store::Error> {
    app.store.record_pool_save(&save.id, save.phase, to).await
}

/// Takes a step for each. Returns how many were begun.
pub(super) async fn pass(app: &Shared, steps: &Steps<SavePointId>) -> Result<u64, Error> {
    let busy = steps.busy();
    let mut begun = 0;
    for save in app.store.pool_saves().await? {
        if busy.contains(&save.id) || steps.is_resting(&save.id) {
            continue;
        }
        let id = save.id.clone();
        match save.phase {
            Phase::Saving => {
                steps.begin(app, &id, Kind::Save, make(app.clone(), save));
                begun += 1;
            }
            Phase::Deleting => {
                steps.begin(app, &id, Kind::Free, delete(app.clone(), save));
                begun += 1;
            }
            // The tenant has it in memory, or could not be made.
            Phase::Used if !is_being_made(app, &save).await? => {
                turn(app, &save, Phase::Deleting).await?;
            }
            Phase::Complete if save.is_outdated(&[], app.now()) => {
                turn(app, &save, Phase::Deleting).await?;
            }
            Phase::Used | Phase::Complete => {}
        }
    }
    Ok(begun)
}

async fn is_being_made(app: &App, save: &PoolSave) -> Result<bool, faultline_store::Error> {
    let tenant = app.store.tenant(&save.tenant).await?;
    Ok(tenant.is_some_and(|t| matches!(t.state, State::Provisioning { .. })))
}

/// Writes a tenant to disk. If that fails, it is freed like any other that nobody needs.
async fn make(app: Shared, save: PoolSave) -> Result<(), Failed> {
    let written = save_now(&app, &save.tenant, &save.id, save.created_at);
    let to = match written.await {
        Ok(_) => Phase::Complete,
        Err(error) => {
            let (tenant, reason) = (&save.tenant, describe(&error));
            tracing::warn!(%tenant, reason, "a pool's tenant could not be written to disk");
            Phase::Deleting
        }
    };
    crash_point!(app, PoolSaveWritten);
    turn(&app, &save, to).await.map_err(|error| {
        tracing::error!(save_point = %save.id, error = describe(&error), "recording a pool's save point failed");
        Failed
    })?;
    app.wake.all();
    Ok(())
}

async fn delete(app: Shared, save: PoolSave) -> Result<(), Failed> {
    delete_files(&app, &save.id, app.store.forget_pool_save(&save.id)).await
}
