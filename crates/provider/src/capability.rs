//! What a tenancy can do beyond being made and freed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that some tenancies can do and others can't.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// It has nodes on which whoever enters is root, with a kernel of its own.
    RootOnNodes,
    /// A guest link to each node: programs, files, terminals.
    GuestLink,
    /// A serial console of each node.
    Console,
    /// Nodes can be added while it runs, and removed.
    AddNodes,
    /// It can stand still without using the processor, and go on.
    Pause,
    /// Its memory and disks can be written down at one instant, and continued from.
    Save,
    /// Container images can be given to the runtime of its nodes.
    LoadImages,
    /// A cluster of its own, on templates that have one: its administrator may do everything in it.
    ClusterAdmin,
    /// Namespaces of its own can be made in its cluster.
    OwnNamespaces,
}

impl Capability {
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::RootOnNodes,
        Self::GuestLink,
        Self::Console,
        Self::AddNodes,
        Self::Pause,
        Self::Save,
        Self::LoadImages,
        Self::ClusterAdmin,
        Self::OwnNamespaces,
    ];

    /// What can be done, after "this tenancy can't".
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RootOnNodes => "give root on nodes",
            Self::GuestLink => "run programs on nodes",
            Self::Console => "show a serial console",
            Self::AddNodes => "add or remove nodes",
            Self::Pause => "be paused",
            Self::Save => "be saved",
            Self::LoadImages => "take container images",
            Self::ClusterAdmin => "make anybody a cluster's administrator",
            Self::OwnNamespaces => "have namespaces of its own",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
