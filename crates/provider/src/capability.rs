//! The optional features of a tenancy, beyond creating and freeing it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A feature that not every tenancy supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// Nodes with a kernel of their own, on which people are root.
    RootOnNodes,
    /// A guest link to each node: programs, files, terminals.
    GuestLink,
    /// A serial console for each node.
    Console,
    /// Nodes can be added and removed while it runs.
    AddNodes,
    /// It can be paused, without using the processor, and resumed.
    Pause,
    /// Its memory and disks can be saved at one instant and restored.
    Save,
    /// Container images can be loaded into its nodes' runtimes.
    LoadImages,
    /// A cluster of its own, if the template has one, in which an administrator may do everything.
    ClusterAdmin,
    /// Namespaces can be created in its cluster.
    OwnNamespaces,
}

impl Capability {
    /// All capabilities.
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

    /// Returns the verb phrase that completes "this tenancy can't …".
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RootOnNodes => "give root on nodes",
            Self::GuestLink => "run programs on nodes",
            Self::Console => "show a serial console",
            Self::AddNodes => "add or remove nodes",
            Self::Pause => "be paused",
            Self::Save => "be saved",
            Self::LoadImages => "load container images",
            Self::ClusterAdmin => "grant administrator access to a cluster",
            Self::OwnNamespaces => "create namespaces in a cluster",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
