//! Removes a node that was added. In a cluster it is drained first. The lab's own nodes can't be removed, because its
//! checks use them. Idempotent. Counts as use.

use faultline_domain::{NodeName, authz::MayManage};

use crate::{app::App, problem::Problem};

pub(crate) async fn remove_node(
    app: &App,
    proof: &MayManage,
    node: &NodeName,
) -> Result<(), Problem> {
    let environment = proof.environment();
    let spec = &environment.spec;
    if spec.nodes().contains(node) || spec.setup_nodes.contains(node) {
        return Err(Problem::conflict(
            "node-of-lab",
            "This node belongs to the lab",
            "Only nodes that you added can be removed. Reset gives you a fresh machine.",
        ));
    }
    if !environment.is_open() {
        return Err(Problem::conflict(
            "ended",
            "This machine has ended",
            "Start the lab again for a fresh machine.",
        ));
    }
    let known = environment.added.iter().any(|n| n.name == *node);
    if !known && !environment.wanted.contains(node) {
        return Err(Problem::not_found());
    }
    let (id, by) = (&environment.id, proof.person());
    app.store
        .request_node_removal(id, node, by, app.now())
        .await?;
    app.changed(id);
    Ok(())
}
