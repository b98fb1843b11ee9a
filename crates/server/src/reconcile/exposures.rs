//! Observes what running environments expose: the services and Ingresses of their clusters, and the ports that their labs
//! declare. While somebody looks, also asks what answers there.
//!
//! Tenants of pools are not observed, so nothing of them is reachable before they are somebody's.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use faultline_cluster::{client, exposed, exposed::Exposed, kube::Client};
use faultline_domain::{
    TenantId,
    environment::{Environment, State},
    exposure::{self, Report, Selection, Source},
    tenant::Observed,
};

use super::{
    Done, describe,
    steps::{Failed, Kind, Steps, Subject},
};
use crate::{
    app::{App, Shared},
    lock::lock,
    probes::probe,
    status::Counts,
};

/// The interval of observations. A service that is deleted is closed within it.
const INTERVAL: Duration = Duration::from_secs(3);
/// The interval while a cluster can't be observed.
const FAILING: Duration = Duration::from_secs(10);
/// The time for which a connection to an API server is used. Its credential lasts longer.
const CONNECTION: Duration = Duration::from_secs(1800);

/// A tenant that is observed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Subjected(TenantId);

impl Subject for Subjected {
    /// Does nothing: an observation is repeated at its interval, and wakes whom it concerns itself.
    fn changed(&self, _: &App) {}
}

/// What the reconciler remembers of a tenant.
#[derive(Clone)]
struct Remembered {
    due: Instant,
    connection: Option<(Instant, Client)>,
}

/// What the reconciler remembers. All of it may be lost.
#[derive(Clone, Default)]
pub(crate) struct Observer {
    steps: Steps<Subjected>,
    tenants: Arc<Mutex<HashMap<TenantId, Remembered>>>,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}

impl Observer {
    fn is_due(&self, tenant: &TenantId) -> bool {
        let all = lock(&self.tenants);
        all.get(tenant).is_none_or(|t| t.due <= Instant::now())
    }

    fn connection(&self, tenant: &TenantId) -> Option<(Instant, Client)> {
        let all = lock(&self.tenants);
        let connection = all.get(tenant)?.connection.clone();
        connection.filter(|(since, _)| since.elapsed() < CONNECTION)
    }

    fn remember(&self, tenant: &TenantId, connection: Option<(Instant, Client)>, wait: Duration) {
        let due = Instant::now() + wait;
        let remembered = Remembered { due, connection };
        lock(&self.tenants).insert(tenant.clone(), remembered);
    }
}

pub(super) async fn pass(app: Shared, observer: Observer) -> Done {
    if app.config.exposure_domain().is_none() {
        return Ok(Counts::new());
    }
    let mut running = HashSet::new();
    let mut begun = 0;
    for e in app.store.unfinished_environments().await? {
        let runs = e.is_open() && matches!(e.state, State::Active { .. });
        let tenant = e.tenant.as_ref().filter(|t| {
            let observed = t.observed == Some(Observed::Running);
            runs && observed
        });
        let Some(tenant) = tenant.map(|t| t.id.clone()) else {
            continue;
        };
        running.insert(tenant.clone());
        let subject = Subjected(tenant.clone());
        if !observer.is_due(&tenant) || observer.steps.kind(&subject).is_some() {
            continue;
        }
        begun += 1;
        let (within, observed) = (app.clone(), observer.clone());
        observer
            .steps
            .begin(&app, &subject, Kind::Exposures, async move {
                observe(&within, &observed, &e, &tenant)
                    .await
                    .map_err(|error| {
                        let error = &error as &dyn std::error::Error;
                        tracing::error!(%tenant, error, "could not record what is exposed");
                        Failed
                    })
            });
    }
    for subject in observer.steps.busy() {
        if !running.contains(&subject.0) {
            observer.steps.cancel(&subject);
        }
    }
    observer.steps.retain_failures(|s| running.contains(&s.0));
    lock(&observer.tenants).retain(|tenant, _| running.contains(tenant));
    app.probes.retain(|tenant| running.contains(tenant));
    Ok(Counts::from([
        ("environments", running.len() as u64),
        ("observations", begun),
    ]))
}

async fn observe(
    app: &App,
    observer: &Observer,
    e: &Environment,
    tenant: &TenantId,
) -> Result<(), faultline_store::Error> {
    let lab = app.lab_of(e).await;
    let declared = lab.map_or_else(Vec::new, |lab| lab.lab.exposures());
    let (report, connection, wait) = if e.spec.is_cluster() {
        let known = observer.connection(tenant);
        match read(app, tenant, known).await {
            Ok((connection, exposed)) => {
                let mut selection = exposure::select(&declared, exposed.found);
                set_addresses(app, e, &connection.1, &exposed.without_address, &selection).await;
                selection.left_out = selection.left_out.saturating_add(exposed.left_out);
                (Report::success(selection), Some(connection), INTERVAL)
            }
            Err(reason) => {
                let before = app.store.exposures(tenant).await?;
                let report = Report::failure(before, &declared, reason, app.now());
                (report, None, FAILING)
            }
        }
    } else {
        let selection = exposure::select(&declared, Vec::new());
        (Report::success(selection), None, INTERVAL)
    };
    observer.remember(tenant, connection, wait);
    let mut changed = app.store.record_exposures(tenant, &report).await?;
    if app.probes.are_due(tenant) {
        let answers = probe(app, e, &report).await;
        changed |= app.probes.record(tenant, answers);
    }
    if changed {
        app.hub.poke(&e.id);
    }
    Ok(())
}

/// Gives load-balancer services the host names of their exposures. If that fails, it is tried again with the next
/// observation.
async fn set_addresses(
    app: &App,
    e: &Environment,
    client: &Client,
    without: &[(String, String)],
    selection: &Selection,
) {
    let Some(domain) = app.config.exposure_domain() else {
        return;
    };
    for (of, wanted) in without {
        let mut all = selection.exposures.iter();
        let named = all.find(|exposure| {
            matches!(&exposure.source, Source::LoadBalancer { namespace, name }
                if namespace == of && name == wanted)
        });
        let Some(exposure) = named else {
            continue;
        };
        let host = domain.host(&exposure.place(e));
        if let Err(error) = exposed::set_address(client, of, wanted, &host).await {
            let error = describe(&error);
            tracing::debug!(environment = %e.id, error, "a service did not get its address");
        }
    }
}

/// Reads what a cluster exposes, on the known connection or a new one.
async fn read(
    app: &App,
    tenant: &TenantId,
    known: Option<(Instant, Client)>,
) -> Result<((Instant, Client), Exposed), String> {
    let connection = match known {
        Some(known) => known,
        None => {
            let identity = client::platform(app.now());
            let access = app.provider.api(tenant, &identity).await;
            let access = access.map_err(|e| describe(&e))?;
            let client = client::connect(&access).await.map_err(|e| describe(&e))?;
            (Instant::now(), client)
        }
    };
    let exposed = exposed::read(&connection.1).await;
    Ok((connection, exposed.map_err(|e| describe(&e))?))
}
