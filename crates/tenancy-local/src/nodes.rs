//! Adding and removing nodes. The launcher starts and ends the machine; the recipe's steps join it to the cluster and
//! remove it.

use faultline_domain::{
    NodeName, TemplateRef, TenantId,
    limits::Limits,
    progress::{Progress, Stage},
    shape::MAX_NODES,
};
use faultline_image::{
    recipe::{BakeStep, MachineShape},
    steps::Place,
};
use faultline_launcher::{
    client, qemu,
    spec::{AddedNode, LaunchSpec, Machine, NodeSpec},
};

use crate::{Local, MADE_OF, MadeOf};
use faultline_provider::{Error, Result};

/// The log of adding and removing nodes, in a tenant's folder.
const LOG: &str = "nodes.log";

impl Local {
    pub(super) async fn add_worker(
        &self,
        id: &TenantId,
        node: &NodeName,
        progress: &Progress,
    ) -> Result<()> {
        let (spec, made_of) = self.made_of(id)?;
        let planes = spec.control_planes;
        if node
            .number()
            .is_none_or(|number| number <= planes || number > MAX_NODES)
        {
            return Err(Error::NotAWorker(node.clone()));
        }
        if spec.all_nodes().any(|n| n.name == *node) {
            return Err(Error::NodeExists(node.clone()));
        }
        let added = self.worker(&spec, made_of.worker, node)?;
        let dir = self.folder(id);
        self.ask(id, client::add_node(&dir, added, progress))
            .await
            .map_err(|e| match e {
                Error::Unreachable(reason) => Error::failed("power-on", reason),
                other => other,
            })?;
        self.introduce(id, &spec, node).await;
        if made_of.join.is_empty() {
            return Ok(());
        }
        let stage = progress.stage("join", format!("Joining {node} to the cluster"));
        let joined = self
            .carry_out(id, &made_of.template(), node, &made_of.join, &stage)
            .await;
        if let Err(failed) = joined {
            // This also tries to remove what it left in the cluster. Its machine ends in any case.
            let quiet = Progress::ignored();
            if let Err(e) = self.remove_worker(id, node, &quiet).await {
                tracing::warn!(environment = %id, node = %node, error = %e, "removing the node that failed to join failed");
            }
            return Err(Error::failed("join", failed));
        }
        stage.done();
        Ok(())
    }

    pub(super) async fn remove_worker(
        &self,
        id: &TenantId,
        node: &NodeName,
        progress: &Progress,
    ) -> Result<()> {
        let spec = LaunchSpec::load(&self.folder(id)).map_err(|_| Error::NotFound)?;
        if !spec.all_nodes().any(|n| n.name == *node) {
            return Ok(());
        }
        if node.number().is_none_or(|n| n <= spec.control_planes) {
            return Err(Error::NotAWorker(node.clone()));
        }
        if let Err(e) = self.leave(id, node, progress).await {
            // A broken cluster doesn't keep the machine from being removed.
            tracing::info!(environment = %id, node = %node, error = %e, "removing the node from its cluster failed");
        }
        let stage = progress.stage("power-off", format!("Powering off {node}"));
        self.ask(id, client::remove_node(&self.folder(id), node))
            .await?;
        self.forget(id, &spec, node).await;
        stage.done();
        Ok(())
    }

    /// Removes a node from its cluster, if it has one.
    async fn leave(&self, id: &TenantId, node: &NodeName, progress: &Progress) -> Result<()> {
        let (_, made_of) = self.made_of(id)?;
        if made_of.leave.is_empty() {
            return Ok(());
        }
        let stage = progress.stage("leave", format!("Removing {node} from the cluster"));
        let left = self
            .carry_out(id, &made_of.template(), node, &made_of.leave, &stage)
            .await;
        stage.done();
        left.map_err(|e| Error::failed("leave", e))
    }

    /// Reads a tenant's spec, and what it was made of.
    fn made_of(&self, id: &TenantId) -> Result<(LaunchSpec, MadeOf)> {
        let dir = self.folder(id);
        let spec = LaunchSpec::load(&dir).map_err(|_| Error::NotFound)?;
        let made_of = std::fs::read(dir.join(MADE_OF)).ok();
        let made_of = made_of.and_then(|m| serde_json::from_slice(&m).ok());
        let made_of = made_of.ok_or_else(|| {
            Error::failed(
                "power-on",
                "this environment was started by an earlier version of Faultline, which can't add nodes; reset it to add nodes",
            )
        })?;
        Ok((spec, made_of))
    }

    /// Returns a worker with its machine and by how much it raises the environment's limits: by as much CPU as another
    /// node has.
    fn worker(
        &self,
        spec: &LaunchSpec,
        machine: MachineShape,
        node: &NodeName,
    ) -> Result<AddedNode> {
        let first = spec.nodes.first().ok_or(Error::NotFound)?;
        let node = NodeSpec {
            name: node.clone(),
            machine: Machine {
                accelerator: first.machine.accelerator,
                vcpus: machine.vcpus,
                memory_mib: machine.memory_mib,
                disk_mib: first.machine.disk_mib,
            },
        };
        let count = u32::try_from(spec.nodes.len()).unwrap_or(1).max(1);
        let share = Limits {
            cpu_millis: spec.limits.cpu_millis / count,
            memory_mib: machine.memory_mib + qemu::overhead_mib(&node.machine),
            pids: spec.limits.pids / count,
            ..spec.limits
        };
        Ok(AddedNode { node, share })
    }

    async fn carry_out(
        &self,
        id: &TenantId,
        template: &TemplateRef,
        node: &NodeName,
        steps: &[BakeStep],
        stage: &Stage,
    ) -> Result<(), faultline_image::steps::Failed> {
        let dir = self.folder(id);
        let log = dir.join(LOG);
        let place = Place {
            dir: &dir,
            template,
            node: Some(node),
            log: Some(&log),
        };
        place
            .carry_out(steps, |index, step, _| {
                // While the first step runs, the stage keeps its own text.
                if index > 0 {
                    stage.part(index, steps.len(), step.text.clone());
                }
            })
            .await
    }
}
