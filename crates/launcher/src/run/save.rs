//! Saving all nodes at one instant while they go on, see [`crate::save`].
//!
//! ```text
//! stop all nodes ─► device state, memory and disk of each ─► continue all nodes ─► checksums ─► manifest ─► rename
//! ```
//!
//! The save point is written in the tenant's own folder and moved to its place once it is complete. What a dead launcher
//! leaves is thus removed with the tenant.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use faultline_domain::save_point::Saved;

use super::Launcher;
use crate::{
    node::Node,
    protocol::Refusal,
    save::{self, Manifest, Memory},
};

/// The folder in a tenant's folder in which its save points are written.
const DRAFT: &str = "save";

impl Launcher {
    /// Saves all nodes into `folder`, which must not exist. They run on even if that fails.
    pub(super) async fn save(&self, folder: &Path) -> Result<Saved, Refusal> {
        let _turn = self.turn.lock().await;
        self.ensure_complete()?;
        let draft = self.dir.join(DRAFT);
        let failed = |e: io::Error| Refusal::from(format!("saving failed: {e}"));
        remove(&draft).map_err(failed)?;
        std::fs::create_dir(&draft).map_err(failed)?;
        let saved = self.save_into(&draft, folder).await;
        if saved.is_err() {
            let _ = remove(&draft);
        }
        saved.map_err(failed)
    }

    async fn save_into(&self, draft: &Path, folder: &Path) -> io::Result<Saved> {
        let (spec, nodes) = (self.spec(), self.nodes());
        let ran: Vec<_> = nodes.iter().filter(|n| !n.is_paused()).cloned().collect();
        let began = Instant::now();
        let stopped = futures::future::try_join_all(ran.iter().map(|node| node.pause())).await;
        let written = match stopped {
            Ok(_) => {
                let each = nodes.iter().map(|node| write_node(node, &self.dir, draft));
                futures::future::try_join_all(each).await.map(drop)
            }
            Err(e) => Err(io::Error::other(e)),
        };
        self.resume_nodes(&ran).await.map_err(io::Error::other)?;
        let paused_millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.changes.send_replace(());
        written?;
        let (draft, folder) = (draft.to_owned(), folder.to_owned());
        let seal = move || {
            let manifest = Manifest::seal(&draft, spec, paused_millis)?;
            std::fs::rename(&draft, &folder)?;
            Ok(manifest.saved())
        };
        tokio::task::spawn_blocking(seal).await?
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Writes a stopped node's device state, memory and disk.
async fn write_node(node: &Arc<Node>, dir: &Path, draft: &Path) -> io::Result<()> {
    let state = std::fs::File::create(save::path_of(draft, &node.name, "state"))?;
    node.qmp.save(&state).await.map_err(io::Error::other)?;
    let (name, memory) = (node.name.clone(), node.guest_memory()?);
    let (dir, draft): (PathBuf, PathBuf) = (dir.to_owned(), draft.to_owned());
    let write = move || {
        let disk = |folder: &Path| save::path_of(folder, &name, "qcow2");
        save::save_memory(&memory, &draft, &name)?;
        save::copy_disk(&disk(&dir), &disk(&draft))
    };
    tokio::task::spawn_blocking(write).await?
}

/// Writes a node's saved memory into a QEMU that waits for its device state.
pub(super) async fn restore_memory(node: &Node, folder: &Path) -> io::Result<()> {
    let (name, memory): (_, Memory) = (node.name.clone(), node.guest_memory()?);
    let folder = folder.to_owned();
    tokio::task::spawn_blocking(move || save::restore_memory(&memory, &folder, &name)).await?
}
