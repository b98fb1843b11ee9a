//! Signing in by a one-time link or with a password, signing out, and the choice of dark or light.
//!
//! The link leads to a page with a form, and only the form uses up the token. So software that merely fetches links (a
//! preview, a scanner, a browser's prefetch) neither signs anyone in nor uses up the token. A script submits the form
//! at once. The token never leaks in a referrer, because the referrer policy is `same-origin`.

use askama::Template;
use axum::{
    Extension, Form,
    extract::{Query, State},
    http::{HeaderMap, header},
    response::{AppendHeaders, IntoResponse, Redirect, Response},
};
use faultline_domain::PersonId;
use faultline_store::Secret;
use serde::Deserialize;

use super::{
    layout::{Frame, Layout, back},
    page,
};
use crate::{
    app::{App, Shared},
    auth::{Caller, SESSION, device::Device},
    operations::{passwords, sessions},
    problem::Problem,
    rates::Origin,
};

#[derive(Deserialize)]
pub(super) struct Token {
    #[serde(default)]
    token: String,
}

#[derive(Deserialize)]
pub(super) struct Credentials {
    #[serde(default)]
    token: String,
    #[serde(default)]
    login: String,
    #[serde(default)]
    password: String,
    /// Set if the person agrees to leave the session that the browser has.
    #[serde(default)]
    switch: Option<String>,
}

#[derive(Template)]
#[template(path = "sign-in.html")]
struct SignIn {
    layout: Layout,
    token: String,
    /// True if a link was followed that is no longer valid.
    spent: bool,
    /// True if the login name or the password was wrong.
    wrong: bool,
    login: String,
    /// The name of the identity provider, if one is configured.
    provider: Option<String>,
    /// True if people can sign in with a passkey.
    passkeys: bool,
    /// The names of the person who is signed in and of the link's person, if they differ.
    switch: Option<(String, String)>,
}

/// Returns the name of the identity provider, if one is configured.
pub(super) fn provider(app: &App) -> Option<String> {
    let provider = app.identity_provider.as_ref();
    provider.map(|provider| provider.settings.name.clone())
}

pub(super) async fn show(
    State(app): State<Shared>,
    Query(token): Query<Token>,
    frame: Frame,
) -> Result<Response, Problem> {
    let valid = Secret::presented(&token.token).is_some();
    page(&SignIn {
        layout: frame.outside("Sign in"),
        spent: !valid && !token.token.is_empty(),
        token: if valid { token.token } else { String::new() },
        wrong: false,
        login: String::new(),
        provider: provider(&app),
        passkeys: app.passkeys.is_some(),
        switch: None,
    })
}

pub(super) async fn confirm(
    State(app): State<Shared>,
    Extension(from): Extension<Origin>,
    caller: Option<Extension<Caller>>,
    device: Device,
    frame: Frame,
    Form(sent): Form<Credentials>,
) -> Result<Response, Problem> {
    let by_password = sent.token.is_empty();
    // Otherwise whoever leads somebody to a link of their own would have them work in the wrong account.
    if let Some(Extension(caller)) = &caller
        && sent.switch.is_none()
        && let Some(names) = others(&app, caller, &sent.token).await?
    {
        return page(&SignIn {
            layout: frame.outside("Sign in"),
            spent: false,
            token: sent.token,
            wrong: false,
            login: String::new(),
            provider: None,
            passkeys: false,
            switch: Some(names),
        });
    }
    let session = if by_password {
        passwords::sign_in(&app, from, &device, &sent.login, sent.password).await?
    } else {
        by_link(&app, from, &device, &sent.token).await?
    };
    if let Some(session) = session {
        // The browser has one session at a time.
        if let Some(Extension(caller)) = &caller {
            app.store.sign_out(&caller.secret, app.now()).await?;
        }
        return Ok(signed_in(&app, &session));
    }
    let html = page(&SignIn {
        layout: frame.outside("Sign in"),
        token: String::new(),
        spent: !by_password,
        wrong: by_password,
        login: sent.login.chars().take(64).collect(),
        provider: provider(&app),
        passkeys: app.passkeys.is_some(),
        switch: None,
    })?;
    Ok((axum::http::StatusCode::UNAUTHORIZED, html).into_response())
}

/// Returns the names of the caller and of a link's person, if they are different people.
async fn others(
    app: &App,
    caller: &Caller,
    token: &str,
) -> Result<Option<(String, String)>, Problem> {
    let Some(token) = Secret::presented(token) else {
        return Ok(None);
    };
    let me = caller.signed_in.person();
    match app.store.sign_in_token(&token, app.now()).await? {
        Some(other) if other != *me => {
            let name = async |id: &PersonId| {
                let person = app.store.person(id).await?;
                Ok::<_, Problem>(person.map_or_else(|| id.to_string(), |p| p.name))
            };
            Ok(Some((name(me).await?, name(&other).await?)))
        }
        _ => Ok(None),
    }
}

/// Creates a session for the person of a one-time link. Returns `None` if the link is no longer valid.
async fn by_link(
    app: &App,
    from: Origin,
    device: &Device,
    token: &str,
) -> Result<Option<Secret>, Problem> {
    let session = sessions::new(app, device);
    let person = match Secret::presented(token) {
        Some(token) => app.store.sign_in(&token, &session, app.now()).await?,
        None => None,
    };
    if person.is_none() {
        app.rates.wrong(from)?;
    }
    Ok(person.map(|_| session.secret))
}

/// Sets the session's cookie and redirects to the labs.
pub(super) fn signed_in(app: &App, session: &Secret) -> Response {
    let cookie = session_cookie_of(app, session);
    (
        AppendHeaders([(header::SET_COOKIE, cookie)]),
        Redirect::to("/"),
    )
        .into_response()
}

/// Returns the cookie of a new session.
pub(super) fn session_cookie_of(app: &App, session: &Secret) -> String {
    let seconds = i64::from(app.config.session_days) * 24 * 3600;
    session_cookie(app, session.expose(), seconds)
}

fn session_cookie(app: &App, value: &str, seconds: i64) -> String {
    let secure = if app.config.is_https() {
        "; Secure"
    } else {
        ""
    };
    format!("{SESSION}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}")
}

#[derive(Template)]
#[template(path = "signed-out.html")]
struct SignedOut {
    layout: Layout,
    /// The name of the identity provider.
    name: String,
    /// The URL that ends the session there.
    url: String,
}

/// Signs the browser out. If the person signed in through the identity provider, offers to sign out there too.
pub(super) async fn out(
    State(app): State<Shared>,
    caller: Caller,
    frame: Frame,
) -> Result<Response, Problem> {
    let offer = sessions::sign_out(&app, &caller.secret).await?;
    let response = match offer {
        Some((name, url)) => page(&SignedOut {
            layout: frame.outside("Signed out"),
            name,
            url,
        })?,
        None => Redirect::to("/sign-in").into_response(),
    };
    let cookie = session_cookie(&app, "", 0);
    Ok((AppendHeaders([(header::SET_COOKIE, cookie)]), response).into_response())
}

#[derive(Deserialize)]
pub(super) struct Choice {
    #[serde(default)]
    theme: String,
}

/// Sets the theme. Needs no session, because it only sets a cookie in the browser that sends the request.
pub(super) async fn theme(headers: HeaderMap, Form(choice): Form<Choice>) -> Response {
    let theme = match choice.theme.as_str() {
        "dark" => "dark",
        "light" => "light",
        _ => "system",
    };
    let cookie = format!("theme={theme}; Path=/; SameSite=Strict; Max-Age=31536000");
    (
        AppendHeaders([(header::SET_COOKIE, cookie)]),
        Redirect::to(&back(&headers, "/")),
    )
        .into_response()
}
