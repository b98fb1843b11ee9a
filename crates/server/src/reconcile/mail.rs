//! Sends the mail of the outbox, and finds out whether the mail server answers.

use std::time::Duration;

use faultline_store::outbox::{Mail, NotSent};
use jiff::SignedDuration;

use super::Done;
use crate::{app::Shared, mail::Letter, status::Counts};

/// The number of mails that are sent in one run.
const MOST: u32 = 20;
/// The mail server is asked whether it answers if it was not used for this long.
const PROBE: SignedDuration = SignedDuration::from_mins(5);
/// How long a conversation with the mail server goes on when this server stops. Its mail is sent again otherwise.
const PATIENCE: Duration = Duration::from_secs(4);

pub(super) async fn pass(app: Shared) -> Done {
    let app = &app;
    let late = "no mail server was configured or answered in time";
    let mut failed = app.store.give_up_mail(late, app.now()).await?;
    let Some(mailer) = &app.mail else {
        app.metrics.mailed("failed", failed);
        return Ok(Counts::from([("failed", failed)]));
    };
    let (mut sent, mut later) = (0, 0);
    for mail in app.store.due_mail(app.now(), MOST).await? {
        let letter = Letter {
            id: &mail.id,
            to: &mail.to,
            subject: &mail.subject,
            body: &mail.body,
        };
        let done = tokio::select! {
            done = mailer.send(&letter, app.now()) => done,
            () = patience(app) => break,
        };
        let Err(e) = done else {
            app.store.mail_sent(&mail, app.now()).await?;
            sent += 1;
            continue;
        };
        warn(&mail, &e.problem);
        let (problem, now) = (&e.problem, app.now());
        let recorded = app.store.mail_not_sent(&mail, problem, e.is_final, now);
        match recorded.await? {
            NotSent::Later => later += 1,
            NotSent::GivenUp => failed += 1,
        }
        if e.is_down {
            break;
        }
    }
    app.metrics.mailed("sent", sent);
    app.metrics.mailed("retried", later);
    app.metrics.mailed("failed", failed);
    if mailer.is_unused_for(PROBE, app.now()) {
        // The answer is recorded for the operator's page.
        tokio::select! {
            _ = mailer.probe(app.now()) => {}
            () = patience(app) => {}
        }
    }
    let waiting = app.store.outbox_status(0).await?.waiting;
    app.metrics.mail_waiting.set(waiting.cast_signed());
    Ok(Counts::from([
        ("sent", sent),
        ("retried", later),
        ("failed", failed),
    ]))
}

/// Waits until this server has been stopping for a while.
async fn patience(app: &Shared) {
    app.stopping.cancelled().await;
    tokio::time::sleep(PATIENCE).await;
}

/// Logs that a mail was not sent. Its address is in the log only if the mail server repeats it.
fn warn(mail: &Mail, problem: &str) {
    let (id, purpose) = (&mail.id, mail.purpose.as_str());
    tracing::warn!(mail = id, purpose, problem, "a mail was not sent");
}
