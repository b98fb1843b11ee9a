//! Quotas: how much a person, a group's members together, and all people together may use. People see them before they
//! reach them.
//!
//! | resource | counts |
//! |---|---|
//! | environments | open environments, including those in the queue |
//! | starts | starts and resets within the last hour |
//! | hours | the time for which environments ran in this calendar month (UTC); pauses don't count |
//! | nodes | the nodes of all open environments |

use std::fmt;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

/// The period in which starts count.
pub const WINDOW: SignedDuration = SignedDuration::from_hours(1);

/// How much may be used; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// Environments at the same time.
    pub environments: Option<u32>,
    /// Starts and resets within an hour.
    pub starts: Option<u32>,
    /// Hours of running environments within a calendar month.
    pub hours: Option<u32>,
    /// Nodes at the same time.
    pub nodes: Option<u32>,
}

/// An operator's exceptions from a default [`Quota`]: `None` is the default, and 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Overrides {
    /// Environments at the same time.
    pub environments: Option<u32>,
    /// Starts and resets within an hour.
    pub starts: Option<u32>,
    /// Hours of running environments within a calendar month.
    pub hours: Option<u32>,
    /// Nodes at the same time.
    pub nodes: Option<u32>,
}

/// What a quota limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Environments at the same time.
    Environments,
    /// Starts and resets within an hour.
    Starts,
    /// Hours of running environments within a calendar month.
    Hours,
    /// Nodes at the same time.
    Nodes,
}

impl Resource {
    /// All resources.
    pub const ALL: [Self; 4] = [Self::Environments, Self::Starts, Self::Hours, Self::Nodes];

    /// Returns the resource's name in the API and the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Environments => "environments",
            Self::Starts => "starts_per_hour",
            Self::Hours => "hours_per_month",
            Self::Nodes => "nodes",
        }
    }

    /// Returns what is counted, for people.
    #[must_use]
    pub const fn as_text(self) -> &'static str {
        match self {
            Self::Environments => "environments at once",
            Self::Starts => "starts within an hour",
            Self::Hours => "hours this month",
            Self::Nodes => "nodes at once",
        }
    }
}

impl Quota {
    /// The largest limit that can be set.
    pub const MAX: u32 = 100_000;

    /// Returns the limit of a resource; `None` if it isn't limited.
    #[must_use]
    pub const fn of(&self, resource: Resource) -> Option<u32> {
        match resource {
            Resource::Environments => self.environments,
            Resource::Starts => self.starts,
            Resource::Hours => self.hours,
            Resource::Nodes => self.nodes,
        }
    }

    /// Returns this quota with exceptions.
    #[must_use]
    pub fn with(self, overrides: Overrides) -> Self {
        let choose = |default: Option<u32>, own: Option<u32>| match own {
            None => default,
            Some(0) => None,
            Some(most) => Some(most),
        };
        Self {
            environments: choose(self.environments, overrides.environments),
            starts: choose(self.starts, overrides.starts),
            hours: choose(self.hours, overrides.hours),
            nodes: choose(self.nodes, overrides.nodes),
        }
    }
}

/// Whose quota it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// The person who asks.
    Person,
    /// A group of the person, by its name. Its members who don't instruct it share the quota.
    Group(String),
    /// All people of the installation.
    Everyone,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Person => f.write_str("your"),
            Self::Group(name) => write!(f, "the group {name}'s"),
            Self::Everyone => f.write_str("this server's"),
        }
    }
}

/// How much is used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// The number of open environments.
    pub environments: u32,
    /// The number of their nodes.
    pub nodes: u32,
    /// The times of the starts and resets within the last hour.
    pub starts: Vec<Timestamp>,
    /// The time for which environments ran in this month.
    pub ran: SignedDuration,
}

/// A quota and how much of it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Whose it is.
    pub holder: Holder,
    /// The quota.
    pub quota: Quota,
    /// How much is used.
    pub usage: Usage,
}

/// What a person asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    environments: u32,
    starts: u32,
    nodes: u32,
}

impl Request {
    /// One more environment, with this number of nodes.
    #[must_use]
    pub const fn start(nodes: u32) -> Self {
        Self {
            environments: 1,
            starts: 1,
            nodes,
        }
    }

    /// One more node of an environment.
    pub const NODE: Self = Self {
        environments: 0,
        starts: 0,
        nodes: 1,
    };

    /// Returns how much of a resource is asked for.
    const fn of(self, resource: Resource) -> u32 {
        match resource {
            Resource::Environments => self.environments,
            Resource::Nodes => self.nodes,
            // An environment takes time as it runs; it only must not begin without any left.
            Resource::Starts | Resource::Hours => self.starts,
        }
    }
}

/// When more can be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frees {
    /// Once an environment ends or a node is removed.
    WithAnEnd,
    /// At a time, which is this far away.
    At(Timestamp, SignedDuration),
    /// Never: the request is larger than the limit.
    Never,
}

/// A limit, and how much of it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Whose limit it is.
    pub holder: Holder,
    /// What is limited.
    pub resource: Resource,
    /// How much is used, rounded down.
    pub used: u32,
    /// The limit.
    pub most: u32,
    /// When some of what is used can be used again. `None` if nothing is used.
    pub frees: Option<Frees>,
}

impl Standing {
    /// Returns true if at least four fifths are used.
    #[must_use]
    pub const fn is_near(&self) -> bool {
        self.used as u64 * 5 >= self.most as u64 * 4
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (used, holder, most) = (self.used, &self.holder, self.most);
        let (one, many, within, state) = match self.resource {
            Resource::Environments => ("environment", "environments", "", "open"),
            Resource::Starts => ("start", "starts", " within an hour", "used"),
            Resource::Hours => ("hour", "hours", " this month", "used"),
            Resource::Nodes => ("node", "nodes", "", "in use"),
        };
        match (used, most) {
            (0, 1) => write!(f, "{holder} limit is one {one}{within}"),
            (1, 1) => write!(f, "{holder} limit is one {one}{within}, which is {state}"),
            (_, 1) => write!(
                f,
                "{used} {many}{within} are {state} and {holder} limit is one"
            ),
            (1, _) => write!(f, "1 of {holder} {most} {many}{within} is {state}"),
            _ => write!(f, "{used} of {holder} {most} {many}{within} are {state}"),
        }
    }
}

/// The reason why a request is refused: a limit would be exceeded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Exceeded {
    /// The limit, how much of it is used, and when this request fits.
    pub standing: Standing,
    /// How much was asked for.
    pub needs: u32,
    /// When the request fits.
    pub frees: Frees,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.standing.fmt(f)?;
        if self.standing.resource == Resource::Nodes {
            write!(f, ", and this needs {}", self.needs)?;
        }
        match (self.frees, &self.standing.holder) {
            (Frees::Never, _) => f.write_str("; ask an operator for a higher limit"),
            (Frees::At(at, _), _) if self.standing.resource == Resource::Hours => {
                let day = at.to_zoned(TimeZone::UTC).strftime("%-d %B").to_string();
                write!(f, "; again on {day}")
            }
            (Frees::At(at, wait), _) => {
                let clock = at.to_zoned(TimeZone::UTC).strftime("%H:%M");
                let minutes = (wait.as_secs() + 59) / 60;
                write!(f, "; again in {minutes} min, at {clock} UTC")
            }
            (Frees::WithAnEnd, Holder::Person) if self.standing.used == 1 => {
                f.write_str("; end it first")
            }
            (Frees::WithAnEnd, Holder::Person) => f.write_str("; end one of them first"),
            (Frees::WithAnEnd, _) if self.standing.used == 1 => {
                f.write_str("; try again when it has ended")
            }
            (Frees::WithAnEnd, _) => f.write_str("; try again when one has ended"),
        }
    }
}

/// Returns the first instant of the calendar month (UTC), and that of the next one.
#[must_use]
pub fn month(now: Timestamp) -> (Timestamp, Timestamp) {
    let first = now.to_zoned(TimeZone::UTC).date().first_of_month();
    let next = first.saturating_add(jiff::Span::new().months(1));
    let at = |date: jiff::civil::Date| {
        date.to_zoned(TimeZone::UTC)
            .map_or(Timestamp::MAX, |zoned| zoned.timestamp())
    };
    (at(first), at(next))
}

impl Account {
    /// Returns how much of a resource is used, rounded down.
    fn used(&self, resource: Resource, now: Timestamp) -> u32 {
        match resource {
            Resource::Environments => self.usage.environments,
            Resource::Nodes => self.usage.nodes,
            Resource::Starts => u32::try_from(self.recent(now).len()).unwrap_or(u32::MAX),
            Resource::Hours => u32::try_from(self.usage.ran.as_hours()).unwrap_or_default(),
        }
    }

    /// Returns the starts within the last hour, oldest first.
    fn recent(&self, now: Timestamp) -> Vec<Timestamp> {
        let counts = |at: &&Timestamp| now.duration_since(**at) < WINDOW;
        let mut recent: Vec<_> = self.usage.starts.iter().filter(counts).copied().collect();
        recent.sort_unstable();
        recent
    }

    /// Returns when some of what is used can be used again. With `over`, when that many of the starts have left the
    /// window.
    fn frees(&self, resource: Resource, over: usize, now: Timestamp) -> Frees {
        let until = |at: Timestamp| Frees::At(at, at.duration_since(now));
        match resource {
            Resource::Environments | Resource::Nodes => Frees::WithAnEnd,
            Resource::Hours => until(month(now).1),
            Resource::Starts => {
                let recent = self.recent(now);
                let last = recent.get(over.saturating_sub(1)).copied().unwrap_or(now);
                until(last.saturating_add(WINDOW).unwrap_or(Timestamp::MAX))
            }
        }
    }

    /// Returns the limit of a resource with how much of it is used. `None` if it isn't limited.
    fn standing(&self, resource: Resource, now: Timestamp) -> Option<Standing> {
        let most = self.quota.of(resource)?;
        let used = self.used(resource, now);
        Some(Standing {
            holder: self.holder.clone(),
            resource,
            used,
            most,
            frees: (used > 0).then(|| self.frees(resource, 1, now)),
        })
    }
}

/// Decides whether a request fits into all quotas. `accounts` are those of the person, of the person's groups and of
/// everyone; the first one that would be exceeded is the reason for a refusal.
pub fn check(accounts: &[Account], request: Request, now: Timestamp) -> Result<(), Box<Exceeded>> {
    for account in accounts {
        for resource in Resource::ALL {
            let needs = request.of(resource);
            let Some(standing) = account.standing(resource, now) else {
                continue;
            };
            if needs > 0 && standing.used.saturating_add(needs) > standing.most {
                let over = standing.used.saturating_add(needs) - standing.most;
                let frees = if needs > standing.most {
                    Frees::Never
                } else {
                    account.frees(resource, over as usize, now)
                };
                return Err(Box::new(Exceeded {
                    standing,
                    needs,
                    frees,
                }));
            }
        }
    }
    Ok(())
}

/// Returns all limits with how much of each is used, in the order of `accounts`.
#[must_use]
pub fn standings(accounts: &[Account], now: Timestamp) -> Vec<Standing> {
    let of = |account: &Account| Resource::ALL.map(|resource| account.standing(resource, now));
    accounts.iter().flat_map(of).flatten().collect()
}

#[cfg(test)]
mod tests;
