//! Signing in through the identity provider, and linking an account.
//!
//! The provider sends the browser back to a page with a form, and only the form finishes the sign-in. So the cookies can be
//! `SameSite=Strict`: they aren't sent when another site leads here, but with our own form. A script submits it at once.

use askama::Template;
use axum::{
    Extension, Form,
    extract::{Query, State},
    http::{HeaderMap, header},
    response::{AppendHeaders, IntoResponse, Redirect, Response},
};
use faultline_store::Secret;
use serde::Deserialize;

use super::{
    layout::{Frame, Layout},
    page, sign_in,
};
use crate::{
    app::{App, Shared},
    auth::{Caller, Row, Signed, cookie, device::Device, pending::PATIENCE},
    operations::{
        invitations,
        oidc::{self, Finished, Purpose, Returned},
    },
    problem::Problem,
    rates::Origin,
};

/// The cookie that holds the secret of a sign-in that has begun.
const BEGUN: &str = "faultline_oidc";

/// Leads on to the provider. A redirect would do, if browsers didn't apply the policy `form-action` to it.
#[derive(Template)]
#[template(path = "oidc-begin.html")]
struct Begin {
    layout: Layout,
    name: String,
    url: String,
}

#[derive(Template)]
#[template(path = "oidc-callback.html")]
struct Callback {
    layout: Layout,
    returned: Returned,
}

fn begun_cookie(app: &App, value: &str, seconds: i64) -> String {
    let secure = if app.config.is_https() {
        "; Secure"
    } else {
        ""
    };
    format!(
        "{BEGUN}={value}; Path=/sign-in/oidc; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}"
    )
}

async fn lead_on(app: &App, frame: &Frame, purpose: Purpose) -> Result<Response, Problem> {
    let (url, browser) = oidc::begin(app, purpose).await?;
    let name = oidc::provider(app)?.settings.name.clone();
    let html = page(&Begin {
        layout: frame.outside(&format!("Continue to {name}")),
        name,
        url,
    })?;
    let cookie = begun_cookie(app, browser.expose(), PATIENCE.as_secs());
    Ok((AppendHeaders([(header::SET_COOKIE, cookie)]), html).into_response())
}

#[derive(Deserialize)]
pub(super) struct Start {
    /// The secret or the access code of an invitation; empty without one.
    #[serde(default)]
    token: String,
}

pub(super) async fn begin(
    State(app): State<Shared>,
    Extension(from): Extension<Origin>,
    frame: Frame,
    Form(start): Form<Start>,
) -> Result<Response, Problem> {
    let invitation = match Secret::presented(&start.token) {
        None if !start.token.is_empty() => invitations::by_code(&app, from, &start.token).await?,
        presented => presented,
    };
    lead_on(&app, &frame, Purpose::SignIn { invitation }).await
}

pub(super) async fn link(
    State(app): State<Shared>,
    Signed(caller): Signed,
    frame: Frame,
) -> Result<Response, Problem> {
    let purpose = Purpose::Link {
        person: caller.signed_in.person().clone(),
        session: caller.secret,
    };
    lead_on(&app, &frame, purpose).await
}

pub(super) async fn callback(
    State(app): State<Shared>,
    frame: Frame,
    Query(returned): Query<Returned>,
) -> Result<Response, Problem> {
    oidc::provider(&app)?;
    page(&Callback {
        layout: frame.outside("Sign in"),
        returned,
    })
}

pub(super) async fn finish(
    State(app): State<Shared>,
    caller: Option<Extension<Caller>>,
    device: Device,
    headers: HeaderMap,
    Form(returned): Form<Returned>,
) -> Result<Response, Problem> {
    let browser = cookie(&headers, BEGUN).and_then(Secret::presented);
    let session = caller.as_ref().map(|c| (&c.signed_in, &c.secret));
    let finished = oidc::finish(&app, &device, browser, session, returned).await?;
    let done = match finished {
        Finished::SignedIn(new) => {
            // The browser has one session at a time.
            if let Some(caller) = &caller {
                app.store.sign_out(&caller.secret, app.now()).await?;
            }
            sign_in::signed_in(&app, &new)
        }
        Finished::Linked => Redirect::to("/account").into_response(),
    };
    let cookie = begun_cookie(&app, "", 0);
    Ok((AppendHeaders([(header::SET_COOKIE, cookie)]), done).into_response())
}

pub(super) async fn unlink(
    State(app): State<Shared>,
    Signed(caller): Signed,
    Row(id): Row,
) -> Result<Response, Problem> {
    oidc::unlink(&app, &caller.signed_in, &id).await?;
    Ok(Redirect::to("/account").into_response())
}
