//! What a tenancy provider is.
//!
//! | module | holds |
//! |---|---|
//! | this one | the [`Provider`] trait and its words |
//! | [`capability`] | what some tenancies can do and others can't |
//! | [`api`] | the way to a tenant's API server, for one identity |
//! | [`error`] | why something was not done |
//! | [`fake`] | a provider without machines, for load and fault tests: it has latency, fails on demand, loses nodes |
//! | [`conformance`] | the suite that every provider passes, the fake included |

pub mod api;
pub mod capability;
pub mod conformance;
pub mod error;
pub mod fake;

use async_trait::async_trait;
pub use faultline_domain::tenant::{Allowance, Observed, Spec};
use faultline_domain::{
    NodeName, TemplateRef, TenantId, container::ContainerImage, progress::Progress,
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

/// What was seen of a tenant, when it changed.
pub type Change = (TenantId, Observed);

/// Where a stream leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A TCP port of the node, reached from outside it.
    Port(u16),
    /// The node's serial console: raw bytes, shared by all who hold one.
    Console,
    /// A fresh substream of the guest link: speak [`faultline_guest::client`] on it.
    Guest,
}

/// Whether tenants of an image can be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "readiness", rename_all = "snake_case")]
pub enum Readiness {
    /// Now.
    Ready,
    /// Later: it is being built.
    Preparing {
        /// Part that is done, from 0 to 1.
        fraction: f64,
        /// What is happening, for people.
        text: String,
    },
    /// Not, for this reason.
    Unavailable {
        /// Why and what to do, for people.
        reason: String,
    },
}

/// What a tenant uses now.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Memory of its processes that is private to it, in bytes.
    pub private_bytes: u64,
    /// CPU time used so far, in milliseconds.
    pub cpu_millis: u64,
    /// Disk that its overlays take, in bytes.
    pub disk_bytes: u64,
}

/// Makes a tenant that has what its lab allows.
pub async fn make(
    provider: &dyn Provider,
    id: &TenantId,
    spec: &Spec,
    progress: &Progress,
) -> Result<()> {
    provider.create(id, &spec.template, progress).await?;
    provider.configure(id, &spec.allowance).await
}

/// A kind of tenancy.
///
/// The reconcilers call `create` … `remove_node`, one at a time for each tenant (a lab's setup, within a start,
/// calls `add_node` too); `open`, `api` and `usage` are called by anybody at any time. Every method may be cancelled by
/// dropping it: what a cancelled `create` leaves is listed as [`Observed::Broken`] and freed by `destroy`; after any other
/// the same call works again, or `destroy` does. What a tenancy can't do is refused with [`Error::Unsupported`].
#[async_trait]
pub trait Provider: Send + Sync + std::fmt::Debug {
    /// A stable word: `local`, `fake`.
    fn name(&self) -> &'static str;

    /// What its tenants can do.
    fn capabilities(&self) -> &'static [Capability];

    /// Can tenants of this template be made? Quick; does no work.
    async fn readiness(&self, template: &TemplateRef) -> Readiness;

    /// Makes a tenant that runs, refreshed and not yet broken: randomness, clock, machine-id and host keys
    /// are its own, and its guest link answers. It has what its template was promised and no way out, until it is
    /// configured. Reports stages. Refused with [`Error::Exists`] when there is one.
    async fn create(
        &self,
        id: &TenantId,
        template: &TemplateRef,
        progress: &Progress,
    ) -> Result<()>;

    /// Gives a tenant what its lab allows, before somebody has it: what it may use, and where it may connect to. Idempotent
    /// with the same allowance; other ways out than those that are open are refused, and all close with the tenant.
    async fn configure(&self, id: &TenantId, allowance: &Allowance) -> Result<()>;

    /// All tenants of which anything exists, made by this process or an earlier one.
    async fn list(&self) -> Result<Vec<Change>>;

    /// What changes from now on, soon after it does. A receiver that lags behind has missed some, and one that was made
    /// before an earlier process's tenants were listed hears nothing of those: `list` is the truth.
    fn changes(&self) -> broadcast::Receiver<Change>;

    /// Freezes all nodes. Idempotent.
    async fn pause(&self, id: &TenantId) -> Result<()>;

    /// Continues all nodes, their clocks stepped. Idempotent.
    async fn resume(&self, id: &TenantId) -> Result<()>;

    /// Frees everything of a tenant. Idempotent: succeeds when nothing exists.
    async fn destroy(&self, id: &TenantId) -> Result<()>;

    /// Removes what is left of no tenant and can't be in use: an empty control group, say. Called by the
    /// reconciler that frees orphans; gives how many such remains there were.
    async fn sweep(&self) -> Result<u32> {
        Ok(0)
    }

    /// Adds a worker with this name, the next free number, to a tenant that runs, and gives it back once it may
    /// be used: its identity is its own, its guest link answers, and in a cluster it is Ready. Reports stages. What
    /// was made is freed when it fails. Cancelled, a part of it may be there: call `remove_node` before it is tried
    /// again. Refused with [`Error::NodeExists`] when there is such a node.
    async fn add_node(&self, id: &TenantId, node: &NodeName, progress: &Progress) -> Result<()>;

    /// Removes a worker: in a cluster its pods are moved away and it is forgotten, as far as that works; then its
    /// machine ends. Idempotent: succeeds when there is no such node. Refused with [`Error::NotAWorker`] for a control
    /// plane.
    async fn remove_node(&self, id: &TenantId, node: &NodeName, progress: &Progress) -> Result<()>;

    /// Gives an image to the container runtime of these nodes, all at the same time; it is made before where it isn't
    /// there. Idempotent.
    async fn load_image(
        &self,
        id: &TenantId,
        nodes: &[NodeName],
        image: &ContainerImage,
    ) -> Result<()>;

    /// Opens a stream to a node.
    async fn open(&self, id: &TenantId, node: &NodeName, target: Target) -> Result<Stream>;

    /// The way to its API server for somebody. Makes a credential; connects to nothing. `NotFound` where there is no such
    /// tenant, or no cluster in it.
    async fn api(&self, id: &TenantId, identity: &Identity) -> Result<ApiAccess>;

    /// What it uses now. May take a while.
    async fn usage(&self, id: &TenantId) -> Result<Usage>;
}
