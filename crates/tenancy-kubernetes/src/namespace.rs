//! The provider whose tenants are namespaces of a host's cluster.
//!
//! ```text
//! Namespace faultline-<id>      label faultline.dev/tenant: <id>
//!                               label faultline.dev/state: unfinished, then ready
//!   NetworkPolicy, ResourceQuota, LimitRange, ServiceAccount, RoleBindings
//!
//! for all of them: ClusterRoles, ValidatingAdmissionPolicies, a FlowSchema with its priority level, a PriorityClass
//! ```
//!
//! The provider has no state in memory that it can't find again: a tenant exists if its namespace does. A person never
//! gets a credential of the host's cluster. The gateway authenticates as the platform and impersonates the tenant's user,
//! who has rights in this namespace only.
//!
//! | module | holds |
//! |---|---|
//! | this one | the provider: making, listing and freeing tenants |
//! | `objects` | the objects of a tenant (`tenant.yaml`, `limits.yaml`), and of all tenants (`guards.yaml`) |
//! | `guards` | installing what all tenants share, and what the host's cluster lacks for it |
//! | `probe` | the checks before a tenant is handed out |
//! | `removal` | removing a namespace, also if something in it is stuck |
//! | `usage` | what a tenant uses |

mod guards;
mod objects;
mod probe;
mod removal;
mod usage;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use faultline_cluster::client::PLATFORM;
use faultline_domain::{
    NodeName, Shape, TemplateRef, TenantId, container::ContainerImage, progress::Progress,
};
use faultline_provider::{
    Allowance, ApiAccess, Capability, Change, Error, Identity, Observed, Priority, Provider,
    Readiness, Result, Stream, Target, Usage,
};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
    core::PartialObjectMeta,
};
use serde_json::json;
use tokio::{sync::broadcast, time::Instant};

use self::usage::CpuTimes;
use crate::{Host, manifest};

/// The image of all templates of this tenancy.
pub const IMAGE: &str = "namespace";
/// The number of changes that a receiver may lag behind.
const CHANGES: usize = 1024;
/// The interval at which what all tenants share is installed again, in case somebody changed it.
const REINSTALL: Duration = Duration::from_secs(300);

/// The settings of the tenancy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The sources of images that pods may use: registries, such as `quay.io`, folders of them, such as
    /// `docker.io/library`, or single images. Nodes connect to these. Default: `docker.io`, `ghcr.io`, `quay.io` and
    /// `registry.k8s.io`.
    pub images: Vec<String>,
    /// The runtime classes that pods may name. Default: none.
    pub runtime_classes: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        let images = ["docker.io", "ghcr.io", "quay.io", "registry.k8s.io"];
        Self {
            images: images.map(str::to_owned).to_vec(),
            runtime_classes: Vec::new(),
        }
    }
}

/// The provider of namespaces. Cloning shares its connections.
#[derive(Debug, Clone)]
pub struct Namespaces(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: Host,
    settings: Settings,
    /// When what all tenants share was last installed.
    installed: tokio::sync::Mutex<Option<Instant>>,
    /// Why tenants can't be created; `None` if they can.
    unavailable: Mutex<Option<String>>,
    cpu: Mutex<CpuTimes>,
    changes: broadcast::Sender<Change>,
}

/// A namespace as it was listed.
type Listed = PartialObjectMeta<Namespace>;

impl Namespaces {
    /// Returns a provider on this host, and installs what all tenants share. If that fails, no tenant can be created
    /// until [`list`](Provider::list) or [`create`](Provider::create), which try again, succeed;
    /// [`readiness`](Provider::readiness) says why.
    pub async fn new(host: Host, settings: Settings) -> Self {
        let provider = Self(Arc::new(Inner {
            host,
            settings,
            installed: tokio::sync::Mutex::default(),
            unavailable: Mutex::default(),
            cpu: Mutex::default(),
            changes: broadcast::channel(CHANGES).0,
        }));
        // `readiness` tells an error.
        let _ = provider.guard().await;
        provider
    }

    fn client(&self) -> &Client {
        self.0.host.client()
    }

    fn namespaces(&self) -> Api<Namespace> {
        Api::all(self.client().clone())
    }

    /// Installs what all tenants share, unless that was done a short time ago.
    async fn guard(&self) -> Result<()> {
        let mut installed_at = self.0.installed.lock().await;
        if installed_at.is_some_and(|at| at.elapsed() < REINSTALL) {
            return Ok(());
        }
        let installed = guards::install(self.client(), &self.0.settings).await;
        lock(&self.0.unavailable).clone_from(&installed.clone().err());
        installed.map_err(|e| Error::failed("policies", e))?;
        *installed_at = Some(Instant::now());
        Ok(())
    }

    /// Returns a tenant's namespace.
    async fn find(&self, id: &TenantId) -> Result<Option<Listed>> {
        let name = objects::namespace(id);
        let found = self.namespaces().get_metadata_opt(&name).await;
        let found = found.map_err(|e| unreachable(&e))?;
        Ok(found.filter(|found| tenant_of(found).as_ref() == Some(id)))
    }

    /// Returns an error unless the tenant is complete.
    async fn running(&self, id: &TenantId) -> Result<()> {
        let found = self.find(id).await?.ok_or(Error::NotFound)?;
        match observed(&found) {
            Observed::Running => Ok(()),
            other => Err(Error::WrongState(other)),
        }
    }

    /// Returns that this tenancy can't do something, or that there is no such tenant.
    async fn cannot<T>(&self, id: &TenantId, capability: Capability) -> Result<T> {
        self.find(id).await?.ok_or(Error::NotFound)?;
        Err(Error::Unsupported(capability))
    }

    fn tell(&self, id: &TenantId, observed: Observed) {
        // An error means that nobody listens.
        let _ = self.0.changes.send((id.clone(), observed));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the tenant whose namespace this is. `None` if it isn't Faultline's.
fn tenant_of(namespace: &Listed) -> Option<TenantId> {
    let labels = namespace.labels();
    let is_ours = labels.get(objects::MANAGED_BY).map(String::as_str) == Some(objects::FAULTLINE);
    let id: TenantId = labels.get(objects::TENANT)?.parse().ok()?;
    (is_ours && namespace.name_any() == objects::namespace(&id)).then_some(id)
}

fn observed(namespace: &Listed) -> Observed {
    let state = namespace.labels().get(objects::STATE).map(String::as_str);
    let is_ending = namespace.metadata.deletion_timestamp.is_some();
    if state == Some(objects::READY) && !is_ending {
        Observed::Running
    } else {
        Observed::Broken
    }
}

/// Returns what went wrong, for people.
fn why(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => {
            let mut text = other.to_string();
            let mut cause = std::error::Error::source(other);
            while let Some(next) = cause {
                let said = next.to_string();
                if !text.contains(&said) {
                    text = format!("{text}: {said}");
                }
                cause = next.source();
            }
            text
        }
    }
}

fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

fn unreachable(error: &kube::Error) -> Error {
    Error::Unreachable(format!("the host's cluster: {}", why(error)))
}

#[async_trait]
impl Provider for Namespaces {
    fn name(&self) -> &'static str {
        "namespace"
    }

    fn capabilities(&self) -> &'static [Capability] {
        &[]
    }

    async fn readiness(&self, template: &TemplateRef) -> Readiness {
        let reason = if template.image != IMAGE {
            Some(format!("a namespace can't be made of {}", template.image))
        } else if template.shape != Shape::SINGLE {
            Some("a namespace has no nodes of its own".to_owned())
        } else {
            lock(&self.0.unavailable).clone()
        };
        match reason {
            Some(reason) => Readiness::Unavailable { reason },
            None => Readiness::Ready {
                template: objects::fingerprint(&self.0.settings),
            },
        }
    }

    async fn create(
        &self,
        id: &TenantId,
        template: &TemplateRef,
        _: Priority,
        progress: &Progress,
    ) -> Result<()> {
        self.guard().await?;
        if let Readiness::Unavailable { reason } = self.readiness(template).await {
            return Err(Error::failed("namespace", reason));
        }
        let name = objects::namespace(id);
        let made = objects::new_namespace(id).map_err(|e| Error::failed("namespace", e))?;
        // The first that exists of a tenant, so everything else can be found and freed.
        match self
            .namespaces()
            .create(&PostParams::default(), &made)
            .await
        {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => return Err(Error::Exists),
            Err(e) => return Err(Error::failed("namespace", why(&e))),
        }
        let stage = progress.stage(
            "isolate",
            "setting up its rights, limits and network policy",
        );
        let objects = objects::tenant(id).map_err(|e| Error::failed("isolate", e))?;
        let applied = manifest::apply(self.client(), &objects).await;
        applied.map_err(|e| Error::failed("isolate", why(&e)))?;
        stage.done();
        let stage = progress.stage("probe", "checking its rights and limits");
        let image = self.0.settings.images.first().map_or("", String::as_str);
        let probed = probe::probe(self.client(), id, &format!("{image}/probe")).await;
        probed.map_err(|e| Error::failed("probe", e))?;
        let ready = Patch::Merge(json!({"metadata": {"labels": {objects::STATE: objects::READY}}}));
        let params = PatchParams::default();
        let marked = self
            .namespaces()
            .patch_metadata(&name, &params, &ready)
            .await;
        marked.map_err(|e| Error::failed("probe", why(&e)))?;
        stage.done();
        self.tell(id, Observed::Running);
        Ok(())
    }

    /// Applies a lab's limits of CPU and memory. A namespace has no others: the number of processes and the rates of disk
    /// and network are the nodes'. Egress by host name can't be expressed in network policies, so labs that ask for any
    /// are refused.
    async fn configure(&self, id: &TenantId, allowance: &Allowance) -> Result<()> {
        self.running(id).await?;
        if !allowance.egress.is_empty() {
            return Err(Error::failed(
                "configure",
                "this lab needs egress, which a namespace can't have; run it on machines",
            ));
        }
        let objects = objects::limits(id, &allowance.limits);
        let objects = objects.map_err(|e| Error::failed("configure", e))?;
        let applied = manifest::apply(self.client(), &objects).await;
        applied.map_err(|e| Error::failed("configure", why(&e)))
    }

    async fn list(&self) -> Result<Vec<Change>> {
        let selector = format!("{}={}", objects::MANAGED_BY, objects::FAULTLINE);
        let params = ListParams::default().labels(&selector);
        let found = self.namespaces().list_metadata(&params).await;
        let found = found.map_err(|e| unreachable(&e))?;
        // What exists is listed even if nothing can be created.
        let _ = self.guard().await;
        let all = found.iter();
        Ok(all
            .filter_map(|found| Some((tenant_of(found)?, observed(found))))
            .collect())
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.0.changes.subscribe()
    }

    async fn pause(&self, id: &TenantId) -> Result<()> {
        self.cannot(id, Capability::Pause).await
    }

    async fn resume(&self, id: &TenantId) -> Result<()> {
        self.cannot(id, Capability::Pause).await
    }

    async fn destroy(&self, id: &TenantId) -> Result<()> {
        let Some(found) = self.find(id).await? else {
            return Ok(());
        };
        let uid = found.uid().unwrap_or_default();
        let removed = removal::remove(self.client(), &found.name_any(), &uid).await;
        removed.map_err(|e| Error::failed("remove", format!("{}: {e}", found.name_any())))?;
        lock(&self.0.cpu).forget(id);
        self.tell(id, Observed::Absent);
        Ok(())
    }

    async fn add_node(&self, id: &TenantId, _: &NodeName, _: &Progress) -> Result<()> {
        self.cannot(id, Capability::AddNodes).await
    }

    async fn remove_node(&self, id: &TenantId, _: &NodeName, _: &Progress) -> Result<()> {
        self.cannot(id, Capability::AddNodes).await
    }

    async fn load_image(&self, id: &TenantId, _: &[NodeName], _: &ContainerImage) -> Result<()> {
        self.cannot(id, Capability::LoadImages).await
    }

    async fn open(&self, id: &TenantId, _: &NodeName, target: Target) -> Result<Stream> {
        let capability = match target {
            Target::Guest => Capability::GuestLink,
            Target::Console => Capability::Console,
            Target::Port(_) => Capability::RootOnNodes,
        };
        self.cannot(id, capability).await
    }

    /// Returns access as the tenant's user. The platform itself gets access as the user that sets up and checks the lab,
    /// who has no rights in other namespaces either.
    async fn api(&self, id: &TenantId, identity: &Identity) -> Result<ApiAccess> {
        self.running(id).await?;
        let user = if identity.user == PLATFORM {
            objects::setup_user(id)
        } else {
            objects::tenant_user(id)
        };
        self.0.host.access(user, objects::namespace(id))
    }

    async fn usage(&self, id: &TenantId) -> Result<Usage> {
        self.running(id).await?;
        let measured = usage::metrics(self.client(), &objects::namespace(id)).await;
        let measured = measured.map_err(|e| {
            Error::Unreachable(format!("the metrics of the host's cluster: {}", why(&e)))
        })?;
        let cpu = lock(&self.0.cpu).count(id, measured.cpu_millis, Instant::now());
        Ok(measured.usage(cpu))
    }
}
