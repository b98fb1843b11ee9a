//! What environments and pools really use of the host, what is free, and how many more environments fit now.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Mutex,
};

use faultline_domain::{
    TemplateRef, TenantId,
    environment::{Environment, State},
    limits::{Need, room},
    pool::Pool,
};
use faultline_store::environments::Counts;
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};

use crate::{
    app::App,
    capacity::{Free, Host, capacity, need},
    lock::lock,
    pools::reclaimable_mib,
};

/// The least time from which the use of processors is computed.
const LEAST: SignedDuration = SignedDuration::from_secs(5);

/// What a tenant uses.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Measured {
    /// The memory that it doesn't share, in MiB.
    pub memory_mib: u64,
    /// The disk space of its overlays, in MiB.
    pub disk_mib: u64,
    /// The number of processors that it keeps busy. `None` until it was measured twice.
    pub cores: Option<f64>,
}

/// An earlier measurement of a tenant.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Earlier {
    at: Timestamp,
    cpu_millis: u64,
    cores: Option<f64>,
}

impl Earlier {
    /// Returns the number of processors that were busy since then.
    fn cores_until(self, now: Timestamp, cpu_millis: u64) -> Option<f64> {
        let elapsed = now.duration_since(self.at);
        if elapsed < LEAST {
            return self.cores;
        }
        let used = cpu_millis.checked_sub(self.cpu_millis)?;
        #[expect(clippy::cast_precision_loss, reason = "for people, to a hundredth")]
        let used = used as f64 / 1000.0;
        Some(used / elapsed.as_secs_f64())
    }
}

/// The last regular measurement of each tenant.
#[derive(Debug, Default)]
pub(crate) struct Measurements(Mutex<HashMap<TenantId, Earlier>>);

/// Measures what a tenant uses. `None` if it can't be measured.
pub(crate) async fn measure(app: &App, tenant: &TenantId) -> Option<Measured> {
    let usage = app.provider.usage(tenant).await.ok()?;
    let earlier = lock(&app.measurements.0).get(tenant).copied();
    Some(Measured {
        memory_mib: usage.private_bytes / 1024 / 1024,
        disk_mib: usage.disk_bytes / 1024 / 1024,
        cores: earlier.and_then(|earlier| earlier.cores_until(app.now(), usage.cpu_millis)),
    })
}

/// Returns true if an environment's tenant runs or is paused.
fn has_machines(e: &Environment) -> bool {
    matches!(e.state, State::Active { .. } | State::Suspended { .. })
}

/// Measures all tenants, so that the use of processors can be computed from then on. Returns their number.
pub(crate) async fn measure_all(app: &App) -> Result<u64, faultline_store::Error> {
    let now = app.now();
    let environments = app.store.unfinished_environments().await?;
    let pooled = app.store.pool_tenants(now).await?;
    let mine = environments.iter().filter(|e| has_machines(e));
    let tenants: HashSet<TenantId> = mine
        .filter_map(|e| e.tenant_id().cloned())
        .chain(pooled.into_iter().map(|of| of.tenant.id))
        .collect();
    let usages = join_all(tenants.iter().map(|id| app.provider.usage(id))).await;
    let mut all = lock(&app.measurements.0);
    all.retain(|id, _| tenants.contains(id));
    let mut measured = 0;
    for (id, usage) in tenants.into_iter().zip(usages) {
        let Ok(usage) = usage else {
            continue;
        };
        let cpu_millis = usage.cpu_millis;
        let cores = all
            .get(&id)
            .and_then(|earlier| earlier.cores_until(now, cpu_millis));
        all.insert(
            id,
            Earlier {
                at: now,
                cpu_millis,
                cores,
            },
        );
        measured += 1;
    }
    Ok(measured)
}

/// Who has the host's memory, or its disk space, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub total: u64,
    /// What stays free for the host.
    pub reserve: u64,
    pub environments: u64,
    pub pools: u64,
    pub free: u64,
}

impl Share {
    /// Returns what the host's other programs have.
    pub(crate) const fn others(&self) -> u64 {
        self.total
            .saturating_sub(self.free)
            .saturating_sub(self.environments)
            .saturating_sub(self.pools)
    }
}

/// How many more environments of a template fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fit {
    pub template: TemplateRef,
    /// What one is expected to need at its start.
    pub need: Need,
    /// The number of labs that use it.
    pub labs: u32,
    /// How many more fit now.
    pub more: u32,
}

/// An environment with a tenant, and what that uses.
#[derive(Debug, Clone)]
pub(crate) struct Used {
    pub environment: Environment,
    /// `None` while it starts, or if it can't be measured.
    pub measured: Option<Measured>,
}

/// The host's capacity.
#[derive(Debug, Clone)]
pub(crate) struct Overview {
    pub memory: Share,
    pub disk: Share,
    pub host: Host,
    /// The number of processors that environments keep busy.
    pub cores: f64,
    pub environments: Vec<Used>,
    pub max_environments: u32,
    pub fits: Vec<Fit>,
}

/// Measures all environments and pools, and returns the host's capacity.
pub(crate) async fn overview(app: &App) -> Result<Overview, faultline_store::Error> {
    let all = app.store.unfinished_environments().await?;
    let pooled = app.store.pool_tenants(app.now()).await?;
    let counts = Counts::of(&all);
    let placed: Vec<Environment> = all.into_iter().filter(|e| e.tenant.is_some()).collect();
    let measured = join_all(placed.iter().map(async |e| match e.tenant_id() {
        Some(tenant) if has_machines(e) => measure(app, tenant).await,
        _ => None,
    }))
    .await;
    let unclaimed = pooled.iter().filter(|of| of.tenant.environment.is_none());
    let in_pools = join_all(unclaimed.map(|of| measure(app, &of.tenant.id))).await;
    let (config, free) = (&app.config, Free::now(app));
    let sum = |of: &[Option<Measured>], part: fn(&Measured) -> u64| {
        of.iter().flatten().map(part).sum::<u64>()
    };
    let share = |total, free, reserve, part: fn(&Measured) -> u64| Share {
        total,
        reserve,
        environments: sum(&measured, part),
        pools: sum(&in_pools, part),
        free,
    };
    let memory = share(
        free.memory_total_mib,
        free.memory_mib,
        config.reserve_memory_mib,
        |m| m.memory_mib,
    );
    let disk = share(
        free.disk_total_mib,
        free.disk_mib,
        config.reserve_disk_mib,
        |m| m.disk_mib,
    );
    // Pools give back their memory when a start needs it.
    let reclaimable = Free {
        memory_mib: free.memory_mib.saturating_add(reclaimable_mib(&pooled)),
        ..free
    };
    let capacity = capacity(config, reclaimable, &counts);
    let mut labs: BTreeMap<TemplateRef, u32> = BTreeMap::new();
    for lab in app.catalogue().labs() {
        *labs.entry(lab.lab.needs.template()).or_default() += 1;
    }
    let fit = |(template, labs): (TemplateRef, u32)| {
        let need = need(config, template.is_cluster(), template.shape.nodes());
        Fit {
            more: room(&capacity, need),
            template,
            need,
            labs,
        }
    };
    Ok(Overview {
        memory,
        disk,
        host: Host::now(),
        // The sum of nothing would be -0.
        cores: measured
            .iter()
            .flatten()
            .filter_map(|m| m.cores)
            .fold(0.0, |sum, cores| sum + cores),
        max_environments: config.max_environments,
        environments: placed
            .into_iter()
            .zip(measured)
            .map(|(environment, measured)| Used {
                environment,
                measured,
            })
            .collect(),
        fits: labs.into_iter().map(fit).collect(),
    })
}

/// Returns a template's name, such as `kubernetes-1.36@1+2`, as pools are named.
pub(crate) fn name(of: &TemplateRef) -> String {
    Pool::Template(of.clone()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + millis).unwrap()
    }

    #[test]
    fn the_use_of_processors_is_that_since_the_last_measurement() {
        let earlier = Earlier {
            at: at(0),
            cpu_millis: 1000,
            cores: Some(0.25),
        };
        assert_eq!(earlier.cores_until(at(10_000), 16_000), Some(1.5));
        assert_eq!(earlier.cores_until(at(10_000), 1000), Some(0.0));
        assert_eq!(earlier.cores_until(at(4_999), 9000), Some(0.25), "too soon");
        assert_eq!(earlier.cores_until(at(10_000), 10), None, "it began anew");
    }

    #[test]
    fn others_have_the_rest() {
        let mut share = Share {
            total: 1000,
            reserve: 100,
            environments: 300,
            pools: 50,
            free: 400,
        };
        assert_eq!(share.others(), 250);
        share.environments = 900;
        assert_eq!(share.others(), 0, "measurements overlap");
    }
}
