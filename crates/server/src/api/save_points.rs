//! `/api/v1/save-points`, and the save points of an environment.

use axum::{Json, extract::State, http::StatusCode};
use faultline_domain::{
    SavePointId,
    save_point::{SavePoint, State as Made},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Body, views::environments::EnvironmentView};
use crate::{
    app::Shared,
    auth::{Looking, Mine, Saved, Signed},
    operations::{restore, save},
    problem::Problem,
};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(save_environment, list_saves_of_environment))
        .routes(routes!(copy_environment, list_copies))
        .routes(routes!(restore_environment))
        .routes(routes!(list_saves))
        .routes(routes!(get_save, delete_save))
        .routes(routes!(fork_environment))
}

/// A save point of an environment.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SavePointView {
    id: String,
    /// The environment that was saved.
    environment: String,
    lab: String,
    name: String,
    /// `manual`; `copy` if it is of somebody else's environment; `undo` if it was made before a reset or a restore, to
    /// undo that.
    purpose: &'static str,
    created_at: String,
    /// When it is deleted.
    expires_at: String,
    /// `saving`, `complete` or `failed`.
    state: &'static str,
    /// Why it could not be made.
    reason: Option<String>,
    /// Its size, once it is complete.
    bytes: Option<u64>,
    /// How long the machines stood still for it, once it is complete.
    paused_millis: Option<u64>,
}

impl From<&SavePoint> for SavePointView {
    fn from(save: &SavePoint) -> Self {
        let saved = save.saved();
        Self {
            id: save.id.to_string(),
            environment: save.environment.to_string(),
            lab: save.lab.to_string(),
            name: save.name.clone(),
            purpose: save.purpose.as_str(),
            created_at: save.created_at.to_string(),
            expires_at: save.expires_at.to_string(),
            state: save.state.as_str(),
            reason: match &save.state {
                Made::Failed { reason } => Some(reason.clone()),
                _ => None,
            },
            bytes: saved.map(|saved| saved.bytes),
            paused_millis: saved.map(|saved| saved.paused_millis),
        }
    }
}

fn views(all: &[SavePoint]) -> Json<Vec<SavePointView>> {
    Json(all.iter().map(SavePointView::from).collect())
}

/// A save point that is to be made.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSavePoint {
    /// Its name, at most 80 characters. Default: `Save point` and a number.
    #[serde(default)]
    name: String,
}

/// Saves an environment.
///
/// All its machines are saved at one instant, and stand still for less than a second or two. They go on while the save
/// point is written.
#[utoipa::path(post, path = "/api/v1/environments/{id}/save-points", tag = "save points", params(("id" = String, Path)),
    request_body = NewSavePoint,
    responses((status = 202, body = SavePointView, description = "it is being made; get it to see when it is complete"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn save_environment(
    State(app): State<Shared>,
    mine: Mine,
    Body(new): Body<NewSavePoint>,
) -> Result<(StatusCode, Json<SavePointView>), Problem> {
    let made = save::save(&app, &mine.proof, &new.name).await?;
    Ok((StatusCode::ACCEPTED, Json(SavePointView::from(&made))))
}

/// Lists the save points of an environment, oldest first.
#[utoipa::path(get, path = "/api/v1/environments/{id}/save-points", tag = "save points", params(("id" = String, Path)),
    responses((status = 200, body = [SavePointView]), (status = 404, body = Problem)))]
async fn list_saves_of_environment(
    State(app): State<Shared>,
    mine: Mine,
) -> Result<Json<Vec<SavePointView>>, Problem> {
    let id = &mine.environment().id;
    Ok(views(&app.store.save_points_of_environment(id).await?))
}

/// Copies somebody's environment.
///
/// For its owner's instructors and for operators. The result is a save point of the caller's own; fork it to start an
/// environment that continues from it. The owner's environment goes on, and the owner is notified. A copy is kept
/// for a day at most.
#[utoipa::path(post, path = "/api/v1/environments/{id}/copies", tag = "save points", params(("id" = String, Path)),
    responses((status = 202, body = SavePointView, description = "it is being made; get it to see when it is complete"),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn copy_environment(
    State(app): State<Shared>,
    looking: Looking,
) -> Result<(StatusCode, Json<SavePointView>), Problem> {
    let made = save::copy(&app, &looking.proof).await?;
    Ok((StatusCode::ACCEPTED, Json(SavePointView::from(&made))))
}

/// Lists the caller's copies of somebody's environment, oldest first.
#[utoipa::path(get, path = "/api/v1/environments/{id}/copies", tag = "save points", params(("id" = String, Path)),
    responses((status = 200, body = [SavePointView]), (status = 404, body = Problem)))]
async fn list_copies(
    State(app): State<Shared>,
    looking: Looking,
) -> Result<Json<Vec<SavePointView>>, Problem> {
    let (id, me) = (&looking.environment().id, looking.proof.person());
    Ok(views(&app.store.copies_of_environment(id, me).await?))
}

/// The save point to restore.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RestoreFrom {
    /// The ID of a save point of this environment.
    save_point: String,
}

/// Restores an environment to one of its save points.
///
/// Everything since then is undone: memory, files, processes. The present state is saved first, so that this can be
/// undone.
#[utoipa::path(post, path = "/api/v1/environments/{id}/restore", tag = "save points", params(("id" = String, Path)),
    request_body = RestoreFrom,
    responses((status = 202, body = EnvironmentView), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
async fn restore_environment(
    State(app): State<Shared>,
    mine: Mine,
    Body(from): Body<RestoreFrom>,
) -> Result<(StatusCode, Json<EnvironmentView>), Problem> {
    let id: SavePointId = from.save_point.parse().map_err(|_| Problem::not_found())?;
    let save = app.store.save_point(&id).await?;
    let save = save.ok_or_else(Problem::not_found)?;
    let proof = mine.caller.signed_in.may_use_save_point(save)?;
    let made = restore::restore(&app, &mine.proof, &proof).await?;
    Ok((
        StatusCode::ACCEPTED,
        Json(EnvironmentView::new(&app, &made)),
    ))
}

/// Lists the caller's save points, oldest first.
#[utoipa::path(get, path = "/api/v1/save-points", tag = "save points",
    responses((status = 200, body = [SavePointView])))]
async fn list_saves(
    State(app): State<Shared>,
    Signed(caller): Signed,
) -> Result<Json<Vec<SavePointView>>, Problem> {
    let me = caller.signed_in.person();
    Ok(views(&app.store.save_points_of(me).await?))
}

/// Returns a save point.
#[utoipa::path(get, path = "/api/v1/save-points/{save}", tag = "save points", params(("save" = String, Path)),
    responses((status = 200, body = SavePointView), (status = 404, body = Problem)))]
async fn get_save(saved: Saved) -> Json<SavePointView> {
    Json(SavePointView::from(saved.proof.save_point()))
}

/// Deletes a save point.
#[utoipa::path(delete, path = "/api/v1/save-points/{save}", tag = "save points", params(("save" = String, Path)),
    responses((status = 202, description = "it will be deleted"), (status = 404, body = Problem)))]
async fn delete_save(State(app): State<Shared>, saved: Saved) -> Result<StatusCode, Problem> {
    save::delete(&app, &saved.proof).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Starts another environment that continues from a save point.
///
/// The one that was saved is not affected.
#[utoipa::path(post, path = "/api/v1/save-points/{save}/fork", tag = "save points", params(("save" = String, Path)),
    responses((status = 201, body = EnvironmentView), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn fork_environment(
    State(app): State<Shared>,
    saved: Saved,
) -> Result<(StatusCode, Json<EnvironmentView>), Problem> {
    let made = restore::fork(&app, &saved.proof).await?;
    Ok((StatusCode::CREATED, Json(EnvironmentView::new(&app, &made))))
}
