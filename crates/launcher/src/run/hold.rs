//! Pausing and resuming all nodes, and freezing them into a template.

use std::{io, sync::Arc, time::Duration};

use faultline_guest::client as guest;

use super::Launcher;
use crate::{
    node::Node,
    protocol::{Phase, Refusal, RefusalKind},
    qemu, qmp, snapshot,
    spec::Start,
};

/// The time limit for a helper's answer before a freeze.
const LINK: Duration = Duration::from_secs(30);

impl Launcher {
    pub(super) async fn pause(&self) -> Result<(), Refusal> {
        let _turn = self.turn.lock().await;
        self.ensure_complete()?;
        let nodes = self.nodes();
        let paused = nodes.iter().map(|node| node.pause());
        let paused = futures::future::try_join_all(paused).await;
        self.changes.send_replace(());
        paused.map(drop).map_err(|e| e.to_string().into())
    }

    pub(super) async fn resume(&self) -> Result<(), Refusal> {
        let _turn = self.turn.lock().await;
        self.ensure_complete()?;
        let nodes = self.nodes();
        let stood: Vec<_> = nodes.into_iter().filter(|node| node.is_paused()).collect();
        let resumed = self.resume_nodes(&stood).await;
        self.changes.send_replace(());
        resumed.map_err(|e| e.to_string().into())
    }

    /// Continues nodes that stood still, and sets their clocks.
    pub(super) async fn resume_nodes(&self, stood: &[Arc<Node>]) -> qmp::Result<()> {
        futures::future::try_join_all(stood.iter().map(|node| node.resume())).await?;
        // The clock stood still meanwhile. If a guest's helper doesn't answer, its clock stays wrong, but the node
        // runs.
        let set = stood.iter().map(async |node| {
            if let Some(link) = node.link(Duration::from_secs(2)).await
                && let Ok(stream) = link.open().await
                && let Err(e) = guest::step_clock(stream, self.unix_nanos()).await
            {
                tracing::warn!(node = %node.name, error = %e, "setting the clock failed");
            }
        });
        futures::future::join_all(set).await;
        Ok(())
    }

    /// Refuses unless all nodes have started and none has died.
    pub(super) fn ensure_complete(&self) -> Result<(), Refusal> {
        match self.phase() {
            Phase::Running | Phase::Paused => Ok(()),
            Phase::Starting => Err(Refusal::new(
                RefusalKind::Starting,
                "the environment is starting",
            )),
            Phase::Broken { reason, .. } => {
                let reason = format!("the environment is broken: {reason}");
                Err(Refusal::new(RefusalKind::Broken, reason))
            }
        }
    }

    /// Refuses unless all nodes run.
    pub(super) fn ensure_running(&self) -> Result<(), Refusal> {
        self.ensure_complete()?;
        match self.phase() {
            Phase::Paused => Err(Refusal::new(
                RefusalKind::Paused,
                "the environment is paused",
            )),
            _ => Ok(()),
        }
    }

    /// Freezes all nodes at the same instant: stops their services, closes the ports, stops all VMs, then saves each.
    pub(super) async fn freeze(&self) -> Result<(), Refusal> {
        let _turn = self.turn.lock().await;
        let spec = self.spec();
        let Start::Boot {
            freeze_to: Some(folder),
            kernel,
            initrd,
        } = &spec.start
        else {
            return Err("only machines that were booted to be frozen can be frozen"
                .to_owned()
                .into());
        };
        self.ensure_running()?;
        // Services are stopped from here until the clone is refreshed.
        for node in self.nodes() {
            let failed = |e: String| format!("{}: stopping its services failed: {e}", node.name);
            let link = node.link(LINK).await;
            let link = link.ok_or_else(|| failed("its helper does not answer".to_owned()))?;
            let stream = link.open().await.map_err(|e| failed(e.to_string()))?;
            guest::hold(stream)
                .await
                .map_err(|e| failed(e.to_string()))?;
        }
        for node in self.nodes() {
            node.release_link();
        }
        // The guests notice that the link is closed and wait for the next one.
        tokio::time::sleep(Duration::from_millis(500)).await;
        for node in self.nodes() {
            node.pause().await.map_err(|e| e.to_string())?;
        }
        for node in self.nodes() {
            node.qmp
                .save(&node.state)
                .await
                .map_err(|e| format!("{}: {e}", node.name))?;
        }
        for node in self.nodes() {
            let _ = node.qmp.run("quit", serde_json::Value::Null).await;
        }
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while self.nodes().iter().any(|node| node.is_alive())
            && tokio::time::Instant::now() < deadline
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let rest = || -> io::Result<()> {
            for node in self.nodes() {
                let to = folder.join(format!("{}.mem", node.name));
                if let Some(memory) = &node.memory {
                    snapshot::save_memory(memory, &to)?;
                }
            }
            std::fs::copy(kernel, folder.join("kernel"))?;
            std::fs::copy(initrd, folder.join("initrd"))?;
            // The disks of all nodes have the same size: the image's.
            let size = spec.nodes.first().map_or(0, |n| n.machine.disk_mib);
            qemu::make_overlay(&folder.join("overlay.qcow2"), size)?;
            Ok(())
        };
        rest().map_err(|e| e.to_string().into())
    }
}
