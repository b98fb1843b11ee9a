//! Files of a lab that its texts refer to: pictures and downloads. `files/` is visible to everyone who may see the lab,
//! `solution/` once the solution is. No other folder is served.

use axum::{
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
};
use faultline_lab::{LabFolder, markdown::picture};

use crate::{
    app::Shared,
    auth::{Mine, Signed, Slug},
    problem::Problem,
};

/// The policy for SVGs and anything else that a browser opens as a page: only its own inline styles, no scripts.
const SANDBOX: &str = "default-src 'none'; style-src 'unsafe-inline'; sandbox";

/// Serves a file of a lab, with the values of the person's own environment.
pub(super) async fn of_lab(
    State(app): State<Shared>,
    Signed(caller): Signed,
    Slug(slug): Slug,
    Path((_, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let (lab, _) = app.lab_shown(&slug, caller.signed_in.person()).await?;
    respond(&lab, &format!("files/{name}"))
}

/// Serves a file of the lab as it was when the environment started.
pub(super) async fn of_environment(
    State(app): State<Shared>,
    mine: Mine,
    Path((_, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let lab = app.lab_of(mine.environment()).await;
    respond(
        &*lab.ok_or_else(Problem::not_found)?,
        &format!("files/{name}"),
    )
}

/// Serves a file of the solution, once the person may read it.
pub(super) async fn of_solution(
    State(app): State<Shared>,
    mine: Mine,
    Path((_, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    if !app.attempt(mine.environment()).await?.shows_solution() {
        return Err(Problem::not_found());
    }
    let lab = app.lab_of(mine.environment()).await;
    respond(
        &*lab.ok_or_else(Problem::not_found)?,
        &format!("solution/{name}"),
    )
}

pub(super) fn respond(lab: &LabFolder, path: &str) -> Result<Response, Problem> {
    let content = lab.public(path).ok_or_else(Problem::not_found)?;
    // Anything but pictures is shown as text or downloaded, so nothing is executed.
    let kind = picture(path).unwrap_or(match std::str::from_utf8(content) {
        Ok(_) => "text/plain; charset=utf-8",
        Err(_) => "application/octet-stream",
    });
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, SANDBOX),
    ];
    Ok((headers, content.to_vec()).into_response())
}
