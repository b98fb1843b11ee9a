//! Descriptions of container images, made of Debian packages and files. Labs and image recipes share them.

use serde::{Deserialize, Serialize};

/// A file in an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The absolute path.
    pub path: String,
    /// The permission bits, as an octal string. Default: `"0644"`.
    #[serde(default = "default_mode")]
    pub mode: String,
    /// The content.
    #[serde(default)]
    pub content: String,
    /// A file next to the description to read the content from, instead of `content`.
    #[serde(default)]
    pub source: Option<String>,
}

fn default_mode() -> String {
    "0644".to_owned()
}

impl File {
    /// Returns the permission bits as a number.
    #[must_use]
    pub fn bits(&self) -> u32 {
        u32::from_str_radix(&self.mode, 8).unwrap_or(0o644)
    }
}

/// A container image that comes with a lab.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerImage {
    /// The full name, including registry or folder, and the tag.
    pub name: String,
    /// The Debian packages to unpack into the image.
    pub packages: Vec<String>,
    /// The files to add.
    #[serde(default)]
    pub files: Vec<File>,
    /// The entrypoint.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// The default arguments.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// The environment variables, as `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// The numeric user id. Default: root.
    #[serde(default)]
    pub user: Option<u32>,
}

impl ContainerImage {
    /// Validates name, packages and files. The error tells the author what is wrong.
    pub fn validate(&self) -> Result<(), String> {
        if self.packages.is_empty() {
            return Err("packages is empty; list at least one Debian package".to_owned());
        }
        validate_name(&self.name)?;
        validate_packages(&self.packages)?;
        validate_files(&self.files)
    }
}

/// Validates that this is the full name of an image, including registry or folder, and tag.
pub fn validate_name(name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/:._-".contains(&b);
    let tagged = name
        .rsplit_once(':')
        .is_some_and(|(name, tag)| name.contains('/') && !tag.is_empty() && !tag.contains('/'));
    if tagged && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(format!(
        "name {name:?} is not a full image name with a tag, such as shop.example/web:1.4"
    ))
}

/// Validates that these can be names of Debian packages.
pub fn validate_packages(packages: &[String]) -> Result<(), String> {
    let good = |name: &&String| {
        name.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.:".contains(&b))
    };
    match packages.iter().find(|name| !good(name)) {
        Some(bad) => Err(format!("{bad:?} is not a valid package name")),
        None => Ok(()),
    }
}

/// Validates that the files have absolute paths and octal permission bits.
pub fn validate_files(files: &[File]) -> Result<(), String> {
    for file in files {
        if !is_absolute(&file.path) {
            return Err(format!(
                "file path {:?} must be absolute and without ..",
                file.path
            ));
        }
        if u32::from_str_radix(&file.mode, 8).is_err() {
            return Err(format!(
                "mode {:?} of {} is not an octal number",
                file.mode, file.path
            ));
        }
    }
    Ok(())
}

/// Returns true if a path is absolute and has no `..` component.
#[must_use]
pub fn is_absolute(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| part != "..")
}
