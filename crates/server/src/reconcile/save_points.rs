//! Makes the save points that were requested, deletes those that are no longer wanted, and ends those whose time is up.
//!
//! A save point that was being made when the server ended is either complete, since the tenant's launcher finishes it by
//! itself, or it has failed: a later one would show another instant than the person asked for.

use std::{collections::HashSet, time::Duration};

use faultline_domain::{
    SavePointId, TenantId,
    save_point::{Purpose, SavePoint, Saved, State},
};
use faultline_provider::Error as ProviderError;

use jiff::{SignedDuration, Timestamp};

use super::{
    Done, Error, describe, pool_saves,
    steps::{Failed, Kind, Steps},
    warnings,
};
use crate::{app::Shared, status::Counts};

/// Timeout for saving. The files may have several GiB.
const SAVE: Duration = Duration::from_secs(600);
/// Delay before a suspended environment is written to disk again after that has failed.
const RETRY: SignedDuration = SignedDuration::from_secs(60);
/// Timeout for deleting the files of a save point.
const DELETE: Duration = Duration::from_secs(110);

pub(super) async fn pass(app: Shared, steps: Steps<SavePointId>) -> Done {
    let busy = steps.busy();
    let now = app.now();
    let due = app.store.due_save_points(now).await?;
    let mut in_use = HashSet::new();
    if due.iter().any(|save| save.state != State::Saving) {
        let all = app.store.unfinished_environments().await?;
        for e in all {
            in_use.extend(e.state.on_disk().map(|on_disk| on_disk.save_point.clone()));
            if e.state.is_starting() {
                in_use.extend(e.spec.tenant.save_point);
            }
        }
    }
    let mut begun = 0;
    for save in &due {
        if busy.contains(&save.id) || steps.is_resting(&save.id) {
            continue;
        }
        match &save.state {
            State::Saving => {
                let work = make(app.clone(), save.clone());
                steps.begin(&app, &save.id, Kind::Save, work);
                begun += 1;
            }
            // Its files are needed.
            _ if in_use.contains(&save.id) => {}
            State::Deleting => {
                let work = delete(app.clone(), save.id.clone());
                steps.begin(&app, &save.id, Kind::Free, work);
                begun += 1;
            }
            State::Complete(_) | State::Failed { .. } if save.purpose == Purpose::Suspension => {
                app.store.delete_suspension(&save.id).await?;
            }
            State::Complete(_) | State::Failed { .. } => {
                app.store.delete_save_point(save, None, now).await?;
                app.changed(&save.environment);
            }
        }
    }
    begun += pool_saves::pass(&app, &steps).await?;
    Ok(Counts::from([("due", due.len() as u64), ("steps", begun)]))
}

/// Deletes the files of save points that the store doesn't know, left over after a crash or after the store was restored
/// from an older backup.
pub(super) async fn free_orphans(app: &Shared) -> Result<u64, Error> {
    let mut freed = 0;
    let listed = app.provider.saves().await?;
    // Read after the list: the row of a save point is written before its files.
    let of_pools = app.store.pool_saves().await?;
    for (id, _) in listed {
        let of_pool = of_pools.iter().any(|save| save.id == id);
        if !of_pool && app.store.save_point(&id).await?.is_none() {
            tracing::warn!(save_point = %id, "deleting a save point that nobody owns");
            app.provider.delete_save(&id).await?;
            freed += 1;
        }
    }
    Ok(freed)
}

/// Returns the figures of a save point that the provider has completed.
async fn completed(app: &Shared, id: &SavePointId) -> Result<Option<Saved>, ProviderError> {
    let all = app.provider.saves().await?;
    Ok(all
        .into_iter()
        .find(|(i, _)| i == id)
        .and_then(|(_, saved)| saved))
}

/// Has the provider write a tenant to disk, requested at this time, unless that is done.
pub(super) async fn save_now(
    app: &Shared,
    tenant: &TenantId,
    id: &SavePointId,
    created_at: Timestamp,
) -> Result<Saved, Error> {
    if let Some(saved) = completed(app, id).await? {
        return Ok(saved);
    }
    if created_at < app.started_at {
        let reason = "the server was restarted while it was being made; save again".to_owned();
        return Err(ProviderError::Unreachable(reason).into());
    }
    let saving = app.provider.save(tenant, id);
    let saved = tokio::time::timeout(SAVE, saving).await;
    Ok(saved.map_err(|_| Error::TimedOut(SAVE))??)
}

async fn make(app: Shared, save: SavePoint) -> Result<(), Failed> {
    crash_point!(app, BeforeSave);
    let state = match save_now(&app, &save.tenant, &save.id, save.created_at).await {
        Ok(saved) => State::Complete(saved),
        Err(error) => {
            let reason = describe(&error);
            tracing::warn!(save_point = %save.id, environment = %save.environment, reason, "saving failed");
            State::Failed { reason }
        }
    };
    crash_point!(app, FilesWritten);
    let recorded = async {
        let now = app.now();
        if save.purpose == Purpose::Suspension
            && let State::Complete(saved) = state
        {
            app.store.record_suspension(&save, saved, now).await?;
            crash_point!(app, SuspensionRecorded);
            return Ok(());
        }
        if let State::Failed { .. } = state {
            app.provider.delete_save(&save.id).await?;
        }
        if save.purpose == Purpose::Suspension {
            // One that a restart has interrupted is made anew at once.
            let interrupted = save.created_at < app.started_at;
            let delay = if interrupted {
                SignedDuration::ZERO
            } else {
                RETRY
            };
            let retry_at = now.saturating_add(delay).unwrap_or(now);
            let recorded = app.store.record_failed_suspension(&save, &state, retry_at);
            return Ok(recorded.await?);
        }
        // Before it can be used. After a crash, the owner is notified again.
        if save.purpose == Purpose::Copy && matches!(state, State::Complete(_)) {
            announce_copy(&app, &save).await?;
        }
        app.store.record_save_point(&save.id, &state).await?;
        crash_point!(app, SaveRecorded);
        // Nobody asked for this one, so nobody needs to know.
        if matches!(state, State::Failed { .. }) && save.purpose == Purpose::Undo {
            app.store.delete_save_point(&save, None, now).await?;
        }
        Ok::<_, Error>(())
    };
    recorded.await.map_err(|error| {
        tracing::error!(save_point = %save.id, error = describe(&error), "recording a save point failed");
        Failed
    })?;
    app.changed(&save.environment);
    Ok(())
}

/// Notifies the owner of an environment that somebody has copied it.
async fn announce_copy(app: &Shared, copy: &SavePoint) -> Result<(), Error> {
    let by = app.store.person(&copy.person).await?;
    let of = app.store.environment(&copy.environment).await?;
    if let (Some(by), Some(of)) = (by, of) {
        let text = format!("{} made a copy of this environment.", by.name);
        warnings::say(app, &of, &text);
    }
    Ok(())
}

async fn delete(app: Shared, id: SavePointId) -> Result<(), Failed> {
    delete_files(&app, &id, async {
        crash_point!(app, FilesDeleted);
        app.store.forget_save_point(&id).await
    })
    .await
}

/// Deletes the files of a save point, and then its row.
pub(super) async fn delete_files(
    app: &Shared,
    id: &SavePointId,
    forget: impl Future<Output = Result<(), faultline_store::Error>>,
) -> Result<(), Failed> {
    let deleted = async {
        tokio::time::timeout(DELETE, app.provider.delete_save(id))
            .await
            .map_err(|_| Error::TimedOut(DELETE))??;
        forget.await?;
        Ok::<_, Error>(())
    };
    deleted.await.map_err(|error| {
        tracing::error!(save_point = %id, error = describe(&error), "a save point could not be deleted; will retry");
        Failed
    })
}
