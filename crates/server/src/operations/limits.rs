//! Shows the limits of people and groups, and makes exceptions for them.

use faultline_domain::{
    PersonId,
    authz::{MayInstruct, MayOperate},
    quota::{Holder, Overrides, Quota},
};

use crate::{
    app::App,
    problem::Problem,
    quotas::{OwnLimits, own_limits},
};

/// Returns a person's own limits, for operators.
pub(crate) async fn of_person(
    app: &App,
    _who: &MayOperate,
    person: &PersonId,
) -> Result<OwnLimits, Problem> {
    let known = app.store.person(person).await?;
    known.ok_or_else(Problem::not_found)?;
    let uses = app.store.uses_of(person, app.now()).await?;
    let default = app.config.person_quota();
    Ok(own_limits(app, Holder::Person, default, uses.person))
}

/// Returns a group's own limits, for its instructors.
pub(crate) async fn of_group(app: &App, who: &MayInstruct) -> Result<OwnLimits, Problem> {
    let group = who.group();
    let used = app.store.group_use(&group.id, app.now()).await?;
    let used = used.ok_or_else(Problem::not_found)?;
    let holder = Holder::Group(group.name.clone());
    Ok(own_limits(app, holder, app.config.group_quota(), used))
}

/// Makes exceptions for a person, in place of earlier ones. They apply from the next start on.
pub(crate) async fn limit_person(
    app: &App,
    who: &MayOperate,
    person: &PersonId,
    overrides: Overrides,
) -> Result<(), Problem> {
    valid(overrides)?;
    let (by, now) = (who.person(), app.now());
    let done = app.store.limit_person(person, overrides, by, now).await?;
    done.then_some(()).ok_or_else(Problem::not_found)
}

/// Makes exceptions for a group, in place of earlier ones. They apply from the next start on.
pub(crate) async fn limit_group(
    app: &App,
    who: &MayOperate,
    group: &str,
    overrides: Overrides,
) -> Result<(), Problem> {
    valid(overrides)?;
    let (by, now) = (who.person(), app.now());
    let done = app.store.limit_group(group, overrides, by, now).await?;
    done.then_some(()).ok_or_else(Problem::not_found)
}

fn valid(of: Overrides) -> Result<(), Problem> {
    let all = [of.environments, of.starts, of.hours, of.nodes];
    if all.into_iter().flatten().any(|most| most > Quota::MAX) {
        return Err(Problem::bad_request(format!(
            "A limit is a whole number from 1 to {}, or 0 for no limit.",
            Quota::MAX
        )));
    }
    Ok(())
}
