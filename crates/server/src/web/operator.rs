//! `/operator`: charts, capacity, environments, failures, maintenance, mail, the status of reconcilers, broken labs, the
//! audit log.

use std::collections::HashMap;

use askama::Template;
use axum::{extract::State, response::Response};
use faultline_domain::{environment::State as Life, limits::size};
use jiff::SignedDuration;

use super::{
    history::{History, history},
    layout::{Frame, Layout},
    mail::MailPart,
    maintenance::Current,
    page,
    starting::{self, Log},
    text,
};
use crate::{
    app::{App, Shared},
    auth::Operator,
    capacity::Free,
    lock::lock,
    problem::Problem,
    reconcile::burst,
    usage::{self, Fit, Overview, Share, overview},
};

struct Machine {
    id: String,
    mine: bool,
    /// True if there are terminals of somebody else to look at.
    can_look: bool,
    can_end: bool,
    lab: String,
    person: String,
    phase: &'static str,
    class: &'static str,
    nodes: usize,
    age: String,
    left: String,
    memory: String,
    cores: String,
    detail: String,
}

/// Who has the host's memory, its disk space or its processors.
struct Resource {
    name: &'static str,
    total: String,
    reserve: String,
    environments: String,
    pools: String,
    others: String,
    free: String,
}

/// How many more environments of a template fit.
struct Fitting {
    template: String,
    nodes: u32,
    labs: u32,
    memory: String,
    disk: String,
    more: u32,
}

/// The environments that failed at a stage.
struct FailedStage {
    name: String,
    failures: Vec<Failure>,
}

struct Failure {
    id: String,
    lab: String,
    person: String,
    when: String,
    reason: String,
    log: Log,
}

struct Reconciler {
    name: &'static str,
    text: String,
    failed: bool,
    took: String,
    runs: u64,
    when: String,
}

struct Line {
    when: String,
    person: String,
    action: String,
    subject: String,
    detail: String,
}

struct Meter {
    name: &'static str,
    used: u64,
    total: u64,
    text: String,
}

#[derive(Template)]
#[template(path = "operator.html")]
struct Page {
    layout: Layout,
    provider: &'static str,
    up: String,
    problem: Option<Problem>,
    /// What a form has done.
    done: Option<String>,
    mail: Option<MailPart>,
    maintenance: Option<Current>,
    history: History,
    resources: Vec<Resource>,
    fits: Vec<Fitting>,
    failures: Vec<FailedStage>,
    meters: Vec<Meter>,
    machines: Vec<Machine>,
    reconcilers: Vec<Reconciler>,
    broken: Vec<String>,
    lines: Vec<Line>,
}

pub(super) async fn show(
    State(app): State<Shared>,
    operator: Operator,
    frame: Frame,
) -> Result<Response, Problem> {
    render(&app, &operator, &frame, None, None).await
}

/// Renders the page, with the problem of a form, or what it has done.
pub(super) async fn render(
    app: &App,
    operator: &Operator,
    frame: &Frame,
    problem: Option<Problem>,
    done: Option<String>,
) -> Result<Response, Problem> {
    let now = app.now();
    let people = app.store.people().await?;
    let names: HashMap<_, _> = people.iter().map(|p| (p.id.as_str(), &p.name)).collect();
    let name = |id: &str| {
        names
            .get(id)
            .map_or_else(|| id.to_owned(), |name| (*name).clone())
    };
    let all = app.store.latest_environments(40).await?;
    // Those in the queue have no place yet.
    let unfinished = app.store.unfinished_environments().await?;
    let unfinished = unfinished.iter().filter(|e| e.tenant.is_some()).count() as u64;
    let places = lock(&app.queue).clone();
    let overview = overview(app).await?;
    let mut machines = Vec::with_capacity(all.len());
    for e in &all {
        let active = matches!(e.state, Life::Active { .. } | Life::Suspended { .. });
        let measured = overview
            .environments
            .iter()
            .find(|u| u.environment.id == e.id);
        let measured = measured.and_then(|used| used.measured);
        let millis = now.duration_since(e.created_at).as_millis();
        let mine = e.person == *operator.proof.person();
        machines.push(Machine {
            id: e.id.to_string(),
            mine,
            can_look: !mine && e.is_open() && matches!(e.state, Life::Active { .. }),
            lab: e.lab.to_string(),
            person: name(e.person.as_str()),
            can_end: e.is_open(),
            phase: e.state.phase().as_str(),
            class: match &e.state {
                Life::Active { .. } => "good",
                Life::Failed { .. } => "bad",
                s if s.is_starting() => "run",
                _ => "none",
            },
            nodes: e.nodes().len(),
            age: text::duration(u64::try_from(millis).unwrap_or_default()),
            left: if active {
                text::left(app.seconds_left(e))
            } else {
                String::new()
            },
            memory: measured.map_or_else(String::new, |m| format!("{} MiB", m.memory_mib)),
            cores: measured
                .and_then(|m| m.cores)
                .map_or_else(String::new, |cores| format!("{:.0} %", cores * 100.0)),
            detail: match &e.state {
                Life::Failed { stage, reason, .. } => format!("{stage}: {reason}"),
                _ if burst::is_slow(app, e) => "slowed down after a long full load".to_owned(),
                _ => places
                    .get(&e.id)
                    .copied()
                    .map(text::place)
                    .unwrap_or_default(),
            },
        });
    }
    let free = Free::now(app);
    let gib = |mib: u64| {
        #[expect(clippy::cast_precision_loss, reason = "for people, to a tenth")]
        let gib = mib as f64 / 1024.0;
        format!("{gib:.1}")
    };
    let meter = |name, free: u64, total: u64| Meter {
        name,
        used: total.saturating_sub(free),
        total,
        text: format!("{} of {} GiB free", gib(free), gib(total)),
    };
    let reconcilers = lock(&app.statuses)
        .iter()
        .map(|(name, s)| Reconciler {
            name,
            text: s.text(),
            failed: s.done.is_err(),
            took: text::duration(u64::try_from(s.took.as_millis()).unwrap_or_default()),
            runs: s.runs,
            when: text::ago(s.last, now),
        })
        .collect();
    let lines = app.store.audit(60).await?;
    let up = now.duration_since(app.started_at).as_millis();
    page(&Page {
        layout: frame.layout("Operator", &operator.caller),
        problem,
        done,
        mail: MailPart::of(app, &operator.proof).await?,
        maintenance: Current::of(app).await?,
        history: history(app, &overview.host).await?,
        resources: resources(&overview),
        fits: overview.fits.iter().map(fitting).collect(),
        failures: failures(app, &name).await?,
        provider: app.provider.name(),
        up: text::duration(u64::try_from(up).unwrap_or_default()),
        meters: vec![
            Meter {
                name: "Environments",
                used: unfinished,
                total: u64::from(app.config.max_environments),
                text: format!("{unfinished} of {} in use", app.config.max_environments),
            },
            meter("Memory", free.memory_mib, free.memory_total_mib),
            meter("Disk", free.disk_mib, free.disk_total_mib),
        ],
        machines,
        reconcilers,
        broken: app
            .catalogue()
            .broken()
            .iter()
            .map(faultline_lab::Broken::render)
            .collect(),
        lines: lines
            .into_iter()
            .map(|l| Line {
                when: text::ago(l.at, now),
                person: l
                    .person
                    .map_or_else(|| "Faultline".to_owned(), |id| name(&id)),
                action: l.action,
                subject: l.subject,
                detail: l.detail,
            })
            .collect(),
    })
}

fn mib(mib: u64) -> String {
    size(mib.saturating_mul(1 << 20))
}

fn resources(of: &Overview) -> Vec<Resource> {
    let resource = |name, share: &Share| Resource {
        name,
        total: mib(share.total),
        reserve: mib(share.reserve),
        environments: mib(share.environments),
        pools: mib(share.pools),
        others: mib(share.others()),
        free: mib(share.free),
    };
    let none = || "–".to_owned();
    vec![
        resource("Memory", &of.memory),
        resource("Disk", &of.disk),
        Resource {
            name: "Processors",
            total: of.host.cores.to_string(),
            reserve: none(),
            environments: format!("{:.2}", of.cores),
            pools: none(),
            others: none(),
            free: format!("load {:.2}", of.host.load),
        },
    ]
}

fn fitting(of: &Fit) -> Fitting {
    Fitting {
        template: usage::name(&of.template),
        nodes: of.need.nodes,
        labs: of.labs,
        memory: mib(of.need.memory_mib),
        disk: mib(of.need.disk_mib),
        more: of.more,
    }
}

/// The largest number of failures that the page shows.
const MAX_FAILURES: u32 = 30;

/// Returns the environments that failed in the last 24 hours by stage, the most frequent stage first.
async fn failures(app: &App, name: &impl Fn(&str) -> String) -> Result<Vec<FailedStage>, Problem> {
    let now = app.now();
    let day = SignedDuration::from_hours(24);
    let since = now.saturating_sub(day).unwrap_or(now);
    let mut stages: Vec<FailedStage> = Vec::new();
    for e in app.store.failed_since(since, MAX_FAILURES).await? {
        let Life::Failed {
            at, stage, reason, ..
        } = &e.state
        else {
            continue;
        };
        let failure = Failure {
            id: e.id.to_string(),
            lab: e.lab.to_string(),
            person: name(e.person.as_str()),
            when: text::ago(*at, now),
            reason: reason.clone(),
            log: starting::log(app, &e).await?,
        };
        match stages.iter_mut().find(|known| known.name == *stage) {
            Some(known) => known.failures.push(failure),
            None => stages.push(FailedStage {
                name: stage.clone(),
                failures: vec![failure],
            }),
        }
    }
    stages.sort_by_key(|stage| std::cmp::Reverse(stage.failures.len()));
    Ok(stages)
}
