//! Gives environments in the queue their tenants, as soon as there is room for the next one.

use std::collections::HashMap;

use faultline_domain::{
    EnvironmentId,
    environment::{Environment, State},
    limits::{Denial, Need, admit},
    pool,
    queue::{self, Held, Lack, Place, Waiting},
    tenant::{State as TenantState, Tenant},
};
use faultline_store::{
    environments::{Coming, Counts},
    pools::PoolTenant,
};
use jiff::SignedDuration;

use super::{Error, pressure};
use crate::{
    app::{App, Shared},
    capacity::{Free, capacity, need},
    lock::lock,
    pools::make_room,
};

/// What happens to the environments that wait.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// Those that get a tenant now, in order.
    pub admitted: Vec<Environment>,
    /// The first one, if there is no room for it even though nothing else runs.
    pub refused: Option<(Environment, Denial)>,
}

/// Decides which environments get a tenant now, and publishes the places of the others. `all` are the environments that
/// haven't ended, and `asking` are those that wait.
pub(super) async fn decide(
    app: &Shared,
    all: &[Environment],
    asking: Vec<Environment>,
) -> Result<Decision, Error> {
    let mut decision = Decision::default();
    if asking.is_empty() {
        show(app, HashMap::new());
        return Ok(decision);
    }
    let groups = app.store.memberships().await?;
    let groups_of = |e: &Environment| groups.get(&e.person).cloned().unwrap_or_default();
    let mut held = Held::default();
    for e in all.iter().filter(|e| e.tenant.is_some()) {
        held.add(&e.person, &groups_of(e));
    }
    let mut by_id: HashMap<EnvironmentId, Environment> =
        asking.into_iter().map(|e| (e.id.clone(), e)).collect();
    let waiting = by_id.values().map(|e| waiting(e, groups_of(e))).collect();
    let order = queue::order(waiting, &held);
    let pooled = app.store.pool_tenants(app.now()).await?;
    let mut counts = Counts::of(all);
    counts.coming.extend(pooled.iter().filter_map(being_made));
    let mut warm: Vec<&Tenant> = pooled
        .iter()
        .map(|t| &t.tenant)
        .filter(|t| matches!(t.state, TenantState::Warm { .. }))
        .collect();
    let mut rest: Vec<Environment> = Vec::new();
    let mut lack = Lack::Places;
    let in_maintenance = app.maintenance().is_some();
    for next in order {
        let Some(e) = by_id.remove(&next.id) else {
            continue;
        };
        // Whoever is next is not overtaken by smaller ones, or it would wait forever.
        if !rest.is_empty() {
            rest.push(e);
            continue;
        }
        // What had a place before goes on.
        if in_maintenance && !next.returns {
            lack = Lack::Maintenance;
            rest.push(e);
            continue;
        }
        let (hash, template) = (e.lab_hash.as_deref(), &e.spec.tenant.template);
        let claims = pool::choose(warm.iter().copied(), &e.lab, hash, template);
        let claims = claims.map(|tenant| tenant.id.clone());
        // What it claims has its memory already.
        let own = if claims.is_some() {
            0
        } else {
            template.shape.nodes()
        };
        let new = own + u32::try_from(e.wanted.len()).unwrap_or(u32::MAX);
        match room(app, &e, new, &counts) {
            Ok(()) => {
                warm.retain(|tenant| Some(&tenant.id) != claims.as_ref());
                counts.environments += 1;
                counts.nodes = counts.nodes.saturating_add(all_nodes(&e));
                counts.coming.push(Coming {
                    is_cluster: e.spec.is_cluster(),
                    nodes: new.into(),
                });
                decision.admitted.push(e);
            }
            Err((denial, need)) => {
                lack = Lack::of(&denial);
                let comes = lack == Lack::Memory
                    && (make_room(app, &pooled, need, &counts).await?
                        || pressure::relieve(app, all, &pooled, need, &counts).await?);
                let is_idle = all.iter().all(|e| e.tenant.is_none()) && pooled.is_empty();
                if is_idle && !comes && decision.admitted.is_empty() {
                    decision.refused = Some((e, denial));
                } else {
                    rest.push(e);
                }
            }
        }
    }
    let places = if rest.is_empty() {
        HashMap::new()
    } else {
        places(app, all, &rest, lack).await?
    };
    show(app, places);
    Ok(decision)
}

fn waiting(e: &Environment, groups: Vec<String>) -> Waiting {
    let (since, returns) = match e.state {
        State::Requested { since, returns, .. } => (since, returns),
        _ => (e.created_at, false),
    };
    Waiting {
        id: e.id.clone(),
        person: e.person.clone(),
        groups,
        since,
        returns,
    }
}

/// Returns the nodes of a tenant that is being made for a pool.
fn being_made(of: &PoolTenant) -> Option<Coming> {
    let template = &of.tenant.spec.template;
    let is_made = matches!(of.tenant.state, TenantState::Provisioning { .. });
    (is_made && of.tenant.environment.is_none()).then(|| Coming {
        is_cluster: template.is_cluster(),
        nodes: template.shape.nodes().into(),
    })
}

/// Returns the number of nodes of an environment.
fn all_nodes(e: &Environment) -> u32 {
    u32::try_from(e.taken().len()).unwrap_or(u32::MAX)
}

/// Returns an error with the need if there is no room for an environment now, of which `new` nodes need memory and disk.
fn room(app: &App, e: &Environment, new: u32, counts: &Counts) -> Result<(), (Denial, Need)> {
    let config = &app.config;
    let need = Need {
        nodes: all_nodes(e),
        ..need(config, e.spec.is_cluster(), new)
    };
    let free = Free::now(app);
    admit(&capacity(config, free, counts), need).map_err(|denial| (denial, need))
}

/// Returns the places of those who still wait.
async fn places(
    app: &App,
    all: &[Environment],
    rest: &[Environment],
    lack: Lack,
) -> Result<HashMap<EnvironmentId, Place>, Error> {
    let now = app.now();
    let usual = app.store.usual_lifetime().await?;
    let maintenance = app.maintenance();
    let mut ends: Vec<SignedDuration> = all
        .iter()
        .filter(|e| e.is_open())
        .filter_map(|e| match e.tenant.as_ref()?.state {
            TenantState::Claimed { since } => {
                let latest = app.end_of(e).0.duration_since(now);
                Some(queue::remaining(now.duration_since(since), latest, usual))
            }
            _ => None,
        })
        .collect();
    ends.sort_unstable();
    let of = u32::try_from(rest.len()).unwrap_or(u32::MAX);
    let mut longest = SignedDuration::ZERO;
    let place = |(position, e): (usize, &Environment)| {
        // Nobody gets a place before those ahead.
        let wait = queue::estimate(position, &ends, usual).map(|wait| wait.max(longest));
        longest = wait.unwrap_or(longest);
        let place = Place {
            position: u32::try_from(position + 1).unwrap_or(u32::MAX),
            of,
            lack,
            seconds: match &maintenance {
                // Nobody gets a place before it ends, however many become free.
                Some(maintenance) => maintenance.remaining(now).map(|wait| wait.as_secs()),
                None => wait.map(|wait| wait.as_secs()),
            },
        };
        (e.id.clone(), place)
    };
    Ok(rest.iter().enumerate().map(place).collect())
}

/// Publishes the places, and notifies those who watch an environment whose position has changed.
fn show(app: &App, places: HashMap<EnvironmentId, Place>) {
    let length = i64::try_from(places.len()).unwrap_or(i64::MAX);
    app.metrics.queued.set(length);
    let position = |place: Option<&Place>| place.map(|p| (p.position, p.of, p.lack));
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
