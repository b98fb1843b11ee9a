//! Warns people before their environment ends or is suspended: on the page (which reads `warned` and the time left), in
//! terminals, and by mail if they want it.

use std::time::Duration;

use faultline_domain::environment::{EndReason, Environment, State};
use faultline_guest::client;
use faultline_provider::Target;
use faultline_store::outbox::NewMail;

use super::{Done, pressure};
use crate::{
    app::{App, Shared},
    mail::texts,
    status::Counts,
};

/// Seconds before the end at which the owner is warned: first at 600, then at 120.
pub(crate) const FIRST: i64 = 600;
const THRESHOLDS: [i64; 2] = [120, FIRST];
/// Timeout for showing the warning on one node.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn pass(app: Shared) -> Done {
    let app = &app;
    let mut warned = 0;
    for e in app.store.unfinished_environments().await? {
        let paused = matches!(e.state, State::Suspended { .. });
        if !(paused || matches!(e.state, State::Active { .. })) || !e.is_open() {
            continue;
        }
        let left = app.seconds_left(&e);
        match (threshold(left), e.warned) {
            (Some(due), before) if before.is_none_or(|b| b > due) => {
                let mail = match before {
                    None => mail(app, &e).await,
                    Some(_) => None,
                };
                let now = app.now();
                app.store
                    .record_warned(&e.id, Some(due), mail.as_ref(), now)
                    .await?;
                if mail.is_some() {
                    app.wake.mail_written();
                }
                // A paused machine has no terminals; only the page shows the warning.
                if !paused {
                    announce(app, &e, left);
                }
                app.hub.poke(&e.id);
                warned += 1;
            }
            // There is time again, after an extension or after use.
            (None, Some(_)) => {
                app.store
                    .record_warned(&e.id, None, None, app.now())
                    .await?;
                app.hub.poke(&e.id);
            }
            _ => {}
        }
    }
    Ok(Counts::from([("warnings", warned)]))
}

/// Returns the threshold at which the owner is warned, with this many seconds left. `None` while there is time.
pub(super) fn threshold(left: i64) -> Option<i64> {
    THRESHOLDS.into_iter().find(|at| left <= *at)
}

/// Returns what happens to an environment at its end: it is paused, or ends.
pub(crate) fn what_happens(app: &App, e: &Environment) -> &'static str {
    match app.end_of(e).1 {
        EndReason::Idle if pressure::is_noticed(app, e) => "is paused",
        EndReason::Idle if matches!(e.state, State::Active { .. }) && app.suspends() => "is paused",
        EndReason::Maintenance if app.suspends() => "is paused",
        _ => "ends",
    }
}

/// Returns why an environment ends or is paused, or what prevents it.
fn why(app: &App, e: &Environment) -> &'static str {
    match app.end_of(e).1 {
        EndReason::Idle if pressure::is_noticed(app, e) => "because the server is short of memory",
        EndReason::Idle => "unless you use it",
        EndReason::Maintenance => "because of maintenance",
        _ => "unless you extend it on its page",
    }
}

/// Returns the mail with the first warning. Maintenance has sent its own, when it announced the end.
async fn mail(app: &App, e: &Environment) -> Option<NewMail> {
    let (ends_at, reason) = app.end_of(e);
    if app.mail.is_none() || reason == EndReason::Maintenance {
        return None;
    }
    Some(texts::ending(app, e, what_happens(app, e), why(app, e), ends_at).await)
}

fn announce(app: &Shared, e: &Environment, left: i64) {
    let minutes = (left + 30) / 60;
    let what = what_happens(app, e);
    let hint = match app.end_of(e).1 {
        EndReason::Idle if app.suspends() || pressure::is_noticed(app, e) => {
            "; press any key here to keep it running"
        }
        EndReason::Idle => "; press any key here to keep it",
        _ => "",
    };
    let why = format!("{}{hint}", why(app, e));
    let text = match minutes {
        ..=1 => format!("This machine {what} in a minute {why}."),
        n => format!("This machine {what} in {n} minutes {why}."),
    };
    say(app, e, &text);
}

/// Prints a line in all terminals of an environment, in the background.
pub(crate) fn say(app: &Shared, e: &Environment, text: &str) {
    let Some(tenant) = e.tenant_id() else { return };
    for node in e.nodes() {
        let (app, tenant, text) = (app.clone(), tenant.clone(), text.to_owned());
        app.tasks.clone().spawn(async move {
            let announce = async {
                let stream = app
                    .provider
                    .open(&tenant, &node, Target::Guest)
                    .await
                    .ok()?;
                client::announce(stream, &text).await.ok()
            };
            // Ignored if the guest doesn't respond, because the page shows the warning too.
            let _ = tokio::time::timeout(TIMEOUT, announce).await;
        });
    }
}
