//! The parts of the workspace that are updated live, each with a template of its own. The page is built from them, and
//! `live` sends those that changed.

use askama::Template;
use faultline_domain::{
    EnvironmentId,
    attempt::Attempt,
    check::CheckRun,
    environment::{EndReason, Environment, Intent, State},
};
use faultline_lab::{
    LabFolder,
    markdown::{self, Place},
};

use super::text;
use crate::{
    api::views::environments::changing,
    app::App,
    looks::Viewer,
    operations::check,
    problem::Problem,
    reconcile::{
        burst, pressure,
        warnings::{FIRST, what_happens},
    },
};

/// Returns in one line which nodes are being added or removed, and their progress; empty if none are.
pub(super) async fn changes(app: &App, e: &Environment) -> Result<String, Problem> {
    let changing = changing(e);
    if changing.is_empty() || !e.is_open() {
        return Ok(String::new());
    }
    let stages = app.store.stages(&e.id).await?;
    let texts = changing.iter().map(|node| {
        let name = &node.name;
        let now = stages.iter().rev().find(|s| {
            s.millis.is_none() && s.name.split_once(' ').is_some_and(|(of, _)| of == name)
        });
        let now = now.map(|s| format!(": {}", s.text)).unwrap_or_default();
        match (&node.reason, node.state) {
            (Some(reason), _) => format!("{name} could not be added: {reason}"),
            (None, "removing") => format!("{name} is being removed{now}"),
            (None, _) => format!("{name} is being added{now}"),
        }
    });
    Ok(texts.collect::<Vec<_>>().join("; "))
}

pub(super) struct ResultRow {
    pub title: String,
    /// `pass`, `fail`, `unknown`, `run`, `wait`.
    pub state: &'static str,
    pub message: String,
    pub seen: String,
    pub took: String,
    pub hint: Option<Pointer>,
}

/// The hint that a check points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pointer {
    pub about: u32,
    /// The hint to link to: `about` if it is open or next, else the next one, because hints open in order.
    pub leads: u32,
}

impl Pointer {
    fn new(about: u32, opened: &[(u32, u32)]) -> Self {
        let is_open = |n: u32| opened.iter().any(|(number, _)| *number == n);
        let next = (1..about).find(|n| !is_open(*n));
        Self {
            about,
            leads: next.filter(|_| !is_open(about)).unwrap_or(about),
        }
    }
}

#[derive(Template)]
#[template(path = "part-checks.html")]
pub(super) struct Checks {
    pub rows: Vec<ResultRow>,
    pub running: bool,
    pub ran: bool,
    pub passed: usize,
    pub total: usize,
    pub failure: Option<String>,
    pub when: String,
}

pub(super) async fn checks(
    app: &App,
    e: &Environment,
    lab: Option<&LabFolder>,
) -> Result<Checks, Problem> {
    let running = check::is_running(app, &e.id);
    let run = app.store.latest_checks(&e.id).await?;
    let titles: Vec<(&str, &str)> = lab
        .map(|l| {
            l.lab
                .checks
                .iter()
                .map(|c| (c.name.as_str(), c.title.as_str()))
                .collect()
        })
        .unwrap_or_default();
    // Without the lab, there are no hints to point to.
    let opened = match lab {
        Some(_) => Some(app.attempt(e).await?.hints),
        None => None,
    };
    let mut rows = results(run.as_ref(), opened.as_deref());
    let known = rows.len();
    for (i, (_, title)) in titles.iter().enumerate().skip(known) {
        rows.push(ResultRow {
            title: (*title).to_owned(),
            state: if running && i == known { "run" } else { "wait" },
            message: String::new(),
            seen: String::new(),
            took: String::new(),
            hint: None,
        });
    }
    Ok(Checks {
        running,
        ran: run.is_some(),
        passed: rows.iter().filter(|r| r.state == "pass").count(),
        total: rows.len(),
        failure: run.as_ref().and_then(|r| r.failure.clone()),
        when: run
            .as_ref()
            .and_then(|r| r.finished_at)
            .map_or_else(String::new, |at| text::ago(at, app.now())),
        rows,
    })
}

fn results(run: Option<&CheckRun>, opened: Option<&[(u32, u32)]>) -> Vec<ResultRow> {
    run.map(|run| {
        run.results
            .iter()
            .map(|r| ResultRow {
                title: r.title.clone(),
                state: match (r.passed, r.evaluated) {
                    (true, _) => "pass",
                    (false, true) => "fail",
                    (false, false) => "unknown",
                },
                message: r.message.clone(),
                seen: r.seen.trim().to_owned(),
                took: text::duration(r.millis),
                hint: r
                    .hint
                    .zip(opened)
                    .map(|(about, opened)| Pointer::new(about, opened)),
            })
            .collect()
    })
    .unwrap_or_default()
}

/// Returns the path of an environment's page. The files that its lab's texts refer to are below it.
pub(super) fn base(e: &Environment) -> String {
    format!("/environments/{}", e.id)
}

pub(super) struct HintRow {
    pub number: usize,
    pub cost: u32,
    /// The hint as HTML, once opened.
    pub html: Option<String>,
    /// True if this hint can be opened now.
    pub next: bool,
}

#[derive(Template)]
#[template(path = "part-hints.html")]
pub(super) struct Hints {
    pub id: String,
    pub csrf: String,
    pub rows: Vec<HintRow>,
    pub finished: bool,
    pub practice: bool,
    pub worth: u32,
    pub points: u32,
}

pub(super) fn hints(e: &Environment, lab: &LabFolder, attempt: &Attempt, csrf: &str) -> Hints {
    let opened = |n: usize| {
        attempt
            .hints
            .iter()
            .any(|(number, _)| *number as usize == n)
    };
    let finished = attempt.finished_at.is_some();
    let mut next = true;
    let rows = lab
        .lab
        .hints
        .iter()
        .enumerate()
        .map(|(i, hint)| {
            let number = i + 1;
            let html = opened(number).then(|| {
                let place = Place {
                    base: &base(e),
                    prefix: &format!("hint-{number}-"),
                };
                markdown::html(&hint.text, place)
            });
            HintRow {
                number,
                cost: if finished || attempt.practice {
                    0
                } else {
                    lab.lab.hint_points(number)
                },
                next: html.is_none() && std::mem::take(&mut next),
                html,
            }
        })
        .collect();
    let costs: Vec<u32> = attempt.hints.iter().map(|(_, cost)| *cost).collect();
    Hints {
        id: e.id.to_string(),
        csrf: csrf.to_owned(),
        rows,
        finished,
        practice: attempt.practice,
        worth: faultline_domain::score::points(lab.lab.points(), &costs, attempt.gave_up),
        points: lab.lab.points(),
    }
}

/// Returns the end that the clock counts down to. The idle end moves with every key press, so it is shown only when it
/// is near, or while the machine is paused.
pub(super) fn shown_end(app: &App, e: &Environment) -> jiff::Timestamp {
    let (end, reason) = app.end_of(e);
    let moves = !matches!(e.state, State::Suspended { .. });
    if moves && reason == EndReason::Idle && app.seconds_left(e) > FIRST {
        return app.end_if_used(e);
    }
    end
}

#[derive(Template)]
#[template(path = "part-notice.html")]
pub(super) struct Notice {
    pub text: String,
    pub urgent: bool,
}

/// Returns the warning in the bar; empty if there is none.
pub(super) fn notice(app: &App, e: &Environment) -> Notice {
    let none = Notice {
        text: String::new(),
        urgent: false,
    };
    let lives = matches!(e.state, State::Active { .. } | State::Suspended { .. });
    if burst::is_slow(app, e) && e.warned.is_none() {
        return Notice {
            text: "This machine has used all of its CPU for a long time and runs slower until it has been quiet for a while."
                .to_owned(),
            urgent: false,
        };
    }
    if !lives || e.warned.is_none() {
        return none;
    }
    let left = app.seconds_left(e);
    let minutes = (left + 59) / 60;
    let start = match app.end_of(e).1 {
        EndReason::Idle if pressure::is_noticed(app, e) => {
            "The server is short of memory, and this machine is not in use: it"
        }
        EndReason::Idle => "Not in use: this machine",
        EndReason::Maintenance => "Maintenance: this machine",
        _ => "This machine",
    };
    let ends = what_happens(app, e);
    Notice {
        text: match minutes {
            ..=1 => format!("{start} {ends} in a minute."),
            n => format!("{start} {ends} in {n} minutes."),
        },
        urgent: left <= 120,
    }
}

#[derive(Template)]
#[template(path = "part-looks.html")]
pub(super) struct LookNotice {
    viewers: Vec<Viewer>,
}

impl LookNotice {
    /// Returns whether somebody types.
    fn is_typed(&self) -> bool {
        self.viewers.iter().any(|viewer| viewer.types)
    }
}

/// Returns who looks at the environment's terminals now, for its owner.
pub(super) fn looks(app: &App, e: &Environment) -> LookNotice {
    LookNotice {
        viewers: app.looks.of(&e.id),
    }
}

/// Returns why an environment has ended, for people.
pub(super) fn ending(e: &Environment) -> Option<&'static str> {
    let reason = match (&e.state, e.intent) {
        (State::Gone { reason, .. }, _) | (State::Expired { reason, .. }, _) => *reason,
        (_, Intent::Gone(reason)) => reason,
        _ => return None,
    };
    Some(match reason {
        EndReason::Ended => "You ended this machine.",
        EndReason::EndedByOperator => "An operator ended this machine.",
        EndReason::Reset => "You replaced this machine with a fresh one.",
        EndReason::TimeUp => "This machine's time ran out.",
        EndReason::LeftQueue => "This machine left the queue because nobody waited for it.",
        EndReason::Idle => "This machine ended because nobody used it.",
        EndReason::NotResumed => {
            "This machine was paused for longer than paused machines are kept."
        }
        EndReason::HardEnd => "This machine reached its maximum lifetime.",
        EndReason::Failed => "This machine failed.",
        EndReason::Maintenance => "This machine ended because the server went into maintenance.",
    })
}

/// An attempt, as lists show it.
pub(super) struct Tried {
    pub when: String,
    pub outcome: &'static str,
    pub class: &'static str,
    pub took: String,
    pub hints: usize,
    pub checks: u32,
    pub points: String,
    /// The link to the attempt's page, and its text.
    pub leads: Option<(String, &'static str)>,
}

impl Tried {
    pub(super) fn new(
        a: &Attempt,
        environment: Option<&EnvironmentId>,
        in_progress: bool,
        now: jiff::Timestamp,
    ) -> Self {
        let (outcome, class) = match (a.is_repaired(), a.gave_up, in_progress) {
            (true, _, _) if a.practice => ("practice", "none"),
            (true, _, _) => ("solved", "good"),
            (_, true, _) => ("solution read", "warn"),
            (_, _, true) => ("in progress", "run"),
            _ => ("not finished", "none"),
        };
        Self {
            when: text::ago(a.started_at, now),
            outcome,
            class,
            took: took(a).map(text::duration).unwrap_or_default(),
            hints: a.hints.len(),
            checks: a.checks,
            points: a.points.map_or_else(String::new, |p| p.to_string()),
            leads: environment.map(|id| {
                if a.shows_solution() {
                    (format!("/environments/{id}#solution"), "solution")
                } else {
                    (format!("/environments/{id}"), "machine")
                }
            }),
        }
    }
}

/// Returns how long a finished attempt took, in milliseconds.
pub(super) fn took(a: &Attempt) -> Option<u64> {
    let millis = a.finished_at?.duration_since(a.started_at).as_millis();
    u64::try_from(millis).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_links_to_a_hint_that_can_be_opened() {
        for (about, opened, leads) in [
            (1, &[][..], 1),
            (3, &[], 1),
            (3, &[1], 2),
            (3, &[1, 2], 3),
            (3, &[1, 2, 3], 3),
            (1, &[1, 2], 1),
        ] {
            let opened: Vec<_> = opened.iter().map(|n| (*n, 5)).collect();
            let pointer = Pointer::new(about, &opened);
            assert_eq!(pointer, Pointer { about, leads }, "{about} {opened:?}");
        }
    }
}
