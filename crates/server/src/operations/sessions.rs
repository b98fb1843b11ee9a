//! The sessions of a person: begin, list and end them.

use faultline_domain::authz::SignedIn;
use faultline_store::{
    Secret,
    sessions::{NewSession, Session},
};
use jiff::SignedDuration;

use crate::{app::App, auth::device::Device, problem::Problem};

/// Returns a new session for a person who signs in. Its secret is always new, so nobody can know it in advance.
pub(crate) fn new(app: &App, device: &Device) -> NewSession {
    let now = app.now();
    let days = SignedDuration::from_hours(24 * i64::from(app.config.session_days));
    NewSession {
        secret: app.secret(),
        id: app.row_id(),
        browser: device.as_str().to_owned(),
        expires_at: now.saturating_add(days).unwrap_or(now),
    }
}

/// Lists the caller's sessions, the latest first. `current` is the secret of the session that asks, if it is one.
pub(crate) async fn list(
    app: &App,
    who: &SignedIn,
    current: Option<&Secret>,
) -> Result<Vec<Session>, Problem> {
    let all = app.store.sessions(who.person(), current, app.now());
    Ok(all.await?)
}

/// Ends one of the caller's sessions. What is open in it ends at its next check ([`crate::auth::Caller::withdrawn`]).
pub(crate) async fn end(app: &App, who: &SignedIn, id: &str) -> Result<(), Problem> {
    if app.store.end_session(who.person(), id, app.now()).await? {
        Ok(())
    } else {
        Err(Problem::not_found())
    }
}

/// Ends the caller's sessions except for the one with the secret `keep`, and removes unused sign-in links.
pub(crate) async fn end_others(
    app: &App,
    who: &SignedIn,
    keep: Option<&Secret>,
) -> Result<(), Problem> {
    let ended = app.store.end_other_sessions(who.person(), keep, app.now());
    ended.await?;
    Ok(())
}
