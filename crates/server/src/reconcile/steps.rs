//! Which steps are under way. At most one for each environment, and one for each tenant; a step that failed is not begun
//! again at once.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use faultline_domain::{EnvironmentId, TenantId};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, Shared},
    lock::lock,
};

/// How long one rests after a step of it failed.
const REST: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of a tenant: it is made. May be cancelled when nobody waits for it any more.
    Provision,
    /// Of a tenant: it is freed.
    Free,
    /// Keys and setup. May be cancelled when its environment is no longer wanted.
    Prepare,
    /// A node comes or goes. May be cancelled for the same reason.
    Nodes,
    Suspend,
    Resume,
    /// Of a node: its owner's keys are applied.
    Keys,
}

/// What steps are made for.
pub(crate) trait Subject: Clone + Eq + Hash + Send + 'static {
    /// A step of it has ended.
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

#[derive(Debug, Clone)]
pub(crate) struct Steps<S>(Arc<Mutex<Inner<S>>>);

#[derive(Debug)]
struct Inner<S> {
    under_way: HashMap<S, (Kind, CancellationToken)>,
    failures: HashMap<S, Failures>,
}

impl<S> Default for Steps<S> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            under_way: HashMap::new(),
            failures: HashMap::new(),
        })))
    }
}

/// Steps of one kind that failed one after the other.
#[derive(Debug)]
struct Failures {
    kind: Kind,
    times: u32,
    last: Instant,
}

/// A step failed; why was logged where it happened.
pub(crate) struct Failed;

impl<S: Subject> Steps<S> {
    pub(crate) fn busy(&self) -> HashSet<S> {
        lock(&self.0).under_way.keys().cloned().collect()
    }

    pub(crate) fn kind(&self, id: &S) -> Option<Kind> {
        lock(&self.0).under_way.get(id).map(|(kind, _)| *kind)
    }

    pub(crate) fn is_resting(&self, id: &S) -> bool {
        self.has_failed_within(id, REST)
    }

    /// Whether its last step failed, less than this long ago.
    pub(crate) fn has_failed_within(&self, id: &S, rest: Duration) -> bool {
        let inner = lock(&self.0);
        let failures = inner.failures.get(id);
        failures.is_some_and(|failures| failures.last.elapsed() < rest)
    }

    /// Forgets the failures of those that are not to be kept.
    pub(crate) fn retain_failures(&self, keep: impl Fn(&S) -> bool) {
        lock(&self.0).failures.retain(|id, _| keep(id));
    }

    /// How often such a step failed since the last that worked.
    pub(crate) fn failures(&self, id: &S, kind: Kind) -> u32 {
        let inner = lock(&self.0);
        let failures = inner.failures.get(id).filter(|f| f.kind == kind);
        failures.map_or(0, |failures| failures.times)
    }

    /// Drops the step under way, if any. It counts as under way until it has really ended.
    pub(crate) fn cancel(&self, id: &S) {
        if let Some((_, cancel)) = lock(&self.0).under_way.get(id) {
            cancel.cancel();
        }
    }

    /// Begins a step, unless one is under way. When it ends the reconcilers wake.
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
            if inner.under_way.contains_key(id) {
                return;
            }
            inner.under_way.insert(id.clone(), (kind, cancel.clone()));
        }
        // Owned by the step, so that a panic in it ends it too.
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
        lock(&self.steps.0).under_way.remove(&self.id);
        self.id.changed(&self.app);
    }
}
