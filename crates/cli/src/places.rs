//! Finds the folders of labs and of image recipes: the one that was named, else the nearest at or above the current
//! folder, else the program's own.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;
use faultline_image::{cache::Cache, recipe::Recipe};

use crate::shipped;

const LABS: &str = "labs";
const IMAGES: &str = "images";

/// The option for the folder of labs.
#[derive(Debug, Clone, Default, Args)]
pub struct LabsArg {
    /// The folder of labs [default: the nearest `labs` at or above the current folder, otherwise the program's own labs]
    #[arg(long, env = "FAULTLINE_LABS")]
    pub labs: Option<PathBuf>,
}

impl LabsArg {
    /// Returns the folder to read labs from. `configured` is the setting of the configuration file.
    pub fn folder(&self, configured: Option<&Path>) -> anyhow::Result<PathBuf> {
        match self.own(configured)? {
            Some(own) => Ok(own),
            None => shipped::labs(&Cache::of_user()).context(
                "cannot write the program's own labs into the cache; name a folder of labs with --labs",
            ),
        }
    }

    /// Returns the folder to write a new lab into; never that of the program's own labs.
    pub fn folder_to_write(&self) -> anyhow::Result<PathBuf> {
        Ok(self.own(None)?.unwrap_or_else(|| LABS.into()))
    }

    fn own(&self, configured: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
        match self.labs.as_deref().or(configured) {
            Some(named) => Ok(Some(named.to_owned())),
            None => nearest(&current_folder()?, LABS, has_labs),
        }
    }
}

/// The option for the folder of image recipes.
#[derive(Debug, Clone, Default, Args)]
pub struct ImagesArg {
    /// The folder of image recipes [default: the nearest `images` with recipes at or above the current folder, otherwise
    /// the program's own recipes]
    #[arg(long, env = "FAULTLINE_IMAGES")]
    pub images: Option<PathBuf>,
}

impl ImagesArg {
    /// Returns the folder to read recipes from. `configured` is the setting of the configuration file.
    pub fn folder(&self, configured: Option<&Path>) -> anyhow::Result<PathBuf> {
        if let Some(named) = self.images.as_deref().or(configured) {
            return Ok(named.to_owned());
        }
        match nearest(&current_folder()?, IMAGES, has_recipes)? {
            Some(own) => Ok(own),
            None => shipped::images(&Cache::of_user()).context(
                "cannot write the program's own image recipes into the cache; name a folder of recipes with --images",
            ),
        }
    }
}

fn current_folder() -> anyhow::Result<PathBuf> {
    std::env::current_dir().context("the current folder can't be read; change into another")
}

/// Returns true if a folder holds a lab.
pub fn has_labs(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path().join("lab.yaml"))
        .any(|file| file.is_file())
}

fn has_recipes(folder: &Path) -> bool {
    Recipe::names(folder)
        .iter()
        .any(|name| Recipe::load(folder, name).is_ok())
}

/// Finds the nearest folder called `name` in `current` or above it that is `wanted`. Only folders count that belong to
/// root, to the current user, or to the owner of `current`; the latter not in folders that anybody may write to, such
/// as `/tmp`.
fn nearest(
    current: &Path,
    name: &str,
    wanted: impl Fn(&Path) -> bool,
) -> anyhow::Result<Option<PathBuf>> {
    const ANYBODY_WRITES: u32 = 0o002;
    let found = fs::metadata(current)?;
    let owner = (found.mode() & ANYBODY_WRITES == 0).then_some(found.uid());
    let me = rustix::process::geteuid().as_raw();
    let trusted = |folder: &Path| {
        fs::metadata(folder).is_ok_and(|f| f.uid() == 0 || f.uid() == me || Some(f.uid()) == owner)
    };
    let here = current.join(name);
    if trusted(&here) && wanted(&here) {
        return Ok(Some(PathBuf::from(name)));
    }
    Ok(current
        .ancestors()
        .skip(1)
        .map(|above| above.join(name))
        .find(|folder| trusted(folder) && wanted(folder)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab(folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("lab.yaml"), "").unwrap();
    }

    #[test]
    fn the_nearest_folder_that_holds_labs_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("course/labs/disk-full/setup");
        fs::create_dir_all(&deep).unwrap();
        let find = |from: &Path| nearest(from, LABS, has_labs).unwrap();
        assert_eq!(find(&deep), None, "a folder without a lab is not taken");

        lab(&dir.path().join("course/labs/disk-full"));
        let course = dir.path().join("course");
        assert_eq!(find(&deep), Some(course.join("labs")));
        assert_eq!(find(&course), Some("labs".into()));

        lab(&deep.join("labs/nearer"));
        assert_eq!(find(&deep), Some("labs".into()));
    }

    #[test]
    fn a_strangers_folder_above_is_not_taken() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (labs, home) = (dir.path().join(LABS), dir.path().join("home"));
        lab(&labs.join("disk-full"));
        fs::create_dir(&home).unwrap();
        std::os::unix::fs::chown(&labs, Some(12345), None).unwrap();
        assert_eq!(nearest(&home, LABS, has_labs).unwrap(), None);
        std::os::unix::fs::chown(&home, Some(12345), None).unwrap();
        assert_eq!(nearest(&home, LABS, has_labs).unwrap(), Some(labs));
    }

    #[test]
    fn pictures_are_no_recipes() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("logo.png"), "").unwrap();
        fs::write(dir.path().join("values.yaml"), "replicas: 2\n").unwrap();
        assert!(!has_recipes(dir.path()));
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        assert!(has_recipes(&checkout.join(IMAGES)));
    }

    #[test]
    fn what_is_named_comes_before_the_configuration() {
        let named = LabsArg {
            labs: Some("mine".into()),
        };
        let configured = Some(Path::new("configured"));
        assert_eq!(named.folder(configured).unwrap(), Path::new("mine"));
        let nothing = LabsArg::default();
        assert_eq!(nothing.folder(configured).unwrap(), Path::new("configured"));
    }
}
