//! The labs of a directory.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use faultline_domain::LabSlug;
use serde::{Deserialize, Serialize};

use crate::{Diagnostic, LabFolder};

/// The labs of a directory, as they were when it was read.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    path: PathBuf,
    labs: BTreeMap<LabSlug, Arc<LabFolder>>,
    broken: Vec<Broken>,
}

/// A folder that is not a usable lab, or the directory itself if it can't be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// The folder.
    pub path: PathBuf,
    /// The reasons.
    pub diagnostics: Vec<Diagnostic>,
}

impl Broken {
    /// Formats the diagnostics as they are printed.
    #[must_use]
    pub fn render(&self) -> String {
        let folder = self.path.display().to_string();
        let shown: Vec<String> = self.diagnostics.iter().map(|d| d.render(&folder)).collect();
        shown.join("\n")
    }
}

impl Catalogue {
    /// Reads every folder of a directory. Plain files, and folders that begin with a dot, are ignored.
    #[must_use]
    pub fn load(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            ..Self::default()
        }
        .reload()
    }

    /// Reads the directory again. A lab that has become broken keeps its last usable version, and is listed among the
    /// broken ones as well. A lab whose folder was removed is removed.
    #[must_use]
    pub fn reload(&self) -> Self {
        let mut next = Self {
            path: self.path.clone(),
            ..Self::default()
        };
        let mut folders: Vec<PathBuf> = match fs::read_dir(&self.path) {
            Ok(entries) => entries
                .filter_map(Result::ok)
                .map(|e| e.path())
                .filter(|p| p.is_dir())
                .collect(),
            Err(e) => {
                next.labs.clone_from(&self.labs);
                next.broken.push(Broken {
                    path: self.path.clone(),
                    diagnostics: vec![
                        Diagnostic::error(
                            "",
                            format!("the directory of the labs can't be read: {e}"),
                        )
                        .help("name the folder of labs with --labs"),
                    ],
                });
                return next;
            }
        };
        folders.sort();
        for folder in folders {
            let name = folder
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default();
            if name.starts_with('.') {
                continue;
            }
            // Linting starts a shell for each script; an unchanged lab need not be linted again.
            if let Ok(slug) = name.parse::<LabSlug>()
                && let Some(before) = self.labs.get(&slug)
                && !self.broken.iter().any(|b| b.path == folder)
                && before.is_as_in(&folder)
            {
                next.labs.insert(slug, before.clone());
                continue;
            }
            let loaded = LabFolder::load(&folder);
            if let Some(lab) = loaded.folder {
                next.labs.insert(lab.slug.clone(), Arc::new(lab));
                continue;
            }
            if let Some((slug, before)) = name
                .parse::<LabSlug>()
                .ok()
                .and_then(|slug| self.labs.get_key_value(&slug))
            {
                next.labs.insert(slug.clone(), before.clone());
            }
            next.broken.push(Broken {
                path: folder,
                diagnostics: loaded.diagnostics,
            });
        }
        next
    }

    /// Returns the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a lab by name.
    #[must_use]
    pub fn get(&self, slug: &LabSlug) -> Option<&Arc<LabFolder>> {
        self.labs.get(slug)
    }

    /// Returns all usable labs, sorted by level, then by length.
    #[must_use]
    pub fn labs(&self) -> Vec<&Arc<LabFolder>> {
        let mut labs: Vec<_> = self.labs.values().collect();
        let order = |l: &LabFolder| (l.lab.level, l.lab.minutes);
        labs.sort_by(|a, b| order(a).cmp(&order(b)).then_with(|| a.slug.cmp(&b.slug)));
        labs
    }

    /// Returns the folders that are not usable labs at the moment.
    #[must_use]
    pub fn broken(&self) -> &[Broken] {
        &self.broken
    }
}
