//! The provider of VMs on this machine: one launcher process per tenant, cloned from a baked snapshot.
//!
//! ```text
//! <data>/tenants/<id>/spec.json, made-of.json, cluster.json, launcher.sock, launcher.log, <node>.qcow2
//! <data>/tenants/<id>/unfinished      while it is being made; a tenant left with it is broken
//! ```
//!
//! The provider has no state in memory that it can't find again: a tenant exists if it has a folder or a control group,
//! and its launcher reports its state.
//!
//! | module | holds |
//! |---|---|
//! | this one | the provider: making, listing and freeing tenants |
//! | [`api`] | access to a tenant's API server, with credentials signed by its cluster's authority |
//! | [`changes`] | changes of tenants as their launchers report them |
//! | [`nodes`] | adding and removing nodes |
//! | [`introduce`] | making an added node and the others known to each other |
//! | [`images`] | loading container images into nodes |
//! | [`saves`] | save points, and tenants that continue from them |
//! | [`templates`] | records of the templates in use and those that were superseded |

mod api;
mod changes;
mod images;
mod introduce;
mod nodes;
mod saves;
mod templates;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use faultline_domain::{
    NodeName, SavePointId, Shape, TemplateRef, TenantId, container::ContainerImage, limits::Limits,
    memory::Memory, progress::Progress, save_point::Saved, template::Form,
};
use faultline_image::{
    bake::{self, Template},
    cache::Cache,
    recipe::{BakeStep, MachineShape, Recipe},
    sources::Sources,
    steps::Place,
};
use faultline_launcher::{
    cgroup, client,
    protocol::{Channel, Refusal, RefusalKind, SOCKET},
    spec::{LaunchSpec, Start},
    user,
};
use faultline_provider::{
    Allowance, ApiAccess, Capability, Change, Error, Identity, Observed, Priority, Provider,
    Readiness, Result, Stream, Target, Usage,
};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use self::{changes::Changes, templates::Templates};

/// The file with what a tenant was made of.
const MADE_OF: &str = "made-of.json";
/// The file that exists until a tenant is complete.
const UNFINISHED: &str = "unfinished";
/// The time limit for a launcher's status. A tenant that exceeds it is observed as unknown.
const STATUS: Duration = Duration::from_secs(5);

/// The parts of a tenant's recipe that adding and removing nodes need, as they were when the tenant was made: the
/// recipe may have changed since.
#[derive(Debug, Serialize, Deserialize)]
struct MadeOf {
    /// The template that it was cloned from.
    template: Option<TemplateRef>,
    /// What earlier versions wrote instead: the form only.
    #[serde(default, skip_serializing)]
    shape: Option<String>,
    worker: MachineShape,
    join: Vec<BakeStep>,
    leave: Vec<BakeStep>,
}

impl MadeOf {
    /// Returns the template that it was cloned from. For tenants of earlier versions, the image's name is unknown and
    /// not needed.
    fn template(&self) -> TemplateRef {
        let form = || self.shape.as_deref().and_then(|s| s.parse::<Form>().ok());
        let earlier = || form().unwrap_or_default().of("", !self.join.is_empty());
        self.template
            .clone()
            .or_else(earlier)
            .unwrap_or_else(|| TemplateRef::plain("", Shape::SINGLE))
    }
}

/// Returns the readiness of a template that is not baked, if known. The server reports the progress of its image builds
/// here.
pub type Prepare = Arc<dyn Fn(&TemplateRef) -> Option<Readiness> + Send + Sync>;

/// The provider of VMs on this machine.
#[derive(Clone)]
pub struct Local {
    /// The parent of the tenants' folders.
    tenants: PathBuf,
    /// The parent of the save points' folders.
    saves: PathBuf,
    /// The folder of recipes.
    recipes: PathBuf,
    /// The sources of programs and images.
    sources: Sources,
    cache: Cache,
    templates: Templates,
    program: PathBuf,
    preparing: Option<Prepare>,
    rekey: bool,
    /// The memory that all tenants together may use, in MiB.
    memory_mib: Option<u64>,
    changes: Changes,
    /// Held while a user id is chosen and stored.
    users: Arc<Mutex<()>>,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local")
            .field("tenants", &self.tenants)
            .finish_non_exhaustive()
    }
}

impl Local {
    /// Returns a provider with its tenants under `data` and recipes in `recipes`. `program` is the faultline program,
    /// which is run as each tenant's launcher.
    pub fn new(data: &Path, recipes: &Path, cache: Cache, program: &Path) -> io::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let tenants = data.join("tenants");
        rename_folder(&data.join("environments"), &tenants)?;
        fs::create_dir_all(&tenants)?;
        // Only root needs access: QEMU processes run as other users, but inherit what they need as file descriptors.
        fs::set_permissions(&tenants, fs::Permissions::from_mode(0o700))?;
        let saves = data.join("saves");
        fs::create_dir_all(&saves)?;
        fs::set_permissions(&saves, fs::Permissions::from_mode(0o700))?;
        Ok(Self {
            tenants: fs::canonicalize(tenants)?,
            saves: fs::canonicalize(saves)?,
            recipes: recipes.to_owned(),
            sources: Sources::default(),
            cache,
            templates: Templates::of(&fs::canonicalize(data)?),
            program: program.to_owned(),
            preparing: None,
            rekey: false,
            memory_mib: None,
            changes: Changes::default(),
            users: Arc::default(),
        })
    }

    /// Sets the sources of images.
    #[must_use]
    pub fn with_sources(mut self, sources: Sources) -> Self {
        self.sources = sources;
        self
    }

    /// Sets the function that returns the readiness of templates that are not baked.
    #[must_use]
    pub fn with_preparation(mut self, prepare: Prepare) -> Self {
        self.preparing = Some(prepare);
        self
    }

    /// Sets whether each cluster gets its own keys before its tenant is complete.
    #[must_use]
    pub const fn with_rekey(mut self, rekey: bool) -> Self {
        self.rekey = rekey;
        self
    }

    /// Limits the memory that all tenants of this host together may use, in MiB. The kernel enforces it from now on. `None`
    /// means all of the host's.
    pub fn with_memory(mut self, memory_mib: Option<u64>) -> io::Result<Self> {
        cgroup::limit_all(memory_mib)?;
        self.memory_mib = memory_mib;
        Ok(self)
    }

    /// Returns the folder of a tenant.
    #[must_use]
    pub fn folder(&self, id: &TenantId) -> PathBuf {
        self.tenants.join(id.as_str())
    }

    /// Returns a template if it was baked.
    pub fn template(&self, of: &TemplateRef) -> Result<Option<Template>> {
        self.sources
            .template(&self.recipes, of, &self.cache)
            .map_err(|e| Error::failed("image", e))
    }

    /// Returns a template whose files are verified, baking it if needed. This is the case if it was not baked yet, if
    /// QEMU or the processor has changed, or if the snapshot is damaged.
    async fn verified_template(
        &self,
        recipe: &Recipe,
        of: &TemplateRef,
        progress: &Progress,
    ) -> Result<Template> {
        for _ in 0..2 {
            let template = bake::bake(
                recipe,
                of,
                &self.cache,
                &self.program,
                &hide_cached_stages(progress),
            )
            .await
            .map_err(|e| Error::failed("image", e))?;
            let looked = template.clone();
            let verified = tokio::task::spawn_blocking(move || looked.verify(false))
                .await
                .map_err(|e| Error::failed("image", e))?;
            match verified {
                Ok(()) => return Ok(template),
                Err(damage) => {
                    tracing::error!(error = %damage, "a snapshot is damaged; rebuilding it");
                    template.discard(&damage).map_err(|e| {
                        Error::failed("image", format!("{damage}, and can't be removed: {e}"))
                    })?;
                }
            }
        }
        Err(Error::failed(
            "image",
            "its snapshot was damaged again after it was rebuilt; check this machine's disk and memory",
        ))
    }

    async fn launch(&self, dir: &Path, progress: &Progress) -> Result<()> {
        // It is gone if another installation was purged.
        if self.memory_mib.is_some() {
            cgroup::limit_all(self.memory_mib).map_err(|e| Error::failed("clone", e))?;
        }
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.join("launcher.log"))
            .map_err(|e| Error::failed("clone", e))?;
        let stderr = log.try_clone().map_err(|e| Error::failed("clone", e))?;
        let mut command = tokio::process::Command::new(&self.program);
        command
            .arg("launch")
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(stderr)
            .current_dir("/");
        // A new session, so that neither Ctrl-C in the server's terminal nor the server's end affects it. It also
        // doesn't inherit file descriptors that were open when the server was started. SAFETY: both are single,
        // async-signal-safe system calls.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                match libc::close_range(
                    3,
                    libc::c_uint::MAX,
                    libc::CLOSE_RANGE_CLOEXEC.cast_signed(),
                ) {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            });
        }
        let mut child = command.spawn().map_err(|e| {
            Error::failed(
                "clone",
                format!("cannot start {}: {e}", self.program.display()),
            )
        })?;
        let socket = dir.join(SOCKET);
        let appeared = async {
            while !socket.exists() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let told = |text: &str| {
            let log = fs::read_to_string(dir.join("launcher.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(3).collect();
            Error::failed(
                "clone",
                format!(
                    "{text}: {}",
                    tail.into_iter().rev().collect::<Vec<_>>().join(" | ")
                ),
            )
        };
        tokio::select! {
            () = appeared => {}
            _ = child.wait() => return Err(told("the launcher exited immediately")),
            () = tokio::time::sleep(Duration::from_secs(20)) => return Err(told("the launcher did not start within 20 s")),
        }
        // Waits in the background, so that no zombie is left while this server runs.
        tokio::spawn(async move { child.wait().await });
        match client::watch(dir, progress).await {
            Ok(()) => Ok(()),
            Err(client::Error::Failed { stage, reason }) => Err(Error::Failed { stage, reason }),
            Err(e) => Err(told(&e.to_string())),
        }
    }

    /// Returns true if a launcher of this installation runs in the group, even if its folder was removed.
    fn has_launched(&self, id: &TenantId) -> bool {
        let folder = self.folder(id);
        cgroup::processes(id).into_iter().any(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0).skip(1);
            words.next() == Some(b"launch")
                && words.next() == Some(folder.as_os_str().as_encoded_bytes())
        })
    }

    async fn ask<T>(
        &self,
        id: &TenantId,
        asked: impl Future<Output = client::Result<T>>,
    ) -> Result<T> {
        if !LaunchSpec::path(&self.folder(id)).exists() {
            return Err(Error::NotFound);
        }
        asked.await.map_err(|e| match e {
            client::Error::Refused(Refusal { why, reason }) => match why {
                RefusalKind::Other => Error::Unreachable(reason),
                RefusalKind::Starting | RefusalKind::Broken => Error::WrongState(Observed::Broken),
                RefusalKind::Paused => Error::WrongState(Observed::Paused),
                RefusalKind::NoNode => Error::NotFound,
                RefusalKind::NodeExists | RefusalKind::NotAWorker => {
                    Error::failed("power-on", reason)
                }
            },
            client::Error::Gone(_) => Error::WrongState(changes::observed_without_answer(&e)),
            client::Error::Failed { stage, reason } => Error::Failed { stage, reason },
        })
    }

    /// Writes the spec of a tenant's launcher, with a new user id.
    fn write_spec(&self, dir: &Path, mut spec: LaunchSpec) -> io::Result<()> {
        let _held = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let others = fs::read_dir(&self.tenants)?.flatten();
        let taken = others
            .filter_map(|entry| LaunchSpec::load(&entry.path()).ok())
            .map(|other| other.uid())
            .collect();
        spec.user = Some(user::allocate(&taken)?);
        spec.save(dir)
    }
}

/// Renames the tenants' folder of an earlier version. A symbolic link with the old name stays, for launchers that were
/// started before.
fn rename_folder(old: &Path, new: &Path) -> io::Result<()> {
    if new.exists() || fs::symlink_metadata(old).is_err() {
        return Ok(());
    }
    fs::rename(old, new)?;
    std::os::unix::fs::symlink("tenants", old)
}

#[async_trait]
impl Provider for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn capabilities(&self) -> &'static [Capability] {
        &[
            Capability::RootOnNodes,
            Capability::GuestLink,
            Capability::Console,
            Capability::AddNodes,
            Capability::Pause,
            Capability::Save,
            Capability::LoadImages,
            Capability::ClusterAdmin,
            Capability::OwnNamespaces,
        ]
    }

    fn memory(&self) -> Option<Memory> {
        let total_mib = self.memory_mib?;
        let used_mib = cgroup::memory_used_by_all().unwrap_or(0);
        Some(Memory {
            total_mib,
            available_mib: total_mib.saturating_sub(used_mib),
        })
    }

    async fn readiness(&self, template: &TemplateRef) -> Readiness {
        let (this, of) = (self.clone(), template.clone());
        let found = tokio::task::spawn_blocking(move || this.template(&of)).await;
        let missing = || {
            let (image, form) = (&template.image, template.form());
            Readiness::Unavailable {
                reason: format!(
                    "image {template} is not built; an operator can run `faultline image build {image} --shape {form}`"
                ),
            }
        };
        match found {
            Ok(Ok(Some(found))) => Readiness::Ready {
                template: found.manifest.key,
            },
            Ok(Ok(None)) => {
                let asked = self.preparing.as_ref().and_then(|ask| ask(template));
                asked.unwrap_or_else(missing)
            }
            Ok(Err(e)) => Readiness::Unavailable {
                reason: e.to_string(),
            },
            Err(e) => Readiness::Unavailable {
                reason: e.to_string(),
            },
        }
    }

    async fn create(
        &self,
        id: &TenantId,
        of: &TemplateRef,
        priority: Priority,
        progress: &Progress,
    ) -> Result<()> {
        let dir = self.folder(id);
        if dir.exists() || cgroup::is_populated(id) {
            return Err(Error::Exists);
        }
        let recipe = {
            let (this, of) = (self.clone(), of.clone());
            let chosen = move || this.sources.recipe(&this.recipes, &of, &this.cache);
            tokio::task::spawn_blocking(chosen)
                .await
                .map_err(|e| Error::failed("image", e))?
                .map_err(|e| Error::failed("image", e))?
        };
        let template = self.verified_template(&recipe, of, progress).await?;
        if let Err(e) = self.templates.record(of, &template) {
            tracing::warn!(error = %e, "recording a template failed; its files will not be removed when its recipe changes");
        }
        let launch = LaunchSpec {
            id: id.clone(),
            user: None,
            nodes: template.manifest.nodes.clone(),
            added: Vec::new(),
            control_planes: template.manifest.control_planes,
            start: Start::Clone {
                snapshot: template.snapshot.clone(),
            },
            saved: None,
            kvm_cpu: template.manifest.kvm_cpu.clone(),
            base_disk: template.image.disk(),
            limits: bake::limits(&template.manifest.nodes),
            egress: Vec::new(),
        };
        let made_of = MadeOf {
            template: Some(of.clone()),
            shape: None,
            worker: recipe.worker.unwrap_or(recipe.machine),
            join: recipe.join.clone(),
            leave: recipe.leave.clone(),
        };
        let made_of = serde_json::to_vec(&made_of).map_err(|e| Error::failed("clone", e))?;
        fs::create_dir(&dir)
            .and_then(|()| fs::write(dir.join(UNFINISHED), []))
            .and_then(|()| fs::write(dir.join(MADE_OF), made_of))
            .and_then(|()| self.write_spec(&dir, launch))
            .map_err(|e| Error::failed("clone", format!("cannot write {}: {e}", dir.display())))?;
        self.launch(&dir, progress).await?;
        // The rest takes longest: the guests' own work.
        if priority == Priority::Low {
            cgroup::lower_priority(id).map_err(|e| Error::failed("clone", e))?;
        }
        if self.rekey {
            let what = ("rekey", "Giving the cluster its own keys");
            carry_out(&recipe.rekey, what, &dir, of, progress).await?;
        }
        let what = ("probe", "Waiting until the cluster answers");
        carry_out(&recipe.probe, what, &dir, of, progress).await?;
        if of.is_cluster() {
            api::keep_keys(&dir, of.shape)
                .await
                .map_err(|e| Error::failed("probe", format!("the cluster's keys: {e}")))?;
        }
        fs::remove_file(dir.join(UNFINISHED)).map_err(|e| Error::failed("clone", e))?;
        self.changes.follow(id, &dir);
        Ok(())
    }

    async fn prioritize(&self, id: &TenantId) -> Result<()> {
        cgroup::restore_priority(id).map_err(|e| Error::failed("clone", e))
    }

    async fn configure(&self, id: &TenantId, allowance: &Allowance) -> Result<()> {
        let dir = self.folder(id);
        let spec = LaunchSpec::load(&dir).map_err(|_| Error::NotFound)?;
        cgroup::restore_priority(id).map_err(|e| Error::failed("configure", e))?;
        let limits = at_least(allowance.limits, &bake::limits(&spec.nodes));
        self.ask(
            id,
            client::configure(&dir, limits, allowance.egress.clone()),
        )
        .await
    }

    async fn list(&self) -> Result<Vec<Change>> {
        let mut ids: BTreeSet<TenantId> = cgroup::list()
            .into_iter()
            .filter(|id| self.folder(id).exists() || self.has_launched(id))
            .collect();
        let entries = fs::read_dir(&self.tenants).map_err(|e| Error::failed("list", e))?;
        ids.extend(
            entries
                .flatten()
                .filter_map(|e| e.file_name().to_str().and_then(|n| n.parse().ok())),
        );
        let seen = ids.into_iter().map(|id| async move {
            let dir = self.folder(&id);
            if dir.join(UNFINISHED).exists() {
                return (id, Observed::Broken);
            }
            let asked = tokio::time::timeout(STATUS, client::status(&dir)).await;
            let observed = match asked {
                Ok(Ok(status)) => changes::observed(&status.phase),
                Ok(Err(e)) => changes::observed_without_answer(&e),
                Err(_) => Observed::Unknown,
            };
            self.changes.follow(&id, &dir);
            (id, observed)
        });
        Ok(futures::future::join_all(seen).await)
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.receiver()
    }

    async fn pause(&self, id: &TenantId) -> Result<()> {
        self.ask(id, client::pause(&self.folder(id))).await
    }

    async fn resume(&self, id: &TenantId) -> Result<()> {
        self.ask(id, client::resume(&self.folder(id))).await
    }

    async fn destroy(&self, id: &TenantId) -> Result<()> {
        let dir = self.folder(id);
        // Before anything is killed, so that a launcher that is still starting finds its spec gone, see
        // `launcher::claim`.
        let spec = LaunchSpec::path(&dir);
        match fs::remove_file(&spec) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                let reason = format!("cannot remove {}: {e}", spec.display());
                return Err(Error::failed("release", reason));
            }
            _ => {}
        }
        // Asks the launcher to stop first, so that QEMU closes its files. Then everything that is left is killed.
        if client::stop(&dir).await.is_ok() {
            for _ in 0..50 {
                if !cgroup::is_populated(id) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        let owned = id.clone();
        tokio::task::spawn_blocking(move || {
            cgroup::destroy(&owned)?;
            match fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            }
        })
        .await
        .map_err(|e| Error::failed("release", e))?
        .map_err(|e| Error::failed("release", e))?;
        self.changes.tell(id, Observed::Absent);
        Ok(())
    }

    /// A control group without a folder may belong to another installation, so only empty ones are removed. A
    /// superseded template is removed when no tenant and no save point needs it any more.
    async fn sweep(&self) -> Result<u32> {
        let this = self.clone();
        let swept = tokio::task::spawn_blocking(move || {
            let groups = cgroup::list().into_iter();
            let left = groups.filter(|id| !this.folder(id).exists() && !cgroup::is_populated(id));
            let swept = left.filter(cgroup::remove_empty).count();
            let swept = u32::try_from(swept).unwrap_or(u32::MAX);
            if !this.templates.has_superseded() {
                return Ok(swept);
            }
            let mut tenants = Vec::new();
            for entry in fs::read_dir(&this.tenants)?.flatten() {
                match LaunchSpec::load(&entry.path()) {
                    Ok(spec) => tenants.push(spec),
                    // It is being made or freed at this moment.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    // If a spec can't be read, its template is unknown: no template is removed until that tenant was
                    // freed.
                    Err(_) => return Ok(swept),
                }
            }
            let Some(saved) = this.saved_specs()? else {
                return Ok(swept);
            };
            tenants.extend(saved);
            Ok(swept.saturating_add(this.templates.collect(&tenants)?))
        });
        let swept: io::Result<u32> = swept.await.map_err(|e| Error::failed("sweep", e))?;
        swept.map_err(|e| Error::failed("sweep", e))
    }

    async fn save(&self, id: &TenantId, to: &SavePointId) -> Result<Saved> {
        self.save_tenant(id, to).await
    }

    async fn restore(&self, id: &TenantId, from: &SavePointId, progress: &Progress) -> Result<()> {
        self.restore_tenant(id, from, progress).await
    }

    async fn saves(&self) -> Result<Vec<(SavePointId, Option<Saved>)>> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.list_saves())
            .await
            .map_err(|e| Error::failed("list", e))?
            .map_err(|e| Error::failed("list", e))
    }

    async fn delete_save(&self, id: &SavePointId) -> Result<()> {
        let (this, id) = (self.clone(), id.clone());
        tokio::task::spawn_blocking(move || this.remove_save(&id))
            .await
            .map_err(|e| Error::failed("delete", e))?
            .map_err(|e| Error::failed("delete", e))
    }

    async fn add_node(&self, id: &TenantId, node: &NodeName, progress: &Progress) -> Result<()> {
        self.add_worker(id, node, progress).await
    }

    async fn remove_node(&self, id: &TenantId, node: &NodeName, progress: &Progress) -> Result<()> {
        self.remove_worker(id, node, progress).await
    }

    async fn load_image(
        &self,
        id: &TenantId,
        nodes: &[NodeName],
        image: &ContainerImage,
    ) -> Result<()> {
        images::load(self, id, nodes, image).await
    }

    async fn open(&self, id: &TenantId, node: &NodeName, target: Target) -> Result<Stream> {
        let channel = match target {
            Target::Port(port) => Channel::Port(port),
            Target::Console => Channel::Console,
            Target::Guest => Channel::Guest,
        };
        Ok(Box::new(
            self.ask(id, client::open(&self.folder(id), node, channel))
                .await?,
        ))
    }

    async fn api(&self, id: &TenantId, identity: &Identity) -> Result<ApiAccess> {
        let (this, id, identity) = (self.clone(), id.clone(), identity.clone());
        tokio::task::spawn_blocking(move || api::access(&this, &id, &identity))
            .await
            .map_err(|e| Error::failed("credential", e))?
    }

    async fn usage(&self, id: &TenantId) -> Result<Usage> {
        let usage = self.ask(id, client::usage(&self.folder(id))).await?;
        let private = |n: &faultline_launcher::protocol::NodeMemory| {
            n.guest_private_bytes + n.qemu_private_bytes
        };
        Ok(Usage {
            private_bytes: usage.nodes.iter().map(private).sum(),
            cpu_millis: usage.cpu_millis,
            disk_bytes: usage.disk_bytes,
        })
    }
}

/// Raises memory and tasks to at least what the template's machines may use. With less memory, the host would kill a
/// node that uses it.
fn at_least(asked: Limits, promised: &Limits) -> Limits {
    Limits {
        memory_mib: asked.memory_mib.max(promised.memory_mib),
        pids: asked.pids.max(promised.pids),
        ..asked
    }
}

/// Runs a recipe's bake steps in a clone before it can be used, as a stage with this name and text.
async fn carry_out(
    steps: &[BakeStep],
    (name, text): (&'static str, &'static str),
    dir: &Path,
    template: &TemplateRef,
    progress: &Progress,
) -> Result<()> {
    if steps.is_empty() {
        return Ok(());
    }
    let stage = progress.stage(name, text);
    let log = dir.join(format!("{name}.log"));
    let place = Place {
        dir,
        template,
        node: None,
        log: Some(&log),
    };
    place
        .carry_out(steps, |index, step, _| {
            stage.part(index, steps.len(), step.text.clone());
        })
        .await
        .map_err(|e| Error::failed(name, e))?;
    stage.done();
    Ok(())
}

/// Returns a handle that hides the start and the end of cached stages: a template that is found is not a stage of a
/// start.
fn hide_cached_stages(progress: &Progress) -> Progress {
    use faultline_domain::progress::Event;
    let progress = progress.clone();
    Progress::new(move |event| match event {
        Event::Done { cached: true, .. } | Event::Started { .. } => {}
        other => progress.report(other),
    })
}
