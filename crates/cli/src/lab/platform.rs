//! The local provider for authors, in a folder of this process, apart from any server's.

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

/// The provider and its folder.
pub struct Platform {
    cache: Cache,
    recipes: PathBuf,
    sources: Sources,
    program: PathBuf,
    /// `<cache>/lab/<process>`. The tenants of a folder whose process has ended are orphans.
    home: PathBuf,
}

impl Platform {
    /// Creates a folder for this process, after cleaning up those of ended processes.
    pub async fn open(recipes: &Path, sources: Sources) -> anyhow::Result<Self> {
        let cache = Cache::of_user();
        let program = std::env::current_exe().context("cannot find the path of this program")?;
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

    /// Returns the provider.
    pub fn provider(&self) -> anyhow::Result<Arc<dyn Provider>> {
        Ok(Arc::new(self.local()?))
    }

    /// Returns the provider with its type, for access to its machines from the host.
    pub fn local(&self) -> anyhow::Result<Local> {
        let local = Local::new(&self.home, &self.recipes, self.cache.clone(), &self.program)?;
        Ok(local.with_sources(self.sources.clone()))
    }

    /// Returns the template that a lab needs, if it is built.
    pub fn find(&self, needs: &Needs) -> anyhow::Result<Option<Template>> {
        let template = needs.template();
        Ok(self
            .sources
            .template(&self.recipes, &template, &self.cache)?)
    }

    /// Returns the template that a lab needs, and builds it if necessary.
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

    /// Returns the limits of a lab's tenant.
    pub fn limits(template: &Template) -> Limits {
        bake::limits(&template.manifest.nodes)
    }

    /// Records the tenant that `lab run` has started, for `lab shell`.
    pub fn note(&self, lab: &str, id: &TenantId) -> anyhow::Result<()> {
        fs::write(self.home.join("running"), format!("{lab} {id}\n"))?;
        Ok(())
    }

    /// Returns the cache.
    pub const fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Removes the folder, once every tenant was destroyed.
    pub async fn close(self) {
        if let Ok(provider) = self.provider() {
            for (id, _) in provider.list().await.unwrap_or_default() {
                let _ = provider.destroy(&id).await;
            }
        }
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// Frees the tenants of processes that were killed or, if `all`, of every process. Returns their number.
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

/// Returns the tenant that `lab run` in another process has started for a lab.
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
