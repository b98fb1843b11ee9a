//! Writes what the provider tells of tenants, as it tells it. What it doesn't tell, a list finds: see [`super::tenants`].

use tokio::sync::broadcast::error::RecvError;

use super::tenants::Tenants;
use crate::app::Shared;

pub(super) async fn run(app: Shared, tenants: Tenants) {
    let mut changes = app.provider.changes();
    loop {
        let told = tokio::select! {
            told = changes.recv() => told,
            () = app.stopping.cancelled() => return,
        };
        match told {
            Ok((id, observed)) => match app.store.record_observed(&id, observed).await {
                Ok(()) => app.wake.all(),
                Err(e) => {
                    tracing::error!(error = &e as &dyn std::error::Error, "the store failed");
                    tenants.look_again();
                }
            },
            Err(RecvError::Lagged(_)) => {
                tenants.look_again();
                app.wake.all();
            }
            // Such a provider tells nothing.
            Err(RecvError::Closed) => return,
        }
    }
}
