//! The limits of an environment, and the admission of a new one.

use serde::{Deserialize, Serialize};

use crate::quota::Exceeded;

/// The limits of an environment, enforced by its provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The CPU time of all its nodes together, in thousandths of a core.
    pub cpu_millis: u32,
    /// The memory of all its nodes' processes together, including the guests' memory, in MiB.
    pub memory_mib: u32,
    /// The number of tasks (threads and processes) on the host.
    pub pids: u32,
    /// The rate at which each node may read from and write to its disk, together, in MiB/s.
    #[serde(default = "default_disk_mib_s")]
    pub disk_mib_s: u32,
    /// The number of reads and writes of its disk that each node may make, together, per second.
    #[serde(default = "default_disk_iops")]
    pub disk_iops: u32,
    /// The network bandwidth of each node in each direction, in Mbit/s.
    pub bandwidth_mbit: u32,
}

const fn default_disk_mib_s() -> u32 {
    Limits::DISK_MIB_S
}

const fn default_disk_iops() -> u32 {
    Limits::DISK_IOPS
}

impl Limits {
    /// The default rate of a node's reads and writes, in MiB/s.
    pub const DISK_MIB_S: u32 = 200;
    /// The default number of a node's reads and writes per second.
    pub const DISK_IOPS: u32 = 4000;
}

/// The capacity of the machine, and how much of it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// The number of environments that hold resources.
    pub environments: u32,
    /// The maximum number of environments.
    pub max_environments: u32,
    /// The number of nodes of the environments that hold resources.
    pub nodes: u32,
    /// The maximum number of nodes; `None` if it isn't limited.
    pub max_nodes: Option<u32>,
    /// The free memory, in MiB.
    pub free_memory_mib: u64,
    /// The memory reserved for the host, in MiB.
    pub reserve_memory_mib: u64,
    /// The free disk space, in MiB.
    pub free_disk_mib: u64,
    /// The disk space reserved for the host, in MiB.
    pub reserve_disk_mib: u64,
}

/// The reason why an environment was not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// A quota of the person, of one of their groups, or of everyone would be exceeded.
    #[error(transparent)]
    Quota(#[from] Box<Exceeded>),
    /// The server is in maintenance, so nothing is started.
    #[error("the server is in maintenance")]
    Maintenance {
        /// Why and for how long, as sentences for people.
        explanation: String,
    },
    /// The installation has as many environments as it may have.
    #[error("all {max} places are taken; try again when an environment has ended")]
    Full {
        /// The maximum number of environments.
        max: u32,
    },
    /// There are as many nodes as there may be.
    #[error(
        "{used} of {max} nodes are in use, and this needs {need}; try again when an environment has ended"
    )]
    Nodes {
        /// The number of nodes in use.
        used: u32,
        /// The number of nodes needed.
        need: u32,
        /// The maximum number of nodes.
        max: u32,
    },
    /// It can never fit, because it has more nodes than there may be.
    #[error("this lab needs {need} nodes, and this server runs at most {max} at once")]
    TooManyNodes {
        /// The number of nodes needed.
        need: u32,
        /// The maximum number of nodes.
        max: u32,
    },
    /// It can never fit.
    #[error(
        "this machine is too small for this lab: it needs {need} MiB of {what}, and has {total} MiB"
    )]
    TooLarge {
        /// What is missing: memory or disk space.
        what: &'static str,
        /// What is needed, in MiB.
        need: u64,
        /// What there is without the reserve, in MiB.
        total: u64,
    },
    /// There is not enough free memory.
    #[error(
        "the machine has {free} MiB of memory to spare, but this needs {need} MiB; end an environment or try again later"
    )]
    Memory {
        /// The free memory that is not reserved, in MiB.
        free: u64,
        /// The memory needed, in MiB.
        need: u64,
    },
    /// There is not enough free disk space.
    #[error(
        "the machine has {free} MiB of disk to spare, but this needs {need} MiB; ask the operator to free some"
    )]
    Disk {
        /// The free disk space that is not reserved, in MiB.
        free: u64,
        /// The disk space needed, in MiB.
        need: u64,
    },
}

/// What a new environment, or a new node, is expected to need immediately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// The number of nodes.
    pub nodes: u32,
    /// The memory that it doesn't share, in MiB.
    pub memory_mib: u64,
    /// The disk space of its overlays, in MiB.
    pub disk_mib: u64,
}

impl Need {
    /// Needs nothing.
    pub const NOTHING: Self = Self {
        nodes: 0,
        memory_mib: 0,
        disk_mib: 0,
    };
}

/// Formats a number of bytes for people: `21 MiB`, `1.4 GiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let mib = bytes.div_ceil(1 << 20);
    if mib < 1000 {
        return format!("{mib} MiB");
    }
    let tenths = bytes.saturating_mul(10).div_ceil(1 << 30);
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

/// Decides whether there is room for one more environment now. If not, it waits in the queue.
pub fn admit(capacity: &Capacity, need: Need) -> Result<(), Denial> {
    if capacity.environments >= capacity.max_environments {
        return Err(Denial::Full {
            max: capacity.max_environments,
        });
    }
    fits(capacity, need)
}

/// Returns how many more environments with this need are admitted now, one after another.
#[must_use]
pub fn room(capacity: &Capacity, need: Need) -> u32 {
    let places = capacity
        .max_environments
        .saturating_sub(capacity.environments);
    let nodes = match capacity.max_nodes {
        Some(max) => max
            .saturating_sub(capacity.nodes)
            .checked_div(need.nodes)
            .unwrap_or(u32::MAX),
        None => u32::MAX,
    };
    let times = |free: u64, reserve: u64, need: u64| {
        let times = free.saturating_sub(reserve).checked_div(need);
        times.map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX))
    };
    let memory = times(
        capacity.free_memory_mib,
        capacity.reserve_memory_mib,
        need.memory_mib,
    );
    let disk = times(
        capacity.free_disk_mib,
        capacity.reserve_disk_mib,
        need.disk_mib,
    );
    places.min(nodes).min(memory).min(disk)
}

/// Decides whether there are enough nodes, memory and disk, such as for one more node of an existing environment.
pub fn fits(capacity: &Capacity, need: Need) -> Result<(), Denial> {
    if let Some(max) = capacity.max_nodes
        && need.nodes > 0
        && capacity.nodes.saturating_add(need.nodes) > max
    {
        return Err(Denial::Nodes {
            used: capacity.nodes,
            need: need.nodes,
            max,
        });
    }
    let free = capacity
        .free_memory_mib
        .saturating_sub(capacity.reserve_memory_mib);
    if free < need.memory_mib {
        return Err(Denial::Memory {
            free,
            need: need.memory_mib,
        });
    }
    let free = capacity
        .free_disk_mib
        .saturating_sub(capacity.reserve_disk_mib);
    if free < need.disk_mib {
        return Err(Denial::Disk {
            free,
            need: need.disk_mib,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn capacity()(e in 0u32..50, me in 0u32..50, n in 0u32..99, mn in proptest::option::of(0u32..99), fm in 0u64..9000, rm in 0u64..9000, fd in 0u64..9000, rd in 0u64..9000) -> Capacity {
            Capacity { environments: e, max_environments: me, nodes: n, max_nodes: mn, free_memory_mib: fm, reserve_memory_mib: rm, free_disk_mib: fd, reserve_disk_mib: rd }
        }
    }

    proptest! {
        #[test]
        fn what_is_admitted_fits(c in capacity(), nodes in 0u32..6, m in 0u64..4000, d in 0u64..4000) {
            if admit(&c, Need { nodes, memory_mib: m, disk_mib: d }).is_ok() {
                prop_assert!(c.max_nodes.is_none_or(|max| nodes == 0 || c.nodes + nodes <= max));
                prop_assert!(c.environments < c.max_environments);
                prop_assert!(m + c.reserve_memory_mib <= c.free_memory_mib || m == 0);
                prop_assert!(d + c.reserve_disk_mib <= c.free_disk_mib || d == 0);
            }
        }

        #[test]
        fn there_is_room_for_as_many_as_are_admitted(c in capacity(), nodes in 1u32..6, m in 0u64..4000, d in 0u64..4000) {
            let need = Need { nodes, memory_mib: m, disk_mib: d };
            let mut then = c;
            for _ in 0..room(&c, need) {
                prop_assert!(admit(&then, need).is_ok());
                then.environments += 1;
                then.nodes += nodes;
                then.free_memory_mib -= m;
                then.free_disk_mib -= d;
            }
            prop_assert!(admit(&then, need).is_err());
        }

        #[test]
        fn more_room_never_denies(c in capacity(), nodes in 0u32..6, m in 0u64..4000, d in 0u64..4000) {
            let need = Need { nodes, memory_mib: m, disk_mib: d };
            if admit(&c, need).is_ok() {
                let roomier = Capacity { max_environments: c.max_environments + 1, max_nodes: c.max_nodes.map(|max| max + 1), free_memory_mib: c.free_memory_mib + 1, ..c };
                prop_assert!(admit(&roomier, need).is_ok());
            }
        }
    }
}
