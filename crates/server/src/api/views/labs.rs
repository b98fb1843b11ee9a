//! Labs, hints, solutions, attempts and check runs.

use faultline_domain::{attempt::Attempt, check::CheckRun};
use faultline_lab::LabFolder;
use serde::Serialize;
use utoipa::ToSchema;

/// A lab in the catalogue.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LabView {
    /// The lab's name in URLs and commands.
    slug: String,
    title: String,
    summary: String,
    /// `beginner`, `intermediate` or `hard`.
    level: &'static str,
    topics: Vec<String>,
    /// Minutes that somebody of this level typically needs.
    minutes: u32,
    nodes: u32,
    image: String,
    points: u32,
    hints: usize,
    checks: usize,
    /// True if the caller has solved it.
    solved: bool,
}

impl LabView {
    pub(crate) fn new(folder: &LabFolder, solved: bool) -> Self {
        let lab = &folder.lab;
        Self {
            slug: folder.slug.to_string(),
            title: lab.title.clone(),
            summary: lab.summary.clone(),
            level: lab.level.as_str(),
            topics: lab.topics.clone(),
            minutes: lab.minutes,
            nodes: lab.needs.nodes,
            image: lab.needs.template().image,
            points: lab.points(),
            hints: lab.hints.len(),
            checks: lab.checks.len(),
            solved,
        }
    }
}

/// A lab with the incident and the caller's attempts.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LabDetail {
    #[serde(flatten)]
    pub lab: LabView,
    /// The incident, as Markdown.
    pub readme: String,
    /// The caller's attempts, newest first.
    pub attempts: Vec<AttemptView>,
}

/// What a lab keeps from students.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LabForAuthors {
    /// All hints, in order.
    hints: Vec<AuthorHint>,
    checks: Vec<AuthorCheck>,
    /// The solution, as Markdown.
    solution: String,
    /// The script that repairs it.
    solution_script: String,
}

/// A hint with its cost.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuthorHint {
    /// The hint, as Markdown.
    text: String,
    /// The cost of opening it, in percent of the lab's points.
    cost: u32,
}

/// A check of a lab.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuthorCheck {
    name: String,
    /// What must hold.
    title: String,
    /// The message for the student if it fails.
    fail: String,
}

impl LabForAuthors {
    pub(crate) fn new(folder: &LabFolder) -> Self {
        let hints = folder.lab.hints.iter().map(|hint| AuthorHint {
            text: hint.text.clone(),
            cost: hint.cost,
        });
        let checks = folder.lab.checks.iter().map(|check| AuthorCheck {
            name: check.name.clone(),
            title: check.title.clone(),
            fail: check.fail.clone(),
        });
        Self {
            hints: hints.collect(),
            checks: checks.collect(),
            solution: folder.solution.clone(),
            solution_script: String::from_utf8_lossy(&folder.solution_script).into_owned(),
        }
    }
}

/// An attempt at a lab.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AttemptView {
    id: String,
    lab: String,
    started_at: String,
    /// When it was solved or given up.
    finished_at: Option<String>,
    solved: bool,
    gave_up: bool,
    /// True if an earlier attempt had already shown the solution; then a repair earns no points and isn't `solved`.
    practice: bool,
    points: Option<u32>,
    hints_opened: usize,
    checks_run: u32,
}

impl From<&Attempt> for AttemptView {
    fn from(a: &Attempt) -> Self {
        Self {
            id: a.id.to_string(),
            lab: a.lab.to_string(),
            started_at: a.started_at.to_string(),
            finished_at: a.finished_at.map(|at| at.to_string()),
            solved: a.is_solved(),
            gave_up: a.gave_up,
            practice: a.practice,
            points: a.points,
            hints_opened: a.hints.len(),
            checks_run: a.checks,
        }
    }
}

/// The result of a check.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CheckView {
    name: String,
    title: String,
    passed: bool,
    /// What is wrong, if it failed.
    message: String,
    /// What was observed.
    seen: String,
    /// False if the check could not be evaluated.
    evaluated: bool,
    /// The number of the hint that is about this.
    hint: Option<u32>,
    millis: u64,
}

/// A run of a lab's checks.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CheckRunView {
    id: String,
    started_at: String,
    finished_at: Option<String>,
    /// Whether all checks passed, once the run has ended.
    passed: Option<bool>,
    /// Why the run could not be completed.
    failure: Option<String>,
    results: Vec<CheckView>,
}

impl From<&CheckRun> for CheckRunView {
    fn from(run: &CheckRun) -> Self {
        Self {
            id: run.id.clone(),
            started_at: run.started_at.to_string(),
            finished_at: run.finished_at.map(|at| at.to_string()),
            passed: run.passed,
            failure: run.failure.clone(),
            results: run
                .results
                .iter()
                .map(|r| CheckView {
                    name: r.name.clone(),
                    title: r.title.clone(),
                    passed: r.passed,
                    message: r.message.clone(),
                    seen: r.seen.clone(),
                    evaluated: r.evaluated,
                    hint: r.hint,
                    millis: r.millis,
                })
                .collect(),
        }
    }
}

/// An opened hint.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HintView {
    /// The number, counted from 1.
    pub number: u32,
    /// The hint, as Markdown.
    pub text: String,
}

/// The solution with its explanation.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SolutionView {
    /// The solution, as Markdown.
    pub text: String,
}
