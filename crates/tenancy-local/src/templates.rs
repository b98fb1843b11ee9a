//! Records of the templates that this installation clones from, so that templates that a changed recipe has superseded
//! can be removed: their tenants stay, and when the last of them is freed, their files are removed from the cache.
//!
//! ```text
//! <data>/templates/<image>@<form>.json      the template that is cloned now
//! <data>/templates/<key>.superseded.json     a template that was cloned until the recipe changed
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use faultline_domain::TemplateRef;
use faultline_image::{bake::Template, cache};
use faultline_launcher::spec::{LaunchSpec, Start};
use serde::{Deserialize, Serialize};

const SUPERSEDED: &str = ".superseded.json";

/// The folders of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    snapshot: PathBuf,
    disk: PathBuf,
}

impl Record {
    fn is_used_by(&self, spec: &LaunchSpec) -> bool {
        match &spec.start {
            Start::Clone { snapshot } => *snapshot == self.snapshot,
            Start::Boot { .. } => false,
        }
    }
}

/// The templates of an installation.
#[derive(Debug, Clone)]
pub(super) struct Templates(PathBuf);

impl Templates {
    pub(super) fn of(data: &Path) -> Self {
        Self(data.join("templates"))
    }

    /// Records the template that a reference's tenants are cloned from now.
    pub(super) fn record(&self, of: &TemplateRef, template: &Template) -> io::Result<()> {
        let now = Record {
            snapshot: template.snapshot.clone(),
            disk: template.image.folder.clone(),
        };
        let place = self.0.join(format!("{}@{}.json", of.image, of.form()));
        let before = read(&place);
        if before.as_ref() == Some(&now) {
            return Ok(());
        }
        fs::create_dir_all(&self.0)?;
        if let Some(before) = before {
            let key = before.snapshot.file_name().unwrap_or_default();
            let name = format!("{}{SUPERSEDED}", key.to_string_lossy());
            write(&self.0.join(name), &before)?;
        }
        write(&place, &now)
    }

    /// Returns true if there are superseded templates, even if they are still in use.
    pub(super) fn has_superseded(&self) -> bool {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries
            .into_iter()
            .any(|e| e.file_name().to_string_lossy().ends_with(SUPERSEDED))
    }

    /// Removes the superseded templates that none of these tenants was cloned from. Returns their number.
    pub(super) fn collect(&self, environments: &[LaunchSpec]) -> io::Result<u32> {
        let mut found: Vec<(PathBuf, Record)> = match fs::read_dir(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            entries => entries?
                .flatten()
                .filter_map(|e| Some((e.path(), read(&e.path())?)))
                .collect(),
        };
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let (old, mut kept): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|(path, _)| path.to_string_lossy().ends_with(SUPERSEDED));
        let mut collected = 0;
        for (place, record) in old {
            if environments.iter().any(|spec| record.is_used_by(spec)) {
                kept.push((place, record));
                continue;
            }
            // The template is in use again if the recipe was changed back.
            if !kept.iter().any(|(_, k)| k.snapshot == record.snapshot) {
                remove(&record.snapshot)?;
                collected += 1;
            }
            if !kept.iter().any(|(_, k)| k.disk == record.disk) {
                remove(&record.disk)?;
            }
            fs::remove_file(place)?;
        }
        Ok(collected)
    }
}

fn read(path: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn write(path: &Path, record: &Record) -> io::Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, serde_json::to_vec(record)?)?;
    fs::rename(draft, path)
}

/// Removes a folder of the cache. It may have been removed already.
fn remove(folder: &Path) -> io::Result<()> {
    match cache::discard(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use faultline_domain::Shape;
    use faultline_image::build::Image;
    use faultline_launcher::snapshot::Manifest;

    use super::*;

    fn template(cache: &Path, key: &str, disk: &str) -> Template {
        let (snapshot, folder) = (cache.join("bake").join(key), cache.join("disk").join(disk));
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(&folder).unwrap();
        Template {
            image: Image {
                key: disk.to_owned(),
                folder,
            },
            snapshot,
            manifest: Manifest {
                key: key.to_owned(),
                nodes: Vec::new(),
                control_planes: 1,
                qemu: String::new(),
                kvm_cpu: String::new(),
                cold_boot_millis: 0,
                cold_shell_millis: 0,
                files: std::collections::BTreeMap::new(),
                image: String::new(),
                base_disk: String::new(),
            },
        }
    }

    fn environment(of: &Template) -> LaunchSpec {
        LaunchSpec {
            id: "k7f3q9xw2m".parse().unwrap(),
            user: None,
            nodes: Vec::new(),
            added: Vec::new(),
            control_planes: 1,
            start: Start::Clone {
                snapshot: of.snapshot.clone(),
            },
            saved: None,
            kvm_cpu: String::new(),
            base_disk: of.image.disk(),
            limits: faultline_image::bake::limits(&[]),
            egress: Vec::new(),
        }
    }

    #[test]
    fn a_replaced_template_goes_with_its_last_environment() {
        let (data, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let templates = Templates::of(data.path());
        let plain = TemplateRef::plain("debian-12", Shape::SINGLE);
        let old = template(cache.path(), "old", "old-disk");
        templates.record(&plain, &old).unwrap();
        assert!(!templates.has_superseded());
        assert_eq!(templates.collect(&[]).unwrap(), 0);
        assert!(old.snapshot.exists(), "it is the one in use");

        let new = template(cache.path(), "new", "new-disk");
        templates.record(&plain, &new).unwrap();
        assert!(templates.has_superseded());
        let lives_on = environment(&old);
        assert_eq!(templates.collect(&[lives_on]).unwrap(), 0);
        assert!(old.snapshot.exists() && old.image.folder.exists());

        assert_eq!(templates.collect(&[environment(&new)]).unwrap(), 1);
        assert!(!old.snapshot.exists() && !old.image.folder.exists());
        assert!(new.snapshot.exists() && new.image.folder.exists());
        assert_eq!(templates.collect(&[]).unwrap(), 0);
        assert!(!templates.has_superseded());
    }

    #[test]
    fn what_is_in_use_again_or_shared_stays() {
        let (data, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let templates = Templates::of(data.path());
        let a = template(cache.path(), "a", "disk");
        let b = template(cache.path(), "b", "disk");
        for now in [&a, &b, &a] {
            templates
                .record(&TemplateRef::plain("debian-12", Shape::SINGLE), now)
                .unwrap();
        }
        assert_eq!(templates.collect(&[]).unwrap(), 1);
        assert!(a.snapshot.exists() && !b.snapshot.exists());
        assert!(a.image.folder.exists(), "its disk is the other's too");
    }
}
