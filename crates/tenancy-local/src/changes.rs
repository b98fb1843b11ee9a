//! Passes on changes of tenants as their launchers report them.

use std::{
    collections::HashSet,
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use faultline_domain::TenantId;
use faultline_launcher::{client, protocol::Phase, spec::LaunchSpec};
use faultline_provider::{Change, Observed};
use tokio::{sync::broadcast, task::JoinSet};

/// The number of changes that a receiver may lag behind.
const KEPT: usize = 1024;

/// The channel to the receivers, and the tenants whose launchers are followed.
#[derive(Debug, Clone)]
pub(crate) struct Changes {
    sender: broadcast::Sender<Change>,
    followed: Arc<Mutex<HashSet<TenantId>>>,
    /// The tasks that follow them. They are aborted when the last clone of this is dropped.
    followers: Arc<Mutex<JoinSet<()>>>,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            sender: broadcast::channel(KEPT).0,
            followed: Arc::default(),
            followers: Arc::default(),
        }
    }
}

impl Changes {
    pub(crate) fn receiver(&self) -> broadcast::Receiver<Change> {
        self.sender.subscribe()
    }

    pub(crate) fn tell(&self, id: &TenantId, observed: Observed) {
        tell(&self.sender, id, observed);
    }

    /// Follows a tenant's launcher until it ends. Does nothing if it is followed already.
    pub(crate) fn follow(&self, id: &TenantId, dir: &Path) {
        let is_new = self
            .followed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.clone());
        if !is_new {
            return;
        }
        // A task holds neither `self` nor `followers`: those that remain must end with the last `Changes`.
        let (sender, followed) = (self.sender.clone(), Arc::clone(&self.followed));
        let (id, dir) = (id.clone(), dir.to_owned());
        let mut followers = self
            .followers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while followers.try_join_next().is_some() {}
        followers.spawn(async move {
            let ended = client::follow(&dir, |status| {
                if let Phase::Broken { node, reason } = &status.phase {
                    let node = node.as_ref().map(tracing::field::display);
                    tracing::warn!(tenant = %id, node, reason, "a tenant is broken");
                }
                tell(&sender, &id, observed(&status.phase));
            })
            .await;
            followed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&id);
            // A launcher's nodes end with it. If the tenant is being freed, its spec is gone, and that is reported
            // elsewhere.
            if LaunchSpec::path(&dir).exists() && is_end(&ended) {
                tell(&sender, &id, Observed::Broken);
            }
        });
    }
}

fn tell(sender: &broadcast::Sender<Change>, id: &TenantId, observed: Observed) {
    // An error means that nobody listens.
    let _ = sender.send((id.clone(), observed));
}

/// Returns the observation that a launcher's phase amounts to.
pub(crate) const fn observed(phase: &Phase) -> Observed {
    match phase {
        Phase::Running => Observed::Running,
        Phase::Paused => Observed::Paused,
        Phase::Starting | Phase::Broken { .. } => Observed::Broken,
    }
}

/// Returns the observation that an error of a launcher amounts to.
pub(crate) fn observed_without_answer(error: &client::Error) -> Observed {
    match error {
        // Nothing listens on the socket: the launcher has died.
        client::Error::Gone(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Observed::Broken
        }
        // It is overloaded or of another version, or this process lacks file descriptors. That is no reason to free a
        // machine.
        _ => Observed::Unknown,
    }
}

/// Returns true if a connection ended because its launcher did.
fn is_end(error: &client::Error) -> bool {
    matches!(error, client::Error::Gone(e) if matches!(
        e.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    ))
}
