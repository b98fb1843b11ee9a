//! Tells the owners of running environments when these end because of maintenance, and suspends or ends them then.

use faultline_domain::{
    EnvironmentId,
    clock::utc,
    environment::{EndReason, Environment, Intent, State},
    maintenance::{Maintenance, Notice, Step, Suspension, plan},
};
use jiff::Timestamp;

use super::{Done, advance::advance, warnings};
use crate::{
    app::Shared, lock::lock, mail::texts, metrics::Metrics, operations::save, status::Counts,
};

pub(super) async fn pass(app: Shared) -> Done {
    let app = &app;
    let current = app.store.maintenance().await?;
    lock(&app.maintenance).clone_from(&current);
    announce(&app.metrics, current.as_ref());
    let notices = app.store.end_notices().await?;
    let ends_at = current.as_ref().and_then(|m| m.end_environments_at);
    if ends_at.is_none() && notices.is_empty() {
        return Ok(Counts::new());
    }
    let suspension = match (save::can_suspend(app), app.suspends()) {
        (false, _) => Suspension::Off,
        (true, false) => Suspension::Full,
        (true, true) => Suspension::Possible,
    };
    let (mut told, mut ended) = (0, 0);
    for mut e in app.store.unfinished_environments().await? {
        let now = app.now();
        match (
            plan(&e, ends_at, notices.get(&e.id).copied(), suspension, now),
            &current,
        ) {
            (Step::Wait, _) | (Step::Tell(_), None) => {}
            (Step::Tell(ends_at), Some(of)) => {
                let notice = Notice {
                    ends_at,
                    told_at: now,
                };
                let what = if app.suspends() { "is paused" } else { "ends" };
                let mail = match &app.mail {
                    Some(_) => {
                        let why = "because of maintenance";
                        Some(texts::ending(app, &e, what, why, ends_at).await)
                    }
                    None => None,
                };
                app.store
                    .record_end_notice(&e.id, notice, mail.as_ref())
                    .await?;
                app.wake.mail_written();
                tell(app, &e, &ending(of, ends_at, app.suspends(), now)).await?;
                told += 1;
            }
            (Step::TakeBack, _) => {
                app.store.forget_end_notices([&e.id]).await?;
                tell(
                    app,
                    &e,
                    "This machine is no longer ended or paused because of maintenance.",
                )
                .await?;
                told += 1;
            }
            (Step::Suspend, _) => {
                let suspended = Intent::Suspended;
                app.store.set_intent(&e.id, suspended, None, now).await?;
                app.changed(&e.id);
                ended += 1;
            }
            (Step::ReturnToDisk, _) => {
                if let Ok(next) = e.state.clone().return_to_disk(None, now) {
                    advance(app, &mut e, next).await?;
                }
                ended += 1;
            }
            (Step::End, _) => {
                let reason = EndReason::Maintenance;
                app.store.end_environment(&e.id, reason, None, now).await?;
                app.changed(&e.id);
                ended += 1;
            }
        }
    }
    if ends_at.is_none() {
        // Those of environments that have ended.
        let ids: Vec<EnvironmentId> = notices.into_keys().collect();
        app.store.forget_end_notices(&ids).await?;
    }
    Ok(Counts::from([("told", told), ("ended", ended)]))
}

/// Sets the metrics.
pub(crate) fn announce(metrics: &Metrics, current: Option<&Maintenance>) {
    let drains = current.is_some_and(|m| m.end_environments_at.is_some());
    metrics.maintenance.set(current.is_some().into());
    metrics.draining.set(drains.into());
}

/// Returns the line for terminals that announces an end, or that the machine is suspended.
fn ending(of: &Maintenance, ends_at: Timestamp, suspends: bool, now: Timestamp) -> String {
    let minutes = (ends_at.duration_since(now).as_secs() + 59) / 60;
    let at = utc(ends_at, now);
    let when = match minutes {
        ..=0 => "in a few minutes".to_owned(),
        1 => format!("at {at}, in a minute"),
        n @ 2..120 => format!("at {at}, in {n} minutes"),
        n => format!("at {at}, in {} hours", n / 60),
    };
    let why = match of.message.trim_end_matches('.') {
        "" => String::new(),
        message => format!(" ({message})"),
    };
    let (what, then) = match suspends {
        true => (
            "is paused",
            "Everything in it is kept; resume it afterwards.",
        ),
        false => ("ends", "Your progress is kept."),
    };
    format!("This machine {what} {when}, because of maintenance{why}. {then}")
}

/// Tells an environment's owner: in its terminals, unless it is paused, and on its page.
async fn tell(app: &Shared, e: &Environment, text: &str) -> Result<(), faultline_store::Error> {
    if matches!(e.state, State::Active { .. }) {
        warnings::say(app, e, text);
    }
    // The next warning counts down to the new end.
    let left = app.end_of(e).0.duration_since(app.now()).as_secs();
    app.store
        .record_warned(&e.id, warnings::threshold(left), None, app.now())
        .await?;
    app.hub.poke(&e.id);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_told_when_and_why() {
        // 2027-01-15 08:00 UTC.
        let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        let mut of = Maintenance {
            since: at(0),
            message: String::new(),
            until: None,
            end_environments_at: None,
        };
        assert_eq!(
            ending(&of, at(1800), false, at(0)),
            "This machine ends at 08:30 UTC, in 30 minutes, because of maintenance. Your progress is kept."
        );
        of.message = "The disks are replaced.".to_owned();
        assert_eq!(
            ending(&of, at(7200), true, at(0)),
            "This machine is paused at 10:00 UTC, in 2 hours, because of maintenance (The disks are replaced). Everything in it is kept; resume it afterwards."
        );
        assert!(
            ending(&of, at(0), false, at(60)).starts_with("This machine ends in a few minutes,")
        );
    }
}
