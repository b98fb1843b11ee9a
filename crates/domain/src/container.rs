//! A container image of Debian packages and files, as labs and image recipes describe it.

use serde::{Deserialize, Serialize};

/// A file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Absolute path.
    pub path: String,
    /// Permission bits in octal, as text. `"0644"` unless said.
    #[serde(default = "plain")]
    pub mode: String,
    /// Its content.
    #[serde(default)]
    pub content: String,
    /// Or: a file beside the description that has its content.
    #[serde(default)]
    pub source: Option<String>,
}

fn plain() -> String {
    "0644".to_owned()
}

impl File {
    /// Its permission bits.
    #[must_use]
    pub fn bits(&self) -> u32 {
        u32::from_str_radix(&self.mode, 8).unwrap_or(0o644)
    }
}

/// A container image of a lab's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerImage {
    /// Its full name, with tag.
    pub name: String,
    /// Debian packages, unpacked.
    pub packages: Vec<String>,
    /// Files.
    #[serde(default)]
    pub files: Vec<File>,
    /// What it runs.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// With these arguments, unless the pod says others.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// Variables, `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// The user's number.
    #[serde(default)]
    pub user: Option<u32>,
}

impl ContainerImage {
    /// Whether its name, packages and files are such; what is wrong, for the author.
    pub fn check(&self) -> Result<(), String> {
        if self.packages.is_empty() {
            return Err("packages names no Debian package to make it of".to_owned());
        }
        good_name(&self.name)?;
        good_packages(&self.packages)?;
        good_files(&self.files)
    }
}

/// Whether it is an image's whole name, with registry or folder, and tag.
pub fn good_name(name: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/:._-".contains(&b);
    let tagged = name
        .rsplit_once(':')
        .is_some_and(|(name, tag)| name.contains('/') && !tag.is_empty() && !tag.contains('/'));
    if tagged && name.bytes().all(plain) {
        return Ok(());
    }
    Err(format!(
        "name {name:?} must be whole, such as shop.example/web:1.4"
    ))
}

/// Whether these can be names of Debian packages.
pub fn good_packages(packages: &[String]) -> Result<(), String> {
    let good = |name: &&String| {
        name.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.:".contains(&b))
    };
    match packages.iter().find(|name| !good(name)) {
        Some(bad) => Err(format!("{bad:?} is not a package name")),
        None => Ok(()),
    }
}

/// Whether these have a place of their own in the image, and permission bits.
pub fn good_files(files: &[File]) -> Result<(), String> {
    for file in files {
        if !is_absolute(&file.path) {
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
    Ok(())
}

/// Whether a path is absolute and goes nowhere but down.
#[must_use]
pub fn is_absolute(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| part != "..")
}
