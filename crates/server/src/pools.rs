//! The state of all warm pools: what each holds, how many tenants it should hold and why, and what to do next. The
//! reconciler acts on it, and operators see it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use faultline_domain::{
    LabSlug, TemplateRef, TenantId,
    environment::Environment,
    limits::Need,
    pool::{
        Bounds, Pool, PoolSavePhase, Pooled,
        forecast::{Event, Forecast, HISTORY, Inputs, Reason, forecast, is_worth_staging},
        refill::{self, Member, Plan, Want},
    },
    queue::{Lack, Place},
    tenant::State,
};
use faultline_lab::LabFolder;
use faultline_provider::{Capability, Readiness};
use faultline_store::{
    environments::Counts,
    pools::{PoolTenant, ServedBy},
};
use jiff::{SignedDuration, Timestamp};

use crate::{
    app::App,
    capacity::{Free, capacity, need},
    lock::lock,
};

/// The period in which failures and durations of earlier tenants count.
const OUTCOMES: SignedDuration = SignedDuration::from_hours(6);
/// The number of tenants from which durations and memory are taken.
const SAMPLES: usize = 5;
/// The assumed time to make a tenant of a template of which none was made yet, in seconds.
const UNKNOWN_SECONDS: f64 = 20.0;

/// A pool and what to do with it.
#[derive(Debug, Clone)]
pub(crate) struct PoolStatus {
    pub pool: Pool,
    pub template: TemplateRef,
    /// The lab whose setup its tenants get; none for a pool of a template.
    pub lab: Option<Arc<LabFolder>>,
    /// The hash of the template's content; none if it isn't baked.
    pub template_hash: Option<String>,
    pub bounds: Bounds,
    pub forecast: Forecast,
    /// The number of tenants that it gets: that of the forecast, if memory suffices.
    pub size: u32,
    pub warm: u32,
    pub unfinished: u32,
    /// The number of tenants on disk that can be used.
    pub on_disk: u32,
    /// The time to make a tenant, in seconds.
    pub make_seconds: f64,
    /// The memory of a paused tenant, in MiB.
    pub memory_mib: u64,
    /// The number of failures since the last success.
    pub failures: u32,
    /// The last failure's stage and reason.
    pub failure: Option<String>,
    /// The time until the next attempt after a failure.
    pub backoff: SignedDuration,
    /// What to do.
    pub plan: Plan,
}

impl PoolStatus {
    /// Returns why it has its size, for operators.
    pub(crate) fn reason(&self) -> String {
        if self.template_hash.is_none() {
            return "its image is not built".to_owned();
        }
        let starts = format!("{:.1} starts per hour expected", self.forecast.per_hour);
        let why = match self.forecast.reason {
            Reason::NoDemand => "nobody is expected".to_owned(),
            Reason::Floor => "its floor".to_owned(),
            Reason::Ceiling => format!("its ceiling, although more are wanted; {starts}"),
            Reason::Demand => starts,
            Reason::Event => "an announced event".to_owned(),
        };
        if self.size < self.forecast.size {
            let wanted = self.forecast.size;
            return format!(
                "{why}; {wanted} wanted, but memory, the total or the places are used up"
            );
        }
        why
    }

    /// Returns what a tenant that is made now is made of. `None` if it can't be made.
    pub(crate) fn pooled(&self) -> Option<Pooled> {
        Some(Pooled {
            pool: self.pool.clone(),
            template: self.template_hash.clone()?,
            lab: self.lab.as_ref().map(|lab| lab.hash.clone()),
        })
    }
}

/// All pools.
#[derive(Debug, Clone)]
pub(crate) struct Pools {
    /// Those that hold tenants, should hold some, or have bounds; the most urgent first.
    pub all: Vec<PoolStatus>,
    /// The tenants of pools that don't exist any more.
    pub stray: Vec<TenantId>,
    /// Why no tenant is made now, if so.
    pub hold: Option<&'static str>,
    /// True while as many tenants are being made as may be at a time.
    pub busy: bool,
}

/// Returns true if a lab's setup can be done before anybody claims the tenant: nothing in it depends on the environment,
/// and it needs no network access, which is opened at the claim.
fn can_be_staged(lab: &LabFolder) -> bool {
    let needs = &lab.lab.needs;
    lab.lab.variables.is_empty() && lab.lab.setup_nodes().is_empty() && needs.egress.is_empty()
}

/// The number of failures in a row after which a lab is served by its template's pool.
const GIVE_UP: u32 = 3;

/// Returns true if nobody has claimed the tenant yet and it can be claimed.
pub(crate) fn is_warm(of: &PoolTenant) -> bool {
    of.tenant.environment.is_none() && matches!(of.tenant.state, State::Warm { .. })
}

/// Returns the warm tenants' memory in MiB, which pools give back when it is needed.
pub(crate) fn reclaimable_mib(tenants: &[PoolTenant]) -> u64 {
    let warm = tenants.iter().filter(|t| is_warm(t));
    warm.filter_map(|t| t.paused_bytes).sum::<u64>() / 1024 / 1024
}

/// Releases warm tenants of pools, the oldest first, so that there is memory for a need. Returns true if there will be,
/// once they are freed. Releases nothing if that would not be enough.
pub(crate) async fn make_room(
    app: &App,
    tenants: &[PoolTenant],
    need: Need,
    counts: &Counts,
) -> Result<bool, faultline_store::Error> {
    let missing = missing_mib(app, tenants, need, counts);
    if missing > reclaimable_mib(tenants) {
        return Ok(false);
    }
    give_back(app, tenants, missing).await?;
    Ok(true)
}

/// Returns how much memory a need lacks, in MiB, without what pools are about to free.
pub(crate) fn missing_mib(app: &App, tenants: &[PoolTenant], need: Need, counts: &Counts) -> u64 {
    let config = &app.config;
    let free = capacity(config, Free::now(app), counts).free_memory_mib;
    let wanted = need.memory_mib.saturating_add(config.reserve_memory_mib);
    let is_freed = |t: &&PoolTenant| matches!(t.tenant.state, State::Releasing { .. });
    let comes: u64 = tenants.iter().filter(is_freed).map(paused_mib).sum();
    wanted.saturating_sub(free).saturating_sub(comes)
}

fn paused_mib(of: &PoolTenant) -> u64 {
    of.paused_bytes.unwrap_or(0) / 1024 / 1024
}

/// Releases warm tenants of pools, the oldest first, until they free this much memory.
pub(crate) async fn give_back(
    app: &App,
    tenants: &[PoolTenant],
    mut missing_mib: u64,
) -> Result<(), faultline_store::Error> {
    for tenant in tenants.iter().rev().filter(|t| is_warm(t)) {
        if missing_mib == 0 {
            break;
        }
        app.store
            .release_from_pool(&tenant.tenant.id, app.now())
            .await?;
        missing_mib = missing_mib.saturating_sub(paused_mib(tenant));
        app.wake.all();
    }
    Ok(())
}

/// Returns the start of the period from which tenants of pools count.
fn outcomes_since(now: Timestamp) -> Timestamp {
    now.saturating_sub(OUTCOMES).unwrap_or(Timestamp::MIN)
}

/// Returns the state of all pools.
pub(crate) async fn survey(app: &App) -> Result<Pools, faultline_store::Error> {
    let now = app.now();
    let since = now.saturating_sub(HISTORY).unwrap_or(Timestamp::MIN);
    let mut demand: HashMap<LabSlug, Demand> = HashMap::new();
    for start in app.store.starts_since(since).await? {
        demand
            .entry(start.lab)
            .or_default()
            .add(start.at, start.is_reset);
    }
    let events = app.store.events_since(since).await?;
    let bounds: HashMap<String, Bounds> = app.store.pool_bounds().await?.into_iter().collect();
    let tenants = app.store.pool_tenants(outcomes_since(now)).await?;
    let environments = app.store.unfinished_environments().await?;

    let view = View {
        app,
        now,
        events: &events,
        bounds: &bounds,
        tenants: &tenants,
        places: places(app, &environments),
    };
    let mut all = view.forecasts(&mut demand);
    for status in &mut all {
        let ready = app.readiness(status.template.clone()).await;
        match ready {
            Readiness::Ready { template } => status.template_hash = Some(template),
            Readiness::Preparing { .. } | Readiness::Unavailable { .. } => {}
        }
    }
    all.sort_by(|a, b| {
        let key = |s: &PoolStatus| (s.forecast.reason == Reason::Event, s.forecast.per_hour);
        let ((ea, ra), (eb, rb)) = (key(a), key(b));
        eb.cmp(&ea)
            .then(rb.total_cmp(&ra))
            .then(a.pool.cmp(&b.pool))
    });
    view.assign_sizes(&mut all);
    let saves = app.store.pool_saves().await?;
    for status in &mut all {
        view.plan(status);
        let pooled = status.pooled();
        let usable = saves.iter().filter(|save| {
            save.phase == PoolSavePhase::Complete && Some(&save.pooled) == pooled.as_ref()
        });
        status.on_disk = u32::try_from(usable.count()).unwrap_or(u32::MAX);
    }
    let known: HashSet<Pool> = all.iter().map(|s| s.pool.clone()).collect();
    let stray = tenants
        .iter()
        .filter(|t| is_held(t) && !known.contains(&t.pooled.pool));
    let stray = stray.map(|t| t.tenant.id.clone()).collect();
    all.retain(|s| {
        s.size > 0
            || s.warm + s.unfinished + s.on_disk > 0
            || s.failures > 0
            || s.forecast.size > 0
            || s.forecast.next.is_some()
            || bounds.contains_key(&s.pool.to_string())
    });
    let unfinished: u32 = all.iter().map(|s| s.unfinished).sum();
    Ok(Pools {
        hold: hold(app, &environments).await,
        busy: unfinished >= app.config.pools.parallel.max(1),
        all,
        stray,
    })
}

/// Returns the number of environments that could start now, by the limits of environments and of nodes in total.
fn places(app: &App, environments: &[Environment]) -> u32 {
    let counts = Counts::of(environments);
    let left = app
        .config
        .max_environments
        .saturating_sub(counts.environments);
    match app.config.max_nodes() {
        // Each has at least one node.
        Some(max) => left.min(max.saturating_sub(counts.nodes)),
        None => left,
    }
}

/// The starts of a lab, oldest first.
#[derive(Debug, Default)]
struct Demand {
    starts: Vec<Timestamp>,
    /// Those that are no resets.
    arrivals: Vec<Timestamp>,
    events: Vec<Event>,
}

impl Demand {
    fn add(&mut self, at: Timestamp, is_reset: bool) {
        self.starts.push(at);
        if !is_reset {
            self.arrivals.push(at);
        }
    }

    fn merge(&mut self, other: &Self) {
        self.starts.extend_from_slice(&other.starts);
        self.arrivals.extend_from_slice(&other.arrivals);
        self.events.extend_from_slice(&other.events);
    }
}

/// Returns why no tenant should be made now. People who wait or work have precedence.
async fn hold(app: &App, environments: &[Environment]) -> Option<&'static str> {
    if app.config.pools.max_tenants == 0 {
        return Some("pools are turned off, since the setting pools.max_tenants is 0");
    }
    if app.maintenance().is_some() {
        return Some("the server is in maintenance");
    }
    if !app.provider.capabilities().contains(&Capability::Pause) {
        return Some("tenants of this provider can't be paused");
    }
    let mut starting = environments
        .iter()
        .filter(|e| e.is_open() && e.state.is_starting());
    if starting.any(|e| e.tenant.is_some()) {
        return Some("somebody's start is in progress");
    }
    // Whoever waits for a place only needs no memory that a pool would take.
    let lacks_room = |place: &Place| place.lack != Lack::Places;
    if lock(&app.queue).values().any(lacks_room) {
        return Some("environments wait for memory or disk space");
    }
    let templates: HashSet<TemplateRef> = app
        .catalogue()
        .labs()
        .iter()
        .map(|lab| lab.lab.needs.template())
        .collect();
    for template in templates {
        if matches!(app.readiness(template).await, Readiness::Preparing { .. }) {
            return Some("an image is being built");
        }
    }
    let free = Free::now(app);
    if free.disk_mib < app.config.reserve_disk_mib + app.config.node_disk_mib {
        return Some("the disk is almost full");
    }
    None
}

/// Returns true if a tenant is in its pool or being made for it.
pub(crate) fn is_held(of: &PoolTenant) -> bool {
    let alive = matches!(
        of.tenant.state,
        State::Provisioning { .. } | State::Warm { .. }
    );
    of.tenant.environment.is_none() && alive
}

/// What the sizes of pools are computed from.
struct View<'a> {
    app: &'a App,
    now: Timestamp,
    events: &'a [Event],
    bounds: &'a HashMap<String, Bounds>,
    tenants: &'a [PoolTenant],
    /// The number of environments that could start now.
    places: u32,
}

impl View<'_> {
    /// Returns a forecast for each lab that is worth a pool of its own, and for each template, whose pool serves the
    /// other labs.
    fn forecasts(&self, demand: &mut HashMap<LabSlug, Demand>) -> Vec<PoolStatus> {
        let mut all = Vec::new();
        let mut shared: BTreeMap<TemplateRef, Demand> = BTreeMap::new();
        for lab in self.app.catalogue().labs() {
            let template = lab.lab.needs.template();
            let mine = demand.entry(lab.slug.clone()).or_default();
            let events = self.events.iter().filter(|e| e.lab == lab.slug);
            mine.events = events.cloned().collect();
            let for_template = shared.entry(template.clone()).or_default();
            if !can_be_staged(lab) {
                for_template.merge(mine);
                continue;
            }
            let pool = Pool::Lab(lab.slug.clone());
            let mut status = self.status(pool, &template, Some(lab.clone()));
            let inputs = self.inputs(&status, mine);
            let may_hold_some = status.bounds.ceiling > 0 && status.failures < GIVE_UP;
            if may_hold_some && is_worth_staging(inputs) {
                status.forecast = forecast(inputs);
            } else {
                // It has no tenants now, but may have some from before or a coming event.
                let coming = forecast(Inputs {
                    starts: &[],
                    ..inputs
                });
                status.forecast = Forecast { size: 0, ..coming };
                for_template.merge(mine);
            }
            all.push(status);
        }
        for (template, mut served) in shared {
            served.starts.sort_unstable();
            served.arrivals.sort_unstable();
            let mut status = self.status(Pool::Template(template.clone()), &template, None);
            status.forecast = forecast(self.inputs(&status, &served));
            all.push(status);
        }
        all
    }

    fn inputs<'a>(&self, of: &PoolStatus, demand: &'a Demand) -> Inputs<'a> {
        Inputs {
            now: self.now,
            starts: &demand.starts,
            arrivals: &demand.arrivals,
            events: &demand.events,
            make_seconds: of.make_seconds,
            bounds: of.bounds,
        }
    }

    /// Returns a pool with what is known of its tenants, before the forecast.
    fn status(
        &self,
        pool: Pool,
        template: &TemplateRef,
        lab: Option<Arc<LabFolder>>,
    ) -> PoolStatus {
        // Newest first.
        let mine: Vec<&PoolTenant> = self
            .tenants
            .iter()
            .filter(|t| t.pooled.pool == pool)
            .collect();
        // Before a lab's first tenant, those of its template tell almost as much.
        let alike = self
            .tenants
            .iter()
            .filter(|t| t.tenant.spec.template == *template);
        let samples: Vec<&PoolTenant> = mine.iter().copied().chain(alike).collect();
        let failed = |t: &&PoolTenant| match &t.tenant.state {
            State::Failed {
                at, stage, reason, ..
            } if t.made_in_millis.is_none() => Some((*at, format!("{stage}: {reason}"))),
            _ => None,
        };
        let finished = mine
            .iter()
            .filter(|t| t.made_in_millis.is_some() || failed(t).is_some());
        let failures: Vec<_> = finished.map_while(failed).collect();
        let last = failures.first().cloned();
        let count = u32::try_from(failures.len()).unwrap_or(u32::MAX);
        let held = |warm: bool| {
            let held = mine
                .iter()
                .filter(|t| is_held(t) && matches!(t.tenant.state, State::Warm { .. }) == warm);
            u32::try_from(held.count()).unwrap_or(u32::MAX)
        };
        let default = need(
            &self.app.config,
            template.is_cluster(),
            template.shape.nodes(),
        );
        let mib = |bytes: u64| bytes / 1024 / 1024;
        #[expect(clippy::cast_precision_loss, reason = "a duration")]
        let seconds = |millis: u64| millis as f64 / 1000.0;
        PoolStatus {
            bounds: self
                .bounds
                .get(&pool.to_string())
                .copied()
                .unwrap_or_default(),
            make_seconds: median(samples.iter().filter_map(|t| t.made_in_millis))
                .map_or(UNKNOWN_SECONDS, seconds),
            memory_mib: median(samples.iter().filter_map(|t| t.paused_bytes))
                .map_or(default.memory_mib, mib)
                .max(1),
            warm: held(true),
            unfinished: held(false),
            on_disk: 0,
            backoff: last.as_ref().map_or(SignedDuration::ZERO, |(at, _)| {
                refill::backoff(count, *at, self.now)
            }),
            failures: count,
            failure: last.map(|(_, reason)| reason),
            forecast: Forecast {
                size: 0,
                reason: Reason::NoDemand,
                per_hour: 0.0,
                next: None,
            },
            size: 0,
            plan: Plan::default(),
            template_hash: None,
            template: template.clone(),
            pool,
            lab,
        }
    }

    /// Shares the memory that environments leave among the pools. What a pool already holds stays until memory is needed;
    /// otherwise a tenant would be made and released again while its memory is only partly in use.
    fn assign_sizes(&self, all: &mut [PoolStatus]) {
        let config = &self.app.config;
        let free = Free::now(self.app);
        // Room for one start that finds no tenant.
        let starts = all.iter().map(|s| {
            let nodes = s.template.shape.nodes();
            need(config, s.template.is_cluster(), nodes).memory_mib
        });
        let headroom = starts.max().unwrap_or_default();
        let budget = free
            .memory_mib
            .saturating_add(reclaimable_mib(self.tenants))
            .saturating_sub(config.reserve_memory_mib)
            .saturating_sub(headroom);
        let wants: Vec<Want> = all
            .iter()
            .map(|s| Want {
                size: if s.template_hash.is_some() {
                    s.forecast.size
                } else {
                    0
                },
                memory_mib: s.memory_mib,
            })
            .collect();
        // More tenants than places could not be claimed.
        let most = config.pools.max_tenants.min(self.places);
        let sizes = refill::share(&wants, budget, most);
        let is_off = config.pools.max_tenants == 0;
        for (status, size) in all.iter_mut().zip(sizes) {
            let held = status.warm + status.unfinished;
            let kept = if is_off {
                0
            } else {
                status.forecast.size.min(held)
            };
            status.size = size.max(kept);
        }
    }

    fn plan(&self, of: &mut PoolStatus) {
        // While its template can't be read, whether its tenants are outdated can't be known, but too old ones still go.
        let current = of.pooled();
        let members: Vec<Member> = self
            .tenants
            .iter()
            .filter(|t| t.pooled.pool == of.pool && is_held(t))
            .map(|t| Member {
                id: t.tenant.id.clone(),
                since: match t.tenant.state {
                    State::Warm { since } => since,
                    _ => t.tenant.created_at,
                },
                is_warm: matches!(t.tenant.state, State::Warm { .. }),
                is_outdated: current.as_ref().is_some_and(|current| *current != t.pooled),
            })
            .collect();
        of.plan = refill::plan(&members, of.size, self.now);
        if current.is_none() {
            of.plan.make = 0;
        }
    }
}

/// Returns the median of the first samples.
fn median(all: impl Iterator<Item = u64>) -> Option<u64> {
    let mut some: Vec<u64> = all.take(SAMPLES).collect();
    some.sort_unstable();
    some.get(some.len() / 2).copied()
}

/// Returns a percentile of these numbers. `None` if there are none.
pub(crate) fn percentile(mut all: Vec<u64>, percent: usize) -> Option<u64> {
    all.sort_unstable();
    let last = all.len().checked_sub(1)?;
    all.get((all.len() * percent / 100).min(last)).copied()
}

/// How long starts took that were served alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    pub by: ServedBy,
    pub starts: usize,
    /// The median, in milliseconds.
    pub p50: u64,
    /// The 95th percentile, in milliseconds.
    pub p95: u64,
}

/// Returns how long starts took in the last 24 hours, by what served them.
pub(crate) async fn waits(app: &App) -> Result<Vec<Wait>, faultline_store::Error> {
    let day = SignedDuration::from_hours(24);
    let since = app.now().saturating_sub(day).unwrap_or(Timestamp::MIN);
    let served = app.store.served_since(since).await?;
    let waits = ServedBy::ALL.into_iter().filter_map(|by| {
        let all: Vec<u64> = served
            .iter()
            .filter(|s| s.by == by)
            .map(|s| s.millis)
            .collect();
        Some(Wait {
            by,
            starts: all.len(),
            p50: percentile(all.clone(), 50)?,
            p95: percentile(all, 95)?,
        })
    });
    Ok(waits.collect())
}

/// Returns the names of all pools that there can be.
pub(crate) fn names(app: &App) -> Vec<String> {
    let mut names = BTreeSet::new();
    for lab in app.catalogue().labs() {
        names.insert(Pool::Template(lab.lab.needs.template()).to_string());
        if can_be_staged(lab) {
            names.insert(Pool::Lab(lab.slug.clone()).to_string());
        }
    }
    names.into_iter().collect()
}
