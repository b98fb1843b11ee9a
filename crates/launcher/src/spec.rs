//! What a launcher is told to run. Written as `spec.json` into the environment's folder before it starts.

use std::path::{Path, PathBuf};

use faultline_domain::{EnvironmentId, NodeName, lab::Egress, limits::Limits};
use serde::{Deserialize, Serialize};

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

/// What a launcher is told to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// The environment.
    pub id: EnvironmentId,
    /// Its nodes, in order: node n has address 10.77.0.(10+n).
    pub nodes: Vec<NodeSpec>,
    /// How many of them, the first, are control planes.
    pub control_planes: u32,
    /// How they come to life.
    pub start: Start,
    /// The image's pristine disk (raw ext4).
    pub base_disk: PathBuf,
    /// What the environment may use.
    pub limits: Limits,
    /// Where its nodes may connect to.
    pub egress: Vec<Egress>,
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

    /// Writes it there.
    pub fn save(&self, dir: &Path) -> std::io::Result<()> {
        std::fs::write(Self::path(dir), serde_json::to_vec_pretty(self)?)
    }

    /// The unprivileged user and group that this environment's QEMUs run as: a number derived from the id, so
    /// that environments hold nothing of each other's, outside the ranges that systems give to people.
    #[must_use]
    pub fn uid(&self) -> u32 {
        let hash = self.id.as_str().bytes().fold(0x811c_9dc5_u32, |h, b| {
            (h ^ u32::from(b)).wrapping_mul(0x0100_0193)
        });
        0x7000_0000 | (hash & 0x00ff_ffff)
    }
}
