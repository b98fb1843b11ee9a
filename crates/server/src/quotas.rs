//! The quotas of the configuration, with operators' exceptions, and what is used of them.

use faultline_domain::{
    PersonId,
    limits::Denial,
    quota::{self, Account, Holder, Overrides, Quota, Request, Standing},
};
use faultline_store::quotas::{Used, Uses};

use crate::{
    app::App,
    config::{Config, UseLimits},
    problem::sentence,
};

/// Returns a setting where 0 means no limit.
fn limit(setting: u32) -> Option<u32> {
    (setting > 0).then_some(setting)
}

fn quota_of(environments: Option<u32>, rest: &UseLimits, nodes: Option<u32>) -> Quota {
    Quota {
        environments,
        starts: limit(rest.starts_per_hour),
        hours: limit(rest.hours_per_month),
        nodes,
    }
}

impl Config {
    /// Returns the quota of each person without exceptions.
    #[must_use]
    pub fn person_quota(&self) -> Quota {
        let rest = &self.person_limits;
        quota_of(limit(self.max_of_person), rest, limit(rest.nodes))
    }

    /// Returns the quota of each group without exceptions.
    #[must_use]
    pub fn group_quota(&self) -> Quota {
        let rest = &self.group_limits;
        quota_of(limit(self.max_of_group), rest, limit(rest.nodes))
    }

    /// Returns the quota of everyone. Environments and nodes are left out: what exceeds them isn't refused, but waits in
    /// the queue.
    #[must_use]
    pub fn total_quota(&self) -> Quota {
        quota_of(None, &self.total_limits, None)
    }

    /// Returns the maximum number of nodes at the same time.
    #[must_use]
    pub fn max_nodes(&self) -> Option<u32> {
        limit(self.total_limits.nodes)
    }
}

/// Returns the account of a person or a group.
pub(crate) fn account(holder: Holder, default: Quota, used: Used) -> Account {
    Account {
        holder,
        quota: default.with(used.overrides),
        usage: used.usage,
    }
}

/// Returns the accounts that count when a person asks for more.
fn accounts(config: &Config, uses: Uses) -> Vec<Account> {
    let group = config.group_quota();
    let groups = uses.groups.into_iter();
    let mut all = vec![account(Holder::Person, config.person_quota(), uses.person)];
    all.extend(groups.map(|(name, used)| account(Holder::Group(name), group, used)));
    all.push(Account {
        holder: Holder::Everyone,
        quota: config.total_quota(),
        usage: uses.everyone,
    });
    all
}

/// Refuses a request that would exceed a quota.
pub(crate) fn check(app: &App, uses: Uses, request: Request) -> Result<(), Denial> {
    Ok(quota::check(
        &accounts(&app.config, uses),
        request,
        app.now(),
    )?)
}

/// A person's limits, and why another start would be refused.
pub(crate) struct Limits {
    pub standings: Vec<Standing>,
    accounts: Vec<Account>,
}

impl Limits {
    /// Returns why a start with this number of nodes would be refused.
    pub(crate) fn refusal(&self, app: &App, nodes: u32) -> Option<String> {
        let denied = quota::check(&self.accounts, Request::start(nodes), app.now()).err()?;
        Some(sentence(&denied.to_string()))
    }

    /// Returns the limits of which little is left, as sentences.
    pub(crate) fn near(&self) -> Vec<String> {
        let near = self.standings.iter().filter(|s| s.is_near());
        near.map(|s| sentence(&s.to_string())).collect()
    }
}

/// Returns a person's limits, with those of the person's groups and of everyone.
pub(crate) async fn limits_of(
    app: &App,
    person: &PersonId,
) -> Result<Limits, faultline_store::Error> {
    let now = app.now();
    let uses = app.store.uses_of(person, now).await?;
    let accounts = accounts(&app.config, uses);
    Ok(Limits {
        standings: quota::standings(&accounts, now),
        accounts,
    })
}

/// A person's or a group's own limits, for operators and instructors.
pub(crate) struct OwnLimits {
    pub default: Quota,
    pub overrides: Overrides,
    pub standings: Vec<Standing>,
}

/// Returns the limits of a person or a group alone.
pub(crate) fn own_limits(app: &App, holder: Holder, default: Quota, used: Used) -> OwnLimits {
    OwnLimits {
        default,
        overrides: used.overrides,
        standings: quota::standings(&[account(holder, default, used)], app.now()),
    }
}
