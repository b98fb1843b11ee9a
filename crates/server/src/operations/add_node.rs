//! Add a node, a worker, to a machine that runs. It takes the next free number; the reconciler makes it. It counts as
//! use. An environment has five nodes at most, and the machine must have room for one more.

use faultline_domain::{NodeName, authz::MayResize, limits::fits, shape::MAX_NODES};
use faultline_store::environments::NoNode;

use crate::{
    app::App,
    capacity::{Free, capacity, need},
    problem::Problem,
};

pub(crate) async fn add_node(app: &App, proof: &MayResize) -> Result<NodeName, Problem> {
    let environment = proof.environment();
    let need = need(&app.config, environment.spec.is_cluster(), 1);
    let admit = |counts| {
        let free = Free::now(&app.config.data_dir);
        // It takes no further place.
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
                "Only one that has started, is not paused and has not ended can be given a node.",
            ),
            NoNode::TooMany => Self::conflict(
                "too-many-nodes",
                "It has as many nodes as it may have",
                format!("An environment has at most {MAX_NODES}. Remove one that you added first."),
            ),
            NoNode::Denied(denial) => denial.into(),
            NoNode::Store(e) => e.into(),
        }
    }
}
