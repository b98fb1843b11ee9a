//! Choosing a source for a recipe: what of it belongs to the other goes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Component, Container, Official, Recipe};
use crate::source::{IMAGE, Source};

/// Stands for the program's name, the version, and the version without its `v`, in an [`Official`].
const PROGRAM: &str = "{program}";
const VERSION: &str = "{version}";
const NUMBER: &str = "{number}";
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
