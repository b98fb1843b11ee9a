//! `/labs/{slug}/author`: hints, solution and checks of a lab, for authors.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};
use faultline_lab::markdown::{self, Place};

use super::{
    files,
    layout::{Frame, Layout},
    page,
};
use crate::{
    app::Shared,
    auth::{Author, Slug},
    operations::authoring,
    problem::Problem,
};

struct HintRow {
    number: usize,
    cost: u32,
    html: String,
}

struct CheckRow {
    name: String,
    title: String,
    fail: String,
}

#[derive(Template)]
#[template(path = "authoring.html")]
struct Page {
    layout: Layout,
    slug: String,
    title: String,
    hints: Vec<HintRow>,
    checks: Vec<CheckRow>,
    solution: String,
    /// `solution.sh`.
    script: String,
}

pub(super) async fn show(
    State(app): State<Shared>,
    author: Author,
    Slug(slug): Slug,
    frame: Frame,
) -> Result<Response, Problem> {
    let folder = authoring::whole(&app, &author.proof, &slug).await?;
    let lab = &folder.lab;
    let base = format!("/labs/{slug}");
    let html = |text: &str, prefix: &str| {
        let place = Place {
            base: &base,
            prefix,
        };
        markdown::html_without_title(text, place)
    };
    let hints = (1..).zip(&lab.hints).map(|(number, hint)| HintRow {
        number,
        cost: hint.cost,
        html: html(&hint.text, "hint-"),
    });
    let checks = lab.checks.iter().map(|check| CheckRow {
        name: check.name.clone(),
        title: check.title.clone(),
        fail: check.fail.clone(),
    });
    page(&Page {
        layout: frame.layout(&lab.title, &author.caller),
        slug: slug.to_string(),
        title: lab.title.clone(),
        hints: hints.collect(),
        checks: checks.collect(),
        solution: html(&folder.solution, "solution-"),
        script: String::from_utf8_lossy(&folder.solution_script).into_owned(),
    })
}

/// Serves a file that the solution shows.
pub(super) async fn file(
    State(app): State<Shared>,
    author: Author,
    Slug(slug): Slug,
    Path((_, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let lab = authoring::whole(&app, &author.proof, &slug).await?;
    files::respond(&lab, &format!("solution/{name}"))
}
