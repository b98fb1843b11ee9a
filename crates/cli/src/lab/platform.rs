//! Machines for authors: the local provider on a folder of this process alone, apart from any server's.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use faultline_domain::{TenantId, lab::Needs, limits::Limits, progress::Progress};
use faultline_image::{
    bake::{self, Template},
    cache::Cache,
    sources::Sources,
};
use faultline_provider::Provider;
use faultline_tenancy_local::Local;

use crate::sources::Recipes;

/// Where authors' machines are made.
pub struct Platform {
    cache: Cache,
    recipes: PathBuf,
    sources: Sources,
    program: PathBuf,
    /// `<cache>/lab/<process>`; a folder whose process is gone holds what nobody owns.
    home: PathBuf,
}

impl Platform {
    /// Claims a folder for this process, after sweeping those of processes that are gone.
    pub async fn open(recipes: &Path, sources: Sources) -> anyhow::Result<Self> {
        let cache = Cache::of_user();
        let program = std::env::current_exe().context("where is this program?")?;
        let platform = Self {
            home: homes(&cache).join(std::process::id().to_string()),
            cache,
            recipes: recipes.to_owned(),
            sources,
            program,
        };
        sweep(&platform.cache, &platform.program, false).await?;
        fs::create_dir_all(&platform.home)
            .with_context(|| format!("{} can't be made", platform.home.display()))?;
        Ok(platform)
    }

    /// The provider.
    pub fn provider(&self) -> anyhow::Result<Arc<dyn Provider>> {
        Ok(Arc::new(self.local()?))
    }

    /// The provider, for who looks at its machines from the host.
    pub fn local(&self) -> anyhow::Result<Local> {
        let local = Local::new(&self.home, &self.recipes, self.cache.clone(), &self.program)?;
        Ok(local.with_sources(self.sources.clone()))
    }

    /// The template that a lab needs, if it was built.
    pub fn find(&self, needs: &Needs) -> anyhow::Result<Option<Template>> {
        let template = needs.template();
        Ok(self
            .sources
            .template(&self.recipes, &template, &self.cache)?)
    }

    /// The template that a lab needs: found, or built now.
    pub async fn template(&self, needs: &Needs, progress: &Progress) -> anyhow::Result<Template> {
        let of = needs.template();
        if let Some(found) = self.find(needs)? {
            return Ok(found);
        }
        let recipes = Recipes {
            folder: self.recipes.clone(),
            sources: self.sources.clone(),
        };
        let recipe = recipes.recipe(&of, &self.cache).await?;
        Ok(bake::bake(&recipe, &of, &self.cache, &self.program, progress).await?)
    }

    /// The limits of a lab's environment.
    pub fn limits(template: &Template) -> Limits {
        bake::limits(&template.manifest.nodes)
    }

    /// Notes what `lab run` has started, so that `lab shell` finds it.
    pub fn note(&self, lab: &str, id: &TenantId) -> anyhow::Result<()> {
        fs::write(self.home.join("running"), format!("{lab} {id}\n"))?;
        Ok(())
    }

    /// The cache.
    pub const fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Gives the folder back, once every environment was destroyed.
    pub async fn close(self) {
        if let Ok(provider) = self.provider() {
            for (id, _) in provider.list().await.unwrap_or_default() {
                let _ = provider.destroy(&id).await;
            }
        }
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// Frees what processes left behind that were killed, or, `all`, what others have too. Gives how many environments.
pub async fn sweep(cache: &Cache, program: &Path, all: bool) -> anyhow::Result<usize> {
    let mut freed = 0;
    for home in others(cache) {
        let process = home.file_name().unwrap_or_default();
        if !all && Path::new("/proc").join(process).exists() {
            continue;
        }
        let local = Local::new(&home, Path::new("images"), cache.clone(), program)?;
        for (id, _) in local.list().await? {
            local.destroy(&id).await.with_context(|| {
                format!("{id}, left by a process that was killed, can't be destroyed")
            })?;
            freed += 1;
        }
        let _ = fs::remove_dir_all(&home);
    }
    Ok(freed)
}

fn homes(cache: &Cache) -> PathBuf {
    cache.folder().join("lab")
}

fn others(cache: &Cache) -> Vec<PathBuf> {
    fs::read_dir(homes(cache))
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_dir())
        .collect()
}

/// The machine that a `lab run` elsewhere has started for a lab.
pub fn running(lab: &str) -> anyhow::Result<Option<(Arc<dyn Provider>, TenantId)>> {
    let cache = Cache::of_user();
    for home in others(&cache) {
        let noted = fs::read_to_string(home.join("running")).unwrap_or_default();
        if let Some((name, id)) = noted.trim().split_once(' ')
            && name == lab
        {
            let program = std::env::current_exe()?;
            let local = Local::new(&home, Path::new("images"), cache, &program)?;
            return Ok(Some((Arc::new(local), id.parse()?)));
        }
    }
    Ok(None)
}
