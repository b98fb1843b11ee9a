//! Change people: their role, whether they have access, and their password. For operators.

use faultline_domain::{MailAddress, PersonId, authz::MayOperate, person::Person};
use faultline_store::people::{Changed, PersonChange, Reset};
use jiff::{SignedDuration, Timestamp};

use super::{mail, sign_in_link};
use crate::{app::App, mail::texts, problem::Problem};

/// Changes a person. Whoever is disabled is disconnected everywhere within seconds.
pub(crate) async fn change(
    app: &App,
    who: &MayOperate,
    person: &PersonId,
    change: PersonChange,
) -> Result<(), Problem> {
    let changed = app
        .store
        .change_person(who.person(), person, change, app.now());
    done(changed.await?)
}

/// Deletes a person: their name and credentials are removed, and their environments end.
pub(crate) async fn delete(app: &App, who: &MayOperate, person: &PersonId) -> Result<(), Problem> {
    if *person == PersonId::local() {
        return Err(Problem::conflict(
            "owner",
            "The owner of this installation can't be deleted",
            "The command line of the server acts on their behalf.",
        ));
    }
    let deleted = app.store.delete_person(who.person(), person, app.now());
    done(deleted.await?)?;
    app.wake.all();
    Ok(())
}

fn done(changed: Changed) -> Result<(), Problem> {
    match changed {
        Changed::Done => Ok(()),
        Changed::NotFound => Err(Problem::not_found()),
        Changed::Yourself => Err(Problem::conflict(
            "yourself",
            "You can't take away your own access",
            "Another operator can disable you or give you another role.",
        )),
        Changed::LastOperator => Err(Problem::conflict(
            "last-operator",
            "There would be no operator left",
            "This person is the last operator with access. Make somebody else an operator first.",
        )),
    }
}

/// A link for a person whose password was reset.
#[derive(Debug)]
pub(crate) struct ResetLink {
    /// The link. `None` if it is in the mail only.
    pub link: Option<String>,
    /// The address that it is mailed to.
    pub mailed_to: Option<MailAddress>,
    pub expires_at: Timestamp,
}

/// Removes a person's password, signs them out, and makes a link that signs them in once, so that they can set another
/// password. With `by_mail`, it is sent to their mail address, and nobody else sees it.
pub(crate) async fn reset_password(
    app: &App,
    who: &MayOperate,
    person: &PersonId,
    by_mail: bool,
) -> Result<ResetLink, Problem> {
    let (secret, now) = (app.secret(), app.now());
    let hours = SignedDuration::from_hours(24);
    let ends = now.saturating_add(hours).unwrap_or(now);
    let link = sign_in_link::url(app, &secret);
    let named = app.store.person(person).await?;
    let Person { name, mail, .. } = named.ok_or_else(Problem::not_found)?;
    let letter = match by_mail {
        true => {
            mail::mailer(app)?;
            Some(texts::password_reset(app, person, &name, &link, ends))
        }
        false => None,
    };
    let reset = app
        .store
        .reset_password(who.person(), person, &secret, letter.as_ref(), now, ends);
    match reset.await? {
        Reset::Done => {}
        Reset::NotFound => return Err(Problem::not_found()),
        Reset::NoAddress => {
            return Err(Problem::conflict(
                "no-address",
                "This person has no mail address",
                "Nothing was changed. Reset the password without mail, and give them the link yourself.",
            ));
        }
    }
    app.wake.mail_written();
    Ok(ResetLink {
        link: (!by_mail).then_some(link),
        mailed_to: mail.filter(|_| by_mail),
        expires_at: ends,
    })
}
