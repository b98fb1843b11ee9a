//! A person's attempt at a lab: the hints opened, the checks run, the result. It outlives its environment.

use jiff::Timestamp;

use crate::{AttemptId, LabSlug, PersonId};

/// One person's attempt at one lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The id.
    pub id: AttemptId,
    /// The person.
    pub person: PersonId,
    /// The lab.
    pub lab: LabSlug,
    /// When it began.
    pub started_at: Timestamp,
    /// When it was solved or given up.
    pub finished_at: Option<Timestamp>,
    /// True if the solution was shown before it was solved.
    pub gave_up: bool,
    /// True if the person had already given up another attempt at this lab, and so had been shown its solution. Such an
    /// attempt is practice: it can be repaired, but earns no points and does not count as solved.
    pub practice: bool,
    /// The points earned, once it is solved.
    pub points: Option<u32>,
    /// The hints opened: number and cost of each.
    pub hints: Vec<(u32, u32)>,
    /// The number of times that its checks were run.
    pub checks: u32,
}

impl Attempt {
    /// Returns true if all checks passed and the solution had not been shown before, in this attempt or another.
    #[must_use]
    pub const fn is_solved(&self) -> bool {
        self.is_repaired() && !self.practice
    }

    /// Returns true if all checks passed and the attempt had not been given up before.
    #[must_use]
    pub const fn is_repaired(&self) -> bool {
        self.finished_at.is_some() && !self.gave_up
    }

    /// Returns true if the person may read the solution.
    #[must_use]
    pub const fn shows_solution(&self) -> bool {
        self.finished_at.is_some()
    }
}
