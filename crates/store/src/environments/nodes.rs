//! Nodes that are added to an environment and removed from it. Requests write intent, the reconciler observation.

use faultline_domain::{
    EnvironmentId, NodeName, PersonId,
    environment::{Environment, Intent, State},
    limits::Denial,
    nodes::{AddedNode, NodeState, next_free},
};
use jiff::Timestamp;

use super::{Admit, intent::counts, read};
use crate::{
    Result, Store,
    db::{Tx, micros, to_json},
};

/// Why a node can't be added.
#[derive(Debug, thiserror::Error)]
pub enum NoNode {
    /// The environment isn't running.
    #[error("the environment is not running")]
    NotRunning,
    /// The environment has the maximum number of nodes.
    #[error(
        "an environment has at most {} nodes",
        faultline_domain::shape::MAX_NODES
    )]
    TooMany,
    /// Admission was denied.
    #[error(transparent)]
    Denied(#[from] Denial),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::Error),
}

impl From<sqlx::Error> for NoNode {
    fn from(e: sqlx::Error) -> Self {
        Self::Store(e.into())
    }
}

async fn want(tx: &mut Tx, id: &EnvironmentId, wanted: &[NodeName]) -> Result<()> {
    sqlx::query("UPDATE environments SET wanted_nodes = $1 WHERE id = $2")
        .bind(to_json(&wanted)?)
        .bind(id.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

async fn used(tx: &mut Tx, id: &EnvironmentId, now: Timestamp) -> Result<()> {
    sqlx::query("UPDATE environments SET last_used = $1, warned = NULL WHERE id = $2")
        .bind(micros(now))
        .bind(id.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

impl Store {
    /// Requests another node, with the next free number. Counts as use.
    pub async fn request_node(
        &self,
        id: &EnvironmentId,
        admit: Admit<'_>,
        by: &PersonId,
        now: Timestamp,
    ) -> Result<NodeName, NoNode> {
        let mut tx = self.begin().await?;
        let e = read(&mut tx, id).await?.ok_or(NoNode::NotRunning)?;
        let runs =
            e.is_open() && matches!(e.state, State::Active { .. }) && e.intent == Intent::Active;
        if !runs {
            return Err(NoNode::NotRunning);
        }
        let name = next_free(&e.taken()).ok_or(NoNode::TooMany)?;
        admit(counts(&mut tx, &e.person, None, now).await?)?;
        let wanted = [e.wanted, vec![name.clone()]].concat();
        want(&mut tx, id, &wanted).await?;
        used(&mut tx, id, now).await?;
        let (who, what) = (Some(by.as_str()), name.as_str());
        crate::audit::insert(&mut tx, now, who, "add-node", id.as_str(), what).await?;
        tx.commit().await?;
        Ok(name)
    }

    /// Requests the removal of an added node. Counts as use. Returns false if the node isn't wanted.
    pub async fn request_node_removal(
        &self,
        id: &EnvironmentId,
        node: &NodeName,
        by: &PersonId,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let Some(mut e) = read(&mut tx, id).await?.filter(Environment::is_open) else {
            return Ok(false);
        };
        if !e.wanted.contains(node) {
            return Ok(false);
        }
        e.wanted.retain(|wanted| wanted != node);
        want(&mut tx, id, &e.wanted).await?;
        used(&mut tx, id, now).await?;
        let (who, what) = (Some(by.as_str()), node.as_str());
        crate::audit::insert(&mut tx, now, who, "remove-node", id.as_str(), what).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Records the state of an added node; `None` if it is gone. A node that failed to be added is no longer wanted,
    /// until it is requested again. Does nothing if the environment has another tenant by now.
    pub async fn record_node(
        &self,
        of: &Environment,
        node: &NodeName,
        state: Option<&NodeState>,
        now: Timestamp,
    ) -> Result<()> {
        let id = &of.id;
        let mut tx = self.begin().await?;
        let read = read(&mut tx, id).await?;
        let Some(mut e) = read.filter(|e| e.tenant_id() == of.tenant_id()) else {
            return Ok(());
        };
        // A failure is shown until the next change.
        e.added
            .retain(|n| n.name != *node && !matches!(n.state, NodeState::Failed { .. }));
        if let Some(state) = state {
            e.added.push(AddedNode {
                name: node.clone(),
                state: state.clone(),
            });
        }
        write(&mut tx, id, &e.added).await?;
        let machine_is_gone = !matches!(
            state,
            Some(NodeState::Ready { .. } | NodeState::Removing { .. })
        );
        if machine_is_gone && let Some(tenant) = e.tenant_id() {
            // The next machine with this name starts without keys.
            sqlx::query("DELETE FROM node_keys WHERE tenant_id = $1 AND node = $2")
                .bind(tenant.as_str())
                .bind(node.as_str())
                .execute(&mut *tx)
                .await?;
        }
        let (what, detail) = match state {
            None => ("node-gone", node.to_string()),
            Some(NodeState::Ready { .. }) => ("node-ready", node.to_string()),
            Some(NodeState::Failed { reason, .. }) => {
                e.wanted.retain(|wanted| wanted != node);
                want(&mut tx, id, &e.wanted).await?;
                ("node-failed", format!("{node}: {reason}"))
            }
            Some(NodeState::Adding { .. } | NodeState::Removing { .. }) => ("", String::new()),
        };
        if !what.is_empty() {
            crate::audit::insert(&mut tx, now, None, what, id.as_str(), &detail).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Records the nodes that the lab's setup has added during a start.
    pub async fn record_setup_nodes(&self, id: &EnvironmentId, added: &[AddedNode]) -> Result<()> {
        let mut tx = self.begin().await?;
        write(&mut tx, id, added).await?;
        tx.commit().await?;
        Ok(())
    }
}

async fn write(tx: &mut Tx, id: &EnvironmentId, added: &[AddedNode]) -> Result<()> {
    sqlx::query("UPDATE environments SET added_nodes = $1 WHERE id = $2")
        .bind(to_json(&added)?)
        .bind(id.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}
