//! The subjects and texts of all mail: plain text, in which a link has a line of its own.
//!
//! Names of people, groups and labs are cleaned where they are made, so they have no line breaks; the library that
//! builds the message encodes what is not ASCII.

use faultline_domain::{PersonId, clock::utc, environment::Environment, mail::Purpose};
use faultline_store::outbox::{NewMail, To};
use jiff::Timestamp;

use crate::{
    app::App,
    web::text::{left, plural},
};

/// An invitation to send.
pub(crate) struct Invited<'a> {
    /// The name of whoever invites.
    pub by: &'a str,
    /// The name of the group that people join, if any.
    pub group: Option<&'a str>,
    pub link: &'a str,
    /// The access code, if it is accepted by one.
    pub code: Option<String>,
    pub uses: u32,
    pub expires_at: Timestamp,
}

fn mail(
    app: &App,
    purpose: Purpose,
    to: To,
    subject: String,
    body: String,
    give_up_at: Timestamp,
) -> NewMail {
    let latest = app.now().saturating_add(faultline_domain::mail::KEEP);
    NewMail {
        id: app.row_id(),
        purpose,
        to,
        subject,
        body,
        give_up_at: latest.map_or(give_up_at, |latest| latest.min(give_up_at)),
    }
}

/// Returns the mail with an invitation.
pub(crate) fn invitation(app: &App, to: To, of: &Invited<'_>) -> NewMail {
    let Invited {
        by,
        group,
        link,
        code,
        uses,
        expires_at,
    } = of;
    let (subject, group) = match group {
        Some(name) => (
            format!("Invitation to {name} on Faultline"),
            format!(" and be a member of the group {name}"),
        ),
        None => ("Invitation to Faultline".to_owned(), String::new()),
    };
    let code = code.as_ref().map_or_else(String::new, |code| {
        format!("The access code is {code}.\n\n")
    });
    let people = plural(*uses as usize, "person", "people");
    let until = utc(*expires_at, app.now());
    let body = format!(
        "{by} invites you to Faultline, where people learn Kubernetes by repairing it.\n\n\
         Open this link to join{group}:\n\n{link}\n\n{code}\
         The invitation is for {people}, until {until}.\n\n\
         If you don't expect this, ignore this mail.\n"
    );
    mail(app, Purpose::Invitation, to, subject, body, *expires_at)
}

/// Returns the mail with the link by which a person whose password was reset signs in.
pub(crate) fn password_reset(
    app: &App,
    person: &PersonId,
    name: &str,
    link: &str,
    expires_at: Timestamp,
) -> NewMail {
    let (home, until) = (app.config.url(""), utc(expires_at, app.now()));
    let body = format!(
        "Hello {name},\n\n\
         an operator has reset your password on {home}. Open this link to sign in and set another one:\n\n{link}\n\n\
         The link works once, until {until}. Your old password, passkeys and API tokens no longer work.\n\n\
         If you didn't ask for this, tell an operator.\n"
    );
    let subject = "Your password on Faultline was reset".to_owned();
    let to = To::Person(person.clone());
    mail(app, Purpose::PasswordReset, to, subject, body, expires_at)
}

/// Returns the mail with the code that confirms an address.
pub(crate) fn confirmation(app: &App, to: To, code: &str, expires_at: Timestamp) -> NewMail {
    let (home, page) = (app.config.url(""), app.config.url("/account"));
    let until = utc(expires_at, app.now());
    let body = format!(
        "Enter this code on the page Account to confirm that this is your mail address:\n\n{code}\n\n{page}\n\n\
         The code is valid until {until}.\n\n\
         If you don't use {home}, ignore this mail: somebody has entered your address, and you get no further mail.\n"
    );
    let subject = "Confirm your mail address for Faultline".to_owned();
    mail(app, Purpose::Confirmation, to, subject, body, expires_at)
}

fn footer(app: &App) -> String {
    let page = app.config.url("/account");
    format!("You get this mail because you have asked for it on the page Account:\n\n{page}\n")
}

/// Returns the mail that says that an environment, which waited in the queue, is ready.
pub(crate) async fn ready(app: &App, e: &Environment) -> NewMail {
    let title = app.title_of(e).await;
    let page = app.config.url(&format!("/environments/{}", e.id));
    let body = format!(
        "Your environment of the lab “{title}” has left the queue and is ready:\n\n{page}\n\n{}",
        footer(app)
    );
    let subject = format!("Your environment is ready: {title}");
    let to = To::IfWanted(e.person.clone());
    let end = e.lifetime.expires_at;
    mail(app, Purpose::Ready, to, subject, body, end)
}

/// Returns the mail that says when an environment ends or is paused. `what` is what happens, and `why` the reason.
pub(crate) async fn ending(
    app: &App,
    e: &Environment,
    what: &str,
    why: &str,
    at: Timestamp,
) -> NewMail {
    let (title, now) = (app.title_of(e).await, app.now());
    let page = app.config.url(&format!("/environments/{}", e.id));
    let (when, left) = (utc(at, now), left(at.duration_since(now).as_secs().max(60)));
    let body = format!(
        "Your environment of the lab “{title}” {what} at {when}, in {left}, {why}:\n\n{page}\n\n{}",
        footer(app)
    );
    let subject = format!("Your environment {what} soon: {title}");
    let to = To::IfWanted(e.person.clone());
    mail(app, Purpose::Ending, to, subject, body, at)
}
