//! The errors of providers.

use faultline_domain::{NodeName, tenant::Observed};

use crate::Capability;

/// An error of a provider.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tenant, or a node in it, doesn't exist.
    #[error("no such environment or node")]
    NotFound,
    /// A tenant with this ID already exists.
    #[error("the environment already exists")]
    Exists,
    /// The tenant's state doesn't allow the operation.
    #[error("the environment is {}", state(*.0))]
    WrongState(Observed),
    /// A node with this name already exists.
    #[error("{0} already exists")]
    NodeExists(NodeName),
    /// No worker can have this name: it belongs to a control plane, or its number exceeds the limit of nodes.
    #[error("{0} can't be used as a worker's name in this environment")]
    NotAWorker(NodeName),
    /// The tenancy doesn't support the operation.
    #[error("this tenancy can't {0}")]
    Unsupported(Capability),
    /// A stage of the work failed.
    #[error("{stage}: {reason}")]
    Failed {
        /// The stage's stable name.
        stage: String,
        /// Why, and what to do, for people.
        reason: String,
    },
    /// The other end of the stream can't be reached.
    #[error("{0}")]
    Unreachable(String),
}

const fn state(observed: Observed) -> &'static str {
    match observed {
        Observed::Absent => "gone",
        Observed::Running => "running",
        Observed::Paused => "paused",
        Observed::Broken => "broken",
        Observed::Unknown => "in an unknown state",
    }
}

impl Error {
    /// Creates an [`Error::Failed`].
    pub fn failed(stage: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Failed {
            stage: stage.into(),
            reason: reason.to_string(),
        }
    }
}

/// The result of a provider's operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;
