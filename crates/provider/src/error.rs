//! Why a provider did not do what was asked.

use faultline_domain::{NodeName, tenant::Observed};

use crate::Capability;

/// Why a provider did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such tenant, or no such node in it.
    #[error("there is no such environment or node")]
    NotFound,
    /// There is a tenant with this id already.
    #[error("there is such an environment already")]
    Exists,
    /// It can't be done in the state that the tenant is in.
    #[error("the environment is {}", state(*.0))]
    WrongState(Observed),
    /// There is a node with this name already.
    #[error("there is a {0} already")]
    NodeExists(NodeName),
    /// No worker can have this name here: it is a control plane's, or beyond the most nodes of an environment.
    #[error("{0} can't be used as a worker's name in this environment")]
    NotAWorker(NodeName),
    /// Such a tenancy can't do it at all.
    #[error("this tenancy can't {0}")]
    Unsupported(Capability),
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

const fn state(observed: Observed) -> &'static str {
    match observed {
        Observed::Absent => "gone",
        Observed::Running => "running",
        Observed::Paused => "paused",
        Observed::Broken => "broken",
        Observed::Unknown => "in a state that is not known",
    }
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
