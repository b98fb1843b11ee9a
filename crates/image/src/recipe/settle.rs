//! Choosing a source for a recipe: what only the other source needs is removed.

use std::collections::{BTreeMap, BTreeSet};

use super::{Component, Container, Official, Recipe};
use crate::source::{IMAGE, Source};

/// The placeholders in an [`Official`]: the program's name, the version, and the version without its `v`.
const PROGRAM: &str = "{program}";
const VERSION: &str = "{version}";
const NUMBER: &str = "{number}";
impl Recipe {
    /// Reduces each component and container to what this source needs.
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
                // containerd and ctr are always needed: they import the images.
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
    /// Removes the fields that a pulled image doesn't use.
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
    /// Splits a component into one per release, with the needed programs of that release, and one for the needed
    /// programs that have no release and are built.
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
    /// Returns where a program of this release and its checksum are.
    #[must_use]
    pub fn locate(&self, program: &str, version: &str) -> Release {
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

    /// Returns what is wrong with the description, if anything.
    pub(crate) fn problem(&self) -> Option<String> {
        let web = |url: &str| url.starts_with("https://") || url.starts_with("http://");
        if self.url.starts_with(IMAGE) {
            return self.member.is_none().then(|| {
                format!(
                    "{} is an image; set member to the program's path in it",
                    self.url
                )
            });
        }
        let checksum = self.checksum.replace("{url}", &self.url);
        (!web(&self.url) || !web(&checksum)).then(|| {
            format!(
                "url {:?} and checksum {:?} must begin with https://, or url with {IMAGE} for an image",
                self.url, self.checksum
            )
        })
    }
}

/// The location of a program in an official release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The URL of the program, or of an archive or image that contains it.
    pub url: String,
    /// The URL of the SHA-256 checksum. Empty for an image, which is verified by its digest.
    pub checksum: String,
    /// The program's path in the archive or image.
    pub member: Option<String>,
}
