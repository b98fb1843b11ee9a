//! The status of reconcilers, for the operator.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

/// What a run did: the numbers of items that it looked at and of steps that it began, by name.
pub(crate) type Counts = BTreeMap<&'static str, u64>;

/// The status of a reconciler's last run.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub last: Timestamp,
    pub took: Duration,
    pub runs: u64,
    /// What it did, or why it failed.
    pub done: Result<Counts, String>,
}

impl Status {
    /// Returns the result in one line.
    pub(crate) fn text(&self) -> String {
        match &self.done {
            Err(why) => why.clone(),
            Ok(counts) => {
                let each = counts.iter().map(|(name, n)| format!("{name}: {n}"));
                each.collect::<Vec<_>>().join(", ")
            }
        }
    }
}
