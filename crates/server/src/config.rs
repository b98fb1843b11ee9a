//! What an operator may set. Every field has a default that suits one machine.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use faultline_domain::{environment::Deadlines, id::EnvironmentId, lab::Needs, limits::Limits};
use faultline_gateway::PublicKey;
use serde::{Deserialize, Serialize};

/// What an operator may set about the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address that people's browsers use. With `https` cookies are only sent encrypted.
    pub public_url: String,
    /// The SSH gateway's host name as people write it. The public address's host unless set.
    pub ssh_host: Option<String>,
    /// The SSH gateway's port; nothing when there is none.
    pub ssh_port: Option<u16>,
    /// The SSH gateway's public host key; what serves the gateway says it.
    #[serde(skip)]
    pub ssh_host_key: Option<PublicKey>,
    /// The port on which API servers are reached; nothing when there is none.
    pub kube_port: Option<u16>,
    /// The host name at which API servers are reached, as kubeconfigs say it. The public address's host unless set.
    pub kube_host: Option<String>,
    /// The authority by which clients know the door to API servers, PEM; nothing where their own know it. What serves the
    /// door says it.
    #[serde(skip)]
    pub kube_authority: Option<String>,
    /// The folder whose file system holds the environments' disks.
    pub data_dir: PathBuf,
    /// The most environments at once.
    pub max_environments: u32,
    /// The most environments of one person at once.
    pub max_of_person: u32,
    /// Memory that stays free for the host, in MiB.
    pub reserve_memory_mib: u64,
    /// Disk that stays free for the host, in MiB.
    pub reserve_disk_mib: u64,
    /// What a node is expected to take of the machine's memory when it starts, in MiB.
    pub node_memory_mib: u64,
    /// What a node of a cluster is expected to take of it, in MiB.
    pub cluster_node_memory_mib: u64,
    /// What a node is expected to take of the machine's disk when it starts, in MiB.
    pub node_disk_mib: u64,
    /// The most that one node may use.
    pub node_limits: NodeLimits,
    /// An environment ends after so many minutes without use.
    pub idle_minutes: u32,
    /// *Extend* adds so many minutes.
    pub extend_minutes: u32,
    /// No extension goes beyond so many minutes after the start.
    pub hard_minutes: u32,
    /// A session lasts so many days.
    pub session_days: u32,
    /// What is open with a session, token or key ends at most so many seconds after that was taken away.
    pub recheck_seconds: u32,
    /// A sign-in link works for so many minutes.
    pub sign_in_minutes: u32,
    /// The audit and the logs of starts are kept for so many days.
    pub audit_days: u32,
    /// The audit keeps at most so many lines.
    pub audit_lines: u32,
    /// How many requests one may make.
    pub rates: Rates,
    /// Proxies whose `X-Forwarded-For` says where a request comes from.
    pub trusted_proxies: Vec<IpAddr>,
}

/// How many requests one may make in a minute; 0 for any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    /// With one session or API token.
    pub person_per_minute: u32,
    /// From one address without a valid one.
    pub stranger_per_minute: u32,
    /// Sessions, tokens and sign-in links from one address that turn out not to be valid.
    pub wrong_per_minute: u32,
}

impl Rates {
    /// No limits: for measuring.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self {
            person_per_minute: 0,
            stranger_per_minute: 0,
            wrong_per_minute: 0,
        }
    }
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            person_per_minute: 1200,
            stranger_per_minute: 300,
            wrong_per_minute: 10,
        }
    }
}

/// The most that one node may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeLimits {
    /// CPU time, in thousandths of a core.
    pub cpu_millis: u32,
    /// Memory of its processes on the host, in MiB.
    pub memory_mib: u32,
    /// Threads and processes on the host.
    pub pids: u32,
    /// Reads and writes of its disk together, in MiB/s.
    pub disk_mib_s: u32,
    /// Reads and writes of its disk together, a second.
    pub disk_iops: u32,
    /// Network bandwidth each way, in Mbit/s.
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

impl Config {
    /// How often a credential is looked at again, for what is open with it.
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
            reserve_memory_mib: 512,
            reserve_disk_mib: 2048,
            node_memory_mib: 200,
            cluster_node_memory_mib: 1000,
            node_disk_mib: 256,
            node_limits: NodeLimits::default(),
            idle_minutes: 60,
            extend_minutes: 30,
            hard_minutes: 8 * 60,
            session_days: 30,
            recheck_seconds: 15,
            sign_in_minutes: 60,
            audit_days: 90,
            audit_lines: 200_000,
            rates: Rates::default(),
            trusted_proxies: Vec::new(),
        }
    }
}

impl Config {
    /// The limits of an environment with so many nodes.
    #[must_use]
    pub const fn limits(&self, needs: &Needs) -> Limits {
        let each = &self.node_limits;
        let nodes = needs.nodes;
        Limits {
            cpu_millis: each.cpu_millis.saturating_mul(nodes),
            memory_mib: each.memory_mib.saturating_mul(nodes),
            pids: each.pids.saturating_mul(nodes),
            disk_mib_s: each.disk_mib_s,
            disk_iops: each.disk_iops,
            bandwidth_mbit: each.bandwidth_mbit,
        }
    }

    /// True when browsers reach the server encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.public_url.starts_with("https://")
    }

    /// The host name that people write after `@`.
    #[must_use]
    pub fn ssh_host(&self) -> &str {
        self.ssh_host.as_deref().unwrap_or_else(|| self.host())
    }

    /// True when the public address leads to the machine that asks, whichever that is.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.host();
        host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }

    /// The public address's host.
    fn host(&self) -> &str {
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

    /// Where `kubectl` reaches an environment's API server; nothing when no port is served.
    #[must_use]
    pub fn kube_server(&self, environment: &EnvironmentId) -> Option<String> {
        let port = self.kube_port?;
        let host = match self.kube_host() {
            v6 if v6.contains(':') => format!("[{v6}]"),
            host => host.to_owned(),
        };
        Some(format!("https://{host}:{port}/environments/{environment}"))
    }

    /// The host name at which API servers are reached.
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
    fn api_servers_are_reached_at_the_public_host_unless_another_is_said() {
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
