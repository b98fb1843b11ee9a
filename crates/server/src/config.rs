//! The operator's settings. Every field has a default that suits a single machine.

pub mod exposure;
pub mod mail;
pub mod oidc;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use faultline_domain::{
    burst::Burst, environment::Deadlines, id::EnvironmentId, lab::Needs, limits::Limits,
    save_point::Bounds,
};
use faultline_gateway::PublicKey;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use self::exposure::ExposureSettings;

/// The settings of the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The URL that browsers use. With `https`, cookies are sent over encrypted connections only.
    /// Default: `http://127.0.0.1:7890`.
    pub public_url: String,
    /// The SSH gateway's host name, as people type it. Default: the host of `public_url`.
    pub ssh_host: Option<String>,
    /// The SSH gateway's port; none if the gateway isn't served. Set by the program that serves the gateway.
    #[serde(skip)]
    pub ssh_port: Option<u16>,
    /// The SSH gateway's public host key. Set by the program that serves the gateway.
    #[serde(skip)]
    pub ssh_host_key: Option<PublicKey>,
    /// The kubectl gateway's port; none if the gateway isn't served. Set by the program that serves the gateway.
    #[serde(skip)]
    pub kube_port: Option<u16>,
    /// The kubectl gateway's host name, as written to kubeconfigs. Default: the SSH gateway's host name.
    pub kube_host: Option<String>,
    /// The CA certificate of the kubectl gateway, in PEM; none if clients already trust its certificate. Set by the
    /// program that serves the gateway.
    #[serde(skip)]
    pub kube_authority: Option<String>,
    /// The folder whose file system holds the environments' disks. Default: the current folder.
    pub data_dir: PathBuf,
    /// The maximum number of environments. Default: 40.
    pub max_environments: u32,
    /// The maximum number of environments per person; 0 means no limit. Default: 5.
    pub max_of_person: u32,
    /// The maximum number of environments of a group's members together; 0 means no limit. Default: 0.
    pub max_of_group: u32,
    /// The other limits of each person.
    pub person_limits: UseLimits,
    /// The other limits of the members of each group together.
    pub group_limits: UseLimits,
    /// The other limits of all people together.
    pub total_limits: UseLimits,
    /// The maximum number of open pages of environments and terminals of programs per person. Each is a WebSocket, and
    /// each of its terminals takes a file descriptor. Default: 40.
    pub max_sockets_of_person: usize,
    /// Memory that stays free for the host, in MiB. Default: 512.
    pub reserve_memory_mib: u64,
    /// Disk space that stays free for the host, in MiB. Default: 2048.
    pub reserve_disk_mib: u64,
    /// Host memory that a node is expected to use when it starts, in MiB. Default: 200.
    pub node_memory_mib: u64,
    /// Host memory that a cluster's node is expected to use when it starts, in MiB. Default: 1000.
    pub cluster_node_memory_mib: u64,
    /// Host disk space that a node is expected to use when it starts, in MiB. Default: 256.
    pub node_disk_mib: u64,
    /// The limits of one node.
    pub node_limits: NodeLimits,
    /// Minutes without use after which an environment is suspended, or ends if it can't be. Default: 60.
    pub idle_minutes: u32,
    /// Minutes without use after which an environment may be suspended when the host is short of memory. Default: 10.
    pub unused_minutes: u32,
    /// Minutes that *Extend* adds. Default: 30.
    pub extend_minutes: u32,
    /// Minutes after its start beyond which an environment can't be extended. Default: 480.
    pub hard_minutes: u32,
    /// Days that a session lasts. Default: 30.
    pub session_days: u32,
    /// Seconds between checks of the session, token or key behind an open connection. Once it is revoked, the
    /// connection ends within this time. Default: 15.
    pub recheck_seconds: u32,
    /// Minutes that a sign-in link is valid. Default: 60.
    pub sign_in_minutes: u32,
    /// Days that the audit log and the logs of starts are kept. Default: 90.
    pub audit_days: u32,
    /// The maximum number of entries in the audit log. Default: 200,000.
    pub audit_lines: u32,
    /// Warm pools.
    pub pools: PoolSettings,
    /// For how long environments may use their whole CPU limit.
    pub burst: Burst,
    /// Save points.
    pub save_points: SavePointSettings,
    /// Rate limits for requests.
    pub rates: Rates,
    /// Proxies whose `X-Forwarded-For` header is trusted. Default: none.
    pub trusted_proxies: Vec<IpAddr>,
    /// The identity provider by which people sign in. Default: none.
    pub oidc: Option<oidc::Oidc>,
    /// The mail server by which mail is sent. Default: none.
    pub mail: Option<mail::Mail>,
    /// How what environments expose is reached, and its limits.
    pub exposure: ExposureSettings,
}

/// Limits of use besides the number of environments; 0 means no limit. Default: no limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UseLimits {
    /// Starts and resets within an hour.
    pub starts_per_hour: u32,
    /// Hours of running environments within a calendar month (UTC).
    pub hours_per_month: u32,
    /// Nodes of all open environments together. Beyond those of all people together, starts wait in the queue.
    pub nodes: u32,
}

/// Rate limits: requests per minute; 0 means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    /// Requests per session or API token. Default: 1200.
    pub person_per_minute: u32,
    /// Requests per address without a valid session or token. Default: 300.
    pub stranger_per_minute: u32,
    /// Invalid sessions, tokens and sign-in links per address. Default: 10.
    pub wrong_per_minute: u32,
    /// Attempts to sign in with a password per login name. Default: 10.
    pub password_per_minute: u32,
    /// Wrong access codes per address. More than of passwords, because a class shares an address. Default: 20.
    pub code_per_minute: u32,
}

impl Rates {
    /// No limits, for benchmarks.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self {
            person_per_minute: 0,
            stranger_per_minute: 0,
            wrong_per_minute: 0,
            password_per_minute: 0,
            code_per_minute: 0,
        }
    }
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            person_per_minute: 1200,
            stranger_per_minute: 300,
            wrong_per_minute: 10,
            password_per_minute: 10,
            code_per_minute: 20,
        }
    }
}

/// The settings of warm pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolSettings {
    /// The maximum number of tenants in all pools together. 0 turns pools off. Default: 20.
    pub max_tenants: u32,
    /// The number of tenants that are made at a time. Default: 1.
    pub parallel: u32,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            max_tenants: 20,
            parallel: 1,
        }
    }
}

/// The settings of save points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SavePointSettings {
    /// The maximum number of save points per person. 0 turns them off. Default: 5.
    pub max_of_person: u32,
    /// The disk space that a person's save points may take, in MiB. Default: 8192.
    pub max_mib_of_person: u64,
    /// Days that a save point is kept. Default: 7.
    pub days: u32,
    /// Minutes that a reset can be undone. 0 turns it off. Default: 60.
    pub undo_minutes: u32,
    /// Days that a suspended environment is kept on disk. 0 turns that off: then paused environments stay in memory, and
    /// idle ones end. Default: 7.
    pub suspended_days: u32,
    /// The disk space that all suspended environments together may take, in MiB. Default: 51200.
    pub max_mib_suspended: u64,
}

impl Default for SavePointSettings {
    fn default() -> Self {
        Self {
            max_of_person: 5,
            max_mib_of_person: 8192,
            days: 7,
            undo_minutes: 60,
            suspended_days: 7,
            max_mib_suspended: 51_200,
        }
    }
}

impl SavePointSettings {
    /// Returns the bounds in the domain's units.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        Bounds {
            of_person: self.max_of_person,
            bytes_of_person: self.max_mib_of_person.saturating_mul(1 << 20),
            keep: SignedDuration::from_hours(i64::from(self.days) * 24),
            keep_for_undo: SignedDuration::from_mins(self.undo_minutes.into()),
            keep_suspended: SignedDuration::from_hours(i64::from(self.suspended_days) * 24),
            bytes_suspended: self.max_mib_suspended.saturating_mul(1 << 20),
        }
    }
}

/// The limits of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeLimits {
    /// CPU time, in thousandths of a core. Default: 1500.
    pub cpu_millis: u32,
    /// Memory of its processes on the host, in MiB. Default: 1024.
    pub memory_mib: u32,
    /// Threads and processes on the host. Default: 256.
    pub pids: u32,
    /// Disk throughput, reads and writes together, in MiB/s. Default: [`Limits::DISK_MIB_S`].
    pub disk_mib_s: u32,
    /// Disk operations per second, reads and writes together. Default: [`Limits::DISK_IOPS`].
    pub disk_iops: u32,
    /// Network bandwidth in each direction, in Mbit/s. Default: 100.
    pub bandwidth_mbit: u32,
}

impl Default for NodeLimits {
    fn default() -> Self {
        Self {
            cpu_millis: 1500,
            memory_mib: 1024,
            pids: 256,
            disk_mib_s: Limits::DISK_MIB_S,
            disk_iops: Limits::DISK_IOPS,
            bandwidth_mbit: 100,
        }
    }
}

/// An error in the settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The settings of the identity provider are not valid.
    #[error("the settings of the identity provider, server.oidc, are not valid")]
    Oidc(#[from] oidc::OidcError),
    /// The settings of what environments expose are not valid.
    #[error("the settings of what environments expose, server.exposure, are not valid")]
    Exposure(#[from] exposure::ExposureError),
    /// The settings of mail are not valid.
    #[error("the settings of mail, server.mail, are not valid")]
    Mail(#[from] mail::MailError),
}

impl Config {
    /// Returns how often the credential behind an open connection is checked again; at least one second.
    #[must_use]
    pub fn recheck(&self) -> Duration {
        Duration::from_secs(self.recheck_seconds.max(1).into())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            public_url: "http://127.0.0.1:7890".to_owned(),
            ssh_host: None,
            ssh_port: Some(2222),
            ssh_host_key: None,
            kube_port: Some(7443),
            kube_host: None,
            kube_authority: None,
            data_dir: PathBuf::from("."),
            max_environments: 40,
            max_of_person: 5,
            max_of_group: 0,
            person_limits: UseLimits::default(),
            group_limits: UseLimits::default(),
            total_limits: UseLimits::default(),
            max_sockets_of_person: 40,
            reserve_memory_mib: 512,
            reserve_disk_mib: 2048,
            node_memory_mib: 200,
            cluster_node_memory_mib: 1000,
            node_disk_mib: 256,
            node_limits: NodeLimits::default(),
            idle_minutes: 60,
            unused_minutes: 10,
            extend_minutes: 30,
            hard_minutes: 8 * 60,
            session_days: 30,
            recheck_seconds: 15,
            sign_in_minutes: 60,
            audit_days: 90,
            audit_lines: 200_000,
            pools: PoolSettings::default(),
            burst: Burst::default(),
            save_points: SavePointSettings::default(),
            rates: Rates::default(),
            trusted_proxies: Vec::new(),
            oidc: None,
            mail: None,
            exposure: ExposureSettings::default(),
        }
    }
}

impl Config {
    /// Returns the limits of an environment of a lab with these needs.
    #[must_use]
    pub const fn limits(&self, needs: &Needs) -> Limits {
        self.limits_of_nodes(needs.nodes)
    }

    /// Returns the limits of this many nodes together.
    #[must_use]
    pub const fn limits_of_nodes(&self, nodes: u32) -> Limits {
        let each = &self.node_limits;
        Limits {
            cpu_millis: each.cpu_millis.saturating_mul(nodes),
            memory_mib: each.memory_mib.saturating_mul(nodes),
            pids: each.pids.saturating_mul(nodes),
            disk_mib_s: each.disk_mib_s,
            disk_iops: each.disk_iops,
            bandwidth_mbit: each.bandwidth_mbit,
        }
    }

    /// Returns true if browsers use HTTPS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.public_url.starts_with("https://")
    }

    /// Returns the URL of a page, by its absolute path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.public_url.trim_end_matches('/'))
    }

    /// Returns the host name that people type after `@`.
    #[must_use]
    pub fn ssh_host(&self) -> &str {
        self.ssh_host.as_deref().unwrap_or_else(|| self.host())
    }

    /// Returns true if the public URL's host is a loopback address, which leads every client to its own machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.host();
        host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }

    /// Returns the public URL's host.
    pub(crate) fn host(&self) -> &str {
        let rest = self
            .public_url
            .split_once("://")
            .map_or(self.public_url.as_str(), |(_, rest)| rest);
        let authority = rest.split('/').next().unwrap_or(rest);
        match authority.strip_prefix('[') {
            Some(v6) => v6.split(']').next().unwrap_or(v6),
            None => authority.split(':').next().unwrap_or(authority),
        }
    }

    /// Returns the URL of an environment's API server on the kubectl gateway; none if the gateway isn't served.
    #[must_use]
    pub fn kube_server(&self, environment: &EnvironmentId) -> Option<String> {
        let port = self.kube_port?;
        let host = match self.kube_host() {
            v6 if v6.contains(':') => format!("[{v6}]"),
            host => host.to_owned(),
        };
        Some(format!("https://{host}:{port}/environments/{environment}"))
    }

    /// Returns the kubectl gateway's host name.
    #[must_use]
    pub fn kube_host(&self) -> &str {
        self.kube_host.as_deref().unwrap_or_else(|| self.ssh_host())
    }

    pub(crate) fn deadlines() -> Deadlines {
        Deadlines::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ssh_host_comes_from_the_public_address() {
        for (url, host) in [
            ("http://127.0.0.1:7890", "127.0.0.1"),
            ("https://labs.example.org/", "labs.example.org"),
            ("http://[::1]:80", "::1"),
        ] {
            let config = Config {
                public_url: url.to_owned(),
                ..Config::default()
            };
            assert_eq!(config.ssh_host(), host);
            assert_eq!(config.is_loopback(), !host.starts_with("labs"));
        }
    }

    #[test]
    fn the_kube_host_defaults_to_the_public_host() {
        let id = EnvironmentId::generate(&mut rand::rng());
        let mut config = Config {
            public_url: "http://[::1]:80".to_owned(),
            ..Config::default()
        };
        let at = |host: &str| Some(format!("https://{host}:7443/environments/{id}"));
        assert_eq!(config.kube_server(&id), at("[::1]"));
        config.public_url = "https://labs.example.org".to_owned();
        assert_eq!(config.kube_server(&id), at("labs.example.org"));
        config.kube_host = Some("k8s.example.org".to_owned());
        assert_eq!(config.kube_server(&id), at("k8s.example.org"));
        config.kube_port = None;
        assert_eq!(config.kube_server(&id), None);
    }
}
