//! What checks found.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How one check went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// The check's name in `lab.yaml`.
    pub name: String,
    /// What must hold, for the student.
    pub title: String,
    /// Whether it holds. False when that could not be found out.
    pub passed: bool,
    /// For the student: the lab's text when it does not hold, why when that could not be found out, empty when it holds.
    pub message: String,
    /// What was seen, in the lab's words or the check's own: a status, an answer, what the script printed. May be empty.
    pub seen: String,
    /// False when it could not be found out whether it holds.
    pub evaluated: bool,
    /// The number of the hint that this check points to, from 1, when it does not hold.
    pub hint: Option<u32>,
    /// How long it took, in milliseconds.
    pub millis: u64,
}

/// How all checks of a lab went.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// One for each check, in the lab's order.
    pub results: Vec<CheckResult>,
}

impl Outcome {
    /// True when every check holds.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.results.is_empty() && self.results.iter().all(|r| r.passed)
    }

    /// True when it was found out of every check whether it holds.
    #[must_use]
    pub fn evaluated(&self) -> bool {
        self.results.iter().all(|r| r.evaluated)
    }
}

/// One run of a lab's checks in an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckRun {
    /// Its id.
    pub id: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Whether everything held.
    pub passed: Option<bool>,
    /// Why it could not be run to its end.
    pub failure: Option<String>,
    /// What was found so far.
    pub results: Vec<CheckResult>,
}
