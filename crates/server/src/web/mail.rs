//! What `/operator` shows of mail, and its form that sends a test.

use axum::{
    Form,
    extract::State,
    response::{IntoResponse, Response},
};
use faultline_domain::authz::MayOperate;
use serde::Deserialize;

use super::{after_form, layout::Frame, operator, text};
use crate::{
    app::{App, Shared},
    auth::Operator,
    operations::mail,
    problem::Problem,
};

/// What the page shows of mail.
pub(super) struct MailPart {
    pub host: String,
    pub port: u16,
    pub encryption: &'static str,
    pub from: String,
    /// Whether the mail server answered, and when; empty if it was not asked yet.
    pub answered: String,
    /// Why it didn't; empty if it did.
    pub problem: String,
    pub waiting: String,
    /// The mails that were given up, latest first.
    pub failures: Vec<Failure>,
    /// The operator's own address; empty for none.
    pub own: String,
}

pub(super) struct Failure {
    pub purpose: &'static str,
    pub to: String,
    pub when: String,
    pub attempts: String,
    pub problem: String,
}

impl MailPart {
    /// Returns `None` if no mail server is configured.
    pub(super) async fn of(app: &App, who: &MayOperate) -> Result<Option<Self>, Problem> {
        let Some(mailer) = &app.mail else {
            return Ok(None);
        };
        let (status, now) = (mail::status(app, who).await?, app.now());
        let failure = |f: faultline_store::outbox::MailFailure| Failure {
            purpose: f.purpose.as_str(),
            to: f.to.to_string(),
            when: text::ago(f.failed_at, now),
            attempts: text::plural(f.attempts as usize, "attempt", "attempts"),
            problem: f.problem,
        };
        let answer = mailer.answer();
        let me = app.store.person(who.person()).await?;
        Ok(Some(Self {
            host: mailer.settings.host.clone(),
            port: mailer.settings.port(),
            encryption: mailer.settings.encryption.as_str(),
            from: mailer.settings.from.clone(),
            answered: answer
                .as_ref()
                .map_or_else(String::new, |answer| text::ago(answer.at, now)),
            problem: answer
                .and_then(|answer| answer.result.err())
                .unwrap_or_default(),
            waiting: match (status.waiting, status.oldest) {
                (1.., Some(oldest)) => {
                    let waiting = usize::try_from(status.waiting).unwrap_or(usize::MAX);
                    let waiting = text::plural(waiting, "mail waits", "mails wait");
                    format!("{waiting}, the oldest since {}.", text::ago(oldest, now))
                }
                _ => String::new(),
            },
            failures: status.failures.into_iter().map(failure).collect(),
            own: me
                .and_then(|me| me.mail)
                .map_or_else(String::new, |mail| mail.to_string()),
        }))
    }
}

#[derive(Deserialize)]
pub(super) struct Test {
    #[serde(default)]
    to: String,
}

pub(super) async fn test(
    State(app): State<Shared>,
    operator: Operator,
    frame: Frame,
    Form(wanted): Form<Test>,
) -> Result<Response, Problem> {
    match mail::test(&app, &operator.proof, &wanted.to).await {
        Ok(to) => {
            let done = format!("The mail server has accepted the test for {to}.");
            operator::render(&app, &operator, &frame, None, Some(done)).await
        }
        // The mail server's problem belongs on this page.
        Err(problem) if problem.code == "mail-not-sent" => {
            let status = problem.status_code();
            let html = operator::render(&app, &operator, &frame, Some(problem), None).await?;
            Ok((status, html).into_response())
        }
        Err(problem) => {
            let refused: Result<(), _> = Err(problem);
            after_form(refused, "/operator", async |problem| {
                operator::render(&app, &operator, &frame, Some(problem), None).await
            })
            .await
        }
    }
}
