//! Invite people, withdraw invitations, and accept one.

use faultline_domain::{
    PersonId,
    authz::{MayOperate, Role},
    person::Invitation,
};
use faultline_store::{
    Secret,
    invitations::{Accepted, NewPerson},
};
use jiff::SignedDuration;

use crate::{
    app::App,
    auth::{
        device::Device,
        password::{self, Turn},
    },
    operations::{
        passwords::{login_taken, new_login},
        sessions, tidy,
    },
    problem::Problem,
};

/// What an operator wants of an invitation.
#[derive(Debug, Clone)]
pub(crate) struct NewInvitation {
    pub note: String,
    pub role: Role,
    pub uses: u32,
    pub days: u32,
}

/// Creates an invitation. Returns it with its link, which can't be shown again.
pub(crate) async fn invite(
    app: &App,
    who: &MayOperate,
    new: &NewInvitation,
) -> Result<(Invitation, String), Problem> {
    create(app, who.person(), new, None).await
}

/// Creates an invitation on behalf of a person who may do so. `group` is the group that the people join.
pub(super) async fn create(
    app: &App,
    by: &PersonId,
    new: &NewInvitation,
    group: Option<String>,
) -> Result<(Invitation, String), Problem> {
    if !(1..=Invitation::MAX_USES).contains(&new.uses) {
        return Err(Problem::bad_request(format!(
            "An invitation is for 1 to {} people.",
            Invitation::MAX_USES
        )));
    }
    if !(1..=Invitation::MAX_DAYS).contains(&new.days) {
        return Err(Problem::bad_request(format!(
            "An invitation is valid for 1 to {} days.",
            Invitation::MAX_DAYS
        )));
    }
    let (secret, now) = (app.secret(), app.now());
    let days = SignedDuration::from_hours(24 * i64::from(new.days));
    let invitation = Invitation {
        id: app.row_id(),
        note: tidy(&new.note, 80),
        role: new.role,
        uses_left: new.uses,
        group,
        created_by: by.clone(),
        created_at: now,
        expires_at: now.saturating_add(days).unwrap_or(now),
        accepted_by: Vec::new(),
    };
    if !app.store.add_invitation(&secret, &invitation).await? {
        return Err(Problem::not_found());
    }
    let base = app.config.public_url.trim_end_matches('/');
    let link = format!("{base}/invitation?token={}", secret.expose());
    Ok((invitation, link))
}

/// Withdraws an invitation. People who have accepted it stay.
pub(crate) async fn withdraw(app: &App, who: &MayOperate, id: &str) -> Result<(), Problem> {
    if app
        .store
        .withdraw_invitation(who.person(), id, app.now())
        .await?
    {
        Ok(())
    } else {
        Err(Problem::not_found())
    }
}

/// Accepts an invitation: creates the person and a session of theirs. Returns the session's secret, or `None` if the
/// invitation can't be accepted any more.
pub(crate) async fn accept(
    app: &App,
    token: &Secret,
    device: &Device,
    name: &str,
    login_name: &str,
    new_password: &str,
) -> Result<Option<Secret>, Problem> {
    let login = new_login(login_name)?;
    let name = tidy(name, 60);
    if name.is_empty() {
        return Err(Problem::bad_request("Enter your name."));
    }
    password::check(new_password, &[login.as_str(), &name])?;
    // Checked before the hash is computed, so that strangers can't make the server compute hashes.
    if app.store.invitation(token, app.now()).await?.is_none() {
        return Ok(None);
    }
    if app.store.has_login(&login).await? {
        return Err(login_taken(&login));
    }
    let turn = Turn::wait().await?;
    let person = NewPerson {
        id: app.random(PersonId::generate),
        name,
        login,
        password: password::hash(&turn, new_password.to_owned()).await?,
    };
    let session = sessions::new(app, device);
    let accepted = app
        .store
        .accept_invitation(token, &person, &session, app.now());
    match accepted.await? {
        Accepted::Done => Ok(Some(session.secret)),
        Accepted::Invalid => Ok(None),
        Accepted::LoginTaken => Err(login_taken(&person.login)),
    }
}
