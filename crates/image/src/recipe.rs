//! What an image recipe says.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A recipe: everything that an image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The image's name; the file's name without `.yaml`.
    pub name: String,
    /// What it is, in a line.
    pub summary: String,
    /// The Debian suite.
    pub suite: String,
    /// Debian packages, a kernel among them.
    pub packages: Vec<String>,
    /// Shell commands run as root inside the new root file system, after the packages were installed.
    #[serde(default)]
    pub commands: Vec<String>,
    /// Files put into it.
    #[serde(default)]
    pub files: Vec<File>,
    /// systemd units that are started at boot.
    #[serde(default)]
    pub enable: Vec<String>,
    /// systemd units that are not, whatever their packages say.
    #[serde(default)]
    pub disable: Vec<String>,
    /// The machine it runs on.
    pub machine: MachineShape,
    /// Shell commands run in the booted machine before it is frozen, so that what they read is in the memory
    /// that all clones share.
    #[serde(default)]
    pub warm: Vec<String>,
}

/// A file of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Absolute path.
    pub path: String,
    /// Permission bits in octal, as text. `"0644"` unless said.
    #[serde(default = "plain")]
    pub mode: String,
    /// Its content.
    pub content: String,
}

fn plain() -> String {
    "0644".to_owned()
}

/// The machine that an image runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineShape {
    /// Processors of a node.
    pub vcpus: u32,
    /// Memory of a node, in MiB.
    pub memory_mib: u32,
    /// Disk of a node, in MiB.
    pub disk_mib: u32,
}

impl Recipe {
    /// Reads the recipe with this name.
    pub fn load(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(format!("{name}.yaml"));
        let plain = name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
            && !name.starts_with('.');
        let text = match std::fs::read_to_string(&path) {
            Ok(text) if plain => text,
            _ => {
                return Err(Error::NoRecipe {
                    name: name.to_owned(),
                    folder: folder.to_owned(),
                });
            }
        };
        let malformed = |text: String| Error::Malformed {
            path: path.clone(),
            text,
        };
        let recipe: Self = serde_saphyr::from_str(&text).map_err(|e| malformed(e.to_string()))?;
        recipe.validate(name).map_err(malformed)?;
        Ok(recipe)
    }

    fn validate(&self, name: &str) -> Result<(), String> {
        if self.name != name {
            return Err(format!(
                "name is {:?}, but the file is {name}.yaml; make them the same",
                self.name
            ));
        }
        if !self.packages.iter().any(|p| p.starts_with("linux-image")) {
            return Err("packages has no kernel; add linux-image-cloud-amd64".to_owned());
        }
        for package in &self.packages {
            if !package
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+-.:".contains(&b))
            {
                return Err(format!("{package:?} is not a package name"));
            }
        }
        for file in &self.files {
            if !file.path.starts_with('/') || file.path.split('/').any(|part| part == "..") {
                return Err(format!(
                    "file path {:?} must be absolute and without ..",
                    file.path
                ));
            }
            if u32::from_str_radix(&file.mode, 8).is_err() {
                return Err(format!(
                    "mode {:?} of {} is not octal",
                    file.mode, file.path
                ));
            }
        }
        let MachineShape {
            vcpus,
            memory_mib,
            disk_mib,
        } = self.machine;
        if !(1..=16).contains(&vcpus)
            || !(128..=65536).contains(&memory_mib)
            || !(512..=262_144).contains(&disk_mib)
        {
            return Err("machine is out of bounds: vcpus 1 to 16, memory_mib 128 to 65536, disk_mib 512 to 262144".to_owned());
        }
        Ok(())
    }

    /// The names of all recipes in a folder.
    pub fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| {
                e.file_name()
                    .to_str()
                    .and_then(|n| n.strip_suffix(".yaml"))
                    .map(str::to_owned)
            })
            .collect();
        names.sort();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Recipe> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x.yaml"), text).unwrap();
        Recipe::load(dir.path(), "x")
    }

    const GOOD: &str = "name: x\nsummary: s\nsuite: bookworm\npackages: [linux-image-cloud-amd64]\nmachine: {vcpus: 1, memory_mib: 256, disk_mib: 1024}\n";

    #[test]
    fn a_recipe_is_read() {
        assert_eq!(load(GOOD).unwrap().machine.memory_mib, 256);
    }

    #[test]
    fn faults_are_named() {
        for (text, word) in [
            (GOOD.replace("name: x", "name: y"), "x.yaml"),
            (
                GOOD.replace("[linux-image-cloud-amd64]", "[bash]"),
                "kernel",
            ),
            (GOOD.replace("vcpus: 1", "vcpus: 0"), "bounds"),
            (
                format!("{GOOD}files: [{{path: ../a, content: b}}]\n"),
                "absolute",
            ),
            (format!("{GOOD}colour: red\n"), "colour"),
            ("{".to_owned(), "x.yaml"),
        ] {
            let error = load(&text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn names_do_not_leave_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            Recipe::load(dir.path(), "../x"),
            Err(Error::NoRecipe { .. })
        ));
    }
}
