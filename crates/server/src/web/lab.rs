//! `/labs/{slug}`: the lab, its requirements and points, the person's attempts, and Start.

use askama::Template;
use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use faultline_domain::queue::Lack;
use faultline_lab::markdown::{self, Place};
use faultline_provider::Readiness;

use super::{
    layout::{Frame, Layout},
    page,
    parts::Tried,
    text,
};
use crate::{
    app::Shared,
    auth::{Signed, Slug},
    operations,
    problem::Problem,
    quotas,
};

#[derive(Template)]
#[template(path = "lab.html")]
struct Lab {
    layout: Layout,
    slug: String,
    title: String,
    summary: String,
    level: &'static str,
    topics: Vec<String>,
    minutes: u32,
    nodes: u32,
    image: String,
    lifetime: u32,
    points: u32,
    hints: usize,
    checks: Vec<String>,
    readme: String,
    usual: Option<String>,
    open: Option<String>,
    unready: Option<String>,
    /// Why a start would be refused by a limit.
    refusal: Option<String>,
    /// The limits of which little is left.
    near: Vec<String>,
    tries: Vec<Tried>,
    solved: bool,
}

pub(super) async fn show(
    State(app): State<Shared>,
    Signed(caller): Signed,
    Slug(slug): Slug,
    frame: Frame,
) -> Result<Response, Problem> {
    let me = caller.signed_in.person();
    let (folder, open) = app.lab_shown(&slug, me).await?;
    let lab = &folder.lab;
    let attempts = app.store.attempts_at(me, &slug).await?;
    let usual = app.usual_start(&slug).await?;
    let unready = match app.readiness(lab.needs.template()).await {
        Readiness::Ready { .. } => None,
        Readiness::Preparing { fraction, text } => Some(format!(
            "The machine's image is being built, {:.0} % done: {text}.",
            fraction * 100.0
        )),
        Readiness::Unavailable { reason } => Some(reason),
    };
    let unready = match app.maintenance() {
        Some(_) => Some(Lack::Maintenance.as_sentence().to_owned()),
        None => unready,
    };
    let limits = quotas::limits_of(&app, me).await?;
    let now = app.now();
    let places = app.store.environments_by_attempt(me).await?;
    let tries = attempts
        .iter()
        .map(|a| {
            let in_progress = open.as_ref().is_some_and(|e| e.attempt == a.id);
            Tried::new(a, places.get(&a.id), in_progress, now)
        })
        .collect();
    page(&Lab {
        layout: frame.layout(&lab.title, &caller),
        slug: slug.to_string(),
        title: lab.title.clone(),
        summary: lab.summary.clone(),
        level: lab.level.as_str(),
        topics: lab.topics.clone(),
        minutes: lab.minutes,
        nodes: lab.needs.nodes,
        image: lab.needs.template().image,
        lifetime: lab.needs.lifetime_minutes,
        points: lab.points(),
        hints: lab.hints.len(),
        checks: lab.checks.iter().map(|c| c.title.clone()).collect(),
        readme: markdown::html_without_title(
            &folder.readme,
            Place {
                base: &format!("/labs/{slug}"),
                prefix: "incident-",
            },
        ),
        usual: usual.map(text::usual),
        open: open.map(|e| e.id.to_string()),
        unready,
        refusal: limits.refusal(&app, operations::start::nodes(lab)),
        near: limits.near(),
        solved: attempts
            .iter()
            .any(faultline_domain::attempt::Attempt::is_solved),
        tries,
    })
}

pub(super) async fn start(
    State(app): State<Shared>,
    Signed(caller): Signed,
    Slug(slug): Slug,
) -> Result<Response, Problem> {
    let made = operations::start::start(&app, &caller.signed_in, &slug).await?;
    Ok(Redirect::to(&format!("/environments/{}", made.id)).into_response())
}
