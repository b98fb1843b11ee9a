//! Frees tenants that the provider has but the store doesn't: left over after a crash, or after the store was restored
//! from an older backup.

use std::collections::HashSet;

use faultline_domain::TenantId;
use faultline_provider::Observed;

use super::{
    Done, Error, describe, save_points,
    steps::{Failed, Kind, Steps},
    tenants::{LIST, destroy},
};
use crate::{app::Shared, status::Counts};

pub(super) async fn pass(app: Shared, steps: Steps<TenantId>) -> Done {
    // A tenant that is freed while it is listed has a row before, and one that is created has a row afterwards.
    let mut owned = owned_tenants(&app).await?;
    let listed = tokio::time::timeout(LIST, app.provider.list())
        .await
        .map_err(|_| Error::TimedOut(LIST))??;
    owned.extend(owned_tenants(&app).await?);
    let swept = tokio::time::timeout(LIST, app.provider.sweep())
        .await
        .map_err(|_| Error::TimedOut(LIST))??;
    let mut begun = 0;
    for (id, observed) in listed {
        if steps.kind(&id).is_some() || steps.is_resting(&id) {
            continue;
        }
        if observed == Observed::Unknown || owned.contains(&id) {
            continue;
        }
        let row = app.store.tenant(&id).await?;
        tracing::warn!(tenant = %id, ?observed, "freeing a tenant that nobody owns");
        let why = if row.is_some() {
            "it had already ended"
        } else {
            "it is not in the store"
        };
        app.store
            .note(app.now(), None, "orphan", id.as_str(), why)
            .await?;
        // A step of its own, so that an orphan that can't be freed doesn't block the others.
        let (freeing, orphan) = (app.clone(), id.clone());
        steps.begin(&app, &id, Kind::Free, async move {
            let gone = destroy(&freeing, &orphan).await;
            gone.map_err(|e| {
                tracing::error!(tenant = %orphan, error = describe(&e), "an orphan could not be freed");
                Failed
            })?;
            freeing.metrics.orphans.inc();
            Ok(())
        });
        begun += 1;
    }
    let saves = save_points::free_orphans(&app).await?;
    Ok(Counts::from([
        ("being freed", begun),
        ("save points deleted", saves),
        ("leftovers removed", swept.into()),
    ]))
}

/// Returns the tenants that somebody wants or that are being freed.
async fn owned_tenants(app: &Shared) -> Result<HashSet<TenantId>, Error> {
    let rows = app.store.unfinished_tenants().await?;
    Ok(rows.into_iter().map(|row| row.id).collect())
}
