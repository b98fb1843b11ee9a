//! A person's try at a lab: hints opened, checks run, how it ended. It outlives its environment.

use jiff::Timestamp;

use crate::{AttemptId, LabSlug, PersonId};

/// One person's try at one lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Its id.
    pub id: AttemptId,
    /// Whose.
    pub person: PersonId,
    /// At which lab.
    pub lab: LabSlug,
    /// When it began.
    pub started_at: Timestamp,
    /// When it was solved or given up.
    pub finished_at: Option<Timestamp>,
    /// True when the solution was shown before it was solved.
    pub gave_up: bool,
    /// True when the person had already given up another attempt at this lab, and so had been shown its solution. Such
    /// an attempt is practice: it can be repaired, earns no points and does not count as solved.
    pub practice: bool,
    /// What it was worth, once solved.
    pub points: Option<u32>,
    /// Hints opened: number and cost.
    pub hints: Vec<(u32, u32)>,
    /// How often it was checked.
    pub checks: u32,
}

impl Attempt {
    /// True when all checks held and the solution had not been shown before, in this attempt or another.
    #[must_use]
    pub const fn is_solved(&self) -> bool {
        self.is_repaired() && !self.practice
    }

    /// True when all checks held and the attempt was not given up before.
    #[must_use]
    pub const fn is_repaired(&self) -> bool {
        self.finished_at.is_some() && !self.gave_up
    }

    /// True when the solution may be read.
    #[must_use]
    pub const fn shows_solution(&self) -> bool {
        self.finished_at.is_some()
    }
}
