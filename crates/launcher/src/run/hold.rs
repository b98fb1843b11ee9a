//! All nodes stand still, for a while or for good: paused, resumed, frozen into a template.

use std::{io, time::Duration};

use faultline_guest::client as guest;

use super::Launcher;
use crate::{protocol::LauncherPhase, qemu, snapshot, spec::Start};

/// How long a helper may take to answer before nodes are frozen.
const LINK: Duration = Duration::from_secs(30);

impl Launcher {
    pub(super) async fn pause(&self) -> Result<(), String> {
        let _turn = self.turn.lock().await;
        match self.phase() {
            LauncherPhase::Paused => return Ok(()),
            LauncherPhase::Running => {}
            other => return Err(format!("the environment is {other:?}").to_lowercase()),
        }
        for node in self.nodes() {
            node.pause().await.map_err(|e| e.to_string())?;
        }
        self.set(LauncherPhase::Paused);
        Ok(())
    }

    pub(super) async fn resume(&self) -> Result<(), String> {
        let _turn = self.turn.lock().await;
        match self.phase() {
            LauncherPhase::Running => return Ok(()),
            LauncherPhase::Paused => {}
            other => return Err(format!("the environment is {other:?}").to_lowercase()),
        }
        for node in self.nodes() {
            node.resume().await.map_err(|e| e.to_string())?;
        }
        self.set(LauncherPhase::Running);
        // The clock stood still. A guest whose helper is gone keeps its own; everything else goes on.
        for node in self.nodes() {
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

    /// Freezes all nodes at one instant: holds their services, closes the ports, stops all, then saves each.
    pub(super) async fn freeze(&self) -> Result<(), String> {
        let _turn = self.turn.lock().await;
        let spec = self.spec();
        let Start::Boot {
            freeze_to: Some(folder),
            kernel,
            initrd,
        } = &spec.start
        else {
            return Err("only a machine that was booted for it can be frozen".to_owned());
        };
        if self.phase() != LauncherPhase::Running {
            return Err("only a running environment can be frozen".to_owned());
        }
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
        rest().map_err(|e| e.to_string())
    }
}
