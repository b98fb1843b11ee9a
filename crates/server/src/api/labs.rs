//! `/api/v1/labs`.

use axum::{Json, extract::State, http::StatusCode};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::views::{
    environments::EnvironmentView,
    labs::{AttemptView, LabDetail, LabForAuthors, LabView},
};
use crate::{
    app::Shared,
    auth::{Author, Signed, Slug},
    operations::{authoring, start},
    problem::Problem,
};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_labs))
        .routes(routes!(get_lab))
        .routes(routes!(get_lab_for_authors))
        .routes(routes!(start_environment))
}

/// Lists all labs, easiest first.
#[utoipa::path(get, path = "/api/v1/labs", tag = "labs", responses((status = 200, body = [LabView])))]
async fn list_labs(
    State(app): State<Shared>,
    Signed(caller): Signed,
) -> Result<Json<Vec<LabView>>, Problem> {
    let solved = app.store.solved_by(caller.signed_in.person()).await?;
    let catalogue = app.catalogue();
    let labs = catalogue.labs();
    Ok(Json(
        labs.iter()
            .map(|l| LabView::new(l, solved.contains(&l.slug)))
            .collect(),
    ))
}

/// Returns a lab with the incident and the caller's attempts.
///
/// Variables have the values of the caller's open environment, or example values if there is none.
#[utoipa::path(get, path = "/api/v1/labs/{slug}", tag = "labs", params(("slug" = String, Path)),
    responses((status = 200, body = LabDetail), (status = 404, body = Problem)))]
async fn get_lab(
    State(app): State<Shared>,
    Signed(caller): Signed,
    Slug(slug): Slug,
) -> Result<Json<LabDetail>, Problem> {
    let me = caller.signed_in.person();
    let (lab, _) = app.lab_shown(&slug, me).await?;
    let attempts = app.store.attempts_at(me, &slug).await?;
    let solved = attempts
        .iter()
        .any(faultline_domain::attempt::Attempt::is_solved);
    Ok(Json(LabDetail {
        lab: LabView::new(&lab, solved),
        readme: lab.readme.clone(),
        attempts: attempts.iter().map(AttemptView::from).collect(),
    }))
}

/// Returns what a lab keeps from students: hints, solution and checks. For authors and operators.
#[utoipa::path(get, path = "/api/v1/labs/{slug}/author", tag = "labs", params(("slug" = String, Path)),
    responses((status = 200, body = LabForAuthors), (status = 404, body = Problem)))]
async fn get_lab_for_authors(
    State(app): State<Shared>,
    author: Author,
    Slug(slug): Slug,
) -> Result<Json<LabForAuthors>, Problem> {
    let lab = authoring::whole(&app, &author.proof, &slug).await?;
    Ok(Json(LabForAuthors::new(&lab)))
}

/// Starts a lab.
///
/// If the caller already has an open environment of it, returns that one.
#[utoipa::path(post, path = "/api/v1/labs/{slug}/environments", tag = "labs", params(("slug" = String, Path)),
    responses((status = 201, body = EnvironmentView), (status = 404, body = Problem),
        (status = 409, description = "no room", body = Problem), (status = 503, description = "the image is not ready", body = Problem)))]
async fn start_environment(
    State(app): State<Shared>,
    Signed(caller): Signed,
    Slug(slug): Slug,
) -> Result<(StatusCode, Json<EnvironmentView>), Problem> {
    let made = start::start(&app, &caller.signed_in, &slug).await?;
    Ok((StatusCode::CREATED, Json(EnvironmentView::new(&app, &made))))
}
