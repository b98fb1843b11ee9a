//! Invite people, withdraw invitations, and accept one.

use faultline_domain::{
    AccessCode, MailAddress, PersonId,
    authz::{MayInstruct, MayOperate, Role},
    group::Group,
    person::{InvalidDuration, Invitation, ValidFor},
};
use faultline_store::{
    Secret,
    invitations::{Accepted, NewPerson},
    outbox::{NewMail, To},
};

use crate::{
    app::App,
    auth::{
        device::Device,
        password::{self, Turn},
    },
    mail::texts,
    operations::{
        line, mail,
        passwords::{login_taken, new_login},
        sessions,
    },
    problem::{Problem, sentence},
    rates::Origin,
};

/// What an operator wants of an invitation.
#[derive(Debug, Clone)]
pub(crate) struct NewInvitation {
    pub note: String,
    pub role: Role,
    pub uses: u32,
    pub valid: ValidFor,
    /// True for an access code, false for a link.
    pub by_code: bool,
    /// The mail address that it is sent to; empty for none.
    pub mail_to: String,
}

/// A new invitation.
#[derive(Debug)]
pub(crate) struct Made {
    pub invitation: Invitation,
    /// Its link, which can't be shown again, or that of the page where its code is entered. `None` if the link is in the
    /// mail only.
    pub link: Option<String>,
    /// The address that it is mailed to.
    pub mailed_to: Option<MailAddress>,
}

/// Creates an invitation.
pub(crate) async fn invite(
    app: &App,
    who: &MayOperate,
    new: &NewInvitation,
) -> Result<Made, Problem> {
    create(app, who.person(), new, None).await
}

/// Creates an invitation on behalf of a person who may do so. `group` is the group that the people join.
pub(super) async fn create(
    app: &App,
    by: &PersonId,
    new: &NewInvitation,
    group: Option<&Group>,
) -> Result<Made, Problem> {
    if !(1..=Invitation::MAX_USES).contains(&new.uses) {
        return Err(Problem::bad_request(format!(
            "An invitation is for 1 to {} people.",
            Invitation::MAX_USES
        )));
    }
    // A code is easier to guess than a link, and is read by many.
    if new.by_code && new.role != Role::Student {
        return Err(Problem::bad_request(
            "An access code is for students. Invite people with other roles by a link.",
        ));
    }
    let mail_to = match new.mail_to.trim() {
        "" => None,
        text => {
            mail::mailer(app)?;
            Some(mail::address(text)?)
        }
    };
    let code = new.by_code.then(|| app.random(AccessCode::generate));
    let secret = match &code {
        Some(code) => Secret::of_code(code),
        None => app.secret(),
    };
    let now = app.now();
    let invitation = Invitation {
        id: app.row_id(),
        note: line("The note", &new.note, Invitation::MAX_NOTE)?,
        role: new.role,
        code,
        withdrawn_at: None,
        uses_left: new.uses,
        group: group.map(|group| group.id.clone()),
        created_by: by.clone(),
        created_at: now,
        expires_at: now.saturating_add(new.valid.duration()).unwrap_or(now),
        accepted_by: Vec::new(),
    };
    let link = match &invitation.code {
        Some(code) => app.config.url(&format!("/join?code={code}")),
        None => app
            .config
            .url(&format!("/invitation?token={}", secret.expose())),
    };
    let mail = match &mail_to {
        Some(to) => {
            let person = app.store.person(by).await?.ok_or_else(Problem::not_found)?;
            let of = texts::Invited {
                // The installation's owner has no name of their own.
                by: match person.id == PersonId::local() {
                    true => "An operator",
                    false => &person.name,
                },
                group: group.map(|group| group.name.as_str()),
                link: &link,
                code: invitation.code.as_ref().map(ToString::to_string),
                uses: new.uses,
                expires_at: invitation.expires_at,
            };
            let mail = texts::invitation(app, To::Stranger(to.clone()), &of);
            // Withdrawing the invitation withdraws its mail.
            Some(NewMail {
                id: invitation.id.clone(),
                ..mail
            })
        }
        None => None,
    };
    let added = app
        .store
        .add_invitation(&secret, &invitation, mail.as_ref());
    if !added.await? {
        return Err(Problem::not_found());
    }
    app.wake.mail_written();
    let is_hidden = mail_to.is_some() && invitation.code.is_none();
    Ok(Made {
        invitation,
        link: (!is_hidden).then_some(link),
        mailed_to: mail_to,
    })
}

/// Parses how long an invitation is valid.
pub(crate) fn valid_for(text: &str) -> Result<ValidFor, Problem> {
    text.parse()
        .map_err(|e: InvalidDuration| Problem::bad_request(sentence(&e.to_string())))
}

/// Withdraws an invitation. People who have accepted it stay.
pub(crate) async fn withdraw(app: &App, who: &MayOperate, id: &str) -> Result<(), Problem> {
    let (by, now) = (who.person(), app.now());
    let done = app.store.withdraw_invitation(by, id, None, now).await?;
    done.then_some(()).ok_or_else(Problem::not_found)
}

/// Withdraws an invitation to a group.
pub(crate) async fn withdraw_from_group(
    app: &App,
    who: &MayInstruct,
    id: &str,
) -> Result<(), Problem> {
    let (by, group, now) = (who.person(), Some(who.group().id.as_str()), app.now());
    let done = app.store.withdraw_invitation(by, id, group, now).await?;
    done.then_some(()).ok_or_else(Problem::not_found)
}

/// Returns the latest invitations to a group, newest first.
pub(crate) async fn of_group(
    app: &App,
    who: &MayInstruct,
    most: u32,
) -> Result<Vec<Invitation>, Problem> {
    let mut all = app.store.invitations(most).await?;
    all.retain(|invitation| invitation.group.as_ref() == Some(&who.group().id));
    Ok(all)
}

/// Returns the secret of an access code that can be used now. Counts wrong codes: after too many, no code from this
/// origin is looked up for a while, not even a right one.
pub(crate) async fn by_code(
    app: &App,
    from: Origin,
    code: &str,
) -> Result<Option<Secret>, Problem> {
    app.rates.may_try_code(from)?;
    if let Ok(code) = code.parse::<AccessCode>() {
        let secret = Secret::of_code(&code);
        if app.store.invitation(&secret, app.now()).await?.is_some() {
            return Ok(Some(secret));
        }
    }
    app.rates.wrong_code(from)?;
    Ok(None)
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
    let name = line("Your name", name, 60)?;
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
