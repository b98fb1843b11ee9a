//! Where a host cluster is: its name, its files, and the addresses of its members, which are the same in every cluster.

use std::{
    fmt,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The network that the members share.
pub(crate) const NETWORK_BITS: u8 = 24;
/// The addresses of all pods.
pub(crate) const PODS: &str = "10.244.0.0/16";
/// The addresses of all services.
pub(crate) const SERVICES: &str = "10.96.0.0/16";
/// The address of the cluster's DNS, as kubeadm chooses it for [`SERVICES`].
pub(crate) const DNS: &str = "10.96.0.10";
/// The API server's port in the control plane's namespace.
pub(crate) const API_PORT: u16 = 6443;
/// The folder for clusters if the user names none, in the user's state folder.
const FOLDER: &str = "faultline/host-clusters";

/// The name of a host cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name(String);

impl Name {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Name {
    fn default() -> Self {
        Self("host".to_owned())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if text.is_empty() || text.len() > 32 || !text.bytes().all(plain) || text.starts_with('-') {
            return Err(format!(
                "{text:?} is not a name; use at most 32 lower-case letters, digits and dashes, such as review-2"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A member of a host cluster: something with a network namespace of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Member {
    /// etcd, API server, controller manager and scheduler.
    ControlPlane,
    /// The first node.
    Node1,
    /// The second node.
    Node2,
}

impl Member {
    /// All members, in the order in which they are started.
    pub const ALL: [Self; 3] = [Self::ControlPlane, Self::Node1, Self::Node2];
    /// The nodes.
    pub const NODES: [Self; 2] = [Self::Node1, Self::Node2];

    /// Returns the member's name, which is also the host name in its namespace.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::Node1 => "node1",
            Self::Node2 => "node2",
        }
    }

    /// Returns the member's address.
    #[must_use]
    pub const fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(
            172,
            30,
            0,
            match self {
                Self::ControlPlane => 1,
                Self::Node1 => 11,
                Self::Node2 => 12,
            },
        )
    }

    /// Returns the addresses of the pods on a node.
    #[must_use]
    pub const fn pods(self) -> Option<&'static str> {
        match self {
            Self::ControlPlane => None,
            Self::Node1 => Some("10.244.1.0/24"),
            Self::Node2 => Some("10.244.2.0/24"),
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Member {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|m| m.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is not a member of a host cluster"))
    }
}

impl TryFrom<String> for Member {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Member> for String {
    fn from(member: Member) -> Self {
        member.as_str().to_owned()
    }
}

/// The paths of a host cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    parent: PathBuf,
    name: Name,
}

impl Place {
    /// Returns the place of the cluster with this name in a folder of clusters.
    #[must_use]
    pub fn new(parent: PathBuf, name: Name) -> Self {
        Self { parent, name }
    }

    /// Returns the folder of clusters in the user's state folder: `faultline/host-clusters` in `$XDG_STATE_HOME` or
    /// `~/.local/state`.
    #[must_use]
    pub fn default_parent() -> PathBuf {
        let var = |name: &str| {
            let value = std::env::var_os(name).filter(|v| !v.is_empty());
            value.map(PathBuf::from)
        };
        var("XDG_STATE_HOME")
            .or_else(|| var("HOME").map(|home| home.join(".local/state")))
            .unwrap_or_else(|| PathBuf::from("/var/lib"))
            .join(FOLDER)
    }

    /// Returns the cluster's name.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// Returns the folder of clusters that this one's folder is in.
    #[must_use]
    pub fn parent(&self) -> &Path {
        &self.parent
    }

    /// Returns the command line that does something with this cluster, such as `down`.
    #[must_use]
    pub fn command(&self, verb: &str) -> String {
        let mut command = format!("faultline dev host-cluster {verb}");
        if self.name != Name::default() {
            command += &format!(" --name {}", self.name);
        }
        if self.parent != Self::default_parent() {
            command += &format!(" --folder {}", self.parent.display());
        }
        command
    }

    /// Returns the cluster's own folder. Everything that it writes is below.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.parent.join(self.name.as_str())
    }

    /// Returns the file that a command holds a lock on while it changes the cluster.
    pub(crate) fn lock(&self) -> PathBuf {
        self.parent.join(format!(".{}.lock", self.name))
    }

    /// Returns the kubeconfig of an administrator, for use on this machine.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder().join("kubeconfig")
    }

    /// Returns the folder of the cluster's keys and kubeconfigs.
    pub(crate) fn keys(&self) -> PathBuf {
        self.folder().join("keys")
    }

    /// Returns the folder for temporary files of the programs that run outside of the members.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.folder().join("tmp")
    }

    /// Returns a member's root folder.
    #[must_use]
    pub fn root(&self, member: Member) -> PathBuf {
        self.folder().join(member.as_str())
    }

    /// Returns the log of a program that runs in a member.
    #[must_use]
    pub fn log(&self, member: Member, service: &str) -> PathBuf {
        self.root(member)
            .join("var/log")
            .join(format!("{service}.log"))
    }

    /// Returns the name of the cluster's control group. It contains a hash of the folder, so that clusters of the same
    /// name in different folders don't share one.
    pub(crate) fn group(&self) -> String {
        let hash = Sha256::digest(self.folder().as_os_str().as_encoded_bytes());
        let short: String = hex::encode(hash).chars().take(8).collect();
        format!("{}-{short}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_paths_and_host_names() {
        for good in ["host", "review-2", "0"] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", "-x", "..", "a/b", "A", "a b", &"a".repeat(33)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn clusters_of_one_name_in_two_folders_have_two_groups() {
        let in_folder = |folder: &str| Place::new(folder.into(), Name::default());
        assert_ne!(in_folder("/a").group(), in_folder("/b").group());
        assert_eq!(in_folder("/a").group(), in_folder("/a").group());
    }
}
