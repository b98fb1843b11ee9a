//! Where what an image is made of comes from: the words, without reading or fetching anything.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Begins the address of a container image.
pub(crate) const IMAGE: &str = "oci://";
/// The key of the base that stands for all hosts without one.
pub(crate) const ALL: &str = "*";

/// What one image is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Programs built from pinned Go modules, images made of them.
    #[default]
    Modules,
    /// What the projects release, where the recipe says where that is.
    Official,
}

impl Source {
    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Modules => "modules",
            Self::Official => "official",
        }
    }
}

/// What an operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// Always [`Source::Modules`].
    #[default]
    Modules,
    /// Always [`Source::Official`].
    Official,
    /// Official where all of it can be reached, otherwise modules.
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
                "{text:?} is no source; there are modules, official and auto"
            )),
        }
    }
}

/// What stands in a host's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Base {
    /// A server, without the slash at its end.
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
            "{text:?} is no place for official files; give http://…, https://…, file:///… or an absolute path"
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

/// Host → what stands in its place. `"*"` stands for every host that isn't named, with a folder for each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bases(pub BTreeMap<String, Base>);

/// A base by its host, as it is written on a command line: `github.com=https://mirror.example.org/github`.
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
    /// What stands in a host's place; `None` for the host itself.
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

    /// All of them, as a command line has them.
    pub fn named(&self) -> impl Iterator<Item = Named> + '_ {
        self.0
            .iter()
            .map(|(host, base)| Named(host.clone(), base.clone()))
    }
}

/// An image's full name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// `registry.k8s.io`
    pub registry: String,
    /// `coredns/coredns`
    pub repository: String,
    /// `v1.14.2`
    pub tag: String,
}

impl Reference {
    /// Takes a full name with a tag apart.
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
            format!("{name:?} is no full name of an image, such as registry.k8s.io/pause:3.10")
        })
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/{}:{}", self.registry, self.repository, self.tag)
    }
}

/// Where something official came from, kept beside it for the bill of materials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its official address.
    pub url: String,
    /// SHA-256 of what was fetched from there, in hexadecimal.
    pub sha256: String,
}

/// The file with [`Origin`]s, by what came from there.
pub const ORIGINS: &str = "origins.json";

/// Reads the origins that lie in a folder.
#[must_use]
pub fn origins(folder: &Path) -> BTreeMap<String, Origin> {
    std::fs::read(folder.join(ORIGINS))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}
