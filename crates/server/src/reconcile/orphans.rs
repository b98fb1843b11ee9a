//! Frees what the provider holds and no environment claims: left by a crash between making and writing, or by a
//! store that was restored from an older backup.

use faultline_provider::Observed;

use super::{Done, Error, environments::LIST, steps::Steps};
use crate::app::Shared;

pub(super) async fn pass(app: &Shared, steps: &Steps) -> Done {
    let listed = tokio::time::timeout(LIST, app.provider.list())
        .await
        .map_err(|_| Error::Silent(LIST))??;
    let swept = tokio::time::timeout(LIST, app.provider.sweep())
        .await
        .map_err(|_| Error::Silent(LIST))??;
    let mut freed = 0;
    for (id, observed) in listed {
        if steps.kind(&id).is_some() {
            continue;
        }
        // Read after the list: what was made meanwhile is in the store by now, because it was written first.
        let row = app.store.environment(&id).await?;
        if observed == Observed::Unknown || row.as_ref().is_some_and(|e| !e.state.is_final()) {
            continue;
        }
        tracing::warn!(environment = %id, ?observed, "freeing what nobody owns");
        let why = if row.is_some() {
            "it had ended"
        } else {
            "nobody asked for it"
        };
        app.store
            .note(app.now(), None, "orphan", id.as_str(), why)
            .await?;
        // One that resists must not keep the others; the next pass tries it again.
        match tokio::time::timeout(LIST, app.provider.destroy(&id)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                tracing::error!(environment = %id, error = %e, "an orphan was not freed");
                continue;
            }
            Err(_) => {
                tracing::error!(environment = %id, "an orphan was not freed in time");
                continue;
            }
        }
        app.metrics.orphans.inc();
        freed += 1;
    }
    Ok(match swept {
        0 => format!("{freed} freed"),
        _ => format!("{freed} freed, {swept} remains removed"),
    })
}
