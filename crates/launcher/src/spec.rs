//! The specification of what a launcher runs. It is written as `spec.json` into the environment's folder before the
//! launcher starts.

use std::path::{Path, PathBuf};

use faultline_domain::{NodeName, TenantId, lab::Egress, limits::Limits};
use serde::{Deserialize, Serialize};

use crate::{qemu, user};

/// How guests are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// Hardware virtualisation.
    Kvm,
    /// Software emulation by QEMU, about ten times slower.
    Tcg,
}

impl Accelerator {
    /// Returns QEMU's name for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// The machine of a node. All of it must be the same in a template and its clones, so it is part of the snapshot's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Machine {
    /// How the guest is executed.
    pub accelerator: Accelerator,
    /// The number of processors.
    pub vcpus: u32,
    /// The memory, in MiB.
    pub memory_mib: u32,
    /// The size of the disk, in MiB.
    pub disk_mib: u32,
}

/// How a launcher starts its nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "start", rename_all = "snake_case")]
pub enum Start {
    /// Continue from a snapshot.
    Clone {
        /// The snapshot's folder.
        snapshot: PathBuf,
    },
    /// Power on and boot. With `freeze_to`, the nodes can be frozen.
    Boot {
        /// The kernel.
        kernel: PathBuf,
        /// The initial RAM disk.
        initrd: PathBuf,
        /// The folder in which to make the snapshot.
        freeze_to: Option<PathBuf>,
    },
}

/// A node and its machine. Nodes of an environment may differ: a control plane needs more than a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// The name.
    pub name: NodeName,
    /// The machine.
    pub machine: Machine,
}

/// A node that was added to a running environment: a worker, booted from the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedNode {
    /// The node.
    pub node: NodeSpec,
    /// By how much it raises the environment's limits.
    pub share: Limits,
}

impl AddedNode {
    /// Returns the node's index, which determines its address and its tap device.
    #[must_use]
    pub fn index(&self) -> Option<usize> {
        usize::try_from(self.node.name.number()?).ok()
    }
}

/// The specification of what a launcher runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// The id of the tenant.
    pub id: TenantId,
    /// The user id that its QEMU processes run as, see [`user::allocate`]. Specs of earlier versions have none.
    #[serde(default)]
    pub user: Option<u32>,
    /// The nodes, in order: node n has the address 10.77.0.(10+n).
    pub nodes: Vec<NodeSpec>,
    /// The nodes that were added later. The launcher writes them here while it runs.
    #[serde(default)]
    pub added: Vec<AddedNode>,
    /// The number of control planes, which are the first nodes.
    pub control_planes: u32,
    /// How the nodes are started.
    pub start: Start,
    /// The folder of the save point that the nodes continue from. It is needed only while they start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<PathBuf>,
    /// QEMU's processor argument under KVM. Clones use their template's. Default: `host`.
    #[serde(default = "kvm_cpu")]
    pub kvm_cpu: String,
    /// The image's original disk (raw ext4).
    pub base_disk: PathBuf,
    /// The environment's limits, without those of added nodes.
    pub limits: Limits,
    /// The destinations that its nodes may connect to.
    pub egress: Vec<Egress>,
}

/// The default processor argument, for specs and snapshots from before features could be left out.
pub(crate) fn kvm_cpu() -> String {
    qemu::KVM_CPU.to_owned()
}

impl LaunchSpec {
    /// Returns the path of the spec in an environment's folder.
    #[must_use]
    pub fn path(dir: &Path) -> PathBuf {
        dir.join("spec.json")
    }

    /// Reads the spec of an environment's folder.
    pub fn load(dir: &Path) -> std::io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(Self::path(dir))?)?)
    }

    /// Writes the spec atomically into an environment's folder.
    pub fn save(&self, dir: &Path) -> std::io::Result<()> {
        let draft = dir.join("spec.json.new");
        std::fs::write(&draft, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(draft, Self::path(dir))
    }

    /// Returns true if the nodes continue from a saved device state, of a template or of a save point.
    #[must_use]
    pub const fn continues(&self) -> bool {
        matches!(self.start, Start::Clone { .. }) || self.saved.is_some()
    }

    /// Returns true if the nodes are booted to be frozen into a template.
    #[must_use]
    pub const fn freezes(&self) -> bool {
        matches!(
            self.start,
            Start::Boot {
                freeze_to: Some(_),
                ..
            }
        )
    }

    /// Returns all nodes, added ones last.
    pub fn all_nodes(&self) -> impl Iterator<Item = &NodeSpec> {
        self.nodes.iter().chain(self.added.iter().map(|a| &a.node))
    }

    /// Returns the current limits, including the shares of added nodes.
    #[must_use]
    pub fn current_limits(&self) -> Limits {
        self.added.iter().fold(self.limits, |sum, added| Limits {
            cpu_millis: sum.cpu_millis.saturating_add(added.share.cpu_millis),
            memory_mib: sum.memory_mib.saturating_add(added.share.memory_mib),
            pids: sum.pids.saturating_add(added.share.pids),
            ..sum
        })
    }

    /// Returns the id of the unprivileged user and group that this environment's QEMU processes run as.
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
            saved: None,
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
        let now = spec.current_limits();
        assert_eq!((now.cpu_millis, now.memory_mib, now.pids), (2000, 812, 256));
        assert_eq!((now.disk_mib_s, now.bandwidth_mbit), (200, 100));
        assert_eq!(spec.added[0].index(), Some(2));
    }
}
