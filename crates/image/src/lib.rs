//! Builds image recipes into images and bakes them into snapshots.
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
//! Every stage is content-addressed: the name of its result's folder is the hash of everything that it depends on. A
//! finished result is renamed into place, so an interrupted build leaves no partial result, and concurrent builds build
//! only once. [`recipe`] is what authors write; [`cache`] stores the results; [`binaries`] and [`containers`] build
//! what only clusters need, from [`sources`]; [`build`] makes the root file system and the disk; [`bake`] is the last
//! stage.

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

/// The error when an image can't be built or baked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such recipe.
    #[error("there is no recipe {name:?} in {folder}; `faultline image list` lists the recipes")]
    NoRecipe {
        /// The requested name.
        name: String,
        /// The folder of recipes.
        folder: PathBuf,
    },
    /// The folder of recipes doesn't exist.
    #[error(
        "the folder of image recipes {0} can't be read; pass another one with --images, or omit it to use the built-in recipes"
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
    /// A stage failed. The results of earlier stages are kept, and the next build resumes with this stage.
    #[error("stage {stage} failed: {reason}")]
    Stage {
        /// The stage.
        stage: &'static str,
        /// The reason, with the end of the log.
        reason: String,
    },
}

/// The result of building or baking.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn at<T>(stage: &'static str, result: io::Result<T>) -> Result<T> {
    result.map_err(|e| Error::Stage {
        stage,
        reason: e.to_string(),
    })
}

/// Runs a command and appends its output to a log. The error includes the end of the log.
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
            reason: format!(
                "cannot run {program}: {e}; run `faultline doctor` to see what to install"
            ),
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
