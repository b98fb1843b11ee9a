//! Which steps are under way. At most one for each environment; a step that failed is not begun again at once.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use faultline_domain::EnvironmentId;
use tokio_util::sync::CancellationToken;

use crate::app::{Shared, lock};

/// How long an environment rests after a step of it failed.
const REST: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// May be cancelled when its environment is no longer wanted.
    Start,
    /// A node comes or goes. May be cancelled for the same reason.
    Nodes,
    /// Freeing, pausing, resuming.
    Other,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Steps(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    under_way: HashMap<EnvironmentId, (Kind, CancellationToken)>,
    resting: HashMap<EnvironmentId, Instant>,
}

/// A step of this environment failed; why was logged where it happened.
pub(crate) struct Failed;

impl Steps {
    pub(crate) fn busy(&self) -> HashSet<EnvironmentId> {
        lock(&self.0).under_way.keys().cloned().collect()
    }

    pub(crate) fn kind(&self, id: &EnvironmentId) -> Option<Kind> {
        lock(&self.0).under_way.get(id).map(|(kind, _)| *kind)
    }

    pub(crate) fn is_resting(&self, id: &EnvironmentId) -> bool {
        let mut inner = lock(&self.0);
        inner.resting.retain(|_, since| since.elapsed() < REST);
        inner.resting.contains_key(id)
    }

    /// Drops the step under way, if any. It counts as under way until it has really ended.
    pub(crate) fn cancel(&self, id: &EnvironmentId) {
        if let Some((_, cancel)) = lock(&self.0).under_way.get(id) {
            cancel.cancel();
        }
    }

    /// Begins a step, unless one is under way. When it ends the reconcilers wake.
    pub(crate) fn begin(
        &self,
        app: &Shared,
        id: &EnvironmentId,
        kind: Kind,
        work: impl Future<Output = Result<(), Failed>> + Send + 'static,
    ) {
        let cancel = app.stopping.child_token();
        {
            let mut inner = lock(&self.0);
            if inner.under_way.contains_key(id) {
                return;
            }
            inner.under_way.insert(id.clone(), (kind, cancel.clone()));
        }
        // Owned by the step, so that a panic in it frees the environment too.
        let end = End {
            steps: self.clone(),
            app: app.clone(),
            id: id.clone(),
        };
        app.tasks.spawn(async move {
            let done = cancel.run_until_cancelled_owned(work).await;
            if let Some(Err(Failed)) = done {
                lock(&end.steps.0)
                    .resting
                    .insert(end.id.clone(), Instant::now());
            }
            drop(end);
        });
    }
}

struct End {
    steps: Steps,
    app: Shared,
    id: EnvironmentId,
}

impl Drop for End {
    fn drop(&mut self) {
        lock(&self.steps.0).under_way.remove(&self.id);
        self.app.changed(&self.id);
    }
}
