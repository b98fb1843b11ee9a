//! Defines what a tenancy provider is: the [`Provider`] trait.
//!
//! | module | holds |
//! |---|---|
//! | this one | the trait and its types |
//! | [`capability`] | the optional features of a tenancy |
//! | [`api`] | access to a tenant's API server, for one identity |
//! | [`attempts`] | attempts of which one has to succeed |
//! | [`error`] | the provider's errors |
//! | [`fake`] | a provider without machines, for load and fault tests: it has latency, fails on demand, loses nodes |
//! | [`conformance`] | the test suite that every provider must pass, including the fake |

pub mod api;
pub mod attempts;
pub mod capability;
pub mod conformance;
pub mod error;
pub mod fake;

use async_trait::async_trait;
pub use faultline_domain::tenant::{Allowance, Observed, Spec};
use faultline_domain::{
    NodeName, SavePointId, TemplateRef, TenantId, container::ContainerImage, memory::Memory,
    progress::Progress, save_point::Saved,
};
pub use faultline_guest::client::Duplex;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

pub use self::{
    api::{ApiAccess, Identity},
    capability::Capability,
    error::{Error, Result},
};

/// A byte stream to or from a tenant.
pub type Stream = Box<dyn Duplex>;

/// A change of a tenant: what was observed of it.
pub type Change = (TenantId, Observed);

/// The endpoint of a stream within a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A TCP port of the node, reached from outside it.
    Port(u16),
    /// The node's serial console: raw bytes, shared by all open streams.
    Console,
    /// A new substream of the guest link, for use with [`faultline_guest::client`].
    Guest,
}

/// Whether tenants of a template can be created.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "readiness", rename_all = "snake_case")]
pub enum Readiness {
    /// They can be created now.
    Ready {
        /// The hash of the template's content, which changes when the template does.
        template: String,
    },
    /// The template is being built.
    Preparing {
        /// The progress of the build, from 0 to 1.
        fraction: f64,
        /// What is happening, for people.
        text: String,
    },
    /// They can't be created.
    Unavailable {
        /// Why, and what to do, for people.
        reason: String,
    },
}

/// How much CPU time the creation of a tenant gets if other tenants need it too. It applies until the tenant is
/// configured or prioritized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// Somebody waits for it.
    #[default]
    Normal,
    /// Nobody waits for it, so it must not slow down others.
    Low,
}

/// The resources that a tenant uses.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// The private memory of its processes, in bytes.
    pub private_bytes: u64,
    /// The CPU time used so far, in milliseconds.
    pub cpu_millis: u64,
    /// The disk space that its overlays take, in bytes.
    pub disk_bytes: u64,
}

/// Creates a tenant, from its template or its save point, and applies what its lab allows.
pub async fn make(
    provider: &dyn Provider,
    id: &TenantId,
    spec: &Spec,
    progress: &Progress,
) -> Result<()> {
    begin(provider, id, spec, progress).await?;
    provider.configure(id, &spec.allowance).await
}

/// Creates a tenant, from its template or its save point.
pub async fn begin(
    provider: &dyn Provider,
    id: &TenantId,
    spec: &Spec,
    progress: &Progress,
) -> Result<()> {
    match &spec.save_point {
        Some(save) => provider.restore(id, save, progress).await,
        None => {
            let normal = Priority::Normal;
            provider.create(id, &spec.template, normal, progress).await
        }
    }
}

/// A provider of tenants.
///
/// The reconcilers call `create` … `remove_node`, one at a time for each tenant (the setup of a lab, which is part of a
/// start, also calls `add_node`). `open`, `api` and `usage` are called by anyone at any time.
///
/// Every method may be cancelled by dropping its future. What a cancelled `create` leaves behind is listed as
/// [`Observed::Broken`] and freed by `destroy`. After any other cancelled call, the same call can be repeated, and
/// `destroy` works. Methods that a tenancy doesn't support return [`Error::Unsupported`].
#[async_trait]
pub trait Provider: Send + Sync + std::fmt::Debug {
    /// Returns the provider's stable name: `local`, `fake`.
    fn name(&self) -> &'static str;

    /// Returns what its tenants support.
    fn capabilities(&self) -> &'static [Capability];

    /// Returns how much memory all its tenants together may use, and how much of that is left. `None` if only the host's
    /// memory limits them. Fast.
    fn memory(&self) -> Option<Memory> {
        None
    }

    /// Returns whether tenants of this template can be created. Fast; starts no work.
    async fn readiness(&self, template: &TemplateRef) -> Readiness;

    /// Creates a running tenant, before any lab's setup: randomness, clock, machine ID and host keys are its own, and
    /// its guest link responds. Until it is configured, it has its template's default resources and no connections to
    /// the outside. Reports stages. Returns [`Error::Exists`] if the tenant exists.
    async fn create(
        &self,
        id: &TenantId,
        template: &TemplateRef,
        priority: Priority,
        progress: &Progress,
    ) -> Result<()>;

    /// Gives a tenant that is being created normal priority, because somebody waits for it now.
    async fn prioritize(&self, _: &TenantId) -> Result<()> {
        Ok(())
    }

    /// Applies what a lab allows, before anyone uses the tenant: its limits and its egress. Idempotent with the same
    /// allowance. Fails if other egress is already open; all egress closes when the tenant ends.
    async fn configure(&self, id: &TenantId, allowance: &Allowance) -> Result<()>;

    /// Returns all tenants of which anything exists, whether created by this process or an earlier one.
    async fn list(&self) -> Result<Vec<Change>>;

    /// Subscribes to changes. Each is sent soon after it happens. A receiver that lags behind misses some, and changes
    /// of an earlier process's tenants are sent only once `list` has returned these tenants: `list` is authoritative.
    fn changes(&self) -> broadcast::Receiver<Change>;

    /// Pauses all nodes. Idempotent.
    async fn pause(&self, id: &TenantId) -> Result<()>;

    /// Resumes all nodes and sets their clocks. Idempotent.
    async fn resume(&self, id: &TenantId) -> Result<()>;

    /// Saves memory, devices and disks of all nodes at one instant. They stand still for that instant only, and stay
    /// paused if they were. If it fails, the tenant runs on, and nothing is left of the save point. What a dropped call
    /// leaves is listed by [`saves`](Self::saves), and may be complete or become so. Returns [`Error::Exists`] if
    /// anything of the save point exists.
    async fn save(&self, _: &TenantId, _to: &SavePointId) -> Result<Saved> {
        Err(Error::Unsupported(Capability::Save))
    }

    /// Creates a running tenant that continues from a save point, like [`create`](Self::create). Its randomness is its
    /// own and its clock is set; machine IDs, host keys and what runs are those of the save point, which stays as it is.
    /// Returns [`Error::NotFound`] if the save point doesn't exist.
    async fn restore(&self, _: &TenantId, _from: &SavePointId, _: &Progress) -> Result<()> {
        Err(Error::Unsupported(Capability::Save))
    }

    /// Returns all save points of which anything exists, with the figures of those that are complete.
    async fn saves(&self) -> Result<Vec<(SavePointId, Option<Saved>)>> {
        Ok(Vec::new())
    }

    /// Deletes everything of a save point. Idempotent: succeeds if nothing exists.
    async fn delete_save(&self, _: &SavePointId) -> Result<()> {
        Ok(())
    }

    /// Frees everything of a tenant. Idempotent: succeeds if nothing exists.
    async fn destroy(&self, id: &TenantId) -> Result<()>;

    /// Removes leftovers that belong to no tenant and can't be in use, such as an empty control group. Called by the
    /// reconciler that frees orphans. Returns the number of leftovers.
    async fn sweep(&self) -> Result<u32> {
        Ok(0)
    }

    /// Adds a worker with this name to a running tenant. The caller picks the next free number. Returns when the node
    /// can be used: it has its own identity, its guest link responds, and in a cluster it is Ready. Reports stages. On
    /// failure, everything is undone. A cancelled call may leave parts behind: call `remove_node` before the next
    /// attempt. Returns [`Error::NodeExists`] if the node exists.
    async fn add_node(&self, id: &TenantId, node: &NodeName, progress: &Progress) -> Result<()>;

    /// Removes a worker. In a cluster, it is drained and deleted first, as far as that works; then its machine ends.
    /// Idempotent: succeeds if the node doesn't exist. Returns [`Error::NotAWorker`] for a control plane.
    async fn remove_node(&self, id: &TenantId, node: &NodeName, progress: &Progress) -> Result<()>;

    /// Loads an image into the container runtimes of these nodes, in parallel. Builds the image first if it doesn't
    /// exist. Idempotent.
    async fn load_image(
        &self,
        id: &TenantId,
        nodes: &[NodeName],
        image: &ContainerImage,
    ) -> Result<()>;

    /// Opens a stream to a node.
    async fn open(&self, id: &TenantId, node: &NodeName, target: Target) -> Result<Stream>;

    /// Creates a credential for a tenant's API server and returns it with the server's addresses. Makes no connection.
    /// Returns [`Error::NotFound`] if there is no such tenant, or it has no cluster.
    async fn api(&self, id: &TenantId, identity: &Identity) -> Result<ApiAccess>;

    /// Returns what a tenant uses now. May take a while.
    async fn usage(&self, id: &TenantId) -> Result<Usage>;
}
