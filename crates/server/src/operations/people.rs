//! Change people: their role, whether they have access, and their password. For operators.

use faultline_domain::{PersonId, authz::MayOperate};
use faultline_store::people::{Changed, PersonChange};
use jiff::{SignedDuration, Timestamp};

use super::sign_in_link;
use crate::{app::App, problem::Problem};

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

/// Removes a person's password, signs them out, and returns a link that signs them in once, so that they can set
/// another password.
pub(crate) async fn reset_password(
    app: &App,
    who: &MayOperate,
    person: &PersonId,
) -> Result<(String, Timestamp), Problem> {
    let (secret, now) = (app.secret(), app.now());
    let hours = SignedDuration::from_hours(24);
    let ends = now.saturating_add(hours).unwrap_or(now);
    let reset = app
        .store
        .reset_password(who.person(), person, &secret, now, ends);
    if !reset.await? {
        return Err(Problem::not_found());
    }
    Ok((sign_in_link::url(app, &secret), ends))
}
