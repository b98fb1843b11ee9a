//! The host's free capacity.

use std::path::Path;

use faultline_domain::{
    limits::{Capacity, Denial, Need},
    memory::Memory,
};
use faultline_store::environments::{Coming, Counts};

use crate::{Config, app::App};

/// Free memory and disk, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Free {
    pub memory_mib: u64,
    pub memory_total_mib: u64,
    pub disk_mib: u64,
    pub disk_total_mib: u64,
}

impl Free {
    /// Returns what is free now. An unknown value counts as unlimited; the provider's own limits still apply.
    pub(crate) fn of_host(folder: &Path) -> Self {
        let memory = std::fs::read_to_string("/proc/meminfo").ok();
        let memory = memory.as_deref().and_then(Memory::parse);
        let disk = rustix::fs::statvfs(folder).ok();
        let mib = |blocks: u64, size: u64| blocks.saturating_mul(size) / 1024 / 1024;
        Self {
            memory_mib: memory.map_or(u64::MAX, |m| m.available_mib),
            memory_total_mib: memory.map_or(u64::MAX, |m| m.total_mib),
            disk_mib: disk
                .as_ref()
                .map_or(u64::MAX, |d| mib(d.f_bavail, d.f_frsize)),
            disk_total_mib: disk.map_or(u64::MAX, |d| mib(d.f_blocks, d.f_frsize)),
        }
    }

    /// Returns what is free now, on the host and within what the provider's tenants may use.
    pub(crate) fn now(app: &App) -> Self {
        let host = Self::of_host(&app.config.data_dir);
        match app.provider.memory() {
            Some(memory) => Self {
                memory_mib: host.memory_mib.min(memory.available_mib),
                memory_total_mib: host.memory_total_mib.min(memory.total_mib),
                ..host
            },
            None => host,
        }
    }
}

/// The host's processors and memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Host {
    /// `None` if it is unknown.
    pub memory_total_mib: Option<u64>,
    pub cores: u32,
    /// The average number of tasks that ran or waited for a processor in the last minute.
    pub load: f64,
}

impl Host {
    pub(crate) fn now() -> Self {
        let memory = std::fs::read_to_string("/proc/meminfo").ok();
        let memory = memory.as_deref().and_then(Memory::parse);
        let load = std::fs::read_to_string("/proc/loadavg").ok();
        let cores = std::thread::available_parallelism();
        Self {
            memory_total_mib: memory.map(|memory| memory.total_mib),
            cores: cores.map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            load: load.as_deref().and_then(first_load).unwrap_or_default(),
        }
    }
}

/// Parses the first number of `/proc/loadavg`, see proc_loadavg(5).
fn first_load(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Returns what this many nodes are expected to need when they start.
pub(crate) const fn need(config: &Config, is_cluster: bool, nodes: u32) -> Need {
    let memory_mib = if is_cluster {
        config.cluster_node_memory_mib
    } else {
        config.node_memory_mib
    };
    Need {
        nodes,
        memory_mib: memory_mib.saturating_mul(nodes as u64),
        disk_mib: config.node_disk_mib.saturating_mul(nodes as u64),
    }
}

/// Refuses what doesn't fit even if nothing else runs.
pub(crate) fn can_ever_fit(config: &Config, free: Free, need: Need) -> Result<(), Denial> {
    if config.max_environments == 0 {
        return Err(Denial::Full { max: 0 });
    }
    if let Some(max) = config.max_nodes()
        && need.nodes > max
    {
        return Err(Denial::TooManyNodes {
            need: need.nodes,
            max,
        });
    }
    let memory = free
        .memory_total_mib
        .saturating_sub(config.reserve_memory_mib);
    let disk = free.disk_total_mib.saturating_sub(config.reserve_disk_mib);
    for (what, need, total) in [
        ("memory", need.memory_mib, memory),
        ("disk space", need.disk_mib, disk),
    ] {
        if need > total {
            return Err(Denial::TooLarge { what, need, total });
        }
    }
    Ok(())
}

/// Returns the free capacity, minus what nodes that haven't started yet will need. Read `free` inside the transaction
/// that counts; a node that starts between the two would be missing from both.
pub(crate) fn capacity(config: &Config, free: Free, counts: &Counts) -> Capacity {
    let coming = counts.coming.iter();
    let nodes = |coming: &Coming| u32::try_from(coming.nodes).unwrap_or(u32::MAX);
    let coming = coming.map(|coming| need(config, coming.is_cluster, nodes(coming)));
    let (memory, disk) = coming.fold((0_u64, 0_u64), |(memory, disk), need| {
        (
            memory.saturating_add(need.memory_mib),
            disk.saturating_add(need.disk_mib),
        )
    });
    Capacity {
        environments: counts.environments,
        max_environments: config.max_environments,
        nodes: counts.nodes,
        max_nodes: config.max_nodes(),
        free_memory_mib: free.memory_mib.saturating_sub(memory),
        reserve_memory_mib: config.reserve_memory_mib,
        free_disk_mib: free.disk_mib.saturating_sub(disk),
        reserve_disk_mib: config.reserve_disk_mib,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_memory_and_disk_are_read() {
        let free = Free::of_host(Path::new("/"));
        assert!(free.disk_total_mib > 0 && free.memory_total_mib < u64::MAX);
        let host = Host::now();
        assert!(host.cores > 0 && host.memory_total_mib == Some(free.memory_total_mib));
        assert_eq!(first_load("1.25 0.80 0.50 2/345 6789\n"), Some(1.25));
        assert_eq!(first_load(""), None);
    }
}
