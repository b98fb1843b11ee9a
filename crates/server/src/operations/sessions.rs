//! The sessions of a person: begin, list and end them.

use std::time::Duration;

use faultline_domain::authz::SignedIn;
use faultline_store::{
    Secret,
    sessions::{NewSession, Session},
};
use jiff::SignedDuration;

use crate::{app::App, auth::device::Device, problem::Problem};

/// How long a sign-out waits for the identity provider's configuration.
const PATIENCE: Duration = Duration::from_secs(3);

/// Returns a new session for a person who signs in. Its secret is always new, so nobody can know it in advance.
pub(crate) fn new(app: &App, device: &Device) -> NewSession {
    let now = app.now();
    let days = SignedDuration::from_hours(24 * i64::from(app.config.session_days));
    NewSession {
        secret: app.secret(),
        id: app.row_id(),
        browser: device.as_str().to_owned(),
        expires_at: now.saturating_add(days).unwrap_or(now),
        issuer: None,
    }
}

/// Ends the session with this secret. If it began through the identity provider, returns the provider's name and the URL
/// that ends the session there, unless the provider has none or can't be reached.
pub(crate) async fn sign_out(
    app: &App,
    session: &Secret,
) -> Result<Option<(String, String)>, Problem> {
    let issuer = app.store.sign_out(session, app.now()).await?;
    let Some(provider) = &app.identity_provider else {
        return Ok(None);
    };
    if issuer.as_ref() != Some(&provider.settings.issuer) {
        return Ok(None);
    }
    let url = tokio::time::timeout(PATIENCE, provider.end_session_url()).await;
    match url {
        Ok(Ok(url)) => Ok(url.map(|url| (provider.settings.name.clone(), url))),
        Ok(Err(e)) => {
            let error = &e as &dyn std::error::Error;
            tracing::warn!(
                error,
                "the sign-out at the identity provider can't be offered"
            );
            Ok(None)
        }
        Err(_) => Ok(None),
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
