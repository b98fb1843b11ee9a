//! What is stored about a host cluster, in its folder.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::process;

const FILE: &str = "cluster.json";

/// How far `up` has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// `up` has begun and not finished.
    Starting,
    /// `up` has finished.
    Ready,
}

/// The stored state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    /// The minor version of Kubernetes.
    pub(crate) kubernetes: String,
    /// The folder of image recipes that the programs and manifests come from.
    pub(crate) recipes: PathBuf,
    /// The port of the machine's loopback that leads to the API server. Zero until it is known.
    pub(crate) port: u16,
}

impl State {
    /// Reads the state of the cluster in a folder.
    pub(crate) fn load(folder: &Path) -> io::Result<Self> {
        process::read(&folder.join(FILE))
    }

    /// Writes the state of the cluster in a folder.
    pub(crate) fn save(&self, folder: &Path) -> io::Result<()> {
        process::write(&folder.join(FILE), self)
    }
}
