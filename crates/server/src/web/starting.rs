//! The progress of a start: its stages with their typical durations, and its log.

use askama::Template;
use faultline_domain::environment::{Environment, State};
use faultline_store::start_log::Line;

use super::text;
use crate::{app::App, lock::lock, problem::Problem};

pub(super) struct StageRow {
    pub text: String,
    /// `done`, `now`, `next`, `failed`.
    pub state: &'static str,
    /// Progress in percent: reported, or else estimated from the typical duration.
    pub percent: u64,
    pub took: String,
    /// How long it usually takes; empty if that isn't known yet.
    pub usual: String,
    pub typical_millis: u64,
    pub elapsed_millis: u64,
}

#[derive(Template)]
#[template(path = "part-stages.html")]
pub(super) struct Stages {
    pub rows: Vec<StageRow>,
    pub waiting: bool,
    /// The place in the queue, in words.
    pub place: Option<String>,
    pub again: bool,
    /// How long a start of the lab usually takes in total.
    pub total: Option<String>,
}

pub(super) async fn stages(app: &App, e: &Environment) -> Result<Stages, Problem> {
    let done = app.store.stages(&e.id).await?;
    // A tenant of a pool goes through other stages than a clone.
    let claimed = done.iter().any(|stage| stage.name == "claim");
    let typical = if claimed {
        Vec::new()
    } else {
        app.typical_stages(&e.lab).await?
    };
    let now = app.now();
    let failed = matches!(e.state, State::Failed { .. });
    let mut rows: Vec<StageRow> = Vec::new();
    for s in &done {
        let usual = typical.iter().find(|t| t.name == s.name);
        let since = now.duration_since(s.started_at).as_millis();
        let elapsed = u64::try_from(since).unwrap_or_default();
        let (state, percent) = match (s.millis, failed) {
            (Some(_), _) => ("done", 100),
            (None, true) => ("failed", 100),
            (None, false) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between 0 and 95"
                )]
                let reported = s.fraction.map(|f| (f.clamp(0.0, 1.0) * 95.0) as u64);
                let guess = usual.map(|t| elapsed.saturating_mul(95) / t.millis.max(1));
                ("now", reported.or(guess).unwrap_or(5).clamp(3, 95))
            }
        };
        let shown = if state == "done" { &s.title } else { &s.text };
        rows.push(StageRow {
            text: shown.to_owned(),
            state,
            percent,
            took: s.millis.map(text::duration).unwrap_or_default(),
            usual: usual.map(|t| text::usual(t.usual)).unwrap_or_default(),
            typical_millis: usual.map(|t| t.millis).unwrap_or_default(),
            elapsed_millis: elapsed,
        });
    }
    for t in typical
        .iter()
        .filter(|t| !failed && !done.iter().any(|s| s.name == t.name))
    {
        rows.push(StageRow {
            text: t.title.clone(),
            state: "next",
            percent: 0,
            took: String::new(),
            usual: text::usual(t.usual),
            typical_millis: t.millis,
            elapsed_millis: 0,
        });
    }
    let total = app.usual_start(&e.lab).await?.filter(|_| !claimed);
    let place = lock(&app.queue).get(&e.id).copied();
    Ok(Stages {
        waiting: matches!(e.state, State::Requested { .. }) && done.is_empty(),
        place: place.map(text::place),
        again: matches!(
            e.state,
            State::Requested { tries: 1.., .. } | State::Preparing { tries: 1.., .. }
        ),
        rows,
        total: total.map(text::usual),
    })
}

pub(super) struct LogRow {
    /// The time since the environment was requested.
    pub after: String,
    pub at: String,
    pub stage: String,
    pub text: String,
}

/// The log of a start.
#[derive(Template)]
#[template(path = "part-log.html")]
pub(super) struct Log {
    pub rows: Vec<LogRow>,
}

pub(super) async fn log(app: &App, e: &Environment) -> Result<Log, Problem> {
    let lines = app.store.start_log(&e.id).await?;
    let row = |line: Line| LogRow {
        after: text::clock(line.at.duration_since(e.created_at)),
        at: line.at.to_string(),
        stage: line.stage,
        text: line.text,
    };
    Ok(Log {
        rows: lines.into_iter().map(row).collect(),
    })
}
