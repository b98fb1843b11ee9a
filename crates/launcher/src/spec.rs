//! What a launcher is told to run. Written as `spec.json` into the environment's folder before it starts.

use std::path::{Path, PathBuf};

use faultline_domain::{NodeName, TenantId, lab::Egress, limits::Limits};
use serde::{Deserialize, Serialize};

use crate::{qemu, user};

/// How guests are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// The processor's virtualisation.
    Kvm,
    /// QEMU's software emulation, about ten times slower.
    Tcg,
}

impl Accelerator {
    /// QEMU's word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// A node's machine. Everything here must be the same in a template and its clones, so it is a part of the
/// snapshot's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Machine {
    /// How it runs.
    pub accelerator: Accelerator,
    /// Processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Size of its disk in MiB.
    pub disk_mib: u32,
}

/// How a launcher brings its nodes to life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "start", rename_all = "snake_case")]
pub enum Start {
    /// Continue from a snapshot.
    Clone {
        /// The snapshot's folder.
        snapshot: PathBuf,
    },
    /// Power on; with `freeze_to` the memory is made there, to be frozen on demand.
    Boot {
        /// The kernel.
        kernel: PathBuf,
        /// The initial RAM disk.
        initrd: PathBuf,
        /// The snapshot's folder to be.
        freeze_to: Option<PathBuf>,
    },
}

/// One node and its machine. Nodes of an environment differ: a control plane wants more than a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Its name.
    pub name: NodeName,
    /// Its machine.
    pub machine: Machine,
}

/// A node that was added while the environment ran: a worker, booted from the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedNode {
    /// The node.
    pub node: NodeSpec,
    /// What the environment may use more because of it.
    pub share: Limits,
}

impl AddedNode {
    /// Its index, which its address and its cable are made of.
    #[must_use]
    pub fn index(&self) -> Option<usize> {
        usize::try_from(self.node.name.number()?).ok()
    }
}

/// What a launcher is told to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// The environment.
    pub id: TenantId,
    /// The number that its QEMUs run as, see [`user::allocate`]; none in specs of earlier versions.
    #[serde(default)]
    pub user: Option<u32>,
    /// Its nodes, in order: node n has address 10.77.0.(10+n).
    pub nodes: Vec<NodeSpec>,
    /// Nodes that were added since. The launcher writes them here while it runs.
    #[serde(default)]
    pub added: Vec<AddedNode>,
    /// How many of them, the first, are control planes.
    pub control_planes: u32,
    /// How they come to life.
    pub start: Start,
    /// QEMU's processor argument where a node runs under KVM; clones have their template's. Default: `host`.
    #[serde(default = "kvm_cpu")]
    pub kvm_cpu: String,
    /// The image's pristine disk (raw ext4).
    pub base_disk: PathBuf,
    /// What the environment may use.
    pub limits: Limits,
    /// Where its nodes may connect to.
    pub egress: Vec<Egress>,
}

/// The processor argument of specs and snapshots that were written before features could be left out.
pub(crate) fn kvm_cpu() -> String {
    qemu::KVM_CPU.to_owned()
}

impl LaunchSpec {
    /// The file in an environment's folder.
    #[must_use]
    pub fn path(dir: &Path) -> PathBuf {
        dir.join("spec.json")
    }

    /// Reads the spec of an environment's folder.
    pub fn load(dir: &Path) -> std::io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(Self::path(dir))?)?)
    }

    /// Writes it there, all or nothing.
    pub fn save(&self, dir: &Path) -> std::io::Result<()> {
        let draft = dir.join("spec.json.new");
        std::fs::write(&draft, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(draft, Self::path(dir))
    }

    /// All its nodes, added ones last.
    pub fn all_nodes(&self) -> impl Iterator<Item = &NodeSpec> {
        self.nodes.iter().chain(self.added.iter().map(|a| &a.node))
    }

    /// What it may use now: its limits, and the shares of its added nodes.
    #[must_use]
    pub fn limits_now(&self) -> Limits {
        self.added.iter().fold(self.limits, |sum, added| Limits {
            cpu_millis: sum.cpu_millis.saturating_add(added.share.cpu_millis),
            memory_mib: sum.memory_mib.saturating_add(added.share.memory_mib),
            pids: sum.pids.saturating_add(added.share.pids),
            ..sum
        })
    }

    /// The unprivileged user and group that this environment's QEMUs run as.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.user.unwrap_or_else(|| user::derived(self.id.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_of_an_earlier_version_has_no_added_nodes_and_shares_add_up() {
        let limits = Limits {
            cpu_millis: 1000,
            memory_mib: 512,
            pids: 128,
            disk_mib_s: 200,
            disk_iops: 4000,
            bandwidth_mbit: 100,
        };
        let node = NodeSpec {
            name: "node2".parse().unwrap(),
            machine: Machine {
                accelerator: Accelerator::Tcg,
                vcpus: 1,
                memory_mib: 256,
                disk_mib: 4096,
            },
        };
        let mut spec = LaunchSpec {
            id: "abc".parse().unwrap(),
            user: None,
            nodes: Vec::new(),
            added: Vec::new(),
            control_planes: 1,
            start: Start::Clone {
                snapshot: "/s".into(),
            },
            kvm_cpu: kvm_cpu(),
            base_disk: "/d".into(),
            limits,
            egress: Vec::new(),
        };
        let mut json = serde_json::to_value(&spec).unwrap();
        json.as_object_mut().unwrap().remove("added");
        json.as_object_mut().unwrap().remove("user");
        json.as_object_mut().unwrap().remove("kvm_cpu");
        assert_eq!(serde_json::from_value::<LaunchSpec>(json).unwrap(), spec);
        let share = Limits {
            memory_mib: 300,
            ..limits
        };
        spec.added.push(AddedNode { node, share });
        let now = spec.limits_now();
        assert_eq!((now.cpu_millis, now.memory_mib, now.pids), (2000, 812, 256));
        assert_eq!((now.disk_mib_s, now.bandwidth_mbit), (200, 100));
        assert_eq!(spec.added[0].index(), Some(2));
    }
}
