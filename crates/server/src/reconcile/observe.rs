//! Stores each change that the provider reports. Changes that it doesn't report are found by the list, see
//! [`super::tenants`].

use faultline_provider::Change;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::tenants::Tenants;
use crate::app::Shared;

pub(super) async fn run(app: Shared, mut changes: Receiver<Change>, tenants: Tenants) {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use faultline_domain::tenant::Observed;

    use super::*;
    use crate::tests::{bed, is_active};

    /// Without a list: the tenants' reconciler does not run.
    #[tokio::test]
    async fn what_is_told_is_written_and_outlives_an_older_list() {
        let mut bed = bed().await;
        let id = bed.active("stale-flag").await;
        let e = bed.until(&id, is_active).await;
        let tenant = e.tenant_id().unwrap().clone();
        let seen = async |bed: &crate::tests::Bed| {
            let row = bed.app.store.tenant(&tenant).await.unwrap().unwrap();
            row.observed
        };
        // A list was read before the machine died, and is written after that was told.
        let listed = seen(&bed).await;
        assert_eq!(listed, Some(Observed::Running));
        let listening = tokio::spawn(run(
            bed.app.clone(),
            bed.app.provider.changes(),
            Tenants::default(),
        ));
        bed.provider.crash(&tenant);
        for _ in 0..200 {
            if seen(&bed).await == Some(Observed::Broken) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(seen(&bed).await, Some(Observed::Broken));
        let store = &bed.app.store;
        let late = store
            .correct_observed(&tenant, listed, Observed::Paused)
            .await;
        assert!(!late.unwrap(), "what was told since is newer");
        assert_eq!(seen(&bed).await, Some(Observed::Broken));
        bed.app.stopping.cancel();
        listening.await.unwrap();
    }
}
