//! The mail address of a person, and mail about their environments. For operators: the state of mail, and a test.

use std::time::Duration;

use axum::http::StatusCode;
use faultline_domain::{
    AccessCode, MailAddress,
    authz::{MayOperate, SignedIn},
};
use faultline_store::{
    Secret,
    mail_addresses::{Entered, MailSettings},
    outbox::{OutboxStatus, To},
};
use jiff::SignedDuration;

use crate::{
    app::App,
    mail::{Letter, Mailer, NotSent, texts},
    problem::{Problem, sentence},
    rates::Origin,
};

/// How long the code that confirms an address is valid.
const VALID: SignedDuration = SignedDuration::from_hours(24);
/// The number of failures that operators see.
const MAX_FAILURES: u32 = 30;

/// Returns the client of the mail server.
pub(crate) fn mailer(app: &App) -> Result<&Mailer, Problem> {
    app.mail.as_ref().ok_or_else(|| {
        Problem::conflict(
            "no-mail",
            "This server sends no mail",
            "No mail server is configured. An operator can do so, in the section server.mail.",
        )
    })
}

/// Parses a mail address.
pub(crate) fn address(text: &str) -> Result<MailAddress, Problem> {
    text.parse()
        .map_err(|e: faultline_domain::mail::NoAddress| {
            Problem::bad_request(sentence(&e.to_string()))
        })
}

/// Returns the caller's settings of mail.
pub(crate) async fn settings(app: &App, who: &SignedIn) -> Result<MailSettings, Problem> {
    Ok(app.store.mail_settings(who.person(), app.now()).await?)
}

/// Stores an address that the caller has entered, and sends a code there. It is the caller's once they enter the code.
pub(crate) async fn enter(app: &App, who: &SignedIn, entered: &str) -> Result<(), Problem> {
    mailer(app)?;
    let (address, person, now) = (address(entered)?, who.person(), app.now());
    let code = app.random(AccessCode::generate);
    let ends = now.saturating_add(VALID).unwrap_or(now);
    let to = To::Unconfirmed(person.clone(), address.clone());
    let mail = texts::confirmation(app, to, &code.to_string(), ends);
    let secret = Secret::of_code(&code);
    let entered = app
        .store
        .enter_address(person, &address, &secret, &mail, now, ends);
    match entered.await? {
        Entered::Done => {
            app.wake.mail_written();
            Ok(())
        }
        Entered::TooSoon(next) => {
            let wait = next.duration_since(now).as_secs();
            let wait = Duration::from_secs(u64::try_from(wait).unwrap_or_default());
            Err(Problem::too_many(wait))
        }
    }
}

/// Makes the address that the caller has entered theirs. Counts wrong codes like those of invitations.
pub(crate) async fn confirm(
    app: &App,
    who: &SignedIn,
    from: Origin,
    code: &str,
) -> Result<(), Problem> {
    app.rates.may_try_code(from)?;
    if let Ok(code) = code.parse::<AccessCode>() {
        let (secret, now) = (Secret::of_code(&code), app.now());
        if app
            .store
            .confirm_address(who.person(), &secret, now)
            .await?
        {
            return Ok(());
        }
    }
    app.rates.wrong_code(from)?;
    Err(Problem::bad_request(
        "This is not the code of the latest mail, or it has expired.",
    ))
}

/// Removes the caller's address, and the one that they have entered.
pub(crate) async fn remove(app: &App, who: &SignedIn) -> Result<(), Problem> {
    let removed = app.store.remove_address(who.person(), app.now()).await?;
    removed.then_some(()).ok_or_else(Problem::not_found)
}

/// Sets whether the caller wants mail about their environments.
pub(crate) async fn set_notices(app: &App, who: &SignedIn, wanted: bool) -> Result<(), Problem> {
    let (person, now) = (who.person(), app.now());
    if app.store.set_notices(person, wanted, now).await? {
        return Ok(());
    }
    Err(Problem::conflict(
        "no-address",
        "You have no mail address",
        "Enter one and confirm it first.",
    ))
}

/// Returns the state of the outbox.
pub(crate) async fn status(app: &App, _who: &MayOperate) -> Result<OutboxStatus, Problem> {
    Ok(app.store.outbox_status(MAX_FAILURES).await?)
}

/// Sends a mail to this address and waits until the mail server has accepted it.
pub(crate) async fn test(app: &App, who: &MayOperate, to: &str) -> Result<MailAddress, Problem> {
    let (mailer, to) = (mailer(app)?, address(to)?);
    let (id, now) = (app.row_id(), app.now());
    let home = app.config.url("");
    let body = format!("This is the test that an operator of {home} has asked for. Mail works.\n");
    let letter = Letter {
        id: &id,
        to: &to,
        subject: "Test of mail from Faultline",
        body: &body,
    };
    let sent = mailer.send(&letter, now).await;
    let detail = if sent.is_ok() { "sent" } else { "not sent" };
    let by = Some(who.person().as_str());
    app.store.note(now, by, "mail-test", &id, detail).await?;
    sent.map_err(|e| not_sent(mailer, &e))?;
    Ok(to)
}

fn not_sent(mailer: &Mailer, e: &NotSent) -> Problem {
    let (host, port) = (&mailer.settings.host, mailer.settings.port());
    Problem::new(
        StatusCode::BAD_GATEWAY,
        "mail-not-sent",
        "The mail was not sent",
        format!("{host}, port {port}: {}", sentence(&e.problem)),
    )
}
