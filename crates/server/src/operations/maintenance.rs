//! Begins, changes and ends maintenance: nothing can be started meanwhile, and if the operator wants so, running
//! environments end at a time that is announced to their owners. The reconciler `reconcile/maintenance.rs` tells and ends them.

use faultline_domain::{
    authz::MayOperate,
    maintenance::{MAX_MESSAGE, MIN_NOTICE, Maintenance},
};
use jiff::{SignedDuration, Timestamp};

use crate::{
    app::App, lock::lock, operations::line, problem::Problem, reconcile::maintenance::announce,
};

/// How far ahead the times may lie.
const MAX_AHEAD: SignedDuration = SignedDuration::from_hours(24 * 365);

/// The maintenance that an operator wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NewMaintenance {
    pub message: String,
    pub until: Option<Timestamp>,
    pub end_environments_at: Option<Timestamp>,
}

/// What still runs during the maintenance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Running {
    /// The number of environments with a tenant.
    pub environments: usize,
    /// The number of tenants in pools.
    pub pool_tenants: usize,
}

impl Running {
    pub(crate) async fn now(app: &App) -> Result<Self, Problem> {
        let environments = app.store.unfinished_environments().await?;
        let pooled = app.store.pool_tenants(app.now()).await?;
        let unclaimed = pooled.iter().filter(|t| t.tenant.environment.is_none());
        Ok(Self {
            environments: environments.iter().filter(|e| e.tenant.is_some()).count(),
            pool_tenants: unclaimed.filter(|t| !t.tenant.state.is_final()).count(),
        })
    }

    pub(crate) const fn is_nothing(self) -> bool {
        self.environments == 0 && self.pool_tenants == 0
    }
}

/// Begins a maintenance, or changes the one that is in effect. Times are rounded up to the minute, because that is how
/// people read them.
pub(crate) async fn begin(
    app: &App,
    who: &MayOperate,
    new: NewMaintenance,
) -> Result<Maintenance, Problem> {
    let now = app.now();
    let before = app.store.maintenance().await?;
    let wanted = Maintenance {
        since: before.as_ref().map_or(now, |m| m.since),
        message: line("The message", &new.message, MAX_MESSAGE)?,
        until: new.until.map(whole_minute),
        end_environments_at: new.end_environments_at.map(whole_minute),
    };
    check(&wanted, before.as_ref(), now)?;
    app.store
        .begin_maintenance(&wanted, who.person(), now)
        .await?;
    publish(app).await?;
    Ok(wanted)
}

/// Ends the maintenance.
pub(crate) async fn end(app: &App, who: &MayOperate) -> Result<(), Problem> {
    if !app.store.end_maintenance(who.person(), app.now()).await? {
        return Err(Problem::conflict(
            "not-in-maintenance",
            "The server is not in maintenance",
            "There is nothing to end.",
        ));
    }
    publish(app).await
}

/// Makes a change known to requests, open pages and reconcilers.
async fn publish(app: &App) -> Result<(), Problem> {
    let current = app.store.maintenance().await?;
    lock(&app.maintenance).clone_from(&current);
    for e in app.store.unfinished_environments().await? {
        app.hub.poke(&e.id);
    }
    announce(&app.metrics, current.as_ref());
    app.wake.all();
    app.wake.pools_changed();
    Ok(())
}

fn whole_minute(at: Timestamp) -> Timestamp {
    let up = at.as_second() + i64::from(at.subsec_nanosecond() > 0) + 59;
    Timestamp::from_second(up.div_euclid(60) * 60).unwrap_or(at)
}

/// Refuses times that make no sense. A time that was set before may have passed.
fn check(
    wanted: &Maintenance,
    before: Option<&Maintenance>,
    now: Timestamp,
) -> Result<(), Problem> {
    let ends_at = wanted.end_environments_at;
    let is_new = |new: Option<Timestamp>, old: Option<Timestamp>| new.is_some() && new != old;
    let ahead = |at: Timestamp| at.duration_since(now);
    if let Some(until) = wanted.until
        && is_new(Some(until), before.and_then(|m| m.until))
        && (ahead(until).is_negative() || ahead(until) > MAX_AHEAD)
    {
        return Err(Problem::bad_request(
            "The expected end of the maintenance lies in the future, within a year.",
        ));
    }
    if let Some(at) = ends_at
        && is_new(Some(at), before.and_then(|m| m.end_environments_at))
        && (ahead(at) < MIN_NOTICE || ahead(at) > MAX_AHEAD)
    {
        return Err(Problem::bad_request(format!(
            "Environments end at least {} minutes from now, so that people can be told, and within a year.",
            MIN_NOTICE.as_mins()
        )));
    }
    if let (Some(until), Some(at)) = (wanted.until, ends_at)
        && until < at
    {
        return Err(Problem::bad_request(
            "Environments would end after the maintenance is expected to end.",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn times_are_rounded_up() {
        for (from, to) in [
            ("2026-12-01T09:45:00Z", "2026-12-01T09:45:00Z"),
            ("2026-12-01T09:45:00.5Z", "2026-12-01T09:46:00Z"),
            ("2026-12-01T09:45:01Z", "2026-12-01T09:46:00Z"),
            ("2026-12-01T09:45:59Z", "2026-12-01T09:46:00Z"),
        ] {
            assert_eq!(whole_minute(at(from)), at(to), "{from}");
        }
    }

    #[test]
    fn times_lie_in_the_future_unless_they_were_set_before() {
        let now = at("2026-12-01T09:00:00Z");
        let of = |until: Option<&str>, ends: Option<&str>| Maintenance {
            since: now,
            message: String::new(),
            until: until.map(at),
            end_environments_at: ends.map(at),
        };
        let (past, soon, later) = (
            Some("2026-12-01T08:00:00Z"),
            Some("2026-12-01T09:01:00Z"),
            Some("2026-12-01T10:00:00Z"),
        );
        assert!(check(&of(None, None), None, now).is_ok());
        assert!(check(&of(later, later), None, now).is_ok());
        assert!(check(&of(soon, None), None, now).is_ok());
        assert!(check(&of(past, None), None, now).is_err());
        assert!(
            check(&of(None, soon), None, now).is_err(),
            "too little notice"
        );
        assert!(check(&of(soon, later), None, now).is_err());
        assert!(check(&of(Some("2028-01-01T00:00:00Z"), None), None, now).is_err());
        let before = of(past, past);
        assert!(check(&of(later, past), Some(&before), now).is_ok());
        assert!(check(&of(past, None), Some(&before), now).is_ok());
    }
}
