//! Set the bounds of warm pools, and announce events.

use faultline_domain::{
    LabSlug,
    authz::MayOperate,
    person::Invitation,
    pool::{Bounds, forecast::Event},
};
use faultline_lab::suggest;
use jiff::{SignedDuration, Timestamp};

use crate::{app::App, operations::line, pools, problem::Problem};

/// How far ahead an event can be announced.
const MAX_AHEAD: SignedDuration = SignedDuration::from_hours(24 * 365);

/// An event to announce.
#[derive(Debug, Clone)]
pub(crate) struct NewEvent {
    pub lab: LabSlug,
    pub at: Timestamp,
    pub seats: u32,
    pub note: String,
}

/// Sets a pool's floor or ceiling, or both. What is left out stays as it is.
pub(crate) async fn set_bounds(
    app: &App,
    who: &MayOperate,
    pool: &str,
    floor: Option<u32>,
    ceiling: Option<u32>,
) -> Result<Bounds, Problem> {
    let names = pools::names(app);
    if !names.iter().any(|known| known == pool) {
        let meant = suggest::question(pool, names.iter().map(String::as_str));
        return Err(Problem::bad_request(format!(
            "There is no pool {pool:?}{meant}. A pool has the name of a lab or of a template, such as kubernetes-1.36@1+0."
        )));
    }
    let all = app.store.pool_bounds().await?;
    let before = all.into_iter().find(|(name, _)| name == pool);
    let before = before.map(|(_, bounds)| bounds).unwrap_or_default();
    let bounds = Bounds {
        floor: floor.unwrap_or(before.floor),
        ceiling: ceiling.unwrap_or(before.ceiling),
    };
    if bounds.floor > bounds.ceiling || bounds.ceiling > Bounds::MAX {
        return Err(Problem::bad_request(format!(
            "The floor, {}, must not exceed the ceiling, {}, and the ceiling must not exceed {}.",
            bounds.floor,
            bounds.ceiling,
            Bounds::MAX
        )));
    }
    app.store
        .set_pool_bounds(pool, bounds, who.person(), app.now())
        .await?;
    app.wake.pools_changed();
    Ok(bounds)
}

/// Announces an event.
pub(crate) async fn announce(app: &App, who: &MayOperate, new: NewEvent) -> Result<Event, Problem> {
    let now = app.now();
    if app.lab(&new.lab).is_none() {
        let labs = app.catalogue();
        let all = labs.labs();
        let names: Vec<String> = all.iter().map(|lab| lab.slug.to_string()).collect();
        let meant = suggest::question(new.lab.as_str(), names.iter().map(String::as_str));
        return Err(Problem::bad_request(format!(
            "There is no lab {}{meant}.",
            new.lab
        )));
    }
    if !(1..=Event::MAX_SEATS).contains(&new.seats) {
        return Err(Problem::bad_request(format!(
            "An event is for 1 to {} people.",
            Event::MAX_SEATS
        )));
    }
    let ahead = new.at.duration_since(now);
    if ahead.is_negative() || ahead > MAX_AHEAD {
        return Err(Problem::bad_request(
            "An event begins in the future, within a year.",
        ));
    }
    let event = Event {
        id: app.row_id(),
        lab: new.lab,
        at: new.at,
        seats: new.seats,
        note: line("The note", &new.note, Invitation::MAX_NOTE)?,
    };
    app.store.announce_event(&event, who.person(), now).await?;
    app.wake.pools_changed();
    Ok(event)
}

/// Cancels an event.
pub(crate) async fn cancel(app: &App, who: &MayOperate, id: &str) -> Result<(), Problem> {
    if !app.store.cancel_event(id, who.person(), app.now()).await? {
        return Err(Problem::not_found());
    }
    app.wake.pools_changed();
    Ok(())
}
