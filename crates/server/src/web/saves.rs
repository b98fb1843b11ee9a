//! The save points on the workspace, and the copies on the page of a look: the lists, and their forms.

use askama::Template;
use axum::{
    Form,
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use faultline_domain::{
    EnvironmentId,
    authz::MayLook,
    environment::Environment,
    limits::size,
    save_point::{Purpose, SavePoint, State as Made},
};
use faultline_provider::Capability;
use jiff::Timestamp;
use serde::Deserialize;

use super::{after_quiet_form, layout::Frame, look, page, text};
use crate::{
    app::{App, Shared},
    auth::{Looking, Mine, Saved},
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

impl Row {
    fn new(save: &SavePoint, now: Timestamp) -> Self {
        Self {
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
        }
    }
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
    let active = is_active(e);
    Ok(Saves {
        id: e.id.to_string(),
        csrf: csrf.to_owned(),
        may_save: active && can_save(app),
        active,
        rows: all.iter().rev().map(|save| Row::new(save, now)).collect(),
    })
}

fn is_active(e: &Environment) -> bool {
    e.is_open() && !e.state.is_starting()
}

fn can_save(app: &App) -> bool {
    let can = app.provider.capabilities().contains(&Capability::Save);
    can && app.config.save_points.max_of_person > 0
}

/// Returns a text that changes whenever the list of save points does.
pub(super) async fn version(app: &App, e: &Environment) -> Result<String, Problem> {
    Ok(version_of(
        &app.store.save_points_of_environment(&e.id).await?,
    ))
}

fn version_of(all: &[SavePoint]) -> String {
    let each = all.iter().map(|s| format!("{}:{}", s.id, s.state.as_str()));
    each.collect::<Vec<_>>().join(",")
}

/// The list of copies of somebody's environment.
#[derive(Template)]
#[template(path = "part-copies.html")]
pub(super) struct Copies {
    id: String,
    csrf: String,
    owner: String,
    /// True if the environment can be copied.
    may_copy: bool,
    rows: Vec<Row>,
}

/// Returns the copies that a person who looks into an environment has made of it, newest first.
pub(super) async fn copies(app: &App, proof: &MayLook, csrf: &str) -> Result<Copies, Problem> {
    let (e, now) = (proof.environment(), app.now());
    let all = app.store.copies_of_environment(&e.id, proof.person());
    let (all, owner) = (all.await?, app.name_of(&e.person).await?);
    Ok(Copies {
        id: e.id.to_string(),
        csrf: csrf.to_owned(),
        owner,
        may_copy: is_active(e) && !e.state.is_on_disk() && can_save(app),
        rows: all.iter().rev().map(|save| Row::new(save, now)).collect(),
    })
}

/// Returns a text that changes whenever the list of copies does.
pub(super) async fn version_of_copies(app: &App, proof: &MayLook) -> Result<String, Problem> {
    let id = &proof.environment().id;
    Ok(version_of(
        &app.store.copies_of_environment(id, proof.person()).await?,
    ))
}

/// Serves only the list of copies.
pub(super) async fn show_copies(
    State(app): State<Shared>,
    looking: Looking,
) -> Result<Response, Problem> {
    page(&copies(&app, &looking.proof, &looking.caller.csrf).await?)
}

pub(super) async fn copy(
    State(app): State<Shared>,
    looking: Looking,
    frame: Frame,
) -> Result<Response, Problem> {
    save::copy(&app, &looking.proof).await?;
    let here = look::page_of(&looking.environment().id);
    Ok(after_quiet_form(&frame, &here))
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

fn list_of(environment: &EnvironmentId) -> String {
    format!("/environments/{environment}#saves")
}

pub(super) async fn make(
    State(app): State<Shared>,
    mine: Mine,
    frame: Frame,
    Form(new): Form<NewSave>,
) -> Result<Response, Problem> {
    save::save(&app, &mine.proof, &new.name).await?;
    Ok(after_quiet_form(&frame, &list_of(&mine.environment().id)))
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
    Ok(after_quiet_form(&frame, &list_of(environment)))
}
