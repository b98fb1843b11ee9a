//! The control group of an environment: limits, usage, and killing its processes. Uses version 2 if the machine has
//! only that, otherwise version 1, through the same functions.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use faultline_domain::{TenantId, limits::Limits};

const ROOT: &str = "/sys/fs/cgroup";
const PARENT: &str = "faultline";
/// The controllers of version 1, which have separate hierarchies.
const V1: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "blkio"];

/// Returns the version of control groups on this machine: 1 or 2.
#[must_use]
pub fn version() -> u8 {
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        2
    } else {
        1
    }
}

fn folders(name: &str) -> Vec<PathBuf> {
    if version() == 2 {
        return vec![Path::new(ROOT).join(PARENT).join(name)];
    }
    V1.iter()
        .map(|controller| Path::new(ROOT).join(controller))
        .filter(|hierarchy| hierarchy.is_dir())
        .map(|hierarchy| hierarchy.join(PARENT).join(name))
        .collect()
}

fn set(folders: &[PathBuf], file: &str, value: &str) -> io::Result<()> {
    for path in folders.iter().map(|f| f.join(file)).filter(|p| p.exists()) {
        fs::write(&path, value)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot set {}: {e}", path.display())))?;
    }
    Ok(())
}

/// Makes the group with its limits. Limits that this machine's kernel can't enforce are skipped.
pub fn create(id: &TenantId, limits: &Limits) -> io::Result<()> {
    if version() == 2 {
        let root = Path::new(ROOT);
        fs::create_dir_all(root.join(PARENT))?;
        for folder in [root.to_owned(), root.join(PARENT)] {
            for controller in ["+cpu", "+memory", "+pids", "+io"] {
                let _ = fs::write(folder.join("cgroup.subtree_control"), controller);
            }
        }
    }
    let folders = folders(id.as_str());
    for folder in &folders {
        fs::create_dir_all(folder).map_err(|e| {
            io::Error::new(e.kind(), format!("cannot make {}: {e}", folder.display()))
        })?;
    }
    limit(id, limits)
}

/// Sets the limits of an existing group. A limit below the current usage fails.
pub fn limit(id: &TenantId, limits: &Limits) -> io::Result<()> {
    let folders = folders(id.as_str());
    let memory = (u64::from(limits.memory_mib) << 20).to_string();
    let quota = u64::from(limits.cpu_millis) * 100;
    if version() == 2 {
        set(&folders, "memory.max", &memory)?;
        set(&folders, "cpu.max", &format!("{quota} 100000"))?;
        set(&folders, "io.weight", "default 50")?;
    } else {
        set(&folders, "memory.limit_in_bytes", &memory)?;
        set(&folders, "cpu.cfs_period_us", "100000")?;
        set(&folders, "cpu.cfs_quota_us", &quota.to_string())?;
        let _ = set(&folders, "blkio.weight", "50");
    }
    set(&folders, "pids.max", &limits.pids.to_string())
}

/// The folder of the memory controller for all groups together.
fn memory_of_all() -> PathBuf {
    let root = Path::new(ROOT);
    if version() == 2 {
        return root.join(PARENT);
    }
    root.join("memory").join(PARENT)
}

/// Limits the memory of all groups together, of all installations on this machine, in MiB. `None` removes the limit.
pub fn limit_all(memory_mib: Option<u64>) -> io::Result<()> {
    let folder = memory_of_all();
    if memory_mib.is_none() && !folder.exists() {
        return Ok(());
    }
    fs::create_dir_all(&folder)?;
    let (file, unlimited) = match version() {
        2 => ("memory.max", "max"),
        _ => ("memory.limit_in_bytes", "-1"),
    };
    let limit = memory_mib.map_or_else(|| unlimited.to_owned(), |mib| (mib << 20).to_string());
    set(&[folder], file, &limit)
}

/// Returns the memory that all groups together use and can't give back, in MiB. The page cache is not included.
#[must_use]
pub fn memory_used_by_all() -> Option<u64> {
    let folder = memory_of_all();
    let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
    let stat = read("memory.stat")?;
    let field = |name: &str| {
        let line = stat.lines().find_map(|l| l.strip_prefix(name))?;
        line.strip_prefix(' ')?.parse::<u64>().ok()
    };
    let (usage, file, shared) = match version() {
        2 => (read("memory.current")?, field("file")?, field("shmem")?),
        _ => (
            read("memory.usage_in_bytes")?,
            field("total_cache")?,
            field("total_shmem").unwrap_or(0),
        ),
    };
    let usage: u64 = usage.trim().parse().ok()?;
    Some(usage.saturating_sub(file).saturating_add(shared) >> 20)
}

/// Lowers the CPU weight of the group, since people should not wait for a bake or for a pool. An idle machine runs it at
/// full speed.
pub fn lower_priority(id: &TenantId) -> io::Result<()> {
    let folders = folders(id.as_str());
    // One tenth of the default weight.
    set(&folders, "cpu.weight", "10")?;
    set(&folders, "cpu.shares", "102")
}

/// Restores the default CPU weight of the group.
pub fn restore_priority(id: &TenantId) -> io::Result<()> {
    let folders = folders(id.as_str());
    set(&folders, "cpu.weight", "100")?;
    set(&folders, "cpu.shares", "1024")
}

/// Puts a process into the group. Fails with `NotFound` if the group doesn't exist in one of the hierarchies, since the
/// process would then be without some of its limits.
pub fn add(id: &TenantId, pid: u32) -> io::Result<()> {
    for folder in folders(id.as_str()) {
        let path = folder.join("cgroup.procs");
        fs::write(&path, pid.to_string()).map_err(|e| {
            io::Error::new(e.kind(), format!("cannot join {}: {e}", path.display()))
        })?;
    }
    Ok(())
}

/// Moves this process out of the group, and removes the group if it is empty then.
pub fn leave(id: &TenantId) {
    let pid = std::process::id().to_string();
    for folder in folders(id.as_str()) {
        // The root of the hierarchy: in version 2, a group with child groups can't have processes.
        if let Some(root) = folder.parent().and_then(Path::parent) {
            let _ = fs::write(root.join("cgroup.procs"), &pid);
        }
        let _ = fs::remove_dir(folder);
    }
}

/// Removes the group if it is empty, without killing processes. Returns true if the group doesn't exist any more.
#[must_use]
pub fn remove_empty(id: &TenantId) -> bool {
    folders(id.as_str())
        .iter()
        .all(|folder| match fs::remove_dir(folder) {
            Err(e) => e.kind() == io::ErrorKind::NotFound,
            Ok(()) => true,
        })
}

/// Returns the CPU time of all processes that were ever in the group, in milliseconds.
#[must_use]
pub fn cpu_millis(id: &TenantId) -> u64 {
    for folder in folders(id.as_str()) {
        if let Ok(text) = fs::read_to_string(folder.join("cpu.stat"))
            && let Some(usec) = text.lines().find_map(|l| l.strip_prefix("usage_usec "))
        {
            return usec.trim().parse::<u64>().unwrap_or(0) / 1000;
        }
    }
    let v1 = Path::new(ROOT)
        .join("cpuacct")
        .join(PARENT)
        .join(id.as_str())
        .join("cpuacct.usage");
    fs::read_to_string(v1)
        .ok()
        .and_then(|t| t.trim().parse::<u64>().ok())
        .unwrap_or(0)
        / 1_000_000
}

/// Returns the processes of the group.
#[must_use]
pub fn processes(id: &TenantId) -> Vec<i32> {
    let mut pids: Vec<i32> = folders(id.as_str())
        .iter()
        .filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok())
        .flat_map(|text| {
            text.lines()
                .filter_map(|l| l.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Returns true while the group has processes.
#[must_use]
pub fn is_populated(id: &TenantId) -> bool {
    !processes(id).is_empty()
}

/// Returns all groups, made by this process or an earlier one.
#[must_use]
pub fn list() -> Vec<TenantId> {
    let mut ids: Vec<TenantId> = folders("")
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flat_map(|entries| entries.flatten().collect::<Vec<_>>())
        .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect();
    ids.sort();
    ids.dedup();
    ids
}

/// Kills all processes of the group and removes it. Succeeds if the group doesn't exist.
pub fn destroy(id: &TenantId) -> io::Result<()> {
    let folders = folders(id.as_str());
    let mut last = Ok(());
    for _ in 0..100 {
        for pid in processes(id) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        last = Ok(());
        for folder in &folders {
            match fs::remove_dir(folder) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => last = Err(e),
                _ => {}
            }
        }
        if last.is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    last
}

/// Removes the parent of all environments' groups if it is empty.
pub fn remove_parent() {
    for folder in folders("") {
        let _ = fs::remove_dir(folder);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// Makes a group for a test, if this machine allows it.
    fn group(name: &str) -> Option<TenantId> {
        let id: TenantId = format!("{name}{}", std::process::id()).parse().unwrap();
        let limits = Limits {
            cpu_millis: 1000,
            memory_mib: 64,
            pids: 32,
            disk_mib_s: 1,
            disk_iops: 1,
            bandwidth_mbit: 1,
        };
        match create(&id, &limits) {
            Ok(()) if !folders("").is_empty() => Some(id),
            _ => {
                let root = rustix::process::geteuid().is_root();
                assert!(!root, "root can make control groups");
                None
            }
        }
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    #[test]
    fn what_joins_late_is_killed_or_finds_no_group() {
        let Some(id) = group("late") else { return };
        let mut inside = sleeper();
        add(&id, inside.id()).unwrap();
        assert!(is_populated(&id) && list().contains(&id));
        assert!(!remove_empty(&id), "somebody is in it");
        // The killed process must be reaped for the group to become empty.
        let reaper = std::thread::spawn(move || inside.wait().unwrap());
        destroy(&id).unwrap();
        assert!(!reaper.join().unwrap().success());
        let mut late = sleeper();
        let refused = add(&id, late.id()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
        assert!(!list().contains(&id));
        late.kill().unwrap();
        late.wait().unwrap();
    }

    #[test]
    fn a_group_gives_way() {
        let Some(id) = group("way") else { return };
        lower_priority(&id).unwrap();
        let read = |file: &str| {
            let found = folders(id.as_str()).into_iter().map(|f| f.join(file));
            let text = found
                .filter_map(|path| fs::read_to_string(path).ok())
                .next();
            text.map(|t| t.trim().to_owned())
        };
        let weight = read("cpu.weight").map(|w| w == "10");
        let shares = read("cpu.shares").map(|s| s == "102");
        assert_eq!(weight.or(shares), Some(true));
        assert!(remove_empty(&id));
    }

    #[test]
    fn an_empty_group_is_removed_and_its_absence_is_no_error() {
        let Some(id) = group("empty") else { return };
        assert!(remove_empty(&id) && !list().contains(&id));
        assert!(remove_empty(&id));
    }
}
