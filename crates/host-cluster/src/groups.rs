//! The control groups of a host cluster: one below a parent that all clusters share, and one in it for each member.
//! Version 2 is used if the machine has only that, otherwise version 1.
//!
//! ```text
//! faultline-host-clusters/<name>-<hash>/prepare
//!                                      /forward
//!                                      /control-plane   ◄─ the root of the member's own cgroup namespace
//!                                      /node1           ◄─   /services   its programs
//!                                      /node2           ◄─   /kubepods   pods, on nodes
//! ```
//!
//! A process is put into its group before it does anything, and its children stay below. So all processes of a cluster
//! are known, whoever started them and whatever became of their parents.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::place::Place;

/// The group that all host clusters of this machine are in.
const PARENT: &str = "faultline-host-clusters";
/// The group of a member's programs, in its own namespace.
pub(crate) const SERVICES: &str = "services";

/// A hierarchy of control groups that is mounted on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// The mount point.
    pub(crate) at: PathBuf,
    /// The mount options that identify a hierarchy of version 1, such as `cpu,cpuacct`. `None` in version 2.
    pub(crate) controllers: Option<String>,
}

/// Returns the hierarchies of this machine: those of version 1, or if there are none, that of version 2.
pub(crate) fn hierarchies() -> io::Result<Vec<Hierarchy>> {
    let found = parse(&fs::read_to_string("/proc/self/mountinfo")?);
    if found.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "no control groups are mounted at /sys/fs/cgroup",
        ));
    }
    Ok(found)
}

fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    let (mut first, mut second, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let at = before.split(' ').nth(4).unwrap_or_default();
        let mut after = after.split(' ');
        let (kind, options) = (after.next(), after.nth(1).unwrap_or_default());
        if !at.starts_with("/sys/fs/cgroup") || !seen.insert(at.to_owned()) {
            continue;
        }
        match kind {
            Some("cgroup2") => second.push(Hierarchy {
                at: at.into(),
                controllers: None,
            }),
            Some("cgroup") => first.push(Hierarchy {
                at: at.into(),
                controllers: Some(identity(options)),
            }),
            _ => {}
        }
    }
    // A version 2 without controllers may be mounted beside version 1.
    if first.is_empty() { second } else { first }
}

/// Returns the options that a hierarchy of version 1 is mounted with again.
fn identity(options: &str) -> String {
    let other = |option: &str| {
        matches!(
            option,
            "rw" | "ro" | "xattr" | "clone_children" | "noprefix"
        ) || option.starts_with("release_agent=")
    };
    let kept: Vec<&str> = options.split(',').filter(|o| !other(o)).collect();
    let text = kept.join(",");
    if kept.iter().all(|option| option.starts_with("name=")) {
        return format!("none,{text}");
    }
    text
}

/// The control groups of a cluster.
#[derive(Debug, Clone)]
pub(crate) struct Groups {
    hierarchies: Vec<Hierarchy>,
    name: String,
}

impl Groups {
    /// Returns the groups of the cluster at a place, whether or not they exist.
    pub(crate) fn of(place: &Place) -> io::Result<Self> {
        Ok(Self {
            hierarchies: hierarchies()?,
            name: place.group(),
        })
    }

    fn folders(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let all = self.hierarchies.iter();
        all.map(|hierarchy| hierarchy.at.join(PARENT).join(&self.name))
    }

    /// Makes a group of the cluster, and those above it.
    pub(crate) fn create(&self, child: &str) -> io::Result<()> {
        for hierarchy in &self.hierarchies {
            let mut path = hierarchy.at.clone();
            for part in [PARENT, &self.name, child] {
                if hierarchy.controllers.is_none() {
                    delegate(&path);
                }
                path.push(part);
                match fs::create_dir(&path) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(at(&path, &e));
                    }
                    _ => {}
                }
                // In version 1, a group without processors and memory nodes can't have processes.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let above = path.with_file_name(file);
                    if hierarchy.controllers.is_some() && above.exists() {
                        let value = fs::read_to_string(&above)?;
                        fs::write(path.join(file), value.trim())?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Puts a process into a group of the cluster, in all hierarchies.
    pub(crate) fn add(&self, child: &str, pid: u32) -> io::Result<()> {
        for folder in self.folders() {
            let path = folder.join(child).join("cgroup.procs");
            fs::write(&path, pid.to_string()).map_err(|e| at(&path, &e))?;
        }
        Ok(())
    }

    /// Returns the processes in a group of the cluster and below.
    pub(crate) fn processes_of(&self, child: &str) -> Vec<i32> {
        let mut found = BTreeSet::new();
        for folder in self.folders() {
            collect(&folder.join(child), &mut found);
        }
        found.into_iter().collect()
    }

    /// Returns all processes of the cluster.
    pub(crate) fn processes(&self) -> Vec<i32> {
        self.processes_of("")
    }

    /// Returns the memory of a group's processes, in MiB, without the page cache. `None` if it isn't accounted.
    pub(crate) fn memory_mib(&self, child: &str) -> Option<u64> {
        let stat = self
            .folders()
            .find_map(|folder| fs::read_to_string(folder.join(child).join("memory.stat")).ok())?;
        let field = |name: &str| {
            let value = stat.lines().find_map(|l| l.strip_prefix(name))?;
            value.trim().parse::<u64>().ok()
        };
        Some(field("total_rss ").or_else(|| field("anon "))? >> 20)
    }

    /// Returns the folders of the cluster's groups that exist.
    pub(crate) fn existing(&self) -> Vec<PathBuf> {
        self.folders().filter(|folder| folder.exists()).collect()
    }

    /// Kills all processes of a group and below, and removes the groups. Returns how many processes were killed.
    pub(crate) fn destroy(&self) -> io::Result<usize> {
        let mut killed = BTreeSet::new();
        let mut last = Ok(());
        // A second is enough on a quiet machine; dying processes may take longer to release memory on a busy one.
        for _ in 0..600 {
            for pid in self.processes() {
                killed.insert(pid);
                if let Some(pid) = Pid::from_raw(pid) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            last = self.folders().try_for_each(|folder| remove(&folder));
            if last.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        for hierarchy in &self.hierarchies {
            let _ = fs::remove_dir(hierarchy.at.join(PARENT)); // while other clusters exist, it isn't empty
        }
        last.map(|()| killed.len())
    }
}

/// Makes all controllers available to the groups below. What the machine doesn't offer is left out.
fn delegate(folder: &Path) {
    for controller in ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"] {
        let _ = fs::write(
            folder.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
}

fn collect(folder: &Path, found: &mut BTreeSet<i32>) {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    // Zero stands for a process that this namespace can't see.
    let pids = text.lines().filter_map(|l| l.parse::<i32>().ok());
    found.extend(pids.filter(|pid| *pid != 0));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            collect(&entry.path(), found);
        }
    }
}

/// Removes a group and those below.
fn remove(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove(&entry.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at(folder, &e)),
        _ => Ok(()),
    }
}

fn at(path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_comes_before_an_empty_version_2() {
        let hybrid = "26 20 0:22 / /sys/fs/cgroup rw shared:3 - tmpfs tmpfs rw,mode=755\n\
            27 26 0:23 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
            28 26 0:24 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            29 26 0:25 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            30 26 0:26 / /mnt/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
        let found = parse(hybrid);
        let options: Vec<_> = found.iter().map(|h| h.controllers.as_deref()).collect();
        assert_eq!(options, [Some("none,name=systemd"), Some("cpu,cpuacct")]);
        assert_eq!(found[1].at, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
    }

    #[test]
    fn version_2_is_one_hierarchy() {
        let unified =
            "29 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let expected = Hierarchy {
            at: "/sys/fs/cgroup".into(),
            controllers: None,
        };
        assert_eq!(parse(unified), [expected]);
    }
}
