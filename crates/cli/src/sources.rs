//! The options for the sources of the clusters' programs and images.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use faultline_domain::{TemplateRef, template::Form};
use faultline_image::{
    cache::Cache,
    recipe::Recipe,
    sources::{Choice, Named, Sources},
};

/// The sources of the clusters' programs and images.
#[derive(Debug, Clone, Default, Args)]
pub struct SourceArgs {
    /// The source of the clusters' programs and images: modules (built from pinned Go modules), official (released
    /// binaries and images), or auto (official if all of them can be reached, otherwise modules)
    #[arg(long, env = "FAULTLINE_SOURCE")]
    source: Option<Choice>,
    /// A mirror or a folder in place of an official host, such as github.com=/srv/mirror/github.com; '*' stands for
    /// every host without one. May be repeated
    #[arg(
        long = "base",
        env = "FAULTLINE_BASES",
        value_name = "HOST=PLACE",
        value_delimiter = ','
    )]
    bases: Vec<Named>,
}

impl SourceArgs {
    /// Overrides a configuration file's settings with these options.
    #[must_use]
    pub fn over(&self, mut file: Sources) -> Sources {
        file.from = self.source.unwrap_or(file.from);
        let bases = self.bases.iter().cloned();
        file.bases
            .0
            .extend(bases.map(|Named(host, base)| (host, base)));
        file
    }

    /// Returns the options as settings.
    #[must_use]
    pub fn sources(&self) -> Sources {
        self.over(Sources::default())
    }
}

/// Returns the reference of an image's template in a form, if the recipe supports it.
pub fn template(recipes: &Path, image: &str, form: Form) -> anyhow::Result<TemplateRef> {
    let recipe = Recipe::load(recipes, image)?;
    form.of(image, recipe.kubernetes.is_some())
        .with_context(|| {
            format!(
                "{image} has no cluster that could be stock; leave it out: --shape {}",
                form.shape
            )
        })
}

/// The folder of recipes and the sources of what they name.
#[derive(Debug, Clone)]
pub struct Recipes {
    /// The folder of recipes.
    pub folder: PathBuf,
    /// The sources of programs and images.
    pub sources: Sources,
}

impl Recipes {
    /// Loads a recipe for the chosen source.
    pub async fn recipe(&self, of: &TemplateRef, cache: &Cache) -> anyhow::Result<Recipe> {
        let (this, of, cache) = (self.clone(), of.clone(), cache.clone());
        let chosen = move || this.sources.recipe(&this.folder, &of, &cache);
        Ok(tokio::task::spawn_blocking(chosen).await??)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        sources: SourceArgs,
    }

    #[test]
    fn options_come_before_the_file() {
        let file: Sources = toml::from_str(
            "from = \"auto\"\n[bases]\n\"github.com\" = \"/srv/a\"\n\"dl.k8s.io\" = \"/srv/b\"\n",
        )
        .unwrap();
        let line = [
            "x",
            "--source",
            "official",
            "--base",
            "github.com=/srv/c,get.helm.sh=http://h",
        ];
        let sources = Line::parse_from(line).sources.over(file.clone());
        assert_eq!(sources.from, Choice::Official);
        let named: Vec<String> = sources.bases.named().map(|n| n.to_string()).collect();
        assert_eq!(
            named,
            [
                "dl.k8s.io=/srv/b",
                "get.helm.sh=http://h",
                "github.com=/srv/c"
            ]
        );
        assert_eq!(Line::parse_from(["x"]).sources.over(file.clone()), file);
        let Err(error) = Line::try_parse_from(["x", "--base", "github.com=mirror"]) else {
            panic!("a relative place was taken");
        };
        assert!(error.to_string().contains("absolute path"), "{error}");
    }
}
