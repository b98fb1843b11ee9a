//! Adds and removes nodes of running environments: compares the wanted nodes with the existing ones.

use std::time::Duration;

use faultline_domain::{
    EnvironmentId, NodeName,
    environment::{Environment, Intent, State},
    nodes::{NodeState, Step, plan},
    progress::Progress,
    tenant::Observed,
};
use faultline_provider::Error as ProviderError;

use super::{
    Error, authorize, describe,
    recorder::Recorder,
    steps::{Failed, Kind, Steps},
};
use crate::app::{Shared, tenant};

/// Timeout for adding a node: a machine boots and joins, possibly under emulation.
pub(super) const ADD: Duration = Duration::from_secs(1800);
/// Timeout for removing a node, which is drained first.
const REMOVE: Duration = Duration::from_secs(600);

/// Begins the next step for an environment's nodes. Returns false if there is nothing to do.
pub(super) fn begin(app: &Shared, steps: &Steps<EnvironmentId>, e: &Environment) -> bool {
    if !matches!(e.state, State::Active { .. }) || e.intent != Intent::Active {
        return false;
    }
    let step = plan(&e.wanted, &e.added);
    if step == Step::Wait {
        return false;
    }
    let (id, work) = (e.id.clone(), work(app.clone(), e.clone(), step));
    steps.begin(app, &id, Kind::Nodes, work);
    true
}

/// Cancels the step in progress if it is no longer needed: the environment has ended, or the node being added is no
/// longer wanted. The next steps free what it had begun.
pub(super) fn cancel_if_obsolete(
    app: &Shared,
    steps: &Steps<EnvironmentId>,
    e: &Environment,
    observed: Observed,
) {
    let over = app.now() >= e.lifetime.end().0
        || matches!(observed, Observed::Absent | Observed::Broken)
        || !matches!(e.state, State::Active { .. });
    let unwanted = e
        .added
        .iter()
        .any(|n| matches!(n.state, NodeState::Adding { .. }) && !e.wanted.contains(&n.name));
    if over || unwanted {
        steps.cancel(&e.id);
    }
}

async fn work(app: Shared, e: Environment, step: Step) -> Result<(), Failed> {
    let Some(tenant) = e.tenant_id() else {
        return Ok(());
    };
    let recorder = Recorder::new(&app, tenant);
    let done = match step {
        Step::Wait => Ok(()),
        Step::Add(node, tries) => add(&app, &e, &node, tries, &recorder).await,
        Step::Remove(node) => remove(&app, &e, &node, &recorder).await,
        Step::GiveUp(node) => {
            let reason = "adding the node was interrupted more than once";
            give_up(&app, &e, &node, reason.to_owned()).await
        }
    };
    recorder.flush().await;
    done.map_err(|error| {
        tracing::error!(environment = %e.id, error = describe(&error), "could not add or remove a node");
        Failed
    })
}

/// Prefixes the stages with the node's name, so that they aren't mistaken for those of a start.
fn of_node(node: &NodeName, progress: Progress) -> Progress {
    let node = node.clone();
    Progress::new(move |mut event| {
        let stage = event.stage_mut();
        *stage = format!("{node} {stage}").into();
        progress.report(event);
    })
}

async fn record(
    app: &Shared,
    e: &Environment,
    node: &NodeName,
    state: Option<&NodeState>,
) -> Result<(), Error> {
    app.store.record_node(e, node, state, app.now()).await?;
    app.hub.poke(&e.id);
    Ok(())
}

async fn add(
    app: &Shared,
    e: &Environment,
    node: &NodeName,
    tries: u32,
    recorder: &Recorder,
) -> Result<(), Error> {
    let since = app.now();
    app.store.forget_node_stages(&e.id, node).await?;
    record(app, e, node, Some(&NodeState::Adding { since, tries })).await?;
    let progress = of_node(node, recorder.progress());
    let made = async {
        if tries > 0 {
            let quiet = Progress::ignored();
            app.provider.remove_node(tenant(e)?, node, &quiet).await?;
        }
        app.provider.add_node(tenant(e)?, node, &progress).await?;
        authorize::nodes(app, e, std::slice::from_ref(node)).await
    };
    let slow = || {
        let minutes = ADD.as_secs() / 60;
        ProviderError::failed("node", format!("it took longer than {minutes} minutes"))
    };
    let made = tokio::time::timeout(ADD, made)
        .await
        .unwrap_or_else(|_| Err(slow()));
    // All stages must be stored before the node is reported as ready.
    recorder.flush().await;
    match made {
        Ok(()) => {
            let since = app.now();
            tracing::info!(environment = %e.id, node = %node, "a node was added");
            record(app, e, node, Some(&NodeState::Ready { since })).await
        }
        Err(error) => {
            tracing::warn!(environment = %e.id, node = %node, error = describe(&error), "a node could not be added");
            give_up(app, e, node, describe(&error)).await
        }
    }
}

/// Records why a node could not be added, and frees what exists of it.
async fn give_up(
    app: &Shared,
    e: &Environment,
    node: &NodeName,
    reason: String,
) -> Result<(), Error> {
    let at = app.now();
    record(app, e, node, Some(&NodeState::Failed { at, reason })).await?;
    let quiet = Progress::ignored();
    let freed = app.provider.remove_node(tenant(e)?, node, &quiet);
    let freed = match tokio::time::timeout(REMOVE, freed).await {
        Ok(freed) => freed.map_err(Error::from),
        Err(_) => Err(Error::TimedOut(REMOVE)),
    };
    if let Err(error) = freed {
        // Removing it must be retried, which matters more than the reason of the failure.
        record(app, e, node, Some(&NodeState::Removing { since: at })).await?;
        return Err(error);
    }
    Ok(())
}

async fn remove(
    app: &Shared,
    e: &Environment,
    node: &NodeName,
    recorder: &Recorder,
) -> Result<(), Error> {
    let since = app.now();
    app.store.forget_node_stages(&e.id, node).await?;
    record(app, e, node, Some(&NodeState::Removing { since })).await?;
    let progress = of_node(node, recorder.progress());
    let gone = app.provider.remove_node(tenant(e)?, node, &progress);
    tokio::time::timeout(REMOVE, gone)
        .await
        .map_err(|_| Error::TimedOut(REMOVE))??;
    recorder.flush().await;
    tracing::info!(environment = %e.id, node = %node, "a node was removed");
    record(app, e, node, None).await
}
