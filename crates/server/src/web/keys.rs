//! `/keys`: the person's public keys for SSH, and tokens for the API.

use askama::Template;
use axum::{
    Form,
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use faultline_domain::authz::Scope;
use jiff::Timestamp;
use serde::Deserialize;

use super::{
    layout::{Frame, Layout},
    page, text,
};
use crate::{
    app::{App, Shared},
    auth::{Caller, Row, Signed},
    operations::{keys, tokens},
    problem::Problem,
};

struct Key {
    id: String,
    name: String,
    fingerprint: String,
    when: String,
}

struct Token {
    id: String,
    name: String,
    when: String,
    used: String,
    /// Its restrictions, such as `read only`; empty if it has none.
    limits: String,
}

/// Formats a token's restrictions.
fn limits(scope: Scope, expires_at: Option<Timestamp>, now: Timestamp) -> String {
    let scope = (scope == Scope::Read).then(|| "read only".to_owned());
    let end = expires_at.map(|at| match at.duration_since(now).as_hours() / 24 {
        0 => "ends today".to_owned(),
        days => {
            let days = usize::try_from(days).unwrap_or_default();
            format!("ends in {}", text::plural(days, "day", "days"))
        }
    });
    let all: Vec<String> = scope.into_iter().chain(end).collect();
    all.join(", ")
}

#[derive(Template)]
#[template(path = "keys.html")]
struct Keys {
    layout: Layout,
    keys: Vec<Key>,
    tokens: Vec<Token>,
    problem: Option<Problem>,
    draft: String,
    made: Option<String>,
    ssh: Option<(String, u16)>,
    /// The fingerprint of the SSH gateway's host key.
    host_key: Option<String>,
    /// The URL at which other machines reach this server, if they can.
    url: Option<String>,
}

async fn render(
    app: &App,
    caller: &Caller,
    frame: &Frame,
    problem: Option<Problem>,
    draft: String,
    made: Option<String>,
) -> Result<Response, Problem> {
    let me = caller.signed_in.person();
    let now = app.now();
    let keys = app.store.ssh_keys(me).await?;
    let tokens = app.store.api_tokens(me).await?;
    page(&Keys {
        layout: frame.layout("Keys and tokens", caller),
        keys: keys
            .into_iter()
            .map(|k| Key {
                id: k.id,
                name: k.name,
                fingerprint: k.fingerprint,
                when: text::ago(k.created_at, now),
            })
            .collect(),
        tokens: tokens
            .into_iter()
            .map(|t| Token {
                id: t.id,
                name: t.name,
                when: text::ago(t.created_at, now),
                limits: limits(t.scope, t.expires_at, now),
                used: t
                    .last_used
                    .map_or_else(|| "never".to_owned(), |at| text::ago(at, now)),
            })
            .collect(),
        problem,
        draft,
        made,
        ssh: app
            .config
            .ssh_port
            .map(|port| (app.config.ssh_host().to_owned(), port)),
        host_key: app
            .config
            .ssh_host_key
            .as_ref()
            .map(|key| key.fingerprint().to_owned()),
        url: (!app.config.is_loopback()).then(|| app.config.public_url.clone()),
    })
}

pub(super) async fn show(
    State(app): State<Shared>,
    Signed(caller): Signed,
    frame: Frame,
) -> Result<Response, Problem> {
    render(&app, &caller, &frame, None, String::new(), None).await
}

#[derive(Deserialize)]
pub(super) struct NewKey {
    #[serde(default)]
    name: String,
    #[serde(default)]
    public_key: String,
}

pub(super) async fn add(
    State(app): State<Shared>,
    Signed(caller): Signed,
    frame: Frame,
    Form(new): Form<NewKey>,
) -> Result<Response, Problem> {
    match keys::add(&app, &caller.signed_in, &new.name, &new.public_key).await {
        Ok(_) => Ok(Redirect::to("/keys").into_response()),
        // If a private key was pasted by mistake, it isn't sent back.
        Err(problem) if problem.status < 500 => {
            let draft = if new.public_key.contains("PRIVATE") {
                String::new()
            } else {
                new.public_key
            };
            render(&app, &caller, &frame, Some(problem), draft, None).await
        }
        Err(problem) => Err(problem),
    }
}

pub(super) async fn remove(
    State(app): State<Shared>,
    Signed(caller): Signed,
    Row(id): Row,
) -> Result<Response, Problem> {
    keys::remove(&app, &caller.signed_in, &id).await?;
    Ok(Redirect::to("/keys").into_response())
}

#[derive(Deserialize)]
pub(super) struct NewToken {
    #[serde(default)]
    name: String,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    days: String,
}

pub(super) async fn add_token(
    State(app): State<Shared>,
    Signed(caller): Signed,
    frame: Frame,
    Form(new): Form<NewToken>,
) -> Result<Response, Problem> {
    let scope = match new.scope.as_str() {
        "read" => Scope::Read,
        _ => Scope::Full,
    };
    let days = new.days.trim();
    let days = match days {
        "" => None,
        days => Some(
            days.parse()
                .map_err(|_| Problem::bad_request("Enter the number of days as a whole number."))?,
        ),
    };
    let (_, secret) = tokens::add(&app, &caller.signed_in, &new.name, scope, days).await?;
    let made = Some(secret.expose().to_owned());
    render(&app, &caller, &frame, None, String::new(), made).await
}

pub(super) async fn remove_token(
    State(app): State<Shared>,
    Signed(caller): Signed,
    Row(id): Row,
) -> Result<Response, Problem> {
    tokens::remove(&app, &caller.signed_in, &id).await?;
    Ok(Redirect::to("/keys").into_response())
}
