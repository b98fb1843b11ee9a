//! Sign in with a password, and set one.

use faultline_domain::authz::SignedIn;
use faultline_store::{Secret, people::Chosen};
use jiff::{SignedDuration, Timestamp};

use super::invitations::{login, login_taken};
use crate::{app::App, auth::password, problem::Problem, rates::Origin};

/// Returns when a session that begins now expires.
pub(crate) fn session_ends(app: &App, now: Timestamp) -> Timestamp {
    let days = SignedDuration::from_hours(24 * i64::from(app.config.session_days));
    now.saturating_add(days).unwrap_or(now)
}

/// Creates a session for the person with this login name and password. Returns its secret, or `None` if they are wrong.
pub(crate) async fn sign_in(
    app: &App,
    from: Origin,
    login_name: &str,
    presented: String,
) -> Result<Option<Secret>, Problem> {
    // The address may have used up its invalid attempts. No password counts as known.
    app.rates.may_present(from, "")?;
    let found = match login(login_name) {
        Ok(login) => {
            app.rates.password(login.as_str())?;
            app.store.password_of_login(&login).await?
        }
        Err(_) => None,
    };
    let (person, hash) = found.unzip();
    if password::verify(presented, hash.clone()).await?
        && let (Some(person), Some(hash)) = (person, hash)
    {
        let (session, now) = (app.secret(), app.now());
        let ends = session_ends(app, now);
        let store = &app.store;
        if store
            .sign_in_with_password(&person, &hash, &session, now, ends)
            .await?
        {
            return Ok(Some(session));
        }
    }
    app.rates.wrong(from)?;
    Ok(None)
}

/// Sets the caller's login name and password, and signs them out everywhere but in this session. A password that is set
/// already must be presented.
pub(crate) async fn set(
    app: &App,
    who: &SignedIn,
    session: &Secret,
    login_name: &str,
    current: String,
    new: &str,
) -> Result<(), Problem> {
    let login = login(login_name)?;
    let person = who.person();
    if let Some(hash) = app.store.password_of(person).await? {
        app.rates.password(person.as_str())?;
        if !password::verify(current, Some(hash)).await? {
            return Err(Problem::bad_request("The current password is wrong."));
        }
    }
    password::check(new, &[login.as_str()])?;
    let hash = password::hash(new.to_owned()).await?;
    let chosen = app
        .store
        .set_password(person, &login, &hash, session, app.now())
        .await?;
    match chosen {
        Chosen::Done => Ok(()),
        Chosen::Taken => Err(login_taken(&login)),
    }
}
