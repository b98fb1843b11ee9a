//! Files of a lab that its texts show: pictures, and what they link to. `files/` is for everybody who may see the lab,
//! `solution/` opens with the solution; no other folder is served.

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

/// What an SVG, or anything else that a browser opens as a page, may do: show itself, with its own styles.
const HARMLESS: &str = "default-src 'none'; style-src 'unsafe-inline'; sandbox";

/// A file of a lab, with the values of the person's own environment.
pub(super) async fn of_lab(
    State(app): State<Shared>,
    Signed(caller): Signed,
    Slug(slug): Slug,
    Path((_, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let (lab, _) = app.lab_shown(&slug, caller.signed_in.person()).await?;
    answer(&lab, &format!("files/{name}"))
}

/// A file of the lab as it was when the environment started.
pub(super) async fn of_environment(
    State(app): State<Shared>,
    mine: Mine,
    Path((_, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let lab = app.lab_of(mine.environment()).await;
    answer(
        &*lab.ok_or_else(Problem::not_found)?,
        &format!("files/{name}"),
    )
}

/// A file of the solution, once that may be read.
pub(super) async fn of_solution(
    State(app): State<Shared>,
    mine: Mine,
    Path((_, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    if !app.attempt(mine.environment()).await?.shows_solution() {
        return Err(Problem::not_found());
    }
    let lab = app.lab_of(mine.environment()).await;
    answer(
        &*lab.ok_or_else(Problem::not_found)?,
        &format!("solution/{name}"),
    )
}

fn answer(lab: &LabFolder, path: &str) -> Result<Response, Problem> {
    let content = lab.public(path).ok_or_else(Problem::not_found)?;
    // What is no picture is text or is saved; nothing is run.
    let kind = picture(path).unwrap_or(match std::str::from_utf8(content) {
        Ok(_) => "text/plain; charset=utf-8",
        Err(_) => "application/octet-stream",
    });
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, HARMLESS),
    ];
    Ok((headers, content.to_vec()).into_response())
}
