//! `/environments/{id}/look`: a look into the terminals of somebody's environment. For the owner's instructors and for
//! operators.

use std::{collections::BTreeMap, time::Duration};

use askama::Template;
use axum::{
    Form,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use faultline_domain::{
    EnvironmentId, NodeName,
    authz::MayLook,
    environment::{Environment, State as Life},
};
use faultline_guest::client;
use faultline_lab::LabFolder;
use faultline_provider::Target;
use serde::Deserialize;

use super::{
    after_quiet_form, exposures,
    layout::{Frame, Layout},
    page,
    parts::{self, Checks},
    saves::{self, Copies},
    text,
};
use crate::{
    app::{App, Shared},
    auth::Looking,
    headers,
    operations::look,
    problem::Problem,
    terminal::Which,
};

/// Timeout for a node to list its terminals.
const LIST_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Template)]
#[template(path = "look.html")]
struct LookPage {
    layout: Layout,
    nonce: String,
    id: String,
    slug: String,
    title: String,
    owner: String,
    state: &'static str,
    /// True if there are terminals to look at.
    running: bool,
    checks: Checks,
    progress: String,
    copies: Copies,
    /// What it exposes; empty if it exposes nothing.
    exposed: String,
    /// The page to return to, and its name.
    back: (String, String),
}

pub(super) async fn show(
    State(app): State<Shared>,
    looking: Looking,
    frame: Frame,
) -> Result<Response, Problem> {
    let e = looking.environment();
    let lab = app.lab_of(e).await;
    let title = lab
        .as_ref()
        .map_or_else(|| e.lab.to_string(), |l| l.lab.title.clone());
    let owner = app.name_of(&e.person).await?;
    let running = e.is_open() && matches!(e.state, Life::Active { .. });
    let nonce = app.secret().derive("nonce");
    let html = page(&LookPage {
        layout: frame.layout(&title, &looking.caller),
        nonce: nonce.clone(),
        id: e.id.to_string(),
        slug: e.lab.to_string(),
        title,
        owner,
        state: match &e.state {
            _ if running => "running",
            _ if !e.is_open() => "ended",
            Life::Suspended { .. } => "paused",
            _ => "starting",
        },
        running,
        checks: checks(&app, e, lab.as_deref()).await?,
        progress: progress(&app, e, lab.as_deref()).await?,
        copies: saves::copies(&app, &looking.proof, &looking.caller.csrf).await?,
        exposed: exposures::render(&app, e, false).await?,
        back: back(&app, &looking).await?,
    })?;
    Ok(match headers::policy_with_styles(&nonce) {
        Some(policy) => ([(header::CONTENT_SECURITY_POLICY, policy)], html).into_response(),
        None => html,
    })
}

/// Returns the page of the group that the owner is a member of, or the list of groups.
async fn back(app: &App, looking: &Looking) -> Result<(String, String), Problem> {
    let owner = &looking.environment().person;
    let groups = app.store.groups().await?.into_iter();
    let mut mine = groups
        .filter(|group| group.has_student(owner))
        .filter_map(|group| looking.caller.signed_in.may_instruct(group).ok());
    Ok(mine.next().map_or_else(
        || ("/groups".to_owned(), "Groups".to_owned()),
        |proof| {
            let group = proof.group();
            (format!("/groups/{}", group.id), group.name.clone())
        },
    ))
}

#[derive(Deserialize)]
pub(super) struct Typing {
    #[serde(default)]
    types: String,
}

pub(super) async fn set_typing(
    State(app): State<Shared>,
    looking: Looking,
    frame: Frame,
    Form(wanted): Form<Typing>,
) -> Result<Response, Problem> {
    look::set_typing(&app, &looking.proof, wanted.types == "yes").await?;
    let here = page_of(&looking.environment().id);
    Ok(after_quiet_form(&frame, &here))
}

/// Returns the path of the page.
pub(super) fn page_of(environment: &EnvironmentId) -> String {
    format!("/environments/{environment}/look")
}

/// Returns the parts of the page that are updated live.
pub(super) async fn parts(
    app: &App,
    proof: &MayLook,
    e: &Environment,
) -> Result<Vec<(&'static str, String)>, Problem> {
    let lab = app.lab_of(e).await;
    let types = app.looks.typing(&e.id, proof.person()).unwrap_or(false);
    Ok(vec![
        ("typing", if types { "yes" } else { "no" }.to_owned()),
        ("checks", checks(app, e, lab.as_deref()).await?.render()?),
        ("progress", progress(app, e, lab.as_deref()).await?),
        ("copies", saves::version_of_copies(app, proof).await?),
        ("exposed", exposures::render(app, e, false).await?),
        ("terminals", terminals(app, e).await),
    ])
}

/// Returns the checks without their hints, which only the owner can open.
async fn checks(app: &App, e: &Environment, lab: Option<&LabFolder>) -> Result<Checks, Problem> {
    let mut checks = parts::checks(app, e, lab).await?;
    for row in &mut checks.rows {
        row.hint = None;
    }
    Ok(checks)
}

/// Returns in one line how the attempt stands.
async fn progress(app: &App, e: &Environment, lab: Option<&LabFolder>) -> Result<String, Problem> {
    let attempt = app.attempt(e).await?;
    let opened = attempt.hints.len();
    let hints = match lab.map(|lab| lab.lab.hints.len()) {
        Some(all) => format!("{opened} of {} opened", text::plural(all, "hint", "hints")),
        None => format!("{} opened", text::plural(opened, "hint", "hints")),
    };
    let state = match (attempt.is_repaired(), attempt.gave_up) {
        (true, _) => "Repaired",
        (_, true) => "The solution is open",
        _ => "In progress",
    };
    let since = text::ago(attempt.started_at, app.now());
    Ok(format!("{state}; started {since}; {hints}."))
}

/// Returns the numbers of the terminals that are open on each node, as JSON. A node that doesn't respond has `null`.
async fn terminals(app: &App, e: &Environment) -> String {
    let nodes = e.nodes();
    let lists = nodes.iter().map(async |node| {
        let listed = tokio::time::timeout(LIST_TIMEOUT, list(app, e, node)).await;
        (node.to_string(), listed.ok().flatten())
    });
    let lists = futures::future::join_all(lists).await;
    let lists: BTreeMap<String, Option<Vec<u32>>> = lists.into_iter().collect();
    serde_json::to_string(&lists).unwrap_or_default()
}

async fn list(app: &App, e: &Environment, node: &NodeName) -> Option<Vec<u32>> {
    let tenant = e.tenant_id()?;
    let stream = app.provider.open(tenant, node, Target::Guest).await.ok()?;
    let sessions = client::terminals(stream).await.ok()?;
    let mut numbers: Vec<u32> = sessions
        .iter()
        .filter_map(|session| Which::number_of(session))
        .collect();
    numbers.sort_unstable();
    // The guest may say anything.
    numbers.dedup();
    Some(numbers)
}
