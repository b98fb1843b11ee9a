//! Keeps people's public keys on their nodes up to date: compares the version of a person's keys with the version last
//! applied to each node. A node that doesn't respond is retried until it does.

use std::{collections::HashSet, time::Duration};

use faultline_domain::{NodeName, TenantId, environment::State, tenant::Observed};

use super::{
    Done, authorize, describe,
    steps::{Failed, Kind, Steps, Subject},
};
use crate::{
    app::{App, Shared},
    status::Counts,
};

/// The delay after the first failure of a node. It doubles with each further failure.
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// The maximum delay.
const MAX_DELAY: Duration = Duration::from_secs(60);

/// A node whose keys are applied.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Machine {
    tenant: TenantId,
    node: NodeName,
}

impl Subject for Machine {
    fn changed(&self, app: &App) {
        app.wake.keys_changed();
    }
}

/// Returns the delay after this many failures.
fn retry_delay(failures: u32) -> Duration {
    let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
    FIRST_DELAY.saturating_mul(doubled).min(MAX_DELAY)
}

pub(super) async fn pass(app: Shared, steps: Steps<Machine>) -> Done {
    // The order matters: if a step ends in between, its version is already among those read below, and a node is listed
    // in its environment only after its keys were recorded.
    let busy = steps.busy();
    let rows = app.store.unfinished_environments().await?;
    let versions = app.store.key_versions().await?;
    let (mut nodes, mut outdated, mut resting, mut begun) = (0, 0, 0, 0);
    let mut behind = HashSet::new();
    for e in rows {
        let runs = matches!(e.state, State::Active { .. })
            && e.tenant
                .as_ref()
                .is_some_and(|t| t.observed == Some(Observed::Running));
        let Some((tenant, versions)) = e
            .tenant_id()
            .filter(|_| runs)
            .and_then(|id| Some((id, versions.get(id)?)))
        else {
            continue;
        };
        let all = e.nodes();
        nodes += all.len() as u64;
        for node in versions.outdated(&all) {
            let machine = Machine {
                tenant: tenant.clone(),
                node,
            };
            behind.insert(machine.clone());
            outdated += 1;
            if busy.contains(&machine) || steps.kind(&machine).is_some() {
                continue;
            }
            let failures = steps.failures(&machine, Kind::Keys);
            if steps.has_failed_within(&machine, retry_delay(failures)) {
                resting += 1;
                continue;
            }
            begun += 1;
            let (app, person, of) = (app.clone(), e.person.clone(), machine.clone());
            steps.begin(&app.clone(), &machine, Kind::Keys, async move {
                let applied = authorize::node(&app, &person, &of.tenant, &of.node).await;
                applied.map_err(|error| {
                    let error = describe(&error);
                    let (tenant, node) = (&of.tenant, &of.node);
                    // Warn only once, because a guest may be unresponsive for as long as its student likes.
                    if failures == 0 {
                        tracing::warn!(%tenant, %node, error, "could not apply keys");
                    } else {
                        tracing::debug!(%tenant, %node, error, failures, "could not apply keys");
                    }
                    Failed
                })
            });
        }
    }
    // On a paused machine a step would hang. Its keys are applied when it is resumed.
    for machine in busy.difference(&behind) {
        steps.cancel(machine);
    }
    steps.retain_failures(|machine| behind.contains(machine));
    Ok(Counts::from([
        ("nodes", nodes),
        ("outdated", outdated),
        ("retrying", resting),
        ("steps", begun),
    ]))
}

#[cfg(test)]
mod tests;
