//! What launchers say of their nodes, passed on as it happens.

use std::{
    collections::HashSet,
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use faultline_domain::TenantId;
use faultline_launcher::{client, protocol::Phase, spec::LaunchSpec};
use faultline_provider::{Change, Observed};
use tokio::sync::broadcast;

/// How many changes a receiver may lag behind.
const KEPT: usize = 1024;

/// Who listens, and which launchers are listened to.
#[derive(Debug, Clone)]
pub(crate) struct Changes {
    sender: broadcast::Sender<Change>,
    followed: Arc<Mutex<HashSet<TenantId>>>,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            sender: broadcast::channel(KEPT).0,
            followed: Arc::default(),
        }
    }
}

impl Changes {
    pub(crate) fn receiver(&self) -> broadcast::Receiver<Change> {
        self.sender.subscribe()
    }

    pub(crate) fn tell(&self, id: &TenantId, observed: Observed) {
        let _ = self.sender.send((id.clone(), observed));
    }

    /// Listens to a tenant's launcher from now on, until it ends; once only.
    pub(crate) fn follow(&self, id: &TenantId, dir: &Path) {
        let is_new = self
            .followed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.clone());
        if !is_new {
            return;
        }
        let (this, id, dir) = (self.clone(), id.clone(), dir.to_owned());
        tokio::spawn(async move {
            let ended = client::follow(&dir, |status| {
                if let Phase::Broken { node, reason } = &status.phase {
                    let node = node.as_ref().map(tracing::field::display);
                    tracing::warn!(tenant = %id, node, reason, "a tenant is broken");
                }
                this.tell(&id, observed(&status.phase));
            })
            .await;
            this.followed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&id);
            // A launcher that ends takes its nodes with it. One that is freed ends so too, and what frees it says so.
            if LaunchSpec::path(&dir).exists() && is_end(&ended) {
                this.tell(&id, Observed::Broken);
            }
        });
    }
}

/// What a launcher's phase is to who uses its tenant.
pub(crate) const fn observed(phase: &Phase) -> Observed {
    match phase {
        Phase::Running => Observed::Running,
        Phase::Paused => Observed::Paused,
        Phase::Starting | Phase::Broken { .. } => Observed::Broken,
    }
}

/// What is to be thought of a launcher that did not answer.
pub(crate) fn without_answer(error: &client::Error) -> Observed {
    match error {
        // Nobody listens there: the launcher has died.
        client::Error::Gone(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Observed::Broken
        }
        // Overloaded, of another version, or this process lacks descriptors: no reason to free a machine.
        _ => Observed::Unknown,
    }
}

/// Whether a connection that was answered ended because its launcher did.
fn is_end(error: &client::Error) -> bool {
    matches!(error, client::Error::Gone(e) if matches!(
        e.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    ))
}
