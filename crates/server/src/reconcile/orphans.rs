//! Frees tenants that the provider has but the store doesn't: left over after a crash, or after the store was restored
//! from an older backup.

use faultline_domain::TenantId;
use faultline_provider::Observed;

use super::{
    Done, Error, describe, save_points,
    steps::{Failed, Kind, Steps},
    tenants::{LIST, destroy},
};
use crate::{app::Shared, status::Counts};

pub(super) async fn pass(app: Shared, steps: Steps<TenantId>) -> Done {
    let listed = tokio::time::timeout(LIST, app.provider.list())
        .await
        .map_err(|_| Error::TimedOut(LIST))??;
    let swept = tokio::time::timeout(LIST, app.provider.sweep())
        .await
        .map_err(|_| Error::TimedOut(LIST))??;
    let mut begun = 0;
    for (id, observed) in listed {
        if steps.kind(&id).is_some() || steps.is_resting(&id) {
            continue;
        }
        // Read after the list: a tenant created in the meantime is in the store by now, because its row is written
        // first.
        let row = app.store.tenant(&id).await?;
        if observed == Observed::Unknown || row.as_ref().is_some_and(|t| !t.state.is_final()) {
            continue;
        }
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
