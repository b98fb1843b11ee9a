//! `/environments/{id}`: the workspace.

use askama::Template;
use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use faultline_domain::{
    attempt::Attempt,
    environment::{Intent, State as Life},
    lab::Lab,
    nodes::next_free,
};
use faultline_lab::{
    LabFolder,
    markdown::{self, Place},
};

use super::{
    exposures,
    layout::{Frame, Layout},
    page,
    parts::{self, Checks, Hints, LookNotice, Notice},
    saves::{self, Saves},
    starting::{self, Log, Stages},
    text,
};
use crate::{
    app::{App, Shared},
    auth::Mine,
    headers,
    lock::lock,
    operations::extend,
    problem::Problem,
};

/// The result of a finished attempt.
struct Outcome {
    solved: bool,
    /// True if the person had already seen the solution before finishing this attempt.
    practice: bool,
    took: String,
    hints: String,
    checks: u32,
    points: u32,
    solution: String,
    next: Option<(String, String)>,
}

/// The left pane.
#[derive(Template)]
#[template(path = "part-side.html")]
struct Side {
    id: String,
    slug: String,
    csrf: String,
    lab_known: bool,
    readme: String,
    hints: Option<Hints>,
    checks: Checks,
    saves: Saves,
    /// What it exposes; empty if it exposes nothing.
    exposed: String,
    outcome: Option<Outcome>,
    active: bool,
    cluster: bool,
    ssh: Vec<(String, String)>,
    has_keys: bool,
}

#[derive(Template)]
#[template(path = "workspace.html")]
struct Workspace {
    layout: Layout,
    nonce: String,
    id: String,
    slug: String,
    title: String,
    phase: &'static str,
    tenant: String,
    phase_text: &'static str,
    starting: bool,
    active: bool,
    paused: bool,
    /// True if it was written to disk.
    on_disk: bool,
    /// Why it could not be resumed when that was last tried.
    resume_problem: Option<String>,
    /// True if it is suspended instead of ended when it is idle.
    suspends: bool,
    left: String,
    ends_in: i64,
    /// The time without use after which it ends.
    idle: String,
    /// By how much it can be extended; empty if it can't be.
    extend_by: String,
    extend_title: String,
    nodes: Vec<String>,
    /// True if it can be saved.
    may_save: bool,
    /// True if one more node can be added.
    may_grow: bool,
    /// The nodes that can be removed.
    removable: Vec<String>,
    /// The nodes that are being added or removed.
    changes: String,
    notice: Notice,
    looks: LookNotice,
    stages: Stages,
    log: Log,
    failed: Option<(String, String)>,
    ending: Option<&'static str>,
    successor: Option<String>,
    /// True if it has ended or failed; then a narrow screen shows the right pane first.
    over: bool,
    side: Side,
}

pub(super) async fn show(
    State(app): State<Shared>,
    mine: Mine,
    frame: Frame,
) -> Result<Response, Problem> {
    let e = mine.environment();
    app.touch_in_queue(e).await;
    let lab = app.lab_of(e).await;
    let title = lab
        .as_ref()
        .map_or_else(|| e.lab.to_string(), |l| l.lab.title.clone());
    let ending = parts::ending(e);
    let latest = app.store.latest_at(&e.person, &e.lab).await?;
    let nonce = app.secret().derive("nonce");
    let left = parts::shown_end(&app, e)
        .duration_since(app.now())
        .as_secs();
    let latest_end = e.lifetime.hard_end.duration_since(app.now()).as_secs();
    let more = extend::possible(&app, e).as_secs();
    let side = make_side(&app, &mine).await?;
    let html = page(&Workspace {
        layout: frame.layout(&title, &mine.caller),
        nonce: nonce.clone(),
        id: e.id.to_string(),
        slug: e.lab.to_string(),
        title,
        phase: phase_key(e.state.phase().as_str(), ending.is_some()),
        tenant: e.tenant_id().map(ToString::to_string).unwrap_or_default(),
        phase_text: match (&e.state, ending) {
            (Life::Gone { .. }, _) => "ended",
            (Life::Failed { .. }, _) => "failed",
            (_, Some(_)) => "ending",
            (Life::Active { .. }, _) if e.intent == Intent::Suspended => "pausing",
            (Life::Active { .. }, _) => "running",
            (Life::Suspended { .. }, _) if e.intent == Intent::Active => "resuming",
            (Life::Suspended { .. }, _) => "paused",
            _ if lock(&app.queue).contains_key(&e.id) => "waiting",
            _ if e.state.on_disk().is_some() => "resuming",
            _ => "starting",
        },
        starting: e.state.is_starting() && ending.is_none(),
        active: matches!(e.state, Life::Active { .. }) && ending.is_none(),
        paused: matches!(e.state, Life::Suspended { .. }) && ending.is_none(),
        on_disk: e.state.is_on_disk(),
        resume_problem: e.state.on_disk().and_then(|d| d.problem.clone()),
        suspends: app.suspends(),
        left: text::left(left),
        ends_in: left,
        idle: format!("{} min", e.lifetime.idle_seconds / 60),
        extend_by: if more > 0 {
            text::left(more)
        } else {
            String::new()
        },
        extend_title: if more > 0 {
            format!("Up to {} from now", text::left(latest_end))
        } else {
            "This machine can't be extended any further".to_owned()
        },
        nodes: e.nodes().iter().map(ToString::to_string).collect(),
        may_grow: next_free(&e.taken()).is_some(),
        removable: e
            .wanted
            .iter()
            .filter(|node| !e.spec.setup_nodes.contains(node))
            .map(ToString::to_string)
            .collect(),
        changes: parts::changes(&app, e).await?,
        notice: parts::notice(&app, e),
        looks: parts::looks(&app, e),
        stages: starting::stages(&app, e).await?,
        log: starting::log(&app, e).await?,
        failed: match &e.state {
            Life::Failed { stage, reason, .. } => Some((stage.clone(), reason.clone())),
            _ => None,
        },
        over: ending.is_some() || matches!(e.state, Life::Failed { .. }),
        ending,
        successor: latest
            .filter(|l| l.id != e.id && l.is_open())
            .map(|l| l.id.to_string()),
        may_save: side.saves.may_save,
        side,
    })?;
    let policy = headers::policy_with_styles(&nonce);
    Ok(match policy {
        Some(policy) => ([(header::CONTENT_SECURITY_POLICY, policy)], html).into_response(),
        None => html,
    })
}

/// Returns the key that a page compares to decide whether to reload.
pub(super) fn phase_key(phase: &'static str, ending: bool) -> &'static str {
    match (phase, ending) {
        ("gone" | "failed", _) => phase,
        (_, true) => "ending",
        ("requested" | "preparing", _) => "starting",
        _ => phase,
    }
}

async fn make_side(app: &App, mine: &Mine) -> Result<Side, Problem> {
    let e = mine.environment();
    let lab = app.lab_of(e).await;
    let attempt = app.attempt(e).await?;
    let csrf = mine.caller.csrf.clone();
    let active = matches!(e.state, Life::Active { .. }) && e.is_open();
    Ok(Side {
        id: e.id.to_string(),
        slug: e.lab.to_string(),
        readme: lab.as_ref().map_or_else(String::new, |l| {
            let place = Place {
                base: &parts::base(e),
                prefix: "incident-",
            };
            markdown::html_without_title(&l.readme, place)
        }),
        hints: lab.as_ref().map(|l| parts::hints(e, l, &attempt, &csrf)),
        checks: parts::checks(app, e, lab.as_deref()).await?,
        saves: saves::saves(app, e, &csrf).await?,
        exposed: exposures::render(app, e, true).await?,
        outcome: outcome(app, mine, &attempt, lab.as_deref()).await?,
        lab_known: lab.is_some(),
        active,
        cluster: active && app.config.kube_port.is_some() && e.spec.is_cluster(),
        ssh: ssh_lines(app, mine),
        has_keys: !app.store.ssh_keys(&e.person).await?.is_empty(),
        csrf,
    })
}

/// Returns the SSH command for each node; the first node has the short form.
fn ssh_lines(app: &App, mine: &Mine) -> Vec<(String, String)> {
    let Some(port) = app.config.ssh_port else {
        return Vec::new();
    };
    let (e, host) = (mine.environment(), app.config.ssh_host());
    e.nodes()
        .iter()
        .enumerate()
        .map(|(i, node)| {
            let user = if i == 0 {
                e.id.to_string()
            } else {
                format!("{node}.{}", e.id)
            };
            let port = if port == 22 {
                String::new()
            } else {
                format!("-p {port} ")
            };
            (node.to_string(), format!("ssh {port}{user}@{host}"))
        })
        .collect()
}

async fn outcome(
    app: &App,
    mine: &Mine,
    attempt: &Attempt,
    lab: Option<&LabFolder>,
) -> Result<Option<Outcome>, Problem> {
    let Some(took) = parts::took(attempt) else {
        return Ok(None);
    };
    let me = mine.caller.signed_in.person();
    let solved = app.store.solved_by(me).await?;
    let unfinished = app.store.unfinished_of(me).await?;
    let is_open = |lab: &LabFolder| unfinished.iter().any(|e| e.is_open() && e.lab == lab.slug);
    let catalogue = app.catalogue();
    let labs = catalogue.labs();
    let candidates = labs
        .iter()
        .filter(|l| l.slug != attempt.lab && !solved.contains(&l.slug) && !is_open(l));
    // `min_by_key` returns the first of several minimums, and the catalogue lists the easiest labs first.
    let next = candidates
        .min_by_key(|l| lab.map(|mine| distance(&mine.lab, &l.lab)))
        .map(|l| (l.slug.to_string(), l.lab.title.clone()));
    Ok(Some(Outcome {
        solved: attempt.is_repaired(),
        practice: attempt.practice,
        took: text::duration(took),
        hints: text::plural(
            attempt.hints.iter().filter(|(_, cost)| *cost > 0).count(),
            "hint",
            "hints",
        ),
        checks: attempt.checks,
        points: attempt.points.unwrap_or_default(),
        solution: lab.map_or_else(String::new, |l| {
            let place = Place {
                base: &parts::base(mine.environment()),
                prefix: "solution-",
            };
            markdown::html_without_title(&l.solution, place)
        }),
        next,
    }))
}

/// Returns how far a lab is from one that was just finished, to suggest the next one. Compares levels first, with
/// easier ones last; within a level, the number of topics that they don't share.
fn distance(finished: &Lab, next: &Lab) -> (bool, u8, usize) {
    let level = |lab: &Lab| lab.level as u8;
    let shared = next.topics.iter().filter(|t| finished.topics.contains(*t));
    (
        level(next) < level(finished),
        level(next).abs_diff(level(finished)),
        finished.topics.len().saturating_sub(shared.count()),
    )
}

/// Serves only the left pane.
pub(super) async fn side(State(app): State<Shared>, mine: Mine) -> Result<Response, Problem> {
    page(&make_side(&app, &mine).await?)
}

/// Renders only the hints.
pub(super) async fn hints(app: &App, mine: &Mine) -> Result<Response, Problem> {
    let e = mine.environment();
    let lab = app.lab_of(e).await.ok_or_else(Problem::lab_gone)?;
    let attempt = app.attempt(e).await?;
    page(&parts::hints(e, &lab, &attempt, &mine.caller.csrf))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_lab_has_the_same_level_and_shares_topics() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../labs");
        let catalogue = faultline_lab::Catalogue::load(&folder);
        let labs = catalogue.labs();
        for slug in ["claim-pending", "names-do-not-resolve", "disk-full"] {
            let finished = labs.iter().find(|l| l.slug.as_str() == slug).unwrap();
            let others = labs.iter().filter(|l| l.slug != finished.slug);
            let next = others
                .min_by_key(|l| distance(&finished.lab, &l.lab))
                .unwrap();
            assert_eq!(finished.lab.level, next.lab.level, "{slug}");
            let shared = |topic: &String| next.lab.topics.contains(topic);
            assert!(finished.lab.topics.iter().any(shared), "{slug}");
        }
    }
}
