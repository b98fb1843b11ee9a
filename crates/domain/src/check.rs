//! The results of checks.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// The check's name in `lab.yaml`.
    pub name: String,
    /// What must hold, as a message for the student.
    pub title: String,
    /// True if the check passed. False if it failed or could not be evaluated.
    pub passed: bool,
    /// The message for the student: the lab's text if the check failed, the reason if it could not be evaluated, empty
    /// if it passed.
    pub message: String,
    /// What was seen, in the lab's words or the check's own: a status, an answer, a script's output. May be empty.
    pub seen: String,
    /// False if the check could not be evaluated.
    pub evaluated: bool,
    /// The number, counted from 1, of the hint that this check points to if it failed.
    pub hint: Option<u32>,
    /// The duration, in milliseconds.
    pub millis: u64,
}

/// The results of all checks of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// One result per check, in the lab's order.
    pub results: Vec<CheckResult>,
}

impl Outcome {
    /// Returns true if every check passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.results.is_empty() && self.results.iter().all(|r| r.passed)
    }

    /// Returns true if every check could be evaluated.
    #[must_use]
    pub fn evaluated(&self) -> bool {
        self.results.iter().all(|r| r.evaluated)
    }
}

/// A run of a lab's checks in an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckRun {
    /// The id.
    pub id: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Whether every check passed; none if the run was not completed.
    pub passed: Option<bool>,
    /// Why the run could not be completed.
    pub failure: Option<String>,
    /// The results so far.
    pub results: Vec<CheckResult>,
}
