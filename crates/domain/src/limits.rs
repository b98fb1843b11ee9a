//! What one environment may use, and whether the machine has room for one more.

use serde::{Deserialize, Serialize};

/// Limits of one environment, enforced by its provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// CPU time of all its nodes together, in thousandths of a core.
    pub cpu_millis: u32,
    /// Memory of all its nodes' processes together, in MiB, the guests' memory included.
    pub memory_mib: u32,
    /// Tasks (threads and processes) on the host.
    pub pids: u32,
    /// What each node may read from and write to its disk, together, in MiB/s.
    #[serde(default = "default_disk_mib_s")]
    pub disk_mib_s: u32,
    /// How many reads and writes of its disk each node may make, together, a second.
    #[serde(default = "default_disk_iops")]
    pub disk_iops: u32,
    /// Network bandwidth of each node, each way, in Mbit/s.
    pub bandwidth_mbit: u32,
}

const fn default_disk_mib_s() -> u32 {
    Limits::DISK_MIB_S
}

const fn default_disk_iops() -> u32 {
    Limits::DISK_IOPS
}

impl Limits {
    /// What a node may read and write unless said, in MiB/s.
    pub const DISK_MIB_S: u32 = 200;
    /// How many reads and writes a node may make a second unless said.
    pub const DISK_IOPS: u32 = 4000;
}

/// What the machine has and what is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Environments that hold something now.
    pub environments: u32,
    /// The most that may.
    pub max_environments: u32,
    /// Environments of the person who asks.
    pub of_person: u32,
    /// The most that one person may have.
    pub max_of_person: u32,
    /// Memory that is free now, in MiB.
    pub free_memory_mib: u64,
    /// Memory that stays free for the host, in MiB.
    pub reserve_memory_mib: u64,
    /// Disk that is free now, in MiB.
    pub free_disk_mib: u64,
    /// Disk that stays free for the host, in MiB.
    pub reserve_disk_mib: u64,
}

/// Why there is no room for one more environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The person has as many as one may have.
    #[error(
        "you have {have} environments open, which is the most one person may have; end one of them first"
    )]
    TooManyOfPerson {
        /// How many.
        have: u32,
    },
    /// The installation has as many as it may have.
    #[error("all {max} places are taken; try again when an environment has ended")]
    Full {
        /// How many places there are.
        max: u32,
    },
    /// Not enough memory is free.
    #[error(
        "the machine has {free} MiB of memory to spare and this needs {need}; end an environment or try later"
    )]
    Memory {
        /// Free and not reserved, in MiB.
        free: u64,
        /// Needed, in MiB.
        need: u64,
    },
    /// Not enough disk is free.
    #[error(
        "the machine has {free} MiB of disk to spare and this needs {need}; the operator has to free some"
    )]
    Disk {
        /// Free and not reserved, in MiB.
        free: u64,
        /// Needed, in MiB.
        need: u64,
    },
}

/// What a new environment is expected to need at once, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Memory private to it.
    pub memory_mib: u64,
    /// Disk that its overlays take.
    pub disk_mib: u64,
}

/// Decides whether one more environment may be made.
pub fn admit(capacity: &Capacity, need: Need) -> Result<(), Denial> {
    if capacity.of_person >= capacity.max_of_person {
        return Err(Denial::TooManyOfPerson {
            have: capacity.of_person,
        });
    }
    if capacity.environments >= capacity.max_environments {
        return Err(Denial::Full {
            max: capacity.max_environments,
        });
    }
    fits(capacity, need)
}

/// Decides whether an environment may grow by a node: it takes no further place, but memory and disk.
pub fn fits(capacity: &Capacity, need: Need) -> Result<(), Denial> {
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
        fn capacity()(e in 0u32..50, me in 0u32..50, p in 0u32..5, mp in 0u32..5, fm in 0u64..9000, rm in 0u64..9000, fd in 0u64..9000, rd in 0u64..9000) -> Capacity {
            Capacity { environments: e, max_environments: me, of_person: p, max_of_person: mp, free_memory_mib: fm, reserve_memory_mib: rm, free_disk_mib: fd, reserve_disk_mib: rd }
        }
    }

    proptest! {
        #[test]
        fn what_is_admitted_fits(c in capacity(), m in 0u64..4000, d in 0u64..4000) {
            if admit(&c, Need { memory_mib: m, disk_mib: d }).is_ok() {
                prop_assert!(c.environments < c.max_environments);
                prop_assert!(c.of_person < c.max_of_person);
                prop_assert!(m + c.reserve_memory_mib <= c.free_memory_mib || m == 0);
                prop_assert!(d + c.reserve_disk_mib <= c.free_disk_mib || d == 0);
            }
        }

        #[test]
        fn more_room_never_denies(c in capacity(), m in 0u64..4000, d in 0u64..4000) {
            let need = Need { memory_mib: m, disk_mib: d };
            if admit(&c, need).is_ok() {
                let roomier = Capacity { max_environments: c.max_environments + 1, free_memory_mib: c.free_memory_mib + 1, ..c };
                prop_assert!(admit(&roomier, need).is_ok());
            }
        }
    }
}
