//! Slows environments down that use all of their CPU for long, and tells their owners and the operator; see
//! [`faultline_domain::burst`].

use std::collections::HashMap;

use faultline_domain::{
    TenantId,
    burst::{Credits, Pace},
    environment::{Environment, State},
    limits::Limits,
    tenant::Allowance,
};

use super::{Done, Error, describe, warnings};
use crate::{
    app::{App, Shared},
    lock::lock,
    status::Counts,
};

pub(super) async fn pass(app: Shared) -> Done {
    let (app, burst) = (&app, app.config.burst);
    let known = lock(&app.credits).clone();
    let mut next = HashMap::new();
    let (mut checked, mut slow) = (0_u64, 0_u64);
    for e in app.store.unfinished_environments().await? {
        let before = known.get(&e.id);
        let tenant = e.tenant_id().filter(|_| is_running(&e));
        let usage = match tenant {
            Some(tenant) => app.provider.usage(tenant).await.ok(),
            None => None,
        };
        // A pause doesn't give new credits; they grow with the time.
        let (Some(tenant), Some(usage)) = (tenant, usage) else {
            next.extend(before.map(|before| (e.id.clone(), before.clone())));
            continue;
        };
        checked += 1;
        let (limit, used, now) = (cpu_limit(&e), usage.cpu_millis, app.now());
        let stays = before.is_some_and(|(known, _)| known == tenant);
        let credits = match before {
            Some((_, credits)) if stays => credits.observe(&burst, limit, used, now),
            Some((_, credits)) => credits.moved(used).observe(&burst, limit, used, now),
            None => Credits::new(&burst, limit, used, now),
        };
        let is_news = before.is_some_and(|(_, before)| before.pace != credits.pace);
        // Its preparation has given it its whole limit. After a restart of the server, it may still be slow, since that
        // is not stored.
        let began = match e.state {
            State::Active { since } => since,
            _ => now,
        };
        let is_whole = before.is_some() || began >= app.started_at;
        if is_news || (!stays && (credits.pace == Pace::Slow || !is_whole)) {
            let applied = apply(app, &e, tenant, credits.pace, is_news).await;
            if let Err(error) = applied {
                tracing::warn!(environment = %e.id, error = describe(&error), "its CPU limit could not be changed; will retry");
                next.extend(before.map(|before| (e.id.clone(), before.clone())));
                continue;
            }
        }
        slow += u64::from(credits.pace == Pace::Slow);
        next.insert(e.id.clone(), (tenant.clone(), credits));
    }
    *lock(&app.credits) = next;
    app.metrics.slowed.set(slow.cast_signed());
    Ok(Counts::from([("checked", checked), ("slow", slow)]))
}

/// Returns true if an environment is slowed down.
pub(crate) fn is_slow(app: &App, e: &Environment) -> bool {
    let credits = lock(&app.credits);
    let mine = credits.get(&e.id);
    is_running(e) && mine.is_some_and(|(_, credits)| credits.pace == Pace::Slow)
}

fn is_running(e: &Environment) -> bool {
    matches!(e.state, State::Active { .. }) && e.is_open()
}

/// Returns the CPU limit of all its nodes, including added ones, in thousandths of a core.
fn cpu_limit(e: &Environment) -> u32 {
    let count = |nodes: usize| u32::try_from(nodes).unwrap_or(u32::MAX).max(1);
    let limit = e.spec.tenant.allowance.limits.cpu_millis;
    limit / count(e.spec.nodes().len()) * count(e.nodes().len())
}

async fn apply(
    app: &Shared,
    e: &Environment,
    tenant: &TenantId,
    pace: Pace,
    is_news: bool,
) -> Result<(), Error> {
    let limits = e.spec.tenant.allowance.limits;
    let cpu_millis = match pace {
        Pace::Full => limits.cpu_millis,
        Pace::Slow => app.config.burst.baseline(limits.cpu_millis),
    };
    let allowance = Allowance {
        limits: Limits {
            cpu_millis,
            ..limits
        },
        ..e.spec.tenant.allowance.clone()
    };
    app.provider.configure(tenant, &allowance).await?;
    if !is_news {
        return Ok(());
    }
    let (action, text) = match pace {
        Pace::Slow => (
            "slow-down",
            "This machine has used all of its CPU for a long time. It runs slower until it has been quiet for a while.",
        ),
        Pace::Full => ("speed-up", "This machine runs at full speed again."),
    };
    let detail = format!("{cpu_millis} thousandths of a core");
    app.store
        .note(app.now(), None, action, e.id.as_str(), &detail)
        .await?;
    tracing::info!(environment = %e.id, action, cpu_millis, "its CPU limit was changed");
    warnings::say(app, e, text);
    app.changed(&e.id);
    Ok(())
}
