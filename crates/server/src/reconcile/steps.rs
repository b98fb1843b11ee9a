//! The steps in progress: at most one per environment, per tenant, and per node for keys. After a failure, the next
//! step begins only after a delay.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use faultline_domain::{EnvironmentId, SavePointId, TenantId};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, Shared},
    lock::lock,
};

/// The delay after a failed step.
const REST: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Creates a tenant. May be cancelled when the tenant is no longer needed.
    Provision,
    /// Frees a tenant.
    Free,
    /// Applies keys and runs the setup. May be cancelled when the environment is no longer wanted.
    Prepare,
    /// Adds or removes a node. May be cancelled when the environment or the node is no longer wanted.
    Nodes,
    Suspend,
    Resume,
    /// Saves an environment.
    Save,
    /// Applies the owner's keys to a node.
    Keys,
    /// Observes what an environment exposes.
    Exposures,
}

/// Something that steps are taken for.
pub(crate) trait Subject: Clone + Eq + Hash + Send + 'static {
    /// Called when a step has ended.
    fn changed(&self, app: &App);
}

impl Subject for EnvironmentId {
    fn changed(&self, app: &App) {
        app.changed(self);
    }
}

impl Subject for TenantId {
    fn changed(&self, app: &App) {
        app.wake.all();
    }
}

impl Subject for SavePointId {
    fn changed(&self, app: &App) {
        app.wake.all();
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Steps<S>(Arc<Mutex<Inner<S>>>);

#[derive(Debug)]
struct Inner<S> {
    in_progress: HashMap<S, (Kind, CancellationToken)>,
    failures: HashMap<S, Failures>,
}

impl<S> Default for Steps<S> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            in_progress: HashMap::new(),
            failures: HashMap::new(),
        })))
    }
}

/// Consecutive failures of one kind of step.
#[derive(Debug)]
struct Failures {
    kind: Kind,
    times: u32,
    last: Instant,
}

/// A step failed. The reason was logged where it happened.
pub(crate) struct Failed;

impl<S: Subject> Steps<S> {
    pub(crate) fn busy(&self) -> HashSet<S> {
        lock(&self.0).in_progress.keys().cloned().collect()
    }

    pub(crate) fn kind(&self, id: &S) -> Option<Kind> {
        lock(&self.0).in_progress.get(id).map(|(kind, _)| *kind)
    }

    pub(crate) fn is_resting(&self, id: &S) -> bool {
        self.has_failed_within(id, REST)
    }

    /// Returns true if the last step failed less than `rest` ago.
    pub(crate) fn has_failed_within(&self, id: &S, rest: Duration) -> bool {
        let inner = lock(&self.0);
        let failures = inner.failures.get(id);
        failures.is_some_and(|failures| failures.last.elapsed() < rest)
    }

    /// Forgets the failures of all subjects for which `keep` returns false.
    pub(crate) fn retain_failures(&self, keep: impl Fn(&S) -> bool) {
        lock(&self.0).failures.retain(|id, _| keep(id));
    }

    /// Returns how often this kind of step failed since the last success.
    pub(crate) fn failures(&self, id: &S, kind: Kind) -> u32 {
        let inner = lock(&self.0);
        let failures = inner.failures.get(id).filter(|f| f.kind == kind);
        failures.map_or(0, |failures| failures.times)
    }

    /// Cancels the step in progress, if any. It counts as in progress until it has actually ended.
    pub(crate) fn cancel(&self, id: &S) {
        if let Some((_, cancel)) = lock(&self.0).in_progress.get(id) {
            cancel.cancel();
        }
    }

    /// Begins a step, unless one is in progress. When it ends, the reconcilers are woken.
    pub(crate) fn begin(
        &self,
        app: &Shared,
        id: &S,
        kind: Kind,
        work: impl Future<Output = Result<(), Failed>> + Send + 'static,
    ) {
        let cancel = app.stopping.child_token();
        {
            let mut inner = lock(&self.0);
            if inner.in_progress.contains_key(id) {
                return;
            }
            inner.in_progress.insert(id.clone(), (kind, cancel.clone()));
        }
        // Owned by the step, so that a panic also ends it.
        let end = End {
            steps: self.clone(),
            app: app.clone(),
            id: id.clone(),
        };
        app.tasks.spawn(async move {
            let done = cancel.run_until_cancelled_owned(work).await;
            if let Some(done) = done {
                end.steps.note(&end.id, kind, done);
            }
            drop(end);
        });
    }

    fn note(&self, id: &S, kind: Kind, done: Result<(), Failed>) {
        let failures = &mut lock(&self.0).failures;
        let before = failures.remove(id).filter(|f| f.kind == kind);
        if let Err(Failed) = done {
            let failed = Failures {
                kind,
                times: before.map_or(0, |f| f.times) + 1,
                last: Instant::now(),
            };
            failures.insert(id.clone(), failed);
        }
    }
}

struct End<S: Subject> {
    steps: Steps<S>,
    app: Shared,
    id: S,
}

impl<S: Subject> Drop for End<S> {
    fn drop(&mut self) {
        lock(&self.steps.0).in_progress.remove(&self.id);
        self.id.changed(&self.app);
    }
}
