//! The right to make the machines of a folder.
//!
//! A launcher takes time from its start until it is in its control group, and its environment may be freed meanwhile.
//! So two orders are fixed, and one of them always wins:
//!
//! ```text
//! launcher   opens the folder ─► reads spec.json ─► joins the group ─► is spec.json still there, in that folder?
//! destroy    removes spec.json ─► kills whatever is in the group until it can be removed ─► removes the folder
//! ```
//!
//! Who joins before the group is removed is killed with it; who joins later finds `spec.json` gone, leaves, and starts
//! nothing. A folder made anew under the same name is another one: the open one is held, so its number can't return.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use faultline_domain::{TenantId, limits::Limits};

use crate::{cgroup, spec::LaunchSpec};

/// How often a group that vanishes while it is joined is made again.
const TRIES: u32 = 3;

/// The folder that a launcher works for, held since before its spec was read.
#[derive(Debug)]
pub struct Claim {
    dir: PathBuf,
    folder: File,
}

impl Claim {
    /// Takes hold of a folder.
    pub fn open(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            dir: dir.to_owned(),
            folder: File::open(dir)?,
        })
    }

    /// True while the environment is wanted: its folder is the one that was opened, and its spec is there.
    #[must_use]
    pub fn stands(&self) -> bool {
        let (Ok(held), Ok(found)) = (self.folder.metadata(), fs::metadata(&self.dir)) else {
            return false;
        };
        (held.dev(), held.ino()) == (found.dev(), found.ino())
            && LaunchSpec::path(&self.dir).exists()
    }

    /// Puts this process into the environment's group, made with its limits. Refused when the environment was freed
    /// meanwhile; nothing is left of the group then.
    pub fn join(&self, id: &TenantId, limits: &Limits) -> io::Result<()> {
        let mut tries = 0;
        loop {
            tries += 1;
            let joined =
                cgroup::create(id, limits).and_then(|()| cgroup::add(id, std::process::id()));
            match joined {
                // Somebody swept it away while it was empty.
                Err(e) if e.kind() == io::ErrorKind::NotFound && tries < TRIES => {}
                Err(e) => return Err(e),
                Ok(()) => break,
            }
        }
        if self.stands() {
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
        assert!(claim.stands());
        fs::remove_file(LaunchSpec::path(&dir)).unwrap();
        assert!(!claim.stands(), "to be freed");
        fs::remove_dir_all(&dir).unwrap();
        assert!(!claim.stands(), "freed");
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
            assert!(!claim.stands());
        }
        assert!(Claim::open(&dir).unwrap().stands());
    }
}
