//! Frees what the provider holds and no tenant's row stands for: left by a crash between making and writing, or by a
//! store that was restored from an older backup.

use faultline_domain::TenantId;
use faultline_provider::Observed;

use super::{
    Done, Error, describe,
    steps::{Failed, Kind, Steps},
    tenants::{LIST, destroy},
};
use crate::{app::Shared, status::Counts};

pub(super) async fn pass(app: Shared, steps: Steps<TenantId>) -> Done {
    let listed = tokio::time::timeout(LIST, app.provider.list())
        .await
        .map_err(|_| Error::Silent(LIST))??;
    let swept = tokio::time::timeout(LIST, app.provider.sweep())
        .await
        .map_err(|_| Error::Silent(LIST))??;
    let mut begun = 0;
    for (id, observed) in listed {
        if steps.kind(&id).is_some() || steps.is_resting(&id) {
            continue;
        }
        // Read after the list: what was made meanwhile is in the store by now, because it was written first.
        let row = app.store.tenant(&id).await?;
        if observed == Observed::Unknown || row.as_ref().is_some_and(|t| !t.state.is_final()) {
            continue;
        }
        tracing::warn!(tenant = %id, ?observed, "freeing what nobody owns");
        let why = if row.is_some() {
            "it had ended"
        } else {
            "nobody asked for it"
        };
        app.store
            .note(app.now(), None, "orphan", id.as_str(), why)
            .await?;
        // A step of its own: one that resists keeps nobody waiting.
        let (freeing, orphan) = (app.clone(), id.clone());
        steps.begin(&app, &id, Kind::Free, async move {
            let gone = destroy(&freeing, &orphan).await;
            gone.map_err(|e| {
                tracing::error!(tenant = %orphan, error = describe(&e), "an orphan was not freed");
                Failed
            })?;
            freeing.metrics.orphans.inc();
            Ok(())
        });
        begun += 1;
    }
    Ok(Counts::from([
        ("to be freed", begun),
        ("remains removed", swept.into()),
    ]))
}
