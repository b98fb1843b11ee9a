//! Recipes as an operator wants them made: the options that say where programs and images come from.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use faultline_domain::{TemplateRef, template::Form};
use faultline_image::{
    cache::Cache,
    recipe::Recipe,
    sources::{Choice, Named, Sources},
};

/// Where programs and images come from.
#[derive(Debug, Clone, Default, Args)]
pub struct SourceArgs {
    /// Where the programs and images of clusters come from: modules (built from pinned Go modules), official
    /// (fetched as released), or auto (official where all of it can be reached, otherwise modules)
    #[arg(long, env = "FAULTLINE_SOURCE")]
    source: Option<Choice>,
    /// A mirror or a folder in the place of an official host, such as github.com=/srv/mirror/github.com; '*' stands
    /// for all hosts without one. May be repeated
    #[arg(
        long = "base",
        env = "FAULTLINE_BASES",
        value_name = "HOST=PLACE",
        value_delimiter = ','
    )]
    bases: Vec<Named>,
}

impl SourceArgs {
    /// What these say, and what a file says where they say nothing.
    #[must_use]
    pub fn over(&self, mut file: Sources) -> Sources {
        file.from = self.source.unwrap_or(file.from);
        let bases = self.bases.iter().cloned();
        file.bases
            .0
            .extend(bases.map(|Named(host, base)| (host, base)));
        file
    }

    /// What these say.
    #[must_use]
    pub fn sources(&self) -> Sources {
        self.over(Sources::default())
    }
}

/// The template of an image in a form, if its recipe can have it.
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

/// Where recipes are, and where what they name comes from.
#[derive(Debug, Clone)]
pub struct Recipes {
    /// Their folder.
    pub folder: PathBuf,
    /// Where programs and images come from.
    pub sources: Sources,
}

impl Recipes {
    /// A recipe as it is to be built.
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
