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

use std::{collections::BTreeSet, path::Path};

use faultline_domain::TemplateRef;
use serde::{Deserialize, Serialize};

pub use crate::source::{Base, Bases, Choice, Named, Source};
use crate::{
    Result,
    bake::{self, Template},
    cache::Cache,
    recipe::Recipe,
    source::IMAGE,
};

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
        of: &TemplateRef,
        cache: &Cache,
    ) -> Result<Option<(Recipe, Template)>> {
        for source in self.candidates() {
            let recipe = self.load(folder, &of.image, *source)?;
            // Without Go there is no key for what is built with it, and nothing that was.
            let found = match bake::find(&recipe, of, cache) {
                Err(_) if self.candidates().len() > 1 => None,
                found => found?,
            };
            if let Some(template) = found {
                return Ok(Some((recipe, template)));
            }
        }
        Ok(None)
    }

    /// A template, from any source that is wanted, if it was baked already. Quick: asks
    /// nobody.
    pub fn template(
        &self,
        folder: &Path,
        of: &TemplateRef,
        cache: &Cache,
    ) -> Result<Option<Template>> {
        Ok(self.baked(folder, of, cache)?.map(|(_, template)| template))
    }

    /// The recipe as it is to be built. With `auto` what was baked already decides, so that an image isn't made anew
    /// when a mirror is down; otherwise what can be reached. Blocking; asks the network with `auto` alone, for no
    /// longer than [`fetch::REACH`].
    pub fn recipe(&self, folder: &Path, of: &TemplateRef, cache: &Cache) -> Result<Recipe> {
        if let [only] = self.candidates() {
            return self.load(folder, &of.image, *only);
        }
        if let Some((recipe, _)) = self.baked(folder, of, cache)? {
            return Ok(recipe);
        }
        let official = self.load(folder, &of.image, Source::Official)?;
        let missing = fetch::unreachable(&self.bases, &hosts(&addresses(&official)));
        if missing.is_empty() {
            return Ok(official);
        }
        tracing::warn!(
            image = of.image,
            "built from Go modules, since official releases can't be reached: {}",
            missing.join("; ")
        );
        self.load(folder, &of.image, Source::Modules)
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

#[cfg(test)]
mod tests;
