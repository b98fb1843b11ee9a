//! Verifies that a template's files are unchanged since they were frozen.
//!
//! Checksums of gigabytes take seconds, longer than a clone. So files that were verified once are not read again while
//! their size, change time and inode stay the same. [`Template::verify`] with `fully` reads all files.

use std::{collections::BTreeMap, fs, io, os::unix::fs::MetadataExt, path::PathBuf};

use faultline_launcher::snapshot::Damage;

use crate::{bake::Template, cache};

/// The file with the marks of a verified snapshot.
const MARKS: &str = ".verified.json";

/// The size, change time in nanoseconds, and inode of a file.
type Mark = (u64, i64, u64);

fn marks(template: &Template) -> io::Result<BTreeMap<PathBuf, Mark>> {
    let files = template.manifest.files.keys();
    files
        .map(|name| template.snapshot.join(name))
        .chain([template.image.disk()])
        .map(|path| {
            let meta = fs::metadata(&path)?;
            let changed = meta.ctime().saturating_mul(1_000_000_000) + meta.ctime_nsec();
            Ok((path, (meta.len(), changed, meta.ino())))
        })
        .collect()
}

impl Template {
    /// Compares the snapshot's files with their checksums. Blocking: takes seconds if they have changed since they were
    /// verified, microseconds otherwise.
    pub fn verify(&self, fully: bool) -> Result<(), Damage> {
        let folder = &self.snapshot;
        let unreadable = |source| Damage::Unreadable {
            path: folder.clone(),
            source,
        };
        let now = marks(self).map_err(unreadable)?;
        let known = fs::read(folder.join(MARKS))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        if !fully && known.as_ref() == Some(&now) {
            return Ok(());
        }
        self.manifest.verify(folder, &self.image.disk())?;
        // If the marks can't be written, the next verification only takes longer.
        let _ = fs::write(
            folder.join(MARKS),
            serde_json::to_vec(&now).unwrap_or_default(),
        );
        Ok(())
    }

    /// Removes the damaged snapshot from the cache, and also the image if its disk is damaged. Environments cloned from
    /// it continue, since they hold its files open.
    pub fn discard(&self, damage: &Damage) -> io::Result<()> {
        if *damage.path() == self.image.disk() {
            cache::discard(&self.image.folder)?;
        }
        cache::discard(&self.snapshot)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use faultline_launcher::snapshot::{Manifest, checksum};

    use super::*;
    use crate::build::Image;

    fn template(dir: &Path) -> Template {
        let (folder, image) = (dir.join("key"), dir.join("image"));
        fs::create_dir(&folder).unwrap();
        fs::create_dir(&image).unwrap();
        fs::write(folder.join("node1.mem"), vec![7; 4096]).unwrap();
        let image = Image {
            key: "i".to_owned(),
            folder: image,
        };
        fs::write(image.disk(), vec![3; 4096]).unwrap();
        let manifest = Manifest {
            key: "k".to_owned(),
            nodes: Vec::new(),
            control_planes: 1,
            qemu: String::new(),
            kvm_cpu: String::new(),
            cold_boot_millis: 0,
            cold_shell_millis: 0,
            files: BTreeMap::new(),
            image: image.key.clone(),
            base_disk: checksum(&image.disk()).unwrap(),
        };
        Template {
            image,
            manifest: manifest.seal(&folder).unwrap(),
            snapshot: folder,
        }
    }

    /// Root writes past the permission bits, as a failing disk does.
    fn spoil(path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        bytes[100] ^= 1;
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_changed_file_is_found_and_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let template = template(dir.path());
        template.verify(false).unwrap();
        template.verify(false).unwrap();
        spoil(&template.snapshot.join("node1.mem"));
        let damage = template.verify(false).unwrap_err();
        assert!(matches!(damage, Damage::Changed { .. }));
        template.discard(&damage).unwrap();
        assert!(!template.snapshot.exists() && template.image.folder.exists());
    }

    #[test]
    fn a_changed_disk_goes_with_the_snapshot_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let template = template(dir.path());
        template.verify(false).unwrap();
        spoil(&template.image.disk());
        let damage = template.verify(false).unwrap_err();
        assert_eq!(*damage.path(), template.image.disk());
        template.discard(&damage).unwrap();
        assert!(dir.path().read_dir().unwrap().next().is_none());
    }
}
