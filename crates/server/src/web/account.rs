//! `/account`: the person's login name, password and sessions.

use askama::Template;
use axum::{
    Form, Json,
    extract::State,
    http::header,
    response::{IntoResponse, Redirect, Response},
};
use faultline_domain::person::Person;
use serde::Deserialize;

use super::{
    layout::{Frame, Layout},
    page,
};
use crate::{
    app::{App, Shared},
    auth::{Caller, Signed, password},
    operations::{export, passwords},
    problem::Problem,
};

#[derive(Template)]
#[template(path = "account.html")]
struct Page {
    layout: Layout,
    name: String,
    role: &'static str,
    login: String,
    has_password: bool,
    min: usize,
    /// The number of sessions, including this one.
    sessions: i64,
    problem: Option<Problem>,
    done: Option<&'static str>,
}

async fn me(app: &App, caller: &Caller) -> Result<Person, Problem> {
    let person = app.store.person(caller.signed_in.person()).await?;
    person.ok_or_else(Problem::not_found)
}

async fn render(
    app: &App,
    caller: &Caller,
    frame: &Frame,
    problem: Option<Problem>,
    login: Option<String>,
    done: Option<&'static str>,
) -> Result<Response, Problem> {
    let me = me(app, caller).await?;
    let own = me.login.map_or_else(String::new, |login| login.to_string());
    page(&Page {
        layout: frame.layout("Account", caller),
        name: me.name,
        role: me.role.as_str(),
        login: login.unwrap_or(own),
        has_password: me.has_password,
        min: password::MIN,
        sessions: app.store.sessions_of(&me.id, app.now()).await?,
        problem,
        done,
    })
}

pub(super) async fn show(
    State(app): State<Shared>,
    Signed(caller): Signed,
    frame: Frame,
) -> Result<Response, Problem> {
    render(&app, &caller, &frame, None, None, None).await
}

#[derive(Deserialize)]
pub(super) struct NewPassword {
    #[serde(default)]
    login: String,
    #[serde(default)]
    current: String,
    #[serde(default)]
    password: String,
}

pub(super) async fn set_password(
    State(app): State<Shared>,
    Signed(caller): Signed,
    frame: Frame,
    Form(new): Form<NewPassword>,
) -> Result<Response, Problem> {
    let (who, session) = (&caller.signed_in, &caller.secret);
    let set = passwords::set(&app, who, session, &new.login, new.current, &new.password);
    match set.await {
        Ok(()) => {
            let done = "Your password is set. Other browsers are signed out.";
            render(&app, &caller, &frame, None, None, Some(done)).await
        }
        Err(problem) if problem.status < 500 && problem.retry_after.is_none() => {
            let status = problem.status_code();
            let login = new.login.chars().take(32).collect();
            let html = render(&app, &caller, &frame, Some(problem), Some(login), None).await?;
            Ok((status, html).into_response())
        }
        Err(problem) => Err(problem),
    }
}

pub(super) async fn sign_out_others(
    State(app): State<Shared>,
    Signed(caller): Signed,
) -> Result<Response, Problem> {
    let person = caller.signed_in.person();
    let now = app.now();
    app.store
        .end_other_sessions(person, &caller.secret, now)
        .await?;
    Ok(Redirect::to("/account").into_response())
}

/// Downloads everything that the server knows about the person, as JSON.
pub(super) async fn data(
    State(app): State<Shared>,
    Signed(caller): Signed,
) -> Result<Response, Problem> {
    let data = export::export(&app, &caller.signed_in).await?;
    let headers = [(
        header::CONTENT_DISPOSITION,
        "attachment; filename=\"faultline.json\"",
    )];
    Ok((headers, Json(data)).into_response())
}
