//! `/invitation`: accepting an invitation, by its link or after its code was entered ([`join`](super::join)). As with sign-in links, only the form uses the token, so nothing that merely
//! fetches links accepts an invitation.

use askama::Template;
use axum::{
    Extension, Form,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use faultline_store::Secret;
use serde::Deserialize;

use super::{
    layout::{Frame, Layout},
    page, sign_in,
};
use crate::{
    app::{App, Shared},
    auth::{device::Device, password},
    operations::invitations,
    problem::Problem,
    rates::Origin,
};

#[derive(Deserialize, Default)]
pub(super) struct Sent {
    #[serde(default)]
    token: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    login: String,
    #[serde(default)]
    password: String,
}

#[derive(Template)]
#[template(path = "invitation.html")]
struct Page {
    layout: Layout,
    /// Empty if the invitation can't be accepted.
    token: String,
    name: String,
    login: String,
    min: usize,
    /// The name of the identity provider, if one is configured.
    provider: Option<String>,
    problem: Option<Problem>,
}

/// Returns the secret of an invitation's link if it can be accepted.
async fn valid(app: &App, token: &str) -> Result<Option<Secret>, Problem> {
    if let Some(secret) = Secret::presented(token)
        && app.store.invitation(&secret, app.now()).await?.is_some()
    {
        return Ok(Some(secret));
    }
    Ok(None)
}

fn render(
    app: &App,
    frame: &Frame,
    sent: Sent,
    is_valid: bool,
    problem: Option<Problem>,
) -> Result<Response, Problem> {
    page(&Page {
        layout: frame.outside("Invitation"),
        token: if is_valid { sent.token } else { String::new() },
        name: sent.name.chars().take(60).collect(),
        login: sent.login.chars().take(32).collect(),
        min: password::MIN,
        provider: sign_in::provider(app),
        problem,
    })
}

pub(super) async fn show(
    State(app): State<Shared>,
    frame: Frame,
    Query(sent): Query<Sent>,
) -> Result<Response, Problem> {
    let is_valid = valid(&app, &sent.token).await?.is_some();
    let token = Sent {
        token: sent.token,
        ..Sent::default()
    };
    render(&app, &frame, token, is_valid, None)
}

/// Returns the page for a person who has entered a right access code.
pub(super) fn with_code(app: &App, frame: &Frame, code: String) -> Result<Response, Problem> {
    let sent = Sent {
        token: code,
        ..Sent::default()
    };
    render(app, frame, sent, true, None)
}

pub(super) async fn accept(
    State(app): State<Shared>,
    Extension(from): Extension<Origin>,
    device: Device,
    frame: Frame,
    Form(sent): Form<Sent>,
) -> Result<Response, Problem> {
    // Anything but the secret of a link is a code, whose attempts are limited.
    let token = if Secret::presented(&sent.token).is_some() {
        let token = valid(&app, &sent.token).await?;
        if token.is_none() {
            app.rates.wrong(from)?;
        }
        token
    } else {
        invitations::by_code(&app, from, &sent.token).await?
    };
    let Some(token) = token else {
        let html = render(&app, &frame, sent, false, None)?;
        return Ok((StatusCode::UNAUTHORIZED, html).into_response());
    };
    let (name, login) = (&sent.name, &sent.login);
    let accepted = invitations::accept(&app, &token, &device, name, login, &sent.password);
    match accepted.await {
        Ok(Some(session)) => Ok(sign_in::signed_in(&app, &session)),
        Ok(None) => render(&app, &frame, sent, false, None),
        Err(problem) if problem.status < 500 => {
            let status = problem.status_code();
            let html = render(&app, &frame, sent, true, Some(problem))?;
            Ok((status, html).into_response())
        }
        Err(problem) => Err(problem),
    }
}
