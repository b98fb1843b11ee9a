//! How reconcilers fare, for the operator.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

/// What a run did, by name: numbers of what it looked at and of what it began.
pub(crate) type Counts = BTreeMap<&'static str, u64>;

/// How the last run of a reconciler went.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub last: Timestamp,
    pub took: Duration,
    pub runs: u64,
    /// What it did, or why it could not.
    pub done: Result<Counts, String>,
}

impl Status {
    /// What it did, in a line.
    pub(crate) fn text(&self) -> String {
        match &self.done {
            Err(why) => why.clone(),
            Ok(counts) => {
                let each = counts.iter().map(|(name, n)| format!("{n} {name}"));
                each.collect::<Vec<_>>().join(", ")
            }
        }
    }
}
