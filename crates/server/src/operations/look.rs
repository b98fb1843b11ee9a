//! Looks into the terminals of somebody's environment, for as long as a page is open. The owner sees who looks and
//! whether they type. Only looking doesn't count as use.

use faultline_domain::{authz::MayLook, environment::State};

use crate::{
    app::{App, Shared},
    looks::Look,
    problem::Problem,
    reconcile::warnings::say,
};

/// Begins a look, which lasts until the result is dropped. Its first page is written to the audit log and announced in the
/// terminals.
pub(crate) async fn begin(app: &Shared, proof: &MayLook) -> Result<Look, Problem> {
    let e = proof.environment();
    if !e.is_open() || !matches!(e.state, State::Active { .. }) {
        return Err(Problem::conflict(
            "not-running",
            "The machine is not running",
            "There are terminals to look at only while it runs.",
        ));
    }
    let person = app.store.person(proof.person()).await?;
    let name = person.ok_or_else(Problem::not_found)?.name;
    let (look, first) = Look::begin(app, &e.id, proof.person(), &name);
    if first {
        note(app, proof, "look").await?;
        say(app, e, &format!("{name} looks at your terminals."));
    }
    app.hub.poke(&e.id);
    Ok(look)
}

/// Lets the person who looks type together with the owner, or only look again.
pub(crate) async fn set_typing(app: &App, proof: &MayLook, types: bool) -> Result<(), Problem> {
    let (e, person) = (proof.environment(), proof.person());
    let Some(before) = app.looks.typing(&e.id, person) else {
        return Err(Problem::conflict(
            "not-looking",
            "You don't look at this machine",
            "Open the page with its terminals first.",
        ));
    };
    if before == types {
        return Ok(());
    }
    // Written first, so that nobody types without a line in the log.
    if types {
        note(app, proof, "look-type").await?;
    }
    app.looks.set_typing(&e.id, person, types);
    app.hub.poke(&e.id);
    Ok(())
}

async fn note(app: &App, proof: &MayLook, action: &str) -> Result<(), Problem> {
    let (e, who) = (proof.environment(), Some(proof.person().as_str()));
    let (store, now) = (&app.store, app.now());
    store
        .note(now, who, action, e.id.as_str(), e.person.as_str())
        .await?;
    Ok(())
}
