//! Ends a server at every point where a crash leaves things half done, and checks that the next one goes on without
//! losing, doubling or leaking anything.

use std::collections::{BTreeMap, BTreeSet};

use faultline_domain::{
    PersonId, SavePointId,
    authz::{MayOperate, Principal, Role, SignedIn},
    environment::EndReason,
    pool::{Bounds, PoolSavePhase},
    save_point::{Purpose, State as Made},
    tenant::{State as TenantState, Tenant},
};
use faultline_provider::Provider;
use jiff::SignedDuration;
use serde_json::json;
use tokio::runtime;

use super::*;
use crate::{
    crash::Point,
    operations::maintenance::{self, NewMaintenance},
};

pub(super) const LAB: &str = "stale-flag";
const TWO_NODES: &str = "two-nodes";
const TEMPLATES: [&str; 2] = ["debian-12@1+0", "debian-12@1+1"];
/// What the setup of [`LAB`] leaves.
const SET_UP: &str = "/var/lib/orders/maintenance";
const KEYS: &str = "/root/.ssh/authorized_keys";
/// Longer than an unneeded tenant of a pool is kept.
const GRACE: SignedDuration = SignedDuration::from_mins(11);

/// A host on which one server runs after another. The database and the machines outlive them.
pub(super) struct Host {
    folder: Arc<TempDir>,
    clock: Clock,
    pub provider: FakeProvider,
    servers: u64,
}

impl Host {
    pub fn new() -> Self {
        Self {
            folder: Arc::new(tempfile::tempdir().unwrap()),
            clock: Clock::stopped(Timestamp::from_second(1_800_000_000).unwrap()),
            provider: FakeProvider::new(),
            servers: 0,
        }
    }

    /// Runs a server while this script runs, and then drops all its tasks where they are. Returns `None` if it ended
    /// before, because it reached the point.
    pub fn serve<T>(
        &mut self,
        until: Option<Point>,
        script: impl AsyncFnOnce(&mut Bed) -> T,
    ) -> Option<T> {
        self.servers += 1;
        let config = Config {
            pools: PoolSettings {
                max_tenants: 4,
                parallel: 1,
            },
            ..Config::default()
        };
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.unwrap();
        let done = runtime.block_on(async {
            let (folder, clock) = (self.folder.clone(), self.clock.clone());
            let mut bed = open(folder, clock, self.provider.clone(), config, self.servers).await;
            let app = bed.app.clone();
            if let Some(point) = until {
                app.crash.arm(point);
            }
            tokio::select! {
                biased;
                () = app.crash.reached() => None,
                done = script(&mut bed) => Some(done),
            }
        });
        drop(runtime);
        // Restarting takes a while.
        self.clock.advance(SignedDuration::from_secs(2));
        done
    }
}

/// What people have asked for.
#[derive(Debug, Default)]
struct Asked {
    /// The number of environments, including that of a request without a response.
    environments: usize,
    /// The environments that they know of.
    known: Vec<EnvironmentId>,
    /// The start that has no response yet.
    open: Option<(&'static str, &'static str)>,
}

impl Asked {
    async fn start(
        &mut self,
        bed: &mut Bed,
        person: &'static str,
        lab: &'static str,
    ) -> EnvironmentId {
        bed.become_another(person).await;
        self.environments += 1;
        self.open = Some((person, lab));
        let id = bed.start(lab).await;
        self.open = None;
        self.known.push(id.clone());
        id
    }
}

pub(super) async fn bound(bed: &Bed, pool: &str, floor: u32) {
    let bounds = Bounds {
        floor,
        ceiling: floor,
    };
    let (store, owner) = (&bed.app.store, PersonId::local());
    let set = store.set_pool_bounds(pool, bounds, &owner, bed.app.now());
    set.await.unwrap();
}

/// Reconciles until a tenant that belongs to nobody is in the wanted state.
pub(super) async fn until_pooled(bed: &Bed, is: impl Fn(&TenantState) -> bool) {
    for _ in 0..400 {
        bed.reconcile().await;
        let all = bed.app.store.unfinished_tenants().await.unwrap();
        if all.iter().any(|t| t.environment.is_none() && is(&t.state)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("the pool did not reach the expected state");
}

pub(super) fn is_warm(state: &TenantState) -> bool {
    matches!(state, TenantState::Warm { .. })
}

pub(super) fn is_made(state: &TenantState) -> bool {
    matches!(state, TenantState::Provisioning { .. })
}

/// Sends a request with a body to the API, and returns the `id` of what it made.
async fn post<T: std::str::FromStr>(bed: &Bed, path: &str, body: serde_json::Value) -> T
where
    T::Err: std::fmt::Debug,
{
    let answer = bed.api(Method::POST, path, Some(&body.to_string())).await;
    assert!(answer.status.is_success(), "{path}: {}", answer.body);
    answer.json()["id"].as_str().unwrap().parse().unwrap()
}

async fn until_saves_are_done(bed: &Bed) {
    for _ in 0..400 {
        bed.reconcile().await;
        let due = bed.app.store.due_save_points(bed.app.now()).await.unwrap();
        // Those of suspended environments stay.
        if due.iter().all(|s| s.purpose == Purpose::Suspension) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("the save points are not done");
}

/// Everything that people do, so that each point is reached.
async fn lives(bed: &mut Bed, asked: &mut Asked) {
    for template in TEMPLATES {
        bound(bed, template, 0).await;
    }
    bound(bed, LAB, 1).await;
    until_pooled(bed, is_warm).await;
    bed.become_another("ann").await;
    bed.key().await;
    let ann = asked.start(bed, "ann", LAB).await;
    bed.until(&ann, is_active).await;
    // A tenant that is being made for the pool.
    bed.provider.set_latency(Duration::from_millis(50));
    until_pooled(bed, is_made).await;
    let ben = asked.start(bed, "ben", LAB).await;
    bed.until(&ben, is_active).await;
    bed.provider.set_latency(Duration::ZERO);
    // One that is dead when it is claimed, without another in the pool.
    until_pooled(bed, is_warm).await;
    bed.provider.fail_next("resume", "its launcher is gone");
    let cleo = asked.start(bed, "cleo", LAB).await;
    bed.until(&cleo, is_active).await;
    until_pooled(bed, is_warm).await;
    drained(bed).await;
    bound(bed, LAB, 0).await;
    bed.clock.advance(GRACE);
    bed.reconcile().await;
    // A tenant of its own.
    let eve = asked.start(bed, "eve", TWO_NODES).await;
    bed.until(&eve, is_active).await;
    // One at the second try.
    bed.provider.fail_next("clone", "the disk is full");
    let dan = asked.start(bed, "dan", TWO_NODES).await;
    bed.until(&dan, is_active).await;

    suspensions(bed, &eve).await;

    bed.become_another("ann").await;
    let path = format!("/environments/{ann}");
    let save: SavePointId = post(bed, &format!("{path}/save-points"), json!({})).await;
    until_saves_are_done(bed).await;
    let to = json!({ "save_point": save });
    let _: EnvironmentId = post(bed, &format!("{path}/restore"), to).await;
    bed.until(&ann, is_active).await;
    bed.clock.advance(SignedDuration::from_secs(1));
    let _: EnvironmentId = post(bed, &format!("{path}/reset"), json!({})).await;
    bed.until(&ann, is_active).await;
    asked.environments += 1;
    let fork = post(bed, &format!("/save-points/{save}/fork"), json!({})).await;
    asked.known.push(fork);
    let fork = asked.known.last().unwrap().clone();
    bed.until(&fork, is_active).await;
    bed.api(Method::DELETE, &format!("/save-points/{save}"), None)
        .await;
    until_saves_are_done(bed).await;
    bed.api(Method::DELETE, &path, None).await;
    bed.until(&ann, is_final).await;
}

fn operator() -> MayOperate {
    let (person, role) = (PersonId::local(), Role::Operator);
    SignedIn::verified(Principal { person, role })
        .may_operate()
        .unwrap()
}

/// Returns the phases of the tenants of pools that are on disk.
async fn on_disk(bed: &Bed) -> Vec<PoolSavePhase> {
    let all = bed.app.store.pool_saves().await.unwrap();
    all.into_iter().map(|save| save.phase).collect()
}

async fn until_on_disk(bed: &Bed, wanted: &[PoolSavePhase]) {
    for _ in 0..400 {
        bed.reconcile().await;
        if on_disk(bed).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("{:?}", on_disk(bed).await);
}

/// Drains the server, so that its pool is written to disk, and fills the pool from there.
async fn drained(bed: &Bed) {
    let wanted = NewMaintenance {
        end_environments_at: bed
            .app
            .now()
            .checked_add(SignedDuration::from_hours(1))
            .ok(),
        ..NewMaintenance::default()
    };
    maintenance::begin(&bed.app, &operator(), wanted)
        .await
        .unwrap();
    until_on_disk(bed, &[PoolSavePhase::Complete]).await;
    maintenance::end(&bed.app, &operator()).await.unwrap();
    until_pooled(bed, is_warm).await;
    until_on_disk(bed, &[]).await;
}

/// Suspends an environment and resumes it, and then suspends it so that it can't be resumed.
async fn suspensions(bed: &mut Bed, id: &EnvironmentId) {
    bed.become_another("eve").await;
    let path = format!("/environments/{id}");
    let is_on_disk = |e: &Environment| e.state.is_on_disk();
    for fails in [false, true] {
        let suspend = format!("{path}/suspend");
        bed.api(Method::POST, &suspend, None).await;
        bed.until(id, is_on_disk).await;
        if fails {
            // Both tries.
            for _ in 0..2 {
                bed.provider.fail_next("restore", "the disk is slow");
            }
        }
        let resume = format!("{path}/resume");
        bed.api(Method::POST, &resume, None).await;
        let went = |e: &Environment| match e.state.on_disk() {
            Some(on_disk) => fails && on_disk.problem.is_some(),
            None => !fails && is_active(e),
        };
        bed.until(id, went).await;
    }
}

/// Reconciles until nothing is in progress.
pub(super) async fn settle(bed: &Bed) {
    let store = &bed.app.store;
    if bed.app.maintenance().is_some() {
        maintenance::end(&bed.app, &operator()).await.unwrap();
    }
    let mut quiet = 0;
    for _ in 0..600 {
        bed.reconcile().await;
        let environments = store.unfinished_environments().await.unwrap();
        let tenants = store.unfinished_tenants().await.unwrap();
        let mut saves = store.due_save_points(bed.app.now()).await.unwrap();
        let suspended: Vec<_> = environments
            .iter()
            .filter_map(|e| Some(e.state.on_disk()?.save_point.clone()))
            .collect();
        saves.retain(|save| !suspended.contains(&save.id));
        let rests = environments
            .iter()
            .all(|e| is_active(e) || e.state.is_on_disk())
            && tenants.iter().all(|t| {
                matches!(
                    t.state,
                    TenantState::Warm { .. } | TenantState::Claimed { .. }
                )
            })
            && saves.is_empty()
            && on_disk(bed)
                .await
                .iter()
                .all(|p| *p == PoolSavePhase::Complete);
        quiet = if rests { quiet + 1 } else { 0 };
        if quiet == 5 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!(
        "it does not settle: {:?} {:?}",
        store.unfinished_environments().await.unwrap(),
        store.unfinished_tenants().await.unwrap()
    );
}

/// Checks that tenants, environments and save points belong together.
async fn check_whole(bed: &Bed) {
    let store = &bed.app.store;
    let tenants = store.unfinished_tenants().await.unwrap();
    let environments = store.latest_environments(1000).await.unwrap();
    let listed: BTreeMap<TenantId, Observed> =
        bed.provider.list().await.unwrap().into_iter().collect();
    let ids = |all: &[Tenant]| -> BTreeSet<TenantId> { all.iter().map(|t| t.id.clone()).collect() };
    assert_eq!(
        ids(&tenants),
        listed.keys().cloned().collect(),
        "each tenant of the provider has a row that wants it"
    );
    for tenant in &tenants {
        let holders: Vec<_> = environments
            .iter()
            .filter(|e| e.tenant_id() == Some(&tenant.id))
            .map(|e| e.id.clone())
            .collect();
        match (&tenant.environment, &tenant.state) {
            (Some(of), TenantState::Claimed { .. }) => {
                assert_eq!(
                    holders,
                    std::slice::from_ref(of),
                    "it belongs to one environment"
                );
                assert_eq!(listed[&tenant.id], Observed::Running);
            }
            (None, TenantState::Warm { .. }) => {
                assert!(holders.is_empty() && tenant.pooled.is_some());
                assert_eq!(listed[&tenant.id], Observed::Paused);
            }
            _ => panic!("it belongs to nobody and is not in a pool: {tenant:?}"),
        }
    }
    for e in &environments {
        match &e.state {
            State::Active { .. } => {
                let tenant = e.tenant_id().expect("it has a tenant");
                assert!(listed.contains_key(tenant), "{e:?}");
                check_ready(bed, e, tenant).await;
            }
            State::Failed { stage, reason, .. } => {
                assert!(!stage.is_empty() && !reason.is_empty(), "{e:?}");
            }
            State::Gone { .. } => {}
            State::Suspended { .. } => {
                assert!(e.state.is_on_disk() && e.tenant.is_none(), "{e:?}");
            }
            _ => panic!("{e:?}"),
        }
    }
    check_saves(bed, &environments).await;
}

/// Checks that an active environment is what its owner expects: its limits, its setup and the keys.
async fn check_ready(bed: &Bed, e: &Environment, tenant: &TenantId) {
    assert!(bed.provider.allowance(tenant).is_some(), "{e:?}");
    let file = |path| bed.provider.file(tenant, &node(), path);
    if e.lab.as_str() == LAB {
        assert!(file(SET_UP).is_some(), "its setup is done: {e:?}");
    }
    if e.person.as_str() != "ann"
        || bed
            .app
            .store
            .key_set(&e.person)
            .await
            .unwrap()
            .keys
            .is_empty()
    {
        return;
    }
    for _ in 0..200 {
        if file(KEYS).is_some_and(|keys| keys.starts_with(b"ssh-ed25519")) {
            return;
        }
        bed.reconcile().await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("the keys are not installed: {e:?}");
}

/// Checks that save points are whole or not there.
async fn check_saves(bed: &Bed, environments: &[Environment]) {
    let mut whole = BTreeSet::new();
    let people: BTreeSet<_> = environments.iter().map(|e| e.person.clone()).collect();
    for person in people {
        for save in bed.app.store.save_points_of(&person).await.unwrap() {
            match save.state {
                Made::Complete(_) => {
                    whole.insert(save.id);
                }
                Made::Failed { reason } => assert!(!reason.is_empty()),
                Made::Saving | Made::Deleting => panic!("{save:?}"),
            }
        }
    }
    let on_disk = environments.iter().filter_map(|e| e.state.on_disk());
    let needed: BTreeSet<_> = on_disk.map(|on_disk| on_disk.save_point.clone()).collect();
    let suspensions = bed.app.store.suspensions().await.unwrap();
    let complete = suspensions.iter().filter(|save| save.saved().is_some());
    let kept: BTreeSet<_> = complete.map(|save| save.id.clone()).collect();
    assert_eq!(
        kept, needed,
        "what is on disk has its files, and nothing else"
    );
    whole.extend(kept);
    let of_pools = bed.app.store.pool_saves().await.unwrap();
    whole.extend(of_pools.into_iter().map(|save| save.id));
    let listed = bed.provider.saves().await.unwrap();
    assert!(listed.iter().all(|(_, saved)| saved.is_some()));
    let listed: BTreeSet<_> = listed.into_iter().map(|(id, _)| id).collect();
    assert_eq!(listed, whole, "none is lost, and none is left behind");
}

/// Ends everything, and checks that nothing is left.
pub(super) async fn end_everything(bed: &Bed) {
    let store = &bed.app.store;
    bound(bed, LAB, 0).await;
    let now = bed.app.now();
    for e in store.unfinished_environments().await.unwrap() {
        let reason = EndReason::EndedByOperator;
        store
            .end_environment(&e.id, reason, None, now)
            .await
            .unwrap();
        for save in store.save_points_of(&e.person).await.unwrap() {
            store.delete_save_point(&save, None, now).await.unwrap();
        }
    }
    bed.clock.advance(GRACE);
    settle(bed).await;
    // Undo points of environments that ended before.
    bed.clock.advance(SignedDuration::from_hours(24 * 8));
    settle(bed).await;
    check_whole(bed).await;
    assert_eq!(bed.provider.list().await.unwrap(), []);
    assert!(bed.provider.saves().await.unwrap().is_empty());
    assert!(store.unfinished_environments().await.unwrap().is_empty());
}

/// The next server goes on where the previous one was ended.
async fn recover(bed: &mut Bed, asked: &Asked) {
    settle(bed).await;
    check_whole(bed).await;
    if let Some((person, lab)) = asked.open {
        // Whoever got no response asks again.
        bed.become_another(person).await;
        let id = bed.start(lab).await;
        bed.until(&id, is_active).await;
        settle(bed).await;
        check_whole(bed).await;
    }
    let all = bed.app.store.latest_environments(1000).await.unwrap();
    for id in &asked.known {
        assert!(all.iter().any(|e| e.id == *id), "{id} is lost");
    }
    assert!(
        all.len() <= asked.environments,
        "some are doubled: {all:?}, {asked:?}"
    );
    for e in &all {
        let ended = matches!(e.intent, faultline_domain::environment::Intent::Gone(_));
        let goes_on = is_active(e) || e.state.is_on_disk();
        assert!(goes_on || ended, "one crash fails no start: {e:?}");
    }
    end_everything(bed).await;
}

#[test]
fn a_crash_at_any_point_loses_doubles_and_leaks_nothing() {
    for point in Point::ALL {
        let mut host = Host::new();
        let mut asked = Asked::default();
        let ended = host.serve(Some(*point), async |bed| lives(bed, &mut asked).await);
        assert!(ended.is_none(), "{point:?} was never reached");
        host.provider.set_latency(Duration::ZERO);
        println!("{point:?}, after {} starts", asked.environments);
        host.serve(None, async |bed| recover(bed, &asked).await);
    }
}
