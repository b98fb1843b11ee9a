//! Keeps warm pools at the sizes of their forecasts: requests tenants for them and releases those that are outdated,
//! too old or not needed. The tenants' reconciler makes and frees them.

use faultline_domain::{
    TenantId,
    pool::Pooled,
    progress::Progress,
    tenant::{self, Allowance, Tenant},
};
use faultline_lab::SetupError;
use faultline_provider::{Error as ProviderError, Priority};
use faultline_store::lab_contents::LabContent;

use super::{Done, pool_saves};
use crate::{
    app::{App, Shared},
    pools::{PoolStatus, is_held, is_warm, survey},
    status::Counts,
};

pub(super) async fn pass(app: Shared) -> Done {
    let is_off = app.config.pools.max_tenants == 0;
    if is_off && app.store.pool_tenants(app.now()).await?.is_empty() {
        return Ok(Counts::new());
    }
    let pools = survey(&app).await?;
    app.metrics.pools(&pools.all);
    let wanted: Vec<_> = pools.all.iter().filter_map(PoolStatus::pooled).collect();
    pool_saves::discard(&app, &wanted).await?;
    let mut released = 0;
    let excess = pools.all.iter().flat_map(|s| &s.plan.release);
    for id in excess.chain(&pools.stray) {
        app.store.release_from_pool(id, app.now()).await?;
        crash_point!(app, PoolTenantReleased);
        released += 1;
    }
    let tenants = app.store.pool_tenants(app.now()).await?;
    let maintenance = app.maintenance();
    if maintenance.is_some_and(|m| m.end_environments_at.is_some()) {
        // Nobody will claim them, and the host may be rebooted.
        let held: Vec<_> = tenants.iter().filter(|t| is_held(t)).collect();
        let mut budget = if held.is_empty() {
            0
        } else {
            pool_saves::budget(&app).await?
        };
        for held in held {
            if !(is_warm(held) && pool_saves::request(&app, held, &mut budget).await?) {
                app.store
                    .release_from_pool(&held.tenant.id, app.now())
                    .await?;
            }
            released += 1;
        }
    }
    let wanted = |s: &&PoolStatus| s.plan.make > 0 && s.backoff.is_zero();
    let mut requested = 0;
    if pools.hold.is_none()
        && !pools.busy
        && let Some(status) = pools.all.iter().find(wanted)
        && let Some(pooled) = status.pooled()
    {
        request(&app, status, &pooled).await?;
        requested += 1;
    }
    if released + requested > 0 {
        app.wake.all();
    }
    Ok(Counts::from([
        ("warm", pools.all.iter().map(|s| u64::from(s.warm)).sum()),
        ("requested", requested),
        ("released", released),
    ]))
}

async fn request(
    app: &App,
    of: &PoolStatus,
    pooled: &Pooled,
) -> Result<(), faultline_store::Error> {
    let id = app.random(TenantId::generate);
    let content = of.lab.as_ref().map(|lab| (lab.hash.clone(), lab.content()));
    let lab = content
        .as_ref()
        .map(|(hash, text)| LabContent { hash, text });
    let nodes = of.template.shape.nodes();
    // What the lab allows is applied at the claim.
    let spec = tenant::Spec {
        template: of.template.clone(),
        save_point: None,
        allowance: Allowance {
            limits: app.config.limits_of_nodes(nodes),
            egress: Vec::new(),
        },
    };
    app.store
        .add_to_pool(&id, &spec, pooled, lab, app.now())
        .await?;
    crash_point!(app, PoolTenantRequested);
    Ok(())
}

/// An error while making a tenant of a pool.
#[derive(Debug, thiserror::Error)]
pub(super) enum MakeError {
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error("the lab has changed")]
    LabGone,
    #[error(transparent)]
    Setup(#[from] SetupError),
}

/// Makes a tenant of a pool: creates it, runs the setup of the pool's lab, and pauses it. One that continues from disk has
/// had its setup.
pub(super) async fn make(
    app: &App,
    tenant: &Tenant,
    pooled: &Pooled,
    progress: &Progress,
) -> Result<(), MakeError> {
    let began = std::time::Instant::now();
    let (id, template) = (&tenant.id, &tenant.spec.template);
    let saved = &tenant.spec.save_point;
    match saved {
        Some(save) => app.provider.restore(id, save, progress).await?,
        None => {
            app.provider
                .create(id, template, Priority::Low, progress)
                .await?;
        }
    }
    crash_point!(app, PoolTenantCreated);
    if saved.is_none()
        && let Some(hash) = &pooled.lab
    {
        let lab = app
            .lab_with_hash(&pooled.pool, hash)
            .await
            .ok_or(MakeError::LabGone)?;
        faultline_lab::set_up(&*app.provider, id, &lab, progress).await?;
        crash_point!(app, PoolTenantSetUp);
    }
    app.provider.pause(id).await?;
    crash_point!(app, PoolTenantPaused);
    let usage = app.provider.usage(id).await.ok();
    let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let recorded = app
        .store
        .record_made(id, millis, usage.map(|usage| usage.private_bytes))
        .await;
    if let Err(error) = recorded {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(tenant = %id, error, "could not record what a pool's tenant took to make");
    }
    Ok(())
}
