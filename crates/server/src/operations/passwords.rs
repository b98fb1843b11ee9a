//! Sign in with a login name and a password, and set them.

use faultline_domain::{Login, authz::SignedIn};
use faultline_store::{Secret, people::Chosen};

use crate::{
    app::App,
    auth::{
        device::Device,
        password::{self, Turn},
    },
    operations::sessions,
    problem::Problem,
    rates::Origin,
};

/// Login names that nobody can choose, because they look like somebody else.
const RESERVED: [&str; 5] = ["local", "operator", "admin", "root", "faultline"];

/// Parses a login name. People may type capitals.
fn login(text: &str) -> Result<Login, Problem> {
    text.trim().to_lowercase().parse().map_err(|_| {
        Problem::bad_request(
            "A login name begins with a letter and has at most 32 lower-case letters, digits and hyphens.",
        )
    })
}

/// Parses a login name that somebody chooses.
pub(crate) fn new_login(text: &str) -> Result<Login, Problem> {
    let login = login(text)?;
    if RESERVED.contains(&login.as_str()) {
        return Err(login_taken(&login));
    }
    Ok(login)
}

pub(crate) fn login_taken(login: &Login) -> Problem {
    Problem::conflict(
        "login-taken",
        "This login name is taken",
        format!("Somebody else signs in as {login}. Choose another login name."),
    )
}

/// Creates a session for the person with this login name and password. Returns its secret, or `None` if they are wrong.
pub(crate) async fn sign_in(
    app: &App,
    from: Origin,
    device: &Device,
    login_name: &str,
    presented: String,
) -> Result<Option<Secret>, Problem> {
    app.rates.may_guess(from)?;
    let turn = Turn::wait().await?;
    // Requests that waited meanwhile may have used the attempts up.
    app.rates.may_guess(from)?;
    let login = login(login_name).ok();
    let found = match &login {
        Some(login) => {
            app.rates.password(&format!("login {login}"))?;
            app.store.password_of_login(login).await?
        }
        None => None,
    };
    let (person, hash) = found.unzip();
    if password::verify(&turn, presented, hash.clone()).await?
        && let (Some(person), Some(hash)) = (person, hash)
    {
        let (session, now) = (sessions::new(app, device), app.now());
        let store = &app.store;
        if store
            .sign_in_with_password(&person, &hash, &session, now)
            .await?
        {
            return Ok(Some(session.secret));
        }
    }
    if let Some(login) = login {
        app.store.failed_sign_in(login.as_str(), app.now()).await?;
    }
    app.rates.wrong_password(from)?;
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
    let login = new_login(login_name)?;
    password::check(new, &[login.as_str()])?;
    let person = who.person();
    let turn = Turn::wait().await?;
    let before = app.store.password_of(person).await?;
    if before.is_some() {
        app.rates.password(&format!("person {person}"))?;
        if !password::verify(&turn, current, before.clone()).await? {
            return Err(Problem::bad_request("The current password is wrong."));
        }
    }
    let hash = password::hash(&turn, new.to_owned()).await?;
    let (before, now) = (before.as_deref(), app.now());
    let chosen = app
        .store
        .set_password(person, &login, before, &hash, session, now);
    match chosen.await? {
        Chosen::Done => Ok(()),
        Chosen::Taken => Err(login_taken(&login)),
        Chosen::Outdated => Err(Problem::signed_out()),
    }
}
