//! Takes the next step for each tenant: creates and frees it. When a claimed tenant is freed is decided by its
//! environment.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use faultline_domain::{
    TenantId,
    tenant::{Observed, State, Step, Tenant, plan},
};
use faultline_provider::{Error as ProviderError, begin};

use super::{
    Done, Error, describe,
    pools::{self, MakeError},
    recorder::Recorder,
    steps::{Failed, Kind, Steps},
};
use crate::{Config, app::Shared, lock::lock, status::Counts};

/// The interval between two lists of the provider's tenants. In between, the provider reports changes by itself.
const LIST_INTERVAL: Duration = Duration::from_secs(10);
/// Timeout for listing the provider's tenants.
pub(super) const LIST: Duration = Duration::from_secs(20);
/// Timeout for freeing a tenant. It is retried afterwards.
const FREE: Duration = Duration::from_secs(110);
/// Additional seconds for the setup of a lab, in a tenant of its pool.
const SETUP: i64 = 15 * 60;
/// Additional seconds for creating a cluster, for its rekeying and probes. Each of these steps has a timeout in the
/// recipe; this one is for a provider that hangs.
const CLUSTER: i64 = 40 * 60;

/// What is remembered between passes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tenants {
    pub(super) steps: Steps<TenantId>,
    /// When the provider's tenants were last listed.
    listed_at: Arc<Mutex<Option<Instant>>>,
}

impl Tenants {
    /// Makes the next pass list the provider's tenants.
    pub(super) fn list_again(&self) {
        *lock(&self.listed_at) = None;
    }

    fn is_due(&self) -> bool {
        lock(&self.listed_at).is_none_or(|at| at.elapsed() >= LIST_INTERVAL)
    }
}

pub(super) async fn pass(app: Shared, memory: Tenants) -> Done {
    let steps = &memory.steps;
    // The order matters: if a step ends between these lines, its tenant still counts as busy in this pass, and new
    // steps begin only below. So the rows are never older than the list of steps in progress.
    let busy = steps.busy();
    let mut rows = app.store.unfinished_tenants().await?;
    // Whether to create a tenant is decided only on a fresh observation.
    let unseen = |row: &Tenant| {
        row.observed.is_none()
            || (matches!(row.state, State::Provisioning { .. }) && !busy.contains(&row.id))
    };
    if !rows.is_empty() && (memory.is_due() || rows.iter().any(unseen)) {
        // Set before listing, so that a call of `list_again` in the meantime has an effect.
        *lock(&memory.listed_at) = Some(Instant::now());
        if let Err(e) = list(&app, &mut rows).await {
            memory.list_again();
            return Err(e);
        }
    }
    let saving = if rows
        .iter()
        .any(|row| matches!(row.state, State::Releasing { .. }))
    {
        app.store.tenants_being_saved().await?
    } else {
        Vec::new()
    };
    let mut begun = 0;
    for row in &rows {
        let is_busy = busy.contains(&row.id) || steps.kind(&row.id).is_some();
        if !is_busy && steps.is_resting(&row.id) {
            continue;
        }
        let observed = row.observed.unwrap_or(Observed::Unknown);
        let step = plan(&row.state, observed, seconds(row), is_busy, app.now());
        // A tenant that was reset is saved before it is freed.
        if step == Step::Free && saving.contains(&row.id) {
            continue;
        }
        begun += u64::from(step != Step::Wait);
        apply(&app, steps, row, step).await?;
    }
    Ok(Counts::from([
        ("checked", rows.len() as u64),
        ("steps", begun),
    ]))
}

/// Lists the provider's tenants and stores what has changed.
async fn list(app: &Shared, rows: &mut [Tenant]) -> Result<(), Error> {
    let listed = tokio::time::timeout(LIST, app.provider.list())
        .await
        .map_err(|_| Error::TimedOut(LIST))??;
    let listed: HashMap<_, _> = listed.into_iter().collect();
    for row in rows {
        let observed = listed.get(&row.id).copied().unwrap_or(Observed::Absent);
        if row.observed == Some(observed) {
            continue;
        }
        // A change that was reported while listing is newer.
        let before = row.observed.replace(observed);
        if app
            .store
            .correct_observed(&row.id, before, observed)
            .await?
        {
            app.wake.all();
        }
    }
    Ok(())
}

/// Returns how many seconds the provider may take to create a tenant.
fn seconds(tenant: &Tenant) -> i64 {
    let more = if tenant.spec.template.is_cluster() {
        CLUSTER
    } else {
        0
    };
    let is_staged = tenant.pooled.as_ref().is_some_and(|p| p.lab.is_some());
    let setup = if is_staged { SETUP } else { 0 };
    Config::deadlines().provisioning + more + setup
}

async fn apply(
    app: &Shared,
    steps: &Steps<TenantId>,
    row: &Tenant,
    step: Step,
) -> Result<(), Error> {
    match step {
        Step::Wait => {}
        Step::Provision => {
            let work = provision(app.clone(), row.clone());
            steps.begin(app, &row.id, Kind::Provision, work);
        }
        Step::Cancel => {
            if steps.kind(&row.id) == Some(Kind::Provision) {
                steps.cancel(&row.id);
            }
        }
        Step::Free => {
            let work = free(app.clone(), row.clone());
            steps.begin(app, &row.id, Kind::Free, work);
        }
        Step::Fail {
            stage,
            reason,
            retryable,
        } => {
            // Another tenant need not come from the pool.
            let retryable = retryable || row.pooled.is_some();
            let next = row.state.fail(app.now(), stage, reason, retryable);
            advance(app, row, next).await?;
        }
    }
    Ok(())
}

/// Writes the state that a step leads to, unless somebody else has changed the tenant in the meantime.
async fn advance(
    app: &Shared,
    tenant: &Tenant,
    to: Option<State>,
) -> Result<(), faultline_store::Error> {
    if let Some(to) = to
        && app.store.record_tenant(tenant, &to, app.now()).await?
    {
        if let State::Failed {
            stage,
            freed: false,
            ..
        } = &to
            && tenant.environment.is_some()
        {
            app.metrics.start_failed(stage);
        }
        // Read again, because an environment may have taken over a tenant that was being made for a pool.
        match app.store.owner_of_tenant(&tenant.id).await? {
            Some(environment) => app.changed(&environment),
            None => app.wake.all(),
        }
        app.wake.pools_changed();
    }
    Ok(())
}

async fn provision(app: Shared, tenant: Tenant) -> Result<(), Failed> {
    let recorder = Recorder::new(&app, &tenant.id);
    let progress = recorder.progress();
    crash_point!(app, BeforeCreation);
    let made = match &tenant.pooled {
        Some(pooled) => pools::make(&app, &tenant, pooled, &progress).await,
        None => begin(&*app.provider, &tenant.id, &tenant.spec, &progress)
            .await
            .map_err(MakeError::from),
    };
    // All stages must be stored before the new state.
    recorder.flush().await;
    let now = app.now();
    if made.is_ok() {
        crash_point!(app, TenantCreated);
        // Stored before the tenant becomes warm, because observations from before are outdated.
        let state = match tenant.pooled {
            Some(_) => Observed::Paused,
            None => Observed::Running,
        };
        let seen = app.store.record_observed(&tenant.id, state);
        seen.await.map_err(|e| {
            tracing::error!(error = &e as &dyn std::error::Error, "the store failed");
            Failed
        })?;
        crash_point!(app, RunningRecorded);
    }
    let next = match made {
        Ok(()) => tenant.state.warm(now),
        Err(error) => {
            let why = describe(&error);
            tracing::warn!(tenant = %tenant.id, reason = why, "a tenant could not be created");
            let (stage, reason) = match &error {
                MakeError::Provider(ProviderError::Failed { stage, reason }) => {
                    (stage.clone(), reason.clone())
                }
                MakeError::Provider(_) => ("clone".to_owned(), why),
                MakeError::Setup(_) | MakeError::LabGone => ("setup".to_owned(), why),
            };
            let retryable = match &error {
                MakeError::Provider(e) => is_retryable(e),
                // Another tenant need not come from the pool.
                MakeError::Setup(_) | MakeError::LabGone => true,
            };
            tenant.state.fail(now, stage, reason, retryable)
        }
    };
    advance(&app, &tenant, next).await.map_err(|e| {
        tracing::error!(error = &e as &dyn std::error::Error, "the store failed");
        Failed
    })?;
    crash_point!(app, TenantWarm);
    Ok(())
}

/// Returns true if a second attempt may succeed, because the failure is the machine's fault rather than the request's.
pub(super) const fn is_retryable(error: &ProviderError) -> bool {
    matches!(
        error,
        ProviderError::Failed { .. }
            | ProviderError::Unreachable(_)
            | ProviderError::WrongState(Observed::Broken | Observed::Unknown)
    )
}

/// Frees everything of a tenant, within the timeout.
pub(super) async fn destroy(app: &Shared, id: &TenantId) -> Result<(), Error> {
    tokio::time::timeout(FREE, app.provider.destroy(id))
        .await
        .map_err(|_| Error::TimedOut(FREE))??;
    Ok(())
}

async fn free(app: Shared, tenant: Tenant) -> Result<(), Failed> {
    let freed = async {
        destroy(&app, &tenant.id).await?;
        crash_point!(app, Freed);
        advance(&app, &tenant, tenant.state.freed(app.now())).await?;
        Ok::<_, Error>(())
    };
    freed.await.map_err(|e| {
        tracing::error!(tenant = %tenant.id, error = describe(&e), "a tenant could not be freed; will retry");
        Failed
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{bed, is_active};

    /// The provider's changes aren't stored here, so the store still has the observation from before.
    #[tokio::test]
    async fn creating_a_tenant_replaces_an_outdated_observation() {
        let mut bed = bed().await;
        let id = bed.active("stale-flag").await;
        let e = bed.until(&id, is_active).await;
        let tenant = e.tenant_id().unwrap().clone();
        bed.app.provider.destroy(&tenant).await.unwrap();
        let row = bed.app.store.tenant(&tenant).await.unwrap().unwrap();
        let being_made = Tenant {
            state: State::Provisioning {
                since: bed.app.now(),
            },
            ..row.clone()
        };
        let store = &bed.app.store;
        let written = store.record_tenant(&row, &being_made.state, bed.app.now());
        assert!(written.await.unwrap());
        store
            .record_observed(&tenant, Observed::Broken)
            .await
            .unwrap();
        let again = store.tenant(&tenant).await.unwrap().unwrap();
        assert!(provision(bed.app.clone(), again).await.is_ok());
        let made = store.tenant(&tenant).await.unwrap().unwrap();
        assert!(matches!(made.state, State::Warm { .. }));
        assert_eq!(made.observed, Some(Observed::Running));
    }
}
