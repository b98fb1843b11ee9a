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

use super::{Done, Error, warnings};
use crate::{
    app::{App, Shared},
    lock::lock,
    status::Counts,
};

pub(super) async fn pass(app: Shared) -> Done {
    let (app, burst) = (&app, app.config.burst);
    let mut known = HashMap::new();
    let mut slow = 0_u64;
    for e in app.store.unfinished_environments().await? {
        let Some(tenant) = e.tenant_id().filter(|_| is_running(&e)) else {
            continue;
        };
        // A tenant whose usage can't be read now keeps its pace.
        let before = lock(&app.credits).get(tenant).copied();
        let now = match (before, app.provider.usage(tenant).await) {
            (before, Err(_)) => before,
            (before, Ok(usage)) => {
                let (limit, used) = (cpu_limit(&e), usage.cpu_millis);
                Some(match before {
                    Some(credits) => credits.observe(&burst, limit, used, app.now()),
                    None => Credits::new(&burst, limit, used, app.now()),
                })
            }
        };
        let Some(now) = now else { continue };
        // After a restart of the server, a tenant may still be slow, since that is not stored.
        if before.is_none_or(|before| before.pace != now.pace) {
            apply(app, &e, tenant, now.pace, before.is_some()).await?;
        }
        slow += u64::from(now.pace == Pace::Slow);
        known.insert(tenant.clone(), now);
    }
    let checked = known.len() as u64;
    *lock(&app.credits) = known;
    app.metrics.slowed.set(slow.cast_signed());
    Ok(Counts::from([("checked", checked), ("slow", slow)]))
}

/// Returns true if an environment is slowed down.
pub(crate) fn is_slow(app: &App, e: &Environment) -> bool {
    let credits = lock(&app.credits);
    let mine = e.tenant_id().and_then(|tenant| credits.get(tenant));
    is_running(e) && mine.is_some_and(|credits| credits.pace == Pace::Slow)
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
