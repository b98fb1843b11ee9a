//! Programs and libraries from PyPI, for tests.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};

/// Returns the folder of a package such as `kubernetes==37.0.2`, for `PYTHONPATH`. Installs it with its dependencies on
/// the first use.
pub fn package(requirement: &str) -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
        PathBuf::from,
    );
    let folder = cache.join("faultline-tests").join(requirement);
    let done = folder.join(".installed");
    if !done.exists() {
        let installed = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--upgrade", "--target"])
            .arg(&folder)
            .arg(requirement)
            .status()
            .context("python3 is missing")?;
        ensure!(
            installed.success(),
            "installing {requirement} with pip failed"
        );
        std::fs::write(done, "")?;
    }
    Ok(folder)
}
