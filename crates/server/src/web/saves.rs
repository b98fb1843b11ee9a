//! The save points on the workspace: the list, and its forms.

use askama::Template;
use axum::{
    Form,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use faultline_domain::{
    environment::Environment,
    limits::size,
    save_point::{Purpose, State as Made},
};
use faultline_provider::Capability;
use serde::Deserialize;

use super::{layout::Frame, page, text};
use crate::{
    app::{App, Shared},
    auth::{Mine, Saved},
    operations::{restore, save},
    problem::Problem,
};

struct Row {
    id: String,
    name: String,
    when: String,
    /// `saving`, `complete` or `failed`.
    state: &'static str,
    /// The size, or why it could not be made.
    detail: String,
    undo: bool,
}

/// The list of save points.
#[derive(Template)]
#[template(path = "part-saves.html")]
pub(super) struct Saves {
    id: String,
    csrf: String,
    /// True if the environment can be saved.
    pub(super) may_save: bool,
    active: bool,
    rows: Vec<Row>,
}

/// Returns an environment's save points, newest first.
pub(super) async fn saves(app: &App, e: &Environment, csrf: &str) -> Result<Saves, Problem> {
    let (all, now) = (
        app.store.save_points_of_environment(&e.id).await?,
        app.now(),
    );
    let rows = all.iter().rev().map(|save| Row {
        id: save.id.to_string(),
        name: save.name.clone(),
        when: text::ago(save.created_at, now),
        state: save.state.as_str(),
        detail: match &save.state {
            Made::Complete(saved) => size(saved.bytes),
            Made::Failed { reason } => reason.clone(),
            Made::Saving | Made::Deleting => String::new(),
        },
        undo: save.purpose == Purpose::Undo,
    });
    let rows: Vec<Row> = rows.collect();
    let active = e.is_open() && !e.state.is_starting();
    let can = app.provider.capabilities().contains(&Capability::Save);
    Ok(Saves {
        id: e.id.to_string(),
        csrf: csrf.to_owned(),
        may_save: can && active && app.config.save_points.max_of_person > 0,
        active,
        rows,
    })
}

/// Returns a text that changes whenever the list does.
pub(super) async fn version(app: &App, e: &Environment) -> Result<String, Problem> {
    let all = app.store.save_points_of_environment(&e.id).await?;
    let each = all.iter().map(|s| format!("{}:{}", s.id, s.state.as_str()));
    Ok(each.collect::<Vec<_>>().join(","))
}

/// Serves only the list.
pub(super) async fn show(State(app): State<Shared>, mine: Mine) -> Result<Response, Problem> {
    page(&saves(&app, mine.environment(), &mine.caller.csrf).await?)
}

#[derive(Deserialize)]
pub(super) struct NewSave {
    #[serde(default)]
    name: String,
}

fn done(frame: &Frame, environment: &str) -> Response {
    if frame.partial {
        return StatusCode::NO_CONTENT.into_response();
    }
    Redirect::to(&format!("/environments/{environment}#saves")).into_response()
}

pub(super) async fn make(
    State(app): State<Shared>,
    mine: Mine,
    frame: Frame,
    Form(new): Form<NewSave>,
) -> Result<Response, Problem> {
    save::save(&app, &mine.proof, &new.name).await?;
    Ok(done(&frame, mine.environment().id.as_str()))
}

pub(super) async fn go_back(
    State(app): State<Shared>,
    mine: Mine,
    saved: Saved,
) -> Result<Response, Problem> {
    let made = restore::restore(&app, &mine.proof, &saved.proof).await?;
    Ok(Redirect::to(&format!("/environments/{}", made.id)).into_response())
}

pub(super) async fn fork(State(app): State<Shared>, saved: Saved) -> Result<Response, Problem> {
    let made = restore::fork(&app, &saved.proof).await?;
    Ok(Redirect::to(&format!("/environments/{}", made.id)).into_response())
}

pub(super) async fn delete(
    State(app): State<Shared>,
    saved: Saved,
    frame: Frame,
) -> Result<Response, Problem> {
    save::delete(&app, &saved.proof).await?;
    let environment = &saved.proof.save_point().environment;
    Ok(done(&frame, environment.as_str()))
}
