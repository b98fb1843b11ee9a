//! Removing a host cluster.

use std::{fs, io, path::PathBuf};

use crate::{Lock, Result, failed, groups::Groups, place::Place, root};

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Down {
    /// False if there was nothing to remove.
    pub existed: bool,
    /// The number of processes that were killed.
    pub processes: usize,
}

/// Removes everything of a cluster. Succeeds if there is nothing, and after any part of it was killed.
pub fn down(place: &Place) -> Result<Down> {
    if !place.parent().exists() && Groups::of(place).is_ok_and(|g| g.existing().is_empty()) {
        return Ok(Down {
            existed: false,
            processes: 0,
        });
    }
    let lock = Lock::take(place)?;
    let groups = groups(place)?;
    let done = remove(place, &groups)?;
    lock.remove();
    if place.parent() == Place::default_parent() {
        let _ = fs::remove_dir(place.parent()); // not if there are other clusters
    }
    Ok(done)
}

pub(crate) fn groups(place: &Place) -> Result<Groups> {
    Groups::of(place).map_err(failed("cannot read this machine's control groups"))
}

/// Kills all processes of a cluster, and then removes its files. Namespaces end with the processes. Call it with the lock
/// held.
pub(crate) fn remove(place: &Place, groups: &Groups) -> Result<Down> {
    let folder = place.folder();
    let existed = folder.exists() || !groups.existing().is_empty();
    let processes = groups
        .destroy()
        .map_err(failed("cannot end the cluster's processes"))?;
    let files = || -> io::Result<()> {
        // With a mount below, removing files would remove the machine's.
        if let Some(mount) = root::mounts_below(&folder)?.first() {
            let what = format!("{} is mounted there; unmount it first", mount.display());
            return Err(io::Error::other(what));
        }
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    };
    files().map_err(failed(format!("cannot remove {}", folder.display())))?;
    Ok(Down { existed, processes })
}

/// Returns what exists of a cluster: processes, control groups, mounts and files. Empty after [`down()`].
pub fn leftovers(place: &Place) -> Result<Vec<String>> {
    let groups = groups(place)?;
    let mut found: Vec<String> = groups
        .processes()
        .iter()
        .map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("process {pid} {}", name.trim())
        })
        .collect();
    let named = |what: &str, path: PathBuf| format!("{what} {}", path.display());
    found.extend(groups.existing().into_iter().map(|p| named("group", p)));
    let mounts = root::mounts_below(&place.folder()).map_err(failed("cannot read the mounts"))?;
    found.extend(mounts.into_iter().map(|p| named("mount", p)));
    let files = [place.folder(), place.lock()].into_iter();
    found.extend(files.filter(|p| p.exists()).map(|p| named("file", p)));
    Ok(found)
}
