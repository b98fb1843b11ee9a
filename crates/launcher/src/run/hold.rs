//! All nodes stand still, for a while or for good: paused, resumed, frozen into a template.

use std::{io, time::Duration};

use faultline_guest::client as guest;

use super::Launcher;
use crate::{
    protocol::{Phase, Refusal, Why},
    qemu, snapshot,
    spec::Start,
};

/// How long a helper may take to answer before nodes are frozen.
const LINK: Duration = Duration::from_secs(30);

impl Launcher {
    pub(super) async fn pause(&self) -> Result<(), Refusal> {
        let _turn = self.turn.lock().await;
        self.must_be_whole()?;
        let nodes = self.nodes();
        let paused = nodes.iter().map(|node| node.pause());
        let paused = futures::future::try_join_all(paused).await;
        self.changes.send_replace(());
        paused.map(drop).map_err(|e| e.to_string().into())
    }

    pub(super) async fn resume(&self) -> Result<(), Refusal> {
        let _turn = self.turn.lock().await;
        self.must_be_whole()?;
        let nodes = self.nodes();
        let stood: Vec<_> = nodes.iter().filter(|node| node.is_paused()).collect();
        let resumed = stood.iter().map(|node| node.resume());
        let resumed = futures::future::try_join_all(resumed).await;
        self.changes.send_replace(());
        resumed.map_err(|e| e.to_string())?;
        // The clock stood still. A guest whose helper is gone keeps its own; everything else goes on.
        for node in stood {
            if let Some(link) = node.link(Duration::from_secs(2)).await
                && let Ok(stream) = link.open().await
            {
                let nanos = i64::try_from(self.clock.now().as_nanosecond()).unwrap_or(0);
                if let Err(e) = guest::step_clock(stream, nanos).await {
                    tracing::warn!(node = %node.name, error = %e, "the clock was not stepped");
                }
            }
        }
        Ok(())
    }

    /// Refuses when its nodes are not all there yet, or not any more.
    pub(super) fn must_be_whole(&self) -> Result<(), Refusal> {
        match self.phase() {
            Phase::Running | Phase::Paused => Ok(()),
            Phase::Starting => Err(Refusal::new(Why::Starting, "the environment is starting")),
            Phase::Broken { reason, .. } => {
                let reason = format!("the environment is broken: {reason}");
                Err(Refusal::new(Why::Broken, reason))
            }
        }
    }

    /// Refuses when not all its nodes run.
    pub(super) fn must_run(&self) -> Result<(), Refusal> {
        self.must_be_whole()?;
        match self.phase() {
            Phase::Paused => Err(Refusal::new(Why::Paused, "the environment is paused")),
            _ => Ok(()),
        }
    }

    /// Freezes all nodes at one instant: holds their services, closes the ports, stops all, then saves each.
    pub(super) async fn freeze(&self) -> Result<(), Refusal> {
        let _turn = self.turn.lock().await;
        let spec = self.spec();
        let Start::Boot {
            freeze_to: Some(folder),
            kernel,
            initrd,
        } = &spec.start
        else {
            return Err("only a machine that was booted for it can be frozen"
                .to_owned()
                .into());
        };
        self.must_run()?;
        // Services stand still from here until their clone is refreshed.
        for node in self.nodes() {
            let failed = |e: String| format!("{}: its services were not stopped: {e}", node.name);
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
        // The guests see the hang-up and wait for the next host.
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
                    snapshot::keep_memory(memory, &to)?;
                }
            }
            std::fs::copy(kernel, folder.join("kernel"))?;
            std::fs::copy(initrd, folder.join("initrd"))?;
            // All nodes have disks of one size: that of the image.
            let size = spec.nodes.first().map_or(0, |n| n.machine.disk_mib);
            qemu::make_overlay(&folder.join("overlay.qcow2"), size)?;
            Ok(())
        };
        rest().map_err(|e| e.to_string().into())
    }
}
