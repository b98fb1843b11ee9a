//! How reconcilers fare, for the operator.

use std::time::Duration;

use jiff::Timestamp;

/// How the last run of a reconciler went.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub last: Timestamp,
    pub took: Duration,
    pub runs: u64,
    /// What it did, or why it could not.
    pub text: String,
    pub failed: bool,
}
