//! What a tenancy provider is.
//!
//! | module | holds |
//! |---|---|
//! | this one | the [`Provider`] trait and its words |
//! | [`fake`] | a provider without machines, for load and fault tests: it has latency, fails on demand, loses nodes |
//! | [`conformance`] | the suite that every provider passes, the fake included |

pub mod conformance;
pub mod fake;

use async_trait::async_trait;
pub use faultline_domain::tenant::{Observed, Spec};
use faultline_domain::{NodeName, Shape, TenantId, container::ContainerImage, progress::Progress};
pub use faultline_guest::client::Duplex;
use serde::{Deserialize, Serialize};

/// A byte stream to or from a tenant.
pub type Stream = Box<dyn Duplex>;

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

/// The keys of a tenant's cluster, as the platform took them before anybody entered.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterKeys {
    /// The certificate of the cluster's authority, PEM.
    pub authority: String,
    /// Its key, PEM: whoever has it is the cluster's administrator.
    pub authority_key: String,
    /// The nodes whose port 6443 is the API server's.
    pub control_planes: Vec<NodeName>,
}

impl std::fmt::Debug for ClusterKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterKeys")
            .field("control_planes", &self.control_planes)
            .finish_non_exhaustive()
    }
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

/// Why a provider did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such tenant or node.
    #[error("there is no such environment or node")]
    NotFound,
    /// It can't be done in the state that the environment is in.
    #[error("the environment is {0}")]
    WrongState(&'static str),
    /// A stage of the work failed.
    #[error("{stage}: {reason}")]
    Failed {
        /// The stage, a stable word.
        stage: String,
        /// Why and what to do, for people.
        reason: String,
    },
    /// Nothing answers at the other end of the stream.
    #[error("{0}")]
    Unreachable(String),
}

impl Error {
    /// A failure in a stage.
    pub fn failed(stage: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Failed {
            stage: stage.into(),
            reason: reason.to_string(),
        }
    }
}

/// Result of a provider's work.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A kind of tenancy.
///
/// The reconcilers call `create` … `remove_node`, one at a time for each tenant (a lab's setup, within a start,
/// calls `add_node` too); `open` and `usage` are called by anybody at any time. Every method may be cancelled by dropping it: what it had begun is then found by
/// `list` as [`Observed::Broken`] and freed by `destroy`.
#[async_trait]
pub trait Provider: Send + Sync + std::fmt::Debug {
    /// A stable word: `local`, `fake`.
    fn name(&self) -> &'static str;

    /// Can tenants of this image and shape be made? Quick; does no work.
    async fn readiness(&self, image: &str, shape: Shape) -> Readiness;

    /// Makes a tenant that runs, refreshed and not yet broken: randomness, clock, machine-id and host keys
    /// are its own, and its guest link answers. Reports stages. Refused with `WrongState` when it exists.
    async fn create(&self, id: &TenantId, spec: &Spec, progress: &Progress) -> Result<()>;

    /// All tenants of which anything exists, made by this process or an earlier one.
    async fn list(&self) -> Result<Vec<(TenantId, Observed)>>;

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
    /// again. Refused with `WrongState` when there is such a node.
    async fn add_node(&self, id: &TenantId, node: &NodeName, progress: &Progress) -> Result<()>;

    /// Removes a worker: in a cluster its pods are moved away and it is forgotten, as far as that works; then its
    /// machine ends. Idempotent: succeeds when there is no such node. Refused with `WrongState` for a control plane.
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

    /// The keys of its cluster. `NotFound` where there is no such tenant, or no cluster in it.
    async fn cluster(&self, id: &TenantId) -> Result<ClusterKeys>;

    /// What it uses now.
    async fn usage(&self, id: &TenantId) -> Result<Usage>;
}
