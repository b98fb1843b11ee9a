//! One step for each tenant that has one to make: it is made, and it is freed. What becomes of a claimed one is its
//! environment's to say.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use faultline_domain::{
    TenantId,
    tenant::{Observed, State, Step, Tenant, plan},
};
use faultline_provider::Error as ProviderError;

use super::{
    Done, Error, describe,
    recorder::Recorder,
    steps::{Failed, Kind, Steps},
};
use crate::{Config, app::Shared, lock::lock, status::Counts};

/// How often the provider is asked what exists, where it tells of changes by itself.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long the provider may take to say what exists.
pub(super) const LIST: Duration = Duration::from_secs(20);
/// How long freeing may take; then it is tried again.
const FREE: Duration = Duration::from_secs(110);
/// How much longer a cluster may take until it is handed out: keys of its own, and probing. Each step of both has a
/// limit in the recipe; this one is for a provider that hangs.
const CLUSTER: i64 = 40 * 60;

/// What is remembered between passes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tenants {
    pub(super) steps: Steps<TenantId>,
    /// When the provider was asked last what exists.
    looked: Arc<Mutex<Option<Instant>>>,
}

impl Tenants {
    /// Has the next pass ask the provider what exists.
    pub(super) fn look_again(&self) {
        *lock(&self.looked) = None;
    }

    fn is_due(&self) -> bool {
        lock(&self.looked).is_none_or(|at| at.elapsed() >= LOOK_EVERY)
    }
}

pub(super) async fn pass(app: Shared, memory: Tenants) -> Done {
    let steps = &memory.steps;
    // In this order: a step that ends between these lines leaves its tenant busy for this pass, and one that begins does
    // so below. So what is read never lags behind what is thought to be under way.
    let busy = steps.busy();
    let mut rows = app.store.unfinished_tenants().await?;
    // Whether one is to be made is decided on nothing that was seen before now.
    let unseen = |row: &Tenant| {
        row.observed.is_none()
            || (matches!(row.state, State::Provisioning { .. }) && !busy.contains(&row.id))
    };
    if !rows.is_empty() && (memory.is_due() || rows.iter().any(unseen)) {
        // Before, so that who asks for another look meanwhile gets it.
        *lock(&memory.looked) = Some(Instant::now());
        if let Err(e) = look(&app, &mut rows).await {
            memory.look_again();
            return Err(e);
        }
    }
    let mut begun = 0;
    for row in &rows {
        let is_busy = busy.contains(&row.id) || steps.kind(&row.id).is_some();
        if !is_busy && steps.is_resting(&row.id) {
            continue;
        }
        let observed = row.observed.unwrap_or(Observed::Unknown);
        let step = plan(&row.state, observed, seconds(row), is_busy, app.now());
        begun += u64::from(step != Step::Wait);
        apply(&app, steps, row, step).await?;
    }
    Ok(Counts::from([
        ("looked after", rows.len() as u64),
        ("steps", begun),
    ]))
}

/// Asks the provider what exists, and writes what is another than before.
async fn look(app: &Shared, rows: &mut [Tenant]) -> Result<(), Error> {
    let listed = tokio::time::timeout(LIST, app.provider.list())
        .await
        .map_err(|_| Error::Silent(LIST))??;
    let listed: HashMap<_, _> = listed.into_iter().collect();
    for row in rows {
        let observed = listed.get(&row.id).copied().unwrap_or(Observed::Absent);
        if row.observed == Some(observed) {
            continue;
        }
        // What was told while the list was made is newer.
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

/// How many seconds the provider may take to make it.
fn seconds(tenant: &Tenant) -> i64 {
    let more = if tenant.spec.template.is_cluster() {
        CLUSTER
    } else {
        0
    };
    Config::deadlines().provisioning + more
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
            let next = row.state.fail(app.now(), stage, reason, retryable);
            advance(app, row, next).await?;
        }
    }
    Ok(())
}

/// Writes the state that a step leads to, if there is one and nobody else has written meanwhile.
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
        {
            app.metrics.start_failed(stage);
        }
        app.changed(&tenant.environment);
    }
    Ok(())
}

async fn provision(app: Shared, tenant: Tenant) -> Result<(), Failed> {
    let recorder = Recorder::of_tenant(&app, &tenant);
    let progress = recorder.progress();
    let made = app
        .provider
        .create(&tenant.id, &tenant.spec.template, &progress)
        .await;
    // Nothing that was reported comes after what follows from it.
    recorder.flush().await;
    let now = app.now();
    if made.is_ok() {
        // Before anybody plans for one that is warm: what was seen while it was made is no longer so.
        let seen = app.store.record_observed(&tenant.id, Observed::Running);
        seen.await.map_err(|e| {
            tracing::error!(error = &e as &dyn std::error::Error, "the store failed");
            Failed
        })?;
    }
    let next = match made {
        Ok(()) => tenant.state.warm(now),
        Err(error) => {
            let why = describe(&error);
            tracing::warn!(environment = %tenant.environment, tenant = %tenant.id, reason = why, "a tenant was not made");
            let (stage, reason) = match &error {
                ProviderError::Failed { stage, reason } => (stage.clone(), reason.clone()),
                _ => ("clone".to_owned(), why),
            };
            tenant.state.fail(now, stage, reason, is_retryable(&error))
        }
    };
    advance(&app, &tenant, next).await.map_err(|e| {
        tracing::error!(error = &e as &dyn std::error::Error, "the store failed");
        Failed
    })
}

/// Whether another try may go better: the machine's fault rather than the request's.
pub(super) const fn is_retryable(error: &ProviderError) -> bool {
    matches!(
        error,
        ProviderError::Failed { .. }
            | ProviderError::Unreachable(_)
            | ProviderError::WrongState(Observed::Broken | Observed::Unknown)
    )
}

/// Has everything of it freed, within its time.
pub(super) async fn destroy(app: &Shared, id: &TenantId) -> Result<(), Error> {
    tokio::time::timeout(FREE, app.provider.destroy(id))
        .await
        .map_err(|_| Error::Silent(FREE))??;
    Ok(())
}

async fn free(app: Shared, tenant: Tenant) -> Result<(), Failed> {
    let freed = async {
        destroy(&app, &tenant.id).await?;
        advance(&app, &tenant, tenant.state.freed(app.now())).await?;
        Ok::<_, Error>(())
    };
    freed.await.map_err(|e| {
        tracing::error!(tenant = %tenant.id, error = describe(&e), "a tenant was not freed; it is tried again");
        Failed
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{bed, is_active};

    /// Nothing is told here, so what is in the store is what was seen while it was made.
    #[tokio::test]
    async fn one_that_was_just_made_is_not_taken_for_what_it_was_before() {
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
