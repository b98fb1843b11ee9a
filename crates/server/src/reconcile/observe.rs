//! Stores each change that the provider reports. Changes that it doesn't report are found by listing, see
//! [`super::tenants`].

use faultline_provider::Change;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::tenants::Tenants;
use crate::app::Shared;

pub(super) async fn run(app: Shared, mut changes: Receiver<Change>, tenants: Tenants) {
    loop {
        let change = tokio::select! {
            change = changes.recv() => change,
            () = app.stopping.cancelled() => return,
        };
        match change {
            Ok((id, observed)) => match app.store.record_observed(&id, observed).await {
                Ok(()) => app.wake.all(),
                Err(e) => {
                    tracing::error!(error = &e as &dyn std::error::Error, "the store failed");
                    tenants.list_again();
                }
            },
            Err(RecvError::Lagged(_)) => {
                tenants.list_again();
                app.wake.all();
            }
            // This provider doesn't report changes.
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

    /// Nothing is listed here, because the tenants' reconciler doesn't run.
    #[tokio::test]
    async fn a_reported_change_is_stored_and_not_overwritten_by_an_older_list() {
        let mut bed = bed().await;
        let id = bed.active("stale-flag").await;
        let e = bed.until(&id, is_active).await;
        let tenant = e.tenant_id().unwrap().clone();
        let seen = async |bed: &crate::tests::Bed| {
            let row = bed.app.store.tenant(&tenant).await.unwrap().unwrap();
            row.observed
        };
        // A list is read before the machine dies, and stored after its death was reported.
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
        assert!(!late.unwrap(), "the reported change is newer");
        assert_eq!(seen(&bed).await, Some(Observed::Broken));
        bed.app.stopping.cancel();
        listening.await.unwrap();
    }
}
