//! `/progress`: the person's solved labs, points, time and hints, by level and by topic, and all attempts.

use std::collections::{BTreeMap, HashSet};

use askama::Template;
use axum::{extract::State, response::Response};
use faultline_domain::{attempt::Attempt, lab::Level};

use super::{
    layout::{Frame, Layout},
    page,
    parts::{Tried, took},
    text,
};
use crate::{app::Shared, auth::Signed, problem::Problem};

struct Share {
    name: String,
    solved: usize,
    total: usize,
}

struct Line {
    slug: String,
    title: String,
    known: bool,
    tried: Tried,
}

#[derive(Template)]
#[template(path = "progress.html")]
struct Progress {
    layout: Layout,
    solved: usize,
    total: usize,
    tried: usize,
    points: u32,
    time: String,
    hints: usize,
    levels: Vec<Share>,
    topics: Vec<Share>,
    lines: Vec<Line>,
}

pub(super) async fn show(
    State(app): State<Shared>,
    Signed(caller): Signed,
    frame: Frame,
) -> Result<Response, Problem> {
    let attempts = app.store.attempts_of(caller.signed_in.person()).await?;
    let catalogue = app.catalogue();
    let labs = catalogue.labs();
    let solved: HashSet<_> = attempts
        .iter()
        .filter(|a| a.is_solved())
        .map(|a| &a.lab)
        .collect();
    let tried: HashSet<_> = attempts.iter().map(|a| &a.lab).collect();
    // The best attempt at each lab counts.
    let mut best: BTreeMap<_, u32> = BTreeMap::new();
    for a in &attempts {
        let points = best.entry(&a.lab).or_default();
        *points = (*points).max(a.points.unwrap_or_default());
    }
    let levels = [Level::Beginner, Level::Intermediate, Level::Hard]
        .into_iter()
        .map(|level| {
            let of: Vec<_> = labs.iter().filter(|l| l.lab.level == level).collect();
            Share {
                name: level.as_str().to_owned(),
                solved: of.iter().filter(|l| solved.contains(&l.slug)).count(),
                total: of.len(),
            }
        })
        .filter(|share| share.total > 0)
        .collect();
    let mut topics: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for lab in &labs {
        for topic in &lab.lab.topics {
            let entry = topics.entry(topic).or_default();
            entry.0 += usize::from(solved.contains(&lab.slug));
            entry.1 += 1;
        }
    }
    let now = app.now();
    let places = app
        .store
        .environments_by_attempt(caller.signed_in.person())
        .await?;
    let line = |a: &Attempt| {
        let lab = app.lab(&a.lab);
        Line {
            slug: a.lab.to_string(),
            title: lab
                .as_ref()
                .map_or_else(|| a.lab.to_string(), |l| l.lab.title.clone()),
            known: lab.is_some(),
            tried: Tried::new(a, places.get(&a.id), false, now),
        }
    };
    let time: u64 = attempts
        .iter()
        .filter(|a| a.is_solved())
        .filter_map(took)
        .sum();
    page(&Progress {
        layout: frame.layout("Progress", &caller),
        solved: labs.iter().filter(|l| solved.contains(&l.slug)).count(),
        total: labs.len(),
        tried: tried.len(),
        points: best.values().sum(),
        time: text::duration(time),
        hints: attempts.iter().map(|a| a.hints.len()).sum(),
        levels,
        // A topic of a single lab says no more than the lab itself.
        topics: topics
            .into_iter()
            .filter(|(_, (_, total))| *total > 1)
            .map(|(name, (solved, total))| Share {
                name: name.to_owned(),
                solved,
                total,
            })
            .collect(),
        lines: attempts.iter().map(line).collect(),
    })
}
