//! Freezes the guest's services before a machine is frozen into a template, so that a clone's services continue only once
//! the clone has its own randomness, time and identity.
//!
//! All processes but PID 1, kernel threads and this helper are in control groups below the root. The kernel's freezer stops
//! such a group as a whole. See "Core Interface Files" in the kernel's `cgroup-v2.rst`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const ROOT: &str = "/sys/fs/cgroup";
/// Timeout for freezing a group.
const PATIENCE: Duration = Duration::from_secs(10);

/// Freezes all services, or none.
pub fn hold() -> io::Result<()> {
    let groups = groups()?;
    let held = freeze(&groups);
    if held.is_err() {
        release()?;
    }
    held
}

/// Thaws all services. Those that already run are not affected.
pub fn release() -> io::Result<()> {
    for group in groups()? {
        set(&group, "0")?;
    }
    Ok(())
}

fn freeze(groups: &[PathBuf]) -> io::Result<()> {
    for group in groups {
        set(group, "1")?;
    }
    let began = Instant::now();
    for group in groups {
        while !is_frozen(group)? {
            if began.elapsed() > PATIENCE {
                let name = group.display();
                return Err(io::Error::other(format!(
                    "{name} could not be frozen in time"
                )));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

/// Returns the groups below the root, except those of this helper and PID 1.
fn groups() -> io::Result<Vec<PathBuf>> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let own = own.trim().trim_start_matches("0::/");
    let mut groups = Vec::new();
    for entry in fs::read_dir(ROOT)? {
        let path = entry?.path();
        if path.join("cgroup.freeze").exists()
            && !path.ends_with("init.scope")
            && !Path::new(own).starts_with(path.strip_prefix(ROOT).unwrap_or(&path))
        {
            groups.push(path);
        }
    }
    Ok(groups)
}

/// Ignores that a group has ended in the meantime.
fn set(group: &Path, value: &str) -> io::Result<()> {
    match fs::write(group.join("cgroup.freeze"), value) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}

fn is_frozen(group: &Path) -> io::Result<bool> {
    match fs::read_to_string(group.join("cgroup.events")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        events => Ok(events?.lines().any(|line| line == "frozen 1")),
    }
}
