//! Adds a node (in a cluster, a worker) to a running environment. It gets the next free number, and the reconciler
//! creates it. Counts as use. An environment has at most five nodes, its owner's quotas count, and the host must have room
//! for one more.

use faultline_domain::{
    NodeName, authz::MayManage, limits::fits, quota::Request, shape::MAX_NODES,
};
use faultline_store::environments::{Counts, NoNode};

use super::start;
use crate::{
    app::App,
    capacity::{Free, capacity, need},
    pools::make_room,
    problem::Problem,
    quotas,
};

pub(crate) async fn add_node(app: &App, proof: &MayManage) -> Result<NodeName, Problem> {
    let environment = proof.environment();
    start::not_in_maintenance(app).map_err(NoNode::Denied)?;
    let need = need(&app.config, environment.spec.is_cluster(), 1);
    // Pools give back memory that it needs, while it boots.
    let pooled = app.store.pool_tenants(app.now()).await?;
    let all = app.store.unfinished_environments().await?;
    let comes = make_room(app, &pooled, need, &Counts::of(&all)).await?;
    let admit = |counts: Counts| {
        quotas::check(app, counts.uses.clone(), Request::NODE)?;
        let mut free = Free::now(app);
        if comes {
            let wanted = need
                .memory_mib
                .saturating_add(app.config.reserve_memory_mib);
            free.memory_mib = free.memory_mib.max(wanted);
        }
        // Checks only nodes, memory and disk, because no environment is added.
        fits(&capacity(&app.config, free, &counts), need)
    };
    let (id, by) = (&environment.id, proof.person());
    let node = app.store.request_node(id, &admit, by, app.now()).await?;
    app.changed(id);
    Ok(node)
}

impl From<NoNode> for Problem {
    fn from(no: NoNode) -> Self {
        match no {
            NoNode::NotRunning => Self::conflict(
                "not-running",
                "There is no running machine to add a node to",
                "A node can be added once the machine has started, unless it is paused or has ended.",
            ),
            NoNode::TooMany => Self::conflict(
                "too-many-nodes",
                "There are too many nodes",
                format!(
                    "An environment has at most {MAX_NODES} nodes. Remove one that you added first."
                ),
            ),
            NoNode::Denied(denial) => denial.into(),
            NoNode::Store(e) => e.into(),
        }
    }
}
