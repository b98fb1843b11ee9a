//! Passkeys: registering and removing them on the page *Account*, and signing in with one. `passkeys.js` calls these
//! handlers with JSON, since only scripts can use passkeys.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{AppendHeaders, IntoResponse, Redirect, Response},
};
use faultline_store::Secret;
use serde::Deserialize;
use serde_json::Value;
use webauthn_rs::prelude::{PublicKeyCredential, RegisterPublicKeyCredential};

use super::sign_in;
use crate::{
    api::Body,
    app::{App, Shared},
    auth::{Caller, Row, Signed, cookie, device::Device, pending::PATIENCE},
    operations::passkeys,
    problem::Problem,
    rates::Origin,
};

/// The cookie that holds the secret of what has begun.
const BEGUN: &str = "faultline_passkey";

fn begun((options, browser): (Value, Secret), app: &App) -> Response {
    let secure = if app.config.is_https() {
        "; Secure"
    } else {
        ""
    };
    let (value, seconds) = (browser.expose(), PATIENCE.as_secs());
    let cookie =
        format!("{BEGUN}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    (AppendHeaders([(header::SET_COOKIE, cookie)]), Json(options)).into_response()
}

fn secret(headers: &HeaderMap) -> Option<Secret> {
    cookie(headers, BEGUN).and_then(Secret::presented)
}

pub(super) async fn begin_registration(
    State(app): State<Shared>,
    Signed(caller): Signed,
) -> Result<Response, Problem> {
    let options = passkeys::begin_registration(&app, &caller.signed_in).await?;
    Ok(begun(options, &app))
}

#[derive(Deserialize)]
pub(super) struct Made {
    name: String,
    credential: RegisterPublicKeyCredential,
}

pub(super) async fn finish_registration(
    State(app): State<Shared>,
    Signed(caller): Signed,
    headers: HeaderMap,
    Body(made): Body<Made>,
) -> Result<StatusCode, Problem> {
    let (who, browser) = (&caller.signed_in, secret(&headers));
    passkeys::finish_registration(&app, who, browser, &made.name, &made.credential).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn begin_sign_in(State(app): State<Shared>) -> Result<Response, Problem> {
    Ok(begun(passkeys::begin_sign_in(&app)?, &app))
}

pub(super) async fn finish_sign_in(
    State(app): State<Shared>,
    Extension(from): Extension<Origin>,
    caller: Option<Extension<Caller>>,
    device: Device,
    headers: HeaderMap,
    Body(presented): Body<PublicKeyCredential>,
) -> Result<Response, Problem> {
    let browser = secret(&headers);
    let new = passkeys::finish_sign_in(&app, from, &device, browser, &presented).await?;
    // The browser has one session at a time.
    if let Some(caller) = &caller {
        app.store.sign_out(&caller.secret, app.now()).await?;
    }
    let cookie = sign_in::session_cookie_of(&app, &new);
    Ok((
        StatusCode::NO_CONTENT,
        AppendHeaders([(header::SET_COOKIE, cookie)]),
    )
        .into_response())
}

pub(super) async fn remove(
    State(app): State<Shared>,
    Signed(caller): Signed,
    Row(id): Row,
) -> Result<Response, Problem> {
    passkeys::remove(&app, &caller.signed_in, &id).await?;
    Ok(Redirect::to("/account").into_response())
}
