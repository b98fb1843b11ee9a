//! Gets memory back when the host is short of it, in the order of [`faultline_domain::pressure`].

use faultline_domain::{
    environment::{EndReason, Environment, Intent, State},
    limits::Need,
    pressure::{Candidate, NOTICE, choose, idle_limit},
    tenant::State as TenantState,
};
use faultline_store::{environments::Counts, pools::PoolTenant};

use jiff::SignedDuration;

use super::Error;
use crate::{
    app::App,
    operations::{check, start::idle_seconds},
    pools::{give_back, missing_mib, reclaimable_mib},
};

/// How long a paused environment counts as one whose memory is about to be free.
const STORING: SignedDuration = SignedDuration::from_mins(2);

/// Keeps the operator's reserve free when what runs has grown into it, and withdraws notices of environments that are used
/// again. `all` are the environments that haven't ended.
pub(super) async fn pass(app: &App, all: &[Environment]) -> Result<(), Error> {
    let usual = idle_seconds(app);
    for e in all.iter().filter(|e| is_noticed(app, e)) {
        if e.lifetime.end().0.duration_since(app.now()) > NOTICE
            && app.store.limit_idle_time(e, usual).await?
        {
            app.changed(&e.id);
        }
    }
    let (nothing, counts) = (Need::NOTHING, Counts::default());
    if missing_mib(app, &[], nothing, &counts) > 0 {
        let pooled = app.store.pool_tenants(app.now()).await?;
        let missing = missing_mib(app, &pooled, nothing, &counts);
        give_back(app, &pooled, missing).await?;
        relieve(app, all, &pooled, nothing, &counts).await?;
    }
    Ok(())
}

/// Returns true if an environment was given notice that it is suspended because of pressure.
pub(crate) fn is_noticed(app: &App, e: &Environment) -> bool {
    matches!(e.state, State::Active { .. }) && e.lifetime.idle_seconds < idle_seconds(app)
}

/// Gives unused environments notice if suspending them, together with what pools hold, provides the memory for a need.
/// Returns true if memory is on its way.
pub(super) async fn relieve(
    app: &App,
    all: &[Environment],
    pooled: &[PoolTenant],
    need: Need,
    counts: &Counts,
) -> Result<bool, Error> {
    let missing = missing_mib(app, pooled, need, counts);
    if missing == 0 || !app.suspends() {
        return Ok(false);
    }
    // One group at a time: what the previous one gives back is not free yet.
    let is_freed = |state: &TenantState| matches!(state, TenantState::Releasing { .. });
    let rows = app.store.unfinished_tenants().await?;
    if all.iter().any(|e| is_leaving(app, e)) || rows.iter().any(|row| is_freed(&row.state)) {
        return Ok(true);
    }
    let now = app.now();
    let mut candidates = Vec::new();
    for e in all.iter().filter(|e| may_be_suspended(app, e)) {
        if let Some(tenant) = e.tenant_id()
            && let Ok(usage) = app.provider.usage(tenant).await
        {
            candidates.push(Candidate {
                id: e.id.clone(),
                last_used: e.lifetime.last_used,
                memory_mib: usage.private_bytes / 1024 / 1024,
            });
        }
    }
    // For the reserve, a part of it is better than nothing.
    let partly = need == Need::NOTHING;
    let missing_then = missing.saturating_sub(reclaimable_mib(pooled));
    let chosen = choose(candidates, missing_then, partly);
    if chosen.is_empty() {
        return Ok(false);
    }
    give_back(app, pooled, missing).await?;
    for e in all.iter().filter(|e| chosen.contains(&e.id)) {
        let limit = idle_limit(e.lifetime.last_used, now);
        if limit < e.lifetime.idle_seconds && app.store.limit_idle_time(e, limit).await? {
            tracing::info!(environment = %e.id, missing, "suspending an unused environment: memory is short");
            let detail = format!("{missing} MiB of memory are missing");
            let (action, id) = ("suspend-notice", e.id.as_str());
            app.store.note(now, None, action, id, &detail).await?;
            app.changed(&e.id);
        }
    }
    Ok(true)
}

/// Returns true if an environment will give back its memory soon.
fn is_leaving(app: &App, e: &Environment) -> bool {
    let (end, reason) = e.lifetime.end();
    let ends = reason == EndReason::Idle && end.duration_since(app.now()) <= NOTICE;
    match e.state {
        State::Active { .. } => e.intent != Intent::Active || ends,
        // If it could not be written by now, others must help.
        State::Suspended { since, .. } => {
            let waits = app.now().duration_since(since) < STORING;
            waits && e.intent == Intent::Suspended && !e.state.is_on_disk()
        }
        _ => false,
    }
}

fn may_be_suspended(app: &App, e: &Environment) -> bool {
    let unused = SignedDuration::from_mins(app.config.unused_minutes.into());
    matches!(e.state, State::Active { .. })
        && e.intent == Intent::Active
        && !e.is_resizing()
        && !check::is_running(app, &e.id)
        && app.now().duration_since(e.lifetime.last_used) >= unused
}
