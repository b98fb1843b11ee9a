//! The types for the sources of images. Nothing here reads or fetches anything.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// The prefix of a container image's URL.
pub(crate) const IMAGE: &str = "oci://";
/// The key of the base for all hosts without their own.
pub(crate) const ALL: &str = "*";

/// The source of an image's programs and container images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Programs are built from pinned Go modules, and container images from these programs.
    #[default]
    Modules,
    /// Official releases are used where the recipe describes them.
    Official,
}

impl Source {
    /// Returns the word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Modules => "modules",
            Self::Official => "official",
        }
    }
}

/// The source that the operator has chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// Always [`Source::Modules`].
    #[default]
    Modules,
    /// Always [`Source::Official`].
    Official,
    /// Official if all of its hosts can be reached, otherwise modules.
    Auto,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "modules" => Ok(Self::Modules),
            "official" => Ok(Self::Official),
            "auto" => Ok(Self::Auto),
            _ => Err(format!(
                "{text:?} is not a source; use modules, official or auto"
            )),
        }
    }
}

/// A replacement for an official host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Base {
    /// A URL, without a trailing slash.
    Web(String),
    /// A folder.
    Folder(PathBuf),
}

impl FromStr for Base {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("http://") || text.starts_with("https://") {
            return Ok(Self::Web(text.trim_end_matches('/').to_owned()));
        }
        let path = text.strip_prefix("file://").unwrap_or(text);
        if path.starts_with('/') {
            return Ok(Self::Folder(PathBuf::from(path)));
        }
        Err(format!(
            "{text:?} is not a mirror or folder; use http://…, https://…, file:///… or an absolute path"
        ))
    }
}

impl TryFrom<String> for Base {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Base> for String {
    fn from(base: Base) -> Self {
        base.to_string()
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Web(url) => f.write_str(url),
            Self::Folder(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The replacement for each official host. `"*"` applies to every host that isn't listed, with a subfolder per host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bases(pub BTreeMap<String, Base>);

/// A host and its base, as written on a command line: `github.com=https://mirror.example.org/github`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named(pub String, pub Base);

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, base) = text
            .split_once('=')
            .filter(|(host, _)| !host.is_empty())
            .ok_or_else(|| format!("{text:?} is not HOST=PLACE, such as github.com=/srv/github"))?;
        Ok(Self(host.to_owned(), base.parse()?))
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.0, self.1)
    }
}

impl Bases {
    /// Returns the replacement for a host, or `None` to use the host itself.
    #[must_use]
    pub fn get(&self, host: &str) -> Option<Base> {
        if let Some(base) = self.0.get(host) {
            return Some(base.clone());
        }
        Some(match self.0.get(ALL)? {
            Base::Web(url) => Base::Web(format!("{url}/{host}")),
            Base::Folder(path) => Base::Folder(path.join(host)),
        })
    }

    /// Returns all of them, as written on a command line.
    pub fn named(&self) -> impl Iterator<Item = Named> + '_ {
        self.0
            .iter()
            .map(|(host, base)| Named(host.clone(), base.clone()))
    }
}

/// The parsed full name of a container image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The registry, such as `registry.k8s.io`.
    pub registry: String,
    /// The repository, such as `coredns/coredns`.
    pub repository: String,
    /// The tag, such as `v1.14.2`.
    pub tag: String,
}

impl Reference {
    /// Parses a full name with a tag.
    pub fn parse(name: &str) -> Result<Self, String> {
        let parts = name.split_once('/').and_then(|(registry, rest)| {
            let (repository, tag) = rest.rsplit_once(':')?;
            let plain = |text: &str, more: &[u8]| {
                !text.is_empty()
                    && text
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
                    && !text.split('/').any(|part| matches!(part, "" | "." | ".."))
            };
            (registry.contains(['.', ':'])
                && plain(registry, b".-:")
                && plain(repository, b"._-/")
                && plain(tag, b"._-"))
            .then(|| Self {
                registry: registry.to_owned(),
                repository: repository.to_owned(),
                tag: tag.to_owned(),
            })
        });
        parts.ok_or_else(|| {
            format!(
                "{name:?} is not a full image name with a tag, such as registry.k8s.io/pause:3.10"
            )
        })
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/{}:{}", self.registry, self.repository, self.tag)
    }
}

/// The origin of an official file, recorded for the bill of materials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The official URL.
    pub url: String,
    /// The SHA-256 of what was fetched from there, in hexadecimal.
    pub sha256: String,
}

/// The file with the [`Origin`] of each fetched file.
pub const ORIGINS: &str = "origins.json";

/// Reads the origins recorded in a folder.
#[must_use]
pub fn origins(folder: &Path) -> BTreeMap<String, Origin> {
    std::fs::read(folder.join(ORIGINS))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}
