//! `/operator`: environments, capacity, the status of reconcilers, broken labs, the audit log.

use std::collections::HashMap;

use askama::Template;
use axum::{extract::State, response::Response};
use faultline_domain::environment::State as Life;

use super::{
    history::{History, history},
    layout::{Frame, Layout},
    maintenance::Current,
    page, text,
};
use crate::{
    app::{App, Shared},
    auth::Operator,
    capacity::{Free, Host},
    lock::lock,
    problem::Problem,
};

struct Machine {
    id: String,
    mine: bool,
    can_end: bool,
    lab: String,
    person: String,
    phase: &'static str,
    class: &'static str,
    nodes: usize,
    age: String,
    left: String,
    memory: String,
    detail: String,
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
    maintenance: Option<Current>,
    history: History,
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
    render(&app, &operator, &frame, None).await
}

/// Renders the page, with the problem of a form.
pub(super) async fn render(
    app: &App,
    operator: &Operator,
    frame: &Frame,
    problem: Option<Problem>,
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
    let mut machines = Vec::with_capacity(all.len());
    for e in &all {
        let active = matches!(e.state, Life::Active { .. } | Life::Suspended { .. });
        let usage = match e.tenant_id() {
            Some(tenant) if active => app.provider.usage(tenant).await.ok(),
            _ => None,
        };
        let millis = now.duration_since(e.created_at).as_millis();
        machines.push(Machine {
            id: e.id.to_string(),
            mine: e.person == *operator.proof.person(),
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
            memory: usage.map_or_else(String::new, |u| {
                format!("{} MiB", u.private_bytes / 1024 / 1024)
            }),
            detail: match &e.state {
                Life::Failed { stage, reason, .. } => format!("{stage}: {reason}"),
                _ => places
                    .get(&e.id)
                    .copied()
                    .map(text::place)
                    .unwrap_or_default(),
            },
        });
    }
    let free = Free::now(&app);
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
        maintenance: Current::of(app).await?,
        history: history(app, &Host::now()).await?,
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
