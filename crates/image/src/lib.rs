//! Image recipes, built into images and baked into snapshots.
//!
//! ```text
//! images/<name>.yaml ─┬► rootfs ─────┬► disk ─► bake
//!   recipe             │   packages   │  + helper, files   booted, settled, frozen with its memory
//!                      ├► binaries ───┤
//!                      │   Go modules │    or official releases
//!                      └► containers ─┘
//!                          images for each node's containerd
//! ```
//!
//! Every stage is content-addressed: its folder's name is the hash of everything that it depends on, a finished
//! stage is a folder that was renamed into place, so an interrupted one leaves nothing behind and two builds at
//! once build once. [`recipe`] is what an author writes, [`cache`] where results lie, [`binaries`] and
//! [`containers`] what only clusters need, [`sources`] where that comes from, [`build`] root file system and disk,
//! [`bake`] the last stage.

pub mod bake;
pub mod binaries;
pub mod build;
pub mod cache;
pub mod containers;
mod debian;
pub mod estimate;
pub mod go;
pub mod recipe;
pub mod sbom;
pub mod source;
pub mod sources;
pub mod steps;
pub mod verify;

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
};

/// Why an image can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such recipe.
    #[error("there is no recipe {name:?} in {folder}; `faultline image list` shows those that are")]
    NoRecipe {
        /// The name asked for.
        name: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// There is no folder of recipes.
    #[error(
        "the folder of image recipes, {0}, can't be read; name another with --images, or none to use the program's own"
    )]
    NoFolder(PathBuf),
    /// The recipe is malformed.
    #[error("{path}: {text}")]
    Malformed {
        /// The recipe's file.
        path: PathBuf,
        /// What is wrong, where, and what to do.
        text: String,
    },
    /// A stage failed. What earlier stages made is kept; building again resumes here.
    #[error("stage {stage} failed: {reason}")]
    Stage {
        /// The stage.
        stage: &'static str,
        /// Why, with the end of the log.
        reason: String,
    },
}

/// Result of building.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn at<T>(stage: &'static str, result: io::Result<T>) -> Result<T> {
    result.map_err(|e| Error::Stage {
        stage,
        reason: e.to_string(),
    })
}

/// Runs a command, its output to a log; a failure carries the log's tail.
fn run(stage: &'static str, command: &mut Command, log: &Path) -> Result<()> {
    let file = at(
        stage,
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log),
    )?;
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .stdout(at(stage, file.try_clone())?)
        .stderr(file)
        .status()
        .map_err(|e| Error::Stage {
            stage,
            reason: format!("cannot run {program}: {e}; `faultline doctor` says what to install"),
        })?;
    if status.success() {
        return Ok(());
    }
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines
        .get(lines.len().saturating_sub(15)..)
        .unwrap_or_default()
        .join("\n  ");
    Err(Error::Stage {
        stage,
        reason: format!("{program} ended with {status}. The end of its log:\n  {tail}"),
    })
}
