//! Lets people's public keys into their machines, for the guests' own sshd. The SSH gateway needs no such thing: it
//! reads the keys from the store.

use std::time::Duration;

use faultline_domain::{
    NodeName, PersonId,
    environment::{Environment, State},
};
use faultline_guest::client;
use faultline_provider::{Error, Target};

use crate::app::{Shared, tenant};

/// How long one guest may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Places the owner's keys on every node.
pub(super) async fn environment(app: &Shared, e: &Environment) -> Result<(), Error> {
    nodes(app, e, &e.nodes()).await
}

/// Places the owner's keys on these nodes.
pub(super) async fn nodes(app: &Shared, e: &Environment, nodes: &[NodeName]) -> Result<(), Error> {
    let keys = match app.store.ssh_keys(&e.person).await {
        Ok(keys) => keys.into_iter().map(|k| k.public_key).collect::<Vec<_>>(),
        Err(e) => return Err(Error::failed("keys", super::describe(&e))),
    };
    for node in nodes {
        let place = async {
            let stream = app.provider.open(tenant(e)?, node, Target::Guest).await?;
            client::authorize(stream, keys.clone())
                .await
                .map_err(|e| Error::failed("keys", format!("{node}: {}", super::describe(&e))))
        };
        tokio::time::timeout(LIMIT, place)
            .await
            .unwrap_or_else(|_| Err(Error::failed("keys", format!("{node} did not answer"))))?;
    }
    Ok(())
}

/// A person's keys changed: places them in all machines of theirs, in the background. A machine whose guest doesn't
/// answer keeps the old ones; the gateway knows the new ones already.
pub(crate) fn everywhere(app: &Shared, person: &PersonId) {
    let (app, person) = (app.clone(), person.clone());
    let stop = app.stopping.clone();
    app.tasks.clone().spawn(async move {
        let place = async {
            let Ok(all) = app.store.unfinished_of(&person).await else {
                return;
            };
            for e in all
                .iter()
                .filter(|e| matches!(e.state, State::Active { .. }))
            {
                if let Err(error) = environment(&app, e).await {
                    tracing::warn!(environment = %e.id, error = &error as &dyn std::error::Error, "keys were not placed");
                }
            }
        };
        stop.run_until_cancelled(place).await;
    });
}
