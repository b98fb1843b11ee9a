//! `/account`: the person's login name, password, passkeys, linked accounts, mail, limits and sessions.

use askama::Template;
use axum::{
    Extension, Form, Json,
    extract::State,
    http::header,
    response::{IntoResponse, Redirect, Response},
};
use faultline_domain::{MailAddress, person::Person};
use faultline_store::mail_addresses::MailSettings;
use jiff::Timestamp;
use serde::Deserialize;

use super::{
    after_form,
    layout::{Frame, Layout},
    limits::LimitRow,
    page, sign_in, text,
};
use crate::{
    app::{App, Shared},
    auth::{Caller, Row, Signed, device::Device, password},
    operations::{export, mail, oidc, passkeys, passwords, sessions},
    problem::Problem,
    quotas,
    rates::Origin,
};

struct Session {
    id: String,
    /// The browser and its system.
    browser: String,
    since: String,
    /// When it was last used; empty if that isn't known.
    used: String,
    is_current: bool,
}

impl Session {
    fn of(s: faultline_store::sessions::Session, now: Timestamp) -> Self {
        Self {
            id: s.id,
            browser: match s.browser {
                none if none.is_empty() => "An unknown browser".to_owned(),
                browser => browser,
            },
            since: text::ago(s.created_at, now),
            used: s
                .last_used
                .map_or_else(String::new, |at| text::ago(at, now)),
            is_current: s.is_current,
        }
    }
}

#[derive(Template)]
#[template(path = "account.html")]
struct Page {
    layout: Layout,
    name: String,
    role: &'static str,
    login: String,
    has_password: bool,
    min: usize,
    /// The sessions, this one first.
    sessions: Vec<Session>,
    /// The name of the identity provider, if one is configured.
    provider: Option<String>,
    /// The linked accounts of identity providers.
    accounts: Vec<Account>,
    /// The passkeys; none if browsers offer no passkeys at the public URL.
    passkeys: Option<Vec<Passkey>>,
    /// The browser and its system, as the name of a new passkey.
    device: Device,
    limits: Vec<LimitRow>,
    /// `None` if this server sends no mail, and the person has no address.
    mail: Option<MailPart>,
    problem: Option<Problem>,
    done: Option<&'static str>,
}

/// What the page shows of mail.
struct MailPart {
    /// True if this server sends mail.
    is_sent: bool,
    /// The addresses; empty for none.
    address: String,
    unconfirmed: String,
    wants_notices: bool,
}

impl MailPart {
    fn new(app: &App, of: MailSettings) -> Option<Self> {
        let (is_sent, has_address) = (app.mail.is_some(), of.address.is_some());
        let text = |address: Option<MailAddress>| {
            address.map_or_else(String::new, |address| address.to_string())
        };
        (is_sent || has_address).then(|| Self {
            is_sent,
            address: text(of.address),
            unconfirmed: text(of.unconfirmed),
            wants_notices: of.wants_notices,
        })
    }
}

struct Passkey {
    id: String,
    name: String,
    since: String,
    used: String,
}

/// Formats when something was last used.
fn used(at: Option<Timestamp>, now: Timestamp) -> String {
    at.map_or_else(|| "never".to_owned(), |at| text::ago(at, now))
}

struct Account {
    id: String,
    /// The account's name at the provider.
    name: String,
    /// The provider's issuer URL.
    issuer: String,
    since: String,
    used: String,
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
    let now = app.now();
    let mut all = sessions::list(app, &caller.signed_in, caller.session()).await?;
    all.sort_by_key(|s| !s.is_current);
    let accounts = oidc::list(app, &caller.signed_in).await?;
    let keys = passkeys::list(app, &caller.signed_in).await?;
    let keys = keys.into_iter().map(|k| Passkey {
        id: k.id,
        name: k.name,
        since: text::ago(k.created_at, now),
        used: used(k.last_used, now),
    });
    // Those of an earlier URL can still be removed.
    let keys = Some(keys.collect::<Vec<_>>()).filter(|k| app.passkeys.is_some() || !k.is_empty());
    let own = me.login.map_or_else(String::new, |login| login.to_string());
    let settings = mail::settings(app, &caller.signed_in).await?;
    let limits = quotas::limits_of(app, &me.id).await?;
    page(&Page {
        limits: LimitRow::all(&limits.standings, app.now()),
        mail: MailPart::new(app, settings),
        layout: frame.layout("Account", caller),
        name: me.name,
        role: me.role.as_str(),
        login: login.unwrap_or(own),
        has_password: me.has_password,
        min: password::MIN,
        sessions: all.into_iter().map(|s| Session::of(s, now)).collect(),
        provider: sign_in::provider(app),
        accounts: accounts
            .into_iter()
            .map(|a| Account {
                id: a.id,
                name: a.account,
                issuer: a.issuer,
                since: text::ago(a.created_at, now),
                used: used(a.last_used, now),
            })
            .collect(),
        passkeys: keys,
        device: frame.device.clone(),
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
    sessions::end_others(&app, &caller.signed_in, caller.session()).await?;
    Ok(Redirect::to("/account").into_response())
}

pub(super) async fn end_session(
    State(app): State<Shared>,
    Signed(caller): Signed,
    Row(id): Row,
) -> Result<Response, Problem> {
    sessions::end(&app, &caller.signed_in, &id).await?;
    Ok(Redirect::to("/account").into_response())
}

#[derive(Deserialize)]
pub(super) struct Address {
    #[serde(default)]
    address: String,
}

/// Redirects to the part of the page about mail, or renders the page with the problem.
async fn after_mail(
    app: &App,
    caller: &Caller,
    frame: &Frame,
    done: Result<(), Problem>,
) -> Result<Response, Problem> {
    after_form(done, "/account#mail", async |problem| {
        render(app, caller, frame, Some(problem), None, None).await
    })
    .await
}

pub(super) async fn enter_address(
    State(app): State<Shared>,
    Signed(caller): Signed,
    frame: Frame,
    Form(new): Form<Address>,
) -> Result<Response, Problem> {
    let done = mail::enter(&app, &caller.signed_in, &new.address).await;
    after_mail(&app, &caller, &frame, done).await
}

#[derive(Deserialize)]
pub(super) struct Code {
    #[serde(default)]
    code: String,
}

pub(super) async fn confirm_address(
    State(app): State<Shared>,
    Extension(from): Extension<Origin>,
    Signed(caller): Signed,
    frame: Frame,
    Form(sent): Form<Code>,
) -> Result<Response, Problem> {
    let done = mail::confirm(&app, &caller.signed_in, from, &sent.code).await;
    after_mail(&app, &caller, &frame, done).await
}

pub(super) async fn remove_address(
    State(app): State<Shared>,
    Signed(caller): Signed,
    frame: Frame,
) -> Result<Response, Problem> {
    let done = mail::remove(&app, &caller.signed_in).await;
    after_mail(&app, &caller, &frame, done).await
}

#[derive(Deserialize)]
pub(super) struct Notices {
    /// Set if the box is checked.
    #[serde(default)]
    wanted: Option<String>,
}

pub(super) async fn set_notices(
    State(app): State<Shared>,
    Signed(caller): Signed,
    frame: Frame,
    Form(choice): Form<Notices>,
) -> Result<Response, Problem> {
    let done = mail::set_notices(&app, &caller.signed_in, choice.wanted.is_some()).await;
    after_mail(&app, &caller, &frame, done).await
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
