//! What a tenant exposes: the services, Ingresses and declared ports that can be reached from outside, under which names,
//! and at which host names.
//!
//! ```text
//! found in the cluster ─┐
//! declared by the lab ──┴─► select: names, limits ─► Report ─► the exposure gateway
//! ```
//!
//! Everything that was found comes from a tenant, which may be hostile: names are used only if they are valid, and
//! there is a limit on their number.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{EnvironmentId, ExposureName, NodeName, environment::Environment};

/// The maximum number of exposures of an environment.
pub const MAX_EXPOSURES: usize = 32;
/// For how long the last report counts while the API server doesn't respond.
pub const KEPT: SignedDuration = SignedDuration::from_mins(10);
/// The port on which controllers serve Ingresses.
pub const INGRESS_PORT: u16 = 80;
/// The maximum length of a name in Kubernetes, and of a host name.
const MAX_NAME: usize = 253;

/// Where an exposure comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// A port that the lab declares.
    Lab,
    /// A service of the type `NodePort`.
    NodePort {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A service of the type `LoadBalancer`.
    LoadBalancer {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// An Ingress.
    Ingress {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The host of the rule; none for a rule for all hosts.
        host: Option<String>,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lab => f.write_str("this lab"),
            Self::NodePort { namespace, name } | Self::LoadBalancer { namespace, name } => {
                write!(f, "service {namespace}/{name}")
            }
            Self::Ingress {
                namespace,
                name,
                host,
            } => {
                write!(f, "Ingress {namespace}/{name}")?;
                host.iter().try_for_each(|host| write!(f, ", {host}"))
            }
        }
    }
}

/// A port of a tenant that can be reached from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposure {
    /// Its name, unique within the environment.
    pub name: ExposureName,
    /// Where it comes from.
    pub source: Source,
    /// The TCP port of the nodes.
    pub port: u16,
    /// The only node that listens; none if any may.
    pub node: Option<NodeName>,
}

impl Exposure {
    /// Returns the nodes of its environment that may listen.
    #[must_use]
    pub fn nodes(&self, of: &Environment) -> Vec<NodeName> {
        match &self.node {
            Some(node) => vec![node.clone()],
            None => of.nodes(),
        }
    }

    /// Returns its place in its environment.
    #[must_use]
    pub fn place(&self, of: &Environment) -> Place {
        Place {
            environment: of.id.clone(),
            name: self.name.clone(),
        }
    }

    /// Returns the host name that requests must have for the tenant; none if it is that of the exposure.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match &self.source {
            Source::Ingress { host, .. } => host.as_deref(),
            _ => None,
        }
    }
}

/// A port that was found in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// When its object was created. Older ones get their names first.
    pub created_at: Timestamp,
    /// Its object.
    pub source: Source,
    /// What distinguishes it from other ports of the same object; none if it is the only one.
    pub part: Option<String>,
    /// The TCP port of the nodes.
    pub port: u16,
}

/// Exposures with their names, and the number of those that were left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Selection {
    /// The exposures: the lab's first, then the oldest.
    pub exposures: Vec<Exposure>,
    /// The number of those left out: invalid ones, and those beyond [`MAX_EXPOSURES`].
    pub left_out: u32,
}

/// Selects what is exposed, and names it. A newer object never changes the name of an older one.
#[must_use]
pub fn select(declared: &[Exposure], mut found: Vec<Found>) -> Selection {
    found.sort();
    found.dedup();
    let all = found.len();
    let mut taken = BTreeSet::new();
    let mut exposures = Vec::new();
    for exposure in declared.iter().take(MAX_EXPOSURES) {
        if taken.insert(exposure.name.clone()) {
            exposures.push(exposure.clone());
        }
    }
    let own = exposures.len();
    for port in found {
        if exposures.len() >= MAX_EXPOSURES {
            break;
        }
        let name = names(&port).find(|name| !taken.contains(name));
        let Some(name) = name.filter(|_| port.port != 0) else {
            continue;
        };
        taken.insert(name.clone());
        exposures.push(Exposure {
            name,
            source: port.source,
            port: port.port,
            node: None,
        });
    }
    let left_out = all - (exposures.len() - own);
    Selection {
        exposures,
        left_out: u32::try_from(left_out).unwrap_or(u32::MAX),
    }
}

/// Returns the names that a port may get, best first; none if its object's names or its host are invalid.
fn names(port: &Found) -> impl Iterator<Item = ExposureName> {
    let object = match &port.source {
        Source::Lab => None,
        Source::NodePort { namespace, name } | Source::LoadBalancer { namespace, name } => {
            Some((namespace, name, None))
        }
        Source::Ingress {
            namespace,
            name,
            host,
        } => Some((namespace, name, host.as_ref())),
    };
    let valid = object.filter(|(namespace, name, host)| {
        is_name(namespace) && is_name(name) && host.is_none_or(|host| is_name(host))
    });
    let part = port.part.as_ref();
    let wanted = valid.map(|(namespace, name, host)| {
        let short = match part {
            Some(part) => format!("{name}-{part}"),
            None => name.clone(),
        };
        let plain = [short.clone(), format!("{short}-{namespace}")];
        let last = match host {
            None => format!("port-{}", port.port),
            Some(host) => host.clone(),
        };
        plain.into_iter().chain([last])
    });
    let labels = wanted.into_iter().flatten();
    labels.filter_map(|name| name.replace('.', "-").parse().ok())
}

/// Returns whether a text is a name of an object, or a host name: lower-case labels with dots.
fn is_name(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.len() <= MAX_NAME
        && text.split('.').all(|label| {
            let bytes = label.as_bytes();
            let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
            edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inner)
        })
}

/// The last report of what a tenant exposes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What is exposed.
    pub selection: Selection,
    /// Set while the cluster can't be observed.
    pub trouble: Option<Trouble>,
}

/// Why a cluster can't be observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Since when.
    pub since: Timestamp,
    /// Why, for people.
    pub reason: String,
}

impl Report {
    /// Returns the report of a successful observation.
    #[must_use]
    pub const fn success(selection: Selection) -> Self {
        Self {
            selection,
            trouble: None,
        }
    }

    /// Returns the report after an observation failed. What was exposed stays so for [`KEPT`], because labs break API
    /// servers on purpose, while services go on. What the lab declares always stays.
    #[must_use]
    pub fn failure(
        before: Option<Self>,
        declared: &[Exposure],
        reason: String,
        now: Timestamp,
    ) -> Self {
        let (selection, trouble) = before.map_or((None, None), |before| {
            (Some(before.selection), before.trouble)
        });
        let since = trouble.map_or(now, |trouble| trouble.since);
        let kept = selection.filter(|_| now.duration_since(since) < KEPT);
        Self {
            selection: kept.unwrap_or_else(|| select(declared, Vec::new())),
            trouble: Some(Trouble { since, reason }),
        }
    }

    /// Returns an exposure.
    #[must_use]
    pub fn get(&self, name: &ExposureName) -> Option<&Exposure> {
        let mut all = self.selection.exposures.iter();
        all.find(|exposure| exposure.name == *name)
    }
}

/// An exposure of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The environment.
    pub environment: EnvironmentId,
    /// The name of the exposure.
    pub name: ExposureName,
}

/// The domain below which exposures have their host names: `<name>-<environment>.<domain>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExposureDomain(String);

/// The error for text that is not a domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a domain: use lower-case labels with dots between them, without a port, such as apps.example.org"
)]
pub struct InvalidDomain(String);

/// Whom a request is for, by its host name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressee {
    /// The platform.
    Platform,
    /// An exposure.
    Exposure(Place),
    /// A host below the domain that no exposure can have.
    Nobody,
}

impl ExposureDomain {
    /// Returns the domain of hosts that browsers lead to loopback.
    #[must_use]
    pub fn localhost() -> Self {
        Self("localhost".to_owned())
    }

    /// Returns the domain.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the host name of an exposure.
    #[must_use]
    pub fn host(&self, place: &Place) -> String {
        format!("{}-{}.{}", place.name, place.environment, self.0)
    }

    /// Returns whom a request with this host is for. A port, a trailing dot and the case of letters don't matter. The
    /// platform is never served below the domain, nor at the domain itself unless that is `localhost`.
    #[must_use]
    pub fn addressee(&self, host: &str) -> Addressee {
        let host = match host.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => host,
        };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if host == self.0 {
            return match self.0.as_str() {
                "localhost" => Addressee::Platform,
                _ => Addressee::Nobody,
            };
        }
        let below = host.strip_suffix(&self.0);
        let Some(label) = below.and_then(|rest| rest.strip_suffix('.')) else {
            return Addressee::Platform;
        };
        let place = label.rsplit_once('-').and_then(|(name, environment)| {
            Some(Place {
                environment: environment.parse().ok()?,
                name: name.parse().ok()?,
            })
        });
        place.map_or(Addressee::Nobody, Addressee::Exposure)
    }
}

impl FromStr for ExposureDomain {
    type Err = InvalidDomain;
    fn from_str(text: &str) -> Result<Self, InvalidDomain> {
        // The label of an exposure has at most 63 characters.
        let fits = text.len() + 64 <= MAX_NAME;
        let labels = text.split('.').all(|label| label.len() <= 63);
        let number = text.parse::<std::net::IpAddr>().is_ok();
        if fits && labels && !number && is_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidDomain(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for ExposureDomain {
    type Error = InvalidDomain;
    fn try_from(text: String) -> Result<Self, InvalidDomain> {
        text.parse()
    }
}

impl From<ExposureDomain> for String {
    fn from(domain: ExposureDomain) -> Self {
        domain.0
    }
}

/// A link by which anybody can open an exposure until it expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Its id, which is not its secret.
    pub id: String,
    /// What it opens.
    pub place: Place,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
}

/// The maximum number of shares of an environment.
pub const MAX_SHARES: u32 = 10;
/// The maximum lifetime of a share, in minutes.
pub const MAX_SHARE_MINUTES: u32 = 7 * 24 * 60;

/// Why a share can't be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShareDenial {
    /// It would last too long, or no time at all.
    #[error("a link lasts 1 to {MAX_SHARE_MINUTES} minutes")]
    Lifetime,
    /// There are too many.
    #[error("this environment has {MAX_SHARES} links already; withdraw one of them")]
    TooMany,
}

/// Returns when a share that is made now expires, if it may be made.
pub fn share_until(open: u32, minutes: u32, now: Timestamp) -> Result<Timestamp, ShareDenial> {
    if !(1..=MAX_SHARE_MINUTES).contains(&minutes) {
        return Err(ShareDenial::Lifetime);
    }
    if open >= MAX_SHARES {
        return Err(ShareDenial::TooMany);
    }
    let lifetime = SignedDuration::from_mins(minutes.into());
    now.checked_add(lifetime).map_err(|_| ShareDenial::Lifetime)
}

/// What answers at an exposure now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// An HTTP response with this status.
    Status(u16),
    /// The port accepts connections, but no HTTP response came.
    NotHttp,
    /// Nothing listens on the port.
    Nothing,
}

/// The answers of an environment's exposures.
pub type Answers = BTreeMap<ExposureName, Answer>;

#[cfg(test)]
mod tests;
