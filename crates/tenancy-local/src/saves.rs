//! Save points on this machine, and tenants that continue from them.
//!
//! ```text
//! <data>/saves/<id>/made-of.json, cluster.json    the tenant's, see the crate's documentation
//! <data>/saves/<id>/nodes/                        see `launcher::save`; complete once it exists
//! ```
//!
//! A save point has only what its nodes have changed, so it needs the very template that they were cloned from: a
//! superseded one stays while a save point needs it, and one that was rebuilt is recognized by its manifest.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use faultline_domain::{SavePointId, TenantId, progress::Progress, save_point::Saved};
use faultline_image::{bake::Template, build::Image};
use faultline_launcher::{
    cgroup, client,
    save::Manifest,
    snapshot,
    spec::{LaunchSpec, Start},
};
use faultline_provider::{Error, Result};

use crate::{Local, MADE_OF, UNFINISHED, api};

/// The stage that fails if a save point can't be used.
const STAGE: &str = "restore";

/// The folder of a save point's nodes.
fn nodes(folder: &Path) -> PathBuf {
    folder.join("nodes")
}

/// Copies a tenant's own files to or from a save point. A tenant without a cluster has no keys of one.
fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    for name in [MADE_OF, api::KEYS] {
        match fs::copy(from.join(name), to.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Returns the folder of the template that a tenant was cloned from, with its disk.
fn template_of(spec: &LaunchSpec) -> Result<Option<Template>> {
    let Start::Clone { snapshot } = &spec.start else {
        return Ok(None);
    };
    let gone = |e| {
        Error::failed(
            STAGE,
            format!("its template is not on this machine any more: {e}"),
        )
    };
    let manifest = snapshot::Manifest::load(snapshot).map_err(gone)?;
    let folder = spec.base_disk.parent().unwrap_or(Path::new("/"));
    Ok(Some(Template {
        image: Image {
            key: manifest.image.clone(),
            folder: folder.to_owned(),
        },
        snapshot: snapshot.clone(),
        manifest,
    }))
}

/// Verifies a save point and its template. Blocking: reads all files of the save point.
fn verified(folder: &Path) -> Result<Manifest> {
    let manifest = Manifest::verified(&nodes(folder)).map_err(|e| Error::failed(STAGE, e))?;
    if let Some(template) = template_of(&manifest.spec)? {
        template
            .verify(false)
            .map_err(|e| Error::failed(STAGE, format!("its template is damaged: {e}")))?;
    }
    Ok(manifest)
}

impl Local {
    fn save_folder(&self, id: &SavePointId) -> PathBuf {
        self.saves.join(id.as_str())
    }

    pub(super) async fn save_tenant(&self, id: &TenantId, save: &SavePointId) -> Result<Saved> {
        let (dir, folder) = (self.folder(id), self.save_folder(save));
        if !LaunchSpec::path(&dir).exists() {
            return Err(Error::NotFound);
        }
        if nodes(&folder).exists() {
            return Err(Error::Exists);
        }
        let failed = |e| Error::failed("save", e);
        fs::create_dir_all(&folder).map_err(failed)?;
        copy_files(&dir, &folder).map_err(failed)?;
        let saved = self.ask(id, client::save(&dir, &nodes(&folder))).await;
        if saved.is_err() {
            let _ = fs::remove_dir_all(&folder);
        }
        saved
    }

    pub(super) async fn restore_tenant(
        &self,
        id: &TenantId,
        save: &SavePointId,
        progress: &Progress,
    ) -> Result<()> {
        let (dir, folder) = (self.folder(id), self.save_folder(save));
        if dir.exists() || cgroup::is_populated(id) {
            return Err(Error::Exists);
        }
        if !nodes(&folder).exists() {
            return Err(Error::NotFound);
        }
        let stage = progress.stage("verify", "Checking the save point");
        let manifest = {
            let folder = folder.clone();
            tokio::task::spawn_blocking(move || verified(&folder))
                .await
                .map_err(|e| Error::failed(STAGE, e))??
        };
        stage.done();
        let launch = LaunchSpec {
            id: id.clone(),
            user: None,
            saved: Some(nodes(&folder)),
            // It is opened when an environment claims the tenant.
            egress: Vec::new(),
            ..manifest.spec
        };
        fs::create_dir(&dir)
            .and_then(|()| fs::write(dir.join(UNFINISHED), []))
            .and_then(|()| copy_files(&folder, &dir))
            .and_then(|()| self.write_spec(&dir, launch))
            .map_err(|e| Error::failed(STAGE, format!("cannot write {}: {e}", dir.display())))?;
        self.launch(&dir, progress).await?;
        fs::remove_file(dir.join(UNFINISHED)).map_err(|e| Error::failed(STAGE, e))?;
        self.changes.follow(id, &dir);
        Ok(())
    }

    pub(super) fn list_saves(&self) -> io::Result<Vec<(SavePointId, Option<Saved>)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.saves)?.flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            let manifest = Manifest::load(&nodes(&entry.path())).ok();
            all.push((id, manifest.map(|m| m.saved())));
        }
        Ok(all)
    }

    pub(super) fn remove_save(&self, id: &SavePointId) -> io::Result<()> {
        let folder = self.save_folder(id);
        // What is left after a crash isn't complete any more.
        for part in [nodes(&folder), folder] {
            match fs::remove_dir_all(part) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the specs of all save points, whose templates are in use. `None` if one can't be read.
    pub(super) fn saved_specs(&self) -> io::Result<Option<Vec<LaunchSpec>>> {
        let mut specs = Vec::new();
        for entry in fs::read_dir(&self.saves)?.flatten() {
            match Manifest::load(&nodes(&entry.path())) {
                Ok(manifest) => specs.push(manifest.spec),
                // It is being made or deleted at this moment.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(_) => return Ok(None),
            }
        }
        Ok(Some(specs))
    }
}
