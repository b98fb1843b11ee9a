//! Gives environments in the queue their tenants, as soon as there is room for the next one.

use std::collections::HashMap;

use faultline_domain::{
    EnvironmentId, PersonId,
    environment::{Environment, State},
    limits::{Need, admit},
    queue::{self, Place, Waiting},
    tenant::State as TenantState,
};
use faultline_store::{environments::Counts, pools::PoolTenant};
use jiff::SignedDuration;

use super::Error;
use crate::{
    app::{App, Shared},
    capacity::{Free, capacity, need},
    lock::lock,
    pools::reclaimable_mib,
};

/// Returns the environments that get a tenant now, in order, and records the places of the others. `all` are the
/// environments that haven't ended, and `asking` are those that wait.
pub(super) async fn admitted(
    app: &Shared,
    all: &[Environment],
    asking: Vec<Environment>,
) -> Result<Vec<Environment>, Error> {
    if asking.is_empty() {
        show(app, HashMap::new());
        return Ok(Vec::new());
    }
    let mut held: HashMap<PersonId, u32> = HashMap::new();
    for e in all.iter().filter(|e| e.tenant.is_some()) {
        *held.entry(e.person.clone()).or_default() += 1;
    }
    let mut by_id: HashMap<EnvironmentId, Environment> =
        asking.into_iter().map(|e| (e.id.clone(), e)).collect();
    let waiting = by_id.values().map(waiting).collect();
    let order = queue::order(waiting, &held);
    let mut pooled = app.store.pool_tenants(app.now()).await?;
    let mut counts = Counts::of(all);
    let mut admitted = Vec::new();
    let mut rest = Vec::new();
    for next in order {
        let Some(e) = by_id.remove(&next.id) else {
            continue;
        };
        // Whoever is next is not overtaken by smaller ones, or it would wait forever.
        if !rest.is_empty() || !fits(app, &e, &counts, &pooled) {
            rest.push(e);
            continue;
        }
        match serving(&e, &pooled) {
            Some(at) => drop(pooled.remove(at)),
            None => counts.coming.push(faultline_store::environments::Coming {
                is_cluster: e.spec.is_cluster(),
                nodes: nodes(&e),
            }),
        }
        counts.environments += 1;
        admitted.push(e);
    }
    let places = if rest.is_empty() {
        HashMap::new()
    } else {
        places(app, all, &rest).await?
    };
    show(app, places);
    Ok(admitted)
}

fn waiting(e: &Environment) -> Waiting {
    let (since, returns) = match e.state {
        State::Requested { since, returns, .. } => (since, returns),
        _ => (e.created_at, false),
    };
    Waiting {
        id: e.id.clone(),
        person: e.person.clone(),
        since,
        returns,
    }
}

fn nodes(e: &Environment) -> u64 {
    u64::from(e.spec.tenant.template.shape.nodes()) + e.wanted.len() as u64
}

/// Returns the warm tenant of a pool that can serve an environment.
fn serving(e: &Environment, pooled: &[PoolTenant]) -> Option<usize> {
    let template = &e.spec.tenant.template;
    pooled.iter().position(|t| {
        t.tenant.environment.is_none()
            && matches!(t.tenant.state, TenantState::Warm { .. })
            && t.pooled.serves(&e.lab, e.lab_hash.as_deref(), template)
    })
}

/// Returns true if there is room for an environment now. A warm tenant of a pool already has its memory, and pools give
/// theirs back.
fn fits(app: &App, e: &Environment, counts: &Counts, pooled: &[PoolTenant]) -> bool {
    let config = &app.config;
    let need = match serving(e, pooled) {
        Some(_) => Need {
            memory_mib: 0,
            disk_mib: 0,
        },
        None => need(config, e.spec.is_cluster(), nodes(e)),
    };
    let mut free = Free::now(&config.data_dir);
    free.memory_mib = free.memory_mib.saturating_add(reclaimable_mib(pooled));
    admit(&capacity(config, free, counts), need).is_ok()
}

/// Returns the places of those who still wait.
async fn places(
    app: &App,
    all: &[Environment],
    rest: &[Environment],
) -> Result<HashMap<EnvironmentId, Place>, Error> {
    let now = app.now();
    let usual = app.store.usual_lifetime().await?;
    let placed = all.iter().filter(|e| e.tenant.is_some() && e.is_open());
    let mut ends: Vec<SignedDuration> = placed
        .map(|e| {
            let (end, _) = e.lifetime.end();
            let (age, latest) = (now.duration_since(e.created_at), end.duration_since(now));
            queue::remaining(age, latest, usual)
        })
        .collect();
    let of = u32::try_from(rest.len()).unwrap_or(u32::MAX);
    let place = |(position, e): (usize, &Environment)| {
        let wait = queue::estimate(position, &mut ends, usual);
        let place = Place {
            position: u32::try_from(position + 1).unwrap_or(u32::MAX),
            of,
            seconds: wait.map(|wait| wait.as_secs()),
        };
        (e.id.clone(), place)
    };
    Ok(rest.iter().enumerate().map(place).collect())
}

/// Publishes the places, and notifies those who watch an environment whose position has changed.
fn show(app: &App, places: HashMap<EnvironmentId, Place>) {
    app.metrics
        .queued
        .set(i64::try_from(places.len()).unwrap_or(i64::MAX));
    let position = |place: Option<&Place>| place.map(|place| (place.position, place.of));
    let mut shown = lock(&app.queue);
    let changed: Vec<EnvironmentId> = places
        .keys()
        .chain(shown.keys())
        .filter(|id| position(places.get(*id)) != position(shown.get(*id)))
        .cloned()
        .collect();
    *shown = places;
    drop(shown);
    for id in changed {
        app.hub.poke(&id);
    }
}
