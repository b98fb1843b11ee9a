//! Whether a template's files are still what was frozen.
//!
//! Checksums of gigabytes take seconds, and a clone takes less. So what was verified once is not read again while
//! size, time of change and inode of each file are what they were then; [`Template::verify`] with `fully` reads all.

use std::{collections::BTreeMap, fs, io, os::unix::fs::MetadataExt, path::Path};

use faultline_launcher::snapshot::{Damage, Manifest};

use crate::{bake::Template, cache};

/// Where the marks of a verified snapshot lie.
const MARKS: &str = ".verified.json";

/// Size, time of change in nanoseconds, inode.
type Mark = (u64, i64, u64);

fn marks(folder: &Path, manifest: &Manifest) -> io::Result<BTreeMap<String, Mark>> {
    manifest
        .files
        .keys()
        .map(|name| {
            let meta = fs::metadata(folder.join(name))?;
            let changed = meta.ctime().saturating_mul(1_000_000_000) + meta.ctime_nsec();
            Ok((name.clone(), (meta.len(), changed, meta.ino())))
        })
        .collect()
}

impl Template {
    /// Compares the snapshot's files with their checksums. Blocking: seconds for what was not verified since it
    /// changed, microseconds otherwise.
    pub fn verify(&self, fully: bool) -> Result<(), Damage> {
        let folder = &self.snapshot;
        let unreadable = |source| Damage::Unreadable {
            path: folder.clone(),
            source,
        };
        let now = marks(folder, &self.manifest).map_err(unreadable)?;
        let known = fs::read(folder.join(MARKS))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        if !fully && known.as_ref() == Some(&now) {
            return Ok(());
        }
        self.manifest.verify(folder)?;
        // A mark that can't be written only costs time.
        let _ = fs::write(
            folder.join(MARKS),
            serde_json::to_vec(&now).unwrap_or_default(),
        );
        Ok(())
    }

    /// Takes a damaged snapshot out of use. Environments that were cloned from it hold its files and live on.
    pub fn discard(&self) -> io::Result<()> {
        cache::discard(&self.snapshot)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::build::Image;

    fn template(folder: &Path) -> Template {
        fs::write(folder.join("node1.mem"), vec![7; 4096]).unwrap();
        let manifest = Manifest {
            key: "k".to_owned(),
            nodes: Vec::new(),
            control_planes: 1,
            qemu: String::new(),
            cold_boot_millis: 0,
            cold_shell_millis: 0,
            files: BTreeMap::new(),
        };
        Template {
            image: Image {
                key: "i".to_owned(),
                folder: PathBuf::new(),
            },
            snapshot: folder.to_owned(),
            manifest: manifest.seal(folder).unwrap(),
        }
    }

    #[test]
    fn a_changed_file_is_found_and_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("key");
        fs::create_dir(&folder).unwrap();
        let template = template(&folder);
        template.verify(false).unwrap();
        template.verify(false).unwrap();
        let memory = folder.join("node1.mem");
        let mut bytes = fs::read(&memory).unwrap();
        bytes[100] ^= 1;
        // Root writes past the permission bits, as a failing disk does.
        fs::remove_file(&memory).unwrap();
        fs::write(&memory, bytes).unwrap();
        assert!(matches!(
            template.verify(false),
            Err(Damage::Changed { .. })
        ));
        template.discard().unwrap();
        assert!(!folder.exists());
        assert!(dir.path().read_dir().unwrap().next().is_none());
    }
}
