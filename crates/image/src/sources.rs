//! Where the programs and images of a cluster come from: built from pinned Go modules, or fetched as their projects
//! release them.
//!
//! What an operator says is [`Sources`]; what one image is made of is a [`Source`]. Choosing is the caller's, before
//! anything is built: a recipe is loaded for one source and has nothing of the other left in it, so that content
//! addresses need neither network nor configuration.
//!
//! ```text
//! Sources ── recipe() ──► Recipe for one Source ──► keys, find: quick, nobody is asked
//!  auto: what is built already,       └──► build ──► release: programs   ┐
//!        else what can be reached                    registry: images    ├─ fetch: bytes, resumed and verified
//! ```
//!
//! Every address names its official host. [`Bases`] puts a mirror or a folder in a host's place, and is no part of a
//! content address: the checksum decides, not where the bytes came from.

pub mod fetch;
pub mod registry;
pub mod release;
#[cfg(test)]
pub(crate) mod server;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use faultline_domain::Shape;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    bake::{self, Template},
    cache::Cache,
    recipe::{Component, Container, Official, Recipe},
};

/// Stands for the program's name, the version, and the version without its `v`, in an [`Official`].
const PROGRAM: &str = "{program}";
const VERSION: &str = "{version}";
const NUMBER: &str = "{number}";
/// Begins the address of a container image.
pub(crate) const IMAGE: &str = "oci://";
/// The key of the base that stands for all hosts without one.
const ALL: &str = "*";

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

/// What an operator says about where programs and images come from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sources {
    /// Which source.
    pub from: Choice,
    /// Mirrors and folders in the place of official hosts.
    pub bases: Bases,
}

impl Sources {
    /// What may be used, what is preferred first.
    const fn candidates(&self) -> &'static [Source] {
        match self.from {
            Choice::Modules => &[Source::Modules],
            Choice::Official => &[Source::Official],
            Choice::Auto => &[Source::Official, Source::Modules],
        }
    }

    fn load(&self, folder: &Path, name: &str, source: Source) -> Result<Recipe> {
        let mut recipe = Recipe::load_for(folder, name, source)?;
        recipe.bases.clone_from(&self.bases);
        Ok(recipe)
    }

    fn baked(
        &self,
        folder: &Path,
        name: &str,
        shape: Shape,
        cache: &Cache,
    ) -> Result<Option<(Recipe, Template)>> {
        for source in self.candidates() {
            let recipe = self.load(folder, name, *source)?;
            // Without Go there is no key for what is built with it, and nothing that was.
            let found = match bake::find(&recipe, shape, cache) {
                Err(_) if self.candidates().len() > 1 => None,
                found => found?,
            };
            if let Some(template) = found {
                return Ok(Some((recipe, template)));
            }
        }
        Ok(None)
    }

    /// The template of an image with this shape, from any source that is wanted, if it was baked already. Quick: asks
    /// nobody.
    pub fn template(
        &self,
        folder: &Path,
        name: &str,
        shape: Shape,
        cache: &Cache,
    ) -> Result<Option<Template>> {
        Ok(self
            .baked(folder, name, shape, cache)?
            .map(|(_, template)| template))
    }

    /// The recipe as it is to be built. With `auto` what was baked already decides, so that an image isn't made anew
    /// when a mirror is down; otherwise what can be reached. Blocking; asks the network with `auto` alone, for no
    /// longer than [`fetch::REACH`].
    pub fn recipe(&self, folder: &Path, name: &str, shape: Shape, cache: &Cache) -> Result<Recipe> {
        if let [only] = self.candidates() {
            return self.load(folder, name, *only);
        }
        if let Some((recipe, _)) = self.baked(folder, name, shape, cache)? {
            return Ok(recipe);
        }
        let official = self.load(folder, name, Source::Official)?;
        let missing = fetch::unreachable(&self.bases, &hosts(&addresses(&official)));
        if missing.is_empty() {
            return Ok(official);
        }
        tracing::warn!(
            image = name,
            "built from Go modules, since official releases can't be reached: {}",
            missing.join("; ")
        );
        self.load(folder, name, Source::Modules)
    }
}

/// Every official address that a recipe for [`Source::Official`] is fetched from; images begin with `oci://`.
#[must_use]
pub fn addresses(recipe: &Recipe) -> BTreeSet<String> {
    let programs = recipe.binaries.iter().flat_map(|component| {
        let programs = component.build.keys();
        programs.flat_map(move |program| {
            let releases = component.official.iter();
            releases.flat_map(move |official| {
                let release = official.of(program, &component.version);
                [release.url, release.checksum]
            })
        })
    });
    let pulled = recipe.containers.iter().filter(|c| c.official.is_some());
    programs
        .chain(pulled.map(|c| format!("{IMAGE}{}", c.name)))
        .filter(|address| !address.is_empty())
        .collect()
}

/// The official hosts of these addresses; true where the host is a registry.
fn hosts(addresses: &BTreeSet<String>) -> BTreeSet<(String, bool)> {
    addresses
        .iter()
        .filter_map(|address| {
            let (_, rest) = address.split_once("://")?;
            Some((
                rest.split('/').next()?.to_owned(),
                address.starts_with(IMAGE),
            ))
        })
        .collect()
}

impl Recipe {
    /// Leaves of each component and container what this source needs.
    pub(crate) fn settle(&mut self, source: Source) {
        self.source = source;
        match source {
            Source::Modules => {
                for component in &mut self.binaries {
                    component.official.clear();
                }
                for container in &mut self.containers {
                    container.official = None;
                }
            }
            Source::Official => {
                for container in &mut self.containers {
                    container.settle();
                }
                // containerd and ctr import the images, wherever else they are.
                let needed: BTreeSet<String> = self
                    .binaries
                    .iter()
                    .flat_map(|c| c.install.keys())
                    .chain(self.containers.iter().flat_map(|c| &c.binaries))
                    .cloned()
                    .chain(["containerd", "ctr"].map(str::to_owned))
                    .collect();
                self.binaries = self
                    .binaries
                    .iter()
                    .flat_map(|c| c.split(&needed))
                    .collect();
            }
        }
    }
}

impl Container {
    /// One that is pulled has nothing of its own.
    fn settle(&mut self) {
        if self.official.is_some() {
            *self = Self {
                name: std::mem::take(&mut self.name),
                aliases: std::mem::take(&mut self.aliases),
                official: self.official.take(),
                ..Self::default()
            };
        }
    }
}

impl Component {
    /// A component for each of its releases, with the programs that are needed of it, and one for what is built
    /// nevertheless.
    fn split(&self, needed: &BTreeSet<String>) -> Vec<Self> {
        let named: BTreeSet<&String> = self.official.iter().flat_map(|o| &o.programs).collect();
        let mut left: BTreeSet<&String> =
            self.build.keys().filter(|p| needed.contains(*p)).collect();
        let mut parts = Vec::new();
        for official in &self.official {
            let is_of = |program: &String| {
                if official.programs.is_empty() {
                    !named.contains(program)
                } else {
                    official.programs.contains(program)
                }
            };
            let programs = left.iter().filter(|p| is_of(p)).copied().collect();
            left.retain(|program| !is_of(program));
            parts.push(self.part(Some(official), &programs));
        }
        parts.push(self.part(None, &left));
        parts.retain(|part| !part.build.is_empty());
        for part in parts.iter_mut().skip(1) {
            let programs: Vec<&str> = part.build.keys().map(String::as_str).collect();
            part.name = format!("{}/{}", self.name, programs.join("+"));
        }
        parts
    }

    fn part(&self, official: Option<&Official>, programs: &BTreeSet<&String>) -> Self {
        let of_part = |all: &BTreeMap<String, String>| {
            all.iter()
                .filter(|(program, _)| programs.contains(program))
                .map(|(program, value)| (program.clone(), value.clone()))
                .collect()
        };
        let mut part = Self {
            build: of_part(&self.build),
            install: of_part(&self.install),
            official: official.cloned().into_iter().collect(),
            ..self.clone()
        };
        if let Some(version) = official.and_then(|o| o.version.clone()) {
            part.version = version;
        }
        part
    }
}

impl Official {
    /// The addresses of a program of this release and of its checksum, and its path in the archive.
    #[must_use]
    pub fn of(&self, program: &str, version: &str) -> Release {
        let fill = |text: &str| {
            text.replace(PROGRAM, program)
                .replace(VERSION, version)
                .replace(NUMBER, version.trim_start_matches('v'))
        };
        let url = fill(&self.url);
        Release {
            checksum: fill(&self.checksum).replace("{url}", &url),
            member: self.member.as_deref().map(fill),
            url,
        }
    }

    /// What is wrong with it.
    pub(crate) fn fault(&self) -> Option<String> {
        let web = |url: &str| url.starts_with("https://") || url.starts_with("http://");
        if self.url.starts_with(IMAGE) {
            return self
                .member
                .is_none()
                .then(|| format!("{} is an image; say the program's member in it", self.url));
        }
        let checksum = self.checksum.replace("{url}", &self.url);
        (!web(&self.url) || !web(&checksum)).then(|| {
            format!(
                "url {:?} and checksum {:?} must begin with https:// or, for an image, with {IMAGE}",
                self.url, self.checksum
            )
        })
    }
}

/// Where one program of an official release is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The program, an archive or an image with it.
    pub url: String,
    /// The text that has its SHA-256; empty for an image, whose digests say it.
    pub checksum: String,
    /// Its path in the archive or image.
    pub member: Option<String>,
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

pub(crate) fn failed(stage: &'static str, error: &fetch::Error) -> Error {
    Error::Stage {
        stage,
        reason: format!("{error}\n  {}", error.advice()),
    }
}

#[cfg(test)]
mod tests;
