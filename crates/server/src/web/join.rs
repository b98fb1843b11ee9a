//! `/join`: entering the access code of an event. With a right code, the page is that of an invitation.

use askama::Template;
use axum::{
    Extension, Form,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    invitation,
    layout::{Frame, Layout},
    page,
};
use crate::{app::Shared, operations::invitations, problem::Problem, rates::Origin};

#[derive(Deserialize)]
pub(super) struct Typed {
    #[serde(default)]
    code: String,
}

#[derive(Template)]
#[template(path = "join.html")]
struct Page {
    layout: Layout,
    code: String,
    /// True if the code can't be used.
    wrong: bool,
}

fn render(frame: &Frame, typed: &str, wrong: bool) -> Result<Response, Problem> {
    page(&Page {
        layout: frame.outside("Join"),
        code: typed.chars().take(32).collect(),
        wrong,
    })
}

/// Doesn't look the code up: only the form does, so that attempts are counted in one place.
pub(super) async fn show(frame: Frame, Query(typed): Query<Typed>) -> Result<Response, Problem> {
    render(&frame, &typed.code, false)
}

pub(super) async fn enter(
    State(app): State<Shared>,
    Extension(from): Extension<Origin>,
    frame: Frame,
    Form(typed): Form<Typed>,
) -> Result<Response, Problem> {
    match invitations::by_code(&app, from, &typed.code).await? {
        Some(_) => invitation::with_code(&app, &frame, typed.code),
        None => {
            let html = render(&frame, &typed.code, true)?;
            Ok((StatusCode::UNAUTHORIZED, html).into_response())
        }
    }
}
