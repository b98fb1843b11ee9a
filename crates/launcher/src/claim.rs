//! The claim to start the machines of an environment's folder.
//!
//! An environment may be freed between the start of its launcher and the moment when the launcher is in its control
//! group. So both follow a fixed order, in which one of them always wins:
//!
//! ```text
//! launcher   opens the folder ─► reads spec.json ─► joins the group ─► checks that spec.json is still in that folder
//! destroy    removes spec.json ─► kills the processes in the group until it can be removed ─► removes the folder
//! ```
//!
//! A launcher that joins before the group is removed is killed; one that joins later finds `spec.json` gone, leaves the
//! group, and starts nothing. A new folder with the same name is told apart by its inode, which can't be reused while
//! the old folder is open.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use faultline_domain::{TenantId, limits::Limits};

use crate::{cgroup, spec::LaunchSpec};

/// The number of attempts to join a group that is removed in the meantime.
const TRIES: u32 = 3;

/// The folder of a launcher, kept open since before its spec was read.
#[derive(Debug)]
pub struct Claim {
    dir: PathBuf,
    folder: File,
}

impl Claim {
    /// Opens a folder.
    pub fn open(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            dir: dir.to_owned(),
            folder: File::open(dir)?,
        })
    }

    /// Returns true while the environment is not being freed: its folder is the one that was opened, and contains the
    /// spec.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let (Ok(held), Ok(found)) = (self.folder.metadata(), fs::metadata(&self.dir)) else {
            return false;
        };
        (held.dev(), held.ino()) == (found.dev(), found.ino())
            && LaunchSpec::path(&self.dir).exists()
    }

    /// Makes the environment's group with its limits and puts this process into it. Fails, and removes the group, if
    /// the environment was freed in the meantime.
    pub fn join(&self, id: &TenantId, limits: &Limits) -> io::Result<()> {
        let mut tries = 0;
        loop {
            tries += 1;
            let joined =
                cgroup::create(id, limits).and_then(|()| cgroup::add(id, std::process::id()));
            match joined {
                // It was removed while it was empty.
                Err(e) if e.kind() == io::ErrorKind::NotFound && tries < TRIES => {}
                Err(e) => return Err(e),
                Ok(()) => break,
            }
        }
        if self.is_valid() {
            return Ok(());
        }
        cgroup::leave(id);
        Err(io::Error::other(
            "the environment was freed while its launcher started",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("env");
        fs::create_dir(&dir).unwrap();
        fs::write(LaunchSpec::path(&dir), "{}").unwrap();
        (parent, dir)
    }

    #[test]
    fn it_stands_while_the_folder_and_its_spec_are_there() {
        let (_parent, dir) = folder();
        let claim = Claim::open(&dir).unwrap();
        assert!(claim.is_valid());
        fs::remove_file(LaunchSpec::path(&dir)).unwrap();
        assert!(!claim.is_valid(), "to be freed");
        fs::remove_dir_all(&dir).unwrap();
        assert!(!claim.is_valid(), "freed");
        assert!(Claim::open(&dir).is_err());
    }

    #[test]
    fn a_folder_made_anew_is_another_one() {
        let (_parent, dir) = folder();
        let claim = Claim::open(&dir).unwrap();
        for _ in 0..20 {
            fs::remove_dir_all(&dir).unwrap();
            fs::create_dir(&dir).unwrap();
            fs::write(LaunchSpec::path(&dir), "{}").unwrap();
            assert!(!claim.is_valid());
        }
        assert!(Claim::open(&dir).unwrap().is_valid());
    }
}
