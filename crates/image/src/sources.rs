//! The sources of a cluster's programs and images: built from pinned Go modules, or fetched as official releases.
//!
//! [`Sources`] is the operator's configuration; [`Source`] is the source of one image. The caller chooses it before
//! anything is built: a recipe is loaded for one source and contains nothing of the other, so that content addresses
//! need neither network nor configuration.
//!
//! ```text
//! Sources ── recipe() ──► Recipe for one Source ──► keys, find: quick, no network access
//!  auto: what is built already,       └──► build ──► release: programs   ┐
//!        else what can be reached                    registry: images    ├─ fetch: bytes, resumed and verified
//! ```
//!
//! Every URL has the official host. [`Bases`] replaces hosts by mirrors or folders. It is not part of a content
//! address: the checksum decides, not where the bytes came from.

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

/// The operator's configuration of where programs and images come from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sources {
    /// The source.
    pub from: Choice,
    /// The mirrors and folders to use instead of official hosts.
    pub bases: Bases,
}

impl Sources {
    /// Returns the sources that may be used, the preferred one first.
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
            // Without Go, programs built with it have no key, and none can be in the cache.
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

    /// Returns a template if it was baked already, from any of the sources that may be used. Quick: doesn't use the
    /// network.
    pub fn template(
        &self,
        folder: &Path,
        of: &TemplateRef,
        cache: &Cache,
    ) -> Result<Option<Template>> {
        Ok(self.baked(folder, of, cache)?.map(|(_, template)| template))
    }

    /// Returns the recipe to build. With `auto`, a source from which the template was baked already is chosen, so that
    /// an image isn't rebuilt when a mirror is down; otherwise official releases, if all of their hosts can be reached.
    /// Blocking; uses the network only with `auto`, for at most [`fetch::REACH`].
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
            "building from Go modules, since official releases can't be reached: {}",
            missing.join("; ")
        );
        self.load(folder, &of.image, Source::Modules)
    }
}

/// Returns the official URLs that a recipe for [`Source::Official`] is fetched from. Those of images begin with
/// `oci://`.
#[must_use]
pub fn addresses(recipe: &Recipe) -> BTreeSet<String> {
    let programs = recipe.binaries.iter().flat_map(|component| {
        let programs = component.build.keys();
        programs.flat_map(move |program| {
            let releases = component.official.iter();
            releases.flat_map(move |official| {
                let release = official.locate(program, &component.version);
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

/// Returns the official hosts of these URLs, and whether each is a registry.
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
