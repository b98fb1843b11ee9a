//! `/`: the person's open environments, and the catalogue. Search and filters are links.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};

use askama::Template;
use axum::{
    extract::{Query, State},
    response::Response,
};
use faultline_domain::{environment::State as Life, lab::Level};
use faultline_lab::LabFolder;
use faultline_provider::Readiness;
use serde::Deserialize;

use super::{
    layout::{Frame, Layout},
    page, parts, search, text,
};
use crate::{app::Shared, auth::Signed, lock::lock, operations::authoring, problem::Problem};

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    q: String,
    level: String,
    topic: String,
    done: String,
}

struct Card {
    slug: String,
    title: String,
    summary: String,
    level: &'static str,
    topics: Vec<String>,
    minutes: u32,
    nodes: u32,
    points: u32,
    solved: bool,
    open: bool,
    unready: Option<String>,
}

struct Open {
    id: String,
    title: String,
    phase: &'static str,
    left: String,
}

struct Choice {
    name: String,
    href: String,
    chosen: bool,
    count: usize,
}

#[derive(Template)]
#[template(path = "catalogue.html")]
struct Catalogue {
    layout: Layout,
    filter: Filter,
    filtered: bool,
    open: Vec<Open>,
    cards: Vec<Card>,
    levels: Vec<Choice>,
    /// Topics of several labs, and the chosen one.
    topics: Vec<Choice>,
    /// Topics of a single lab.
    rare_topics: Vec<Choice>,
    states: Vec<Choice>,
    total: usize,
    solved: usize,
    /// Why labs can't be loaded, for authors and operators.
    broken: Vec<String>,
}

pub(super) async fn show(
    State(app): State<Shared>,
    Signed(caller): Signed,
    Query(filter): Query<Filter>,
    frame: Frame,
) -> Result<Response, Problem> {
    let me = caller.signed_in.person();
    let solved = app.store.solved_by(me).await?;
    let mine = app.store.unfinished_of(me).await?;
    let mine: Vec<_> = mine.into_iter().filter(|e| e.is_open()).collect();
    let catalogue = app.catalogue();
    let labs = catalogue.labs();
    let now = app.now();
    let open = mine
        .iter()
        .map(|e| Open {
            id: e.id.to_string(),
            title: app
                .lab(&e.lab)
                .map_or_else(|| e.lab.to_string(), |l| l.lab.title.clone()),
            phase: if lock(&app.queue).contains_key(&e.id) {
                "waiting"
            } else if matches!(e.state, Life::Active { .. }) {
                "running"
            } else if e.state.is_starting() {
                "starting"
            } else if matches!(e.state, Life::Suspended { .. }) {
                "paused"
            } else {
                e.state.phase().as_str()
            },
            left: text::left(parts::shown_end(&app, e).duration_since(now).as_secs()),
        })
        .collect();
    let is_done = |lab: &LabFolder| solved.contains(&lab.slug);
    let mut unready = HashMap::new();
    for lab in &labs {
        let template = lab.lab.needs.template();
        if let Entry::Vacant(slot) = unready.entry(template.clone()) {
            slot.insert(match app.readiness(template).await {
                Readiness::Ready { .. } => None,
                Readiness::Preparing { fraction, .. } => {
                    Some(format!("being prepared, {:.0} %", fraction * 100.0))
                }
                Readiness::Unavailable { .. } => Some("not available".to_owned()),
            });
        }
    }
    let cards = labs
        .iter()
        .filter(|lab| filter.takes(lab, is_done(lab)))
        .map(|lab| Card {
            slug: lab.slug.to_string(),
            title: lab.lab.title.clone(),
            summary: lab.lab.summary.clone(),
            level: lab.lab.level.as_str(),
            topics: lab.lab.topics.clone(),
            minutes: lab.lab.minutes,
            nodes: lab.lab.needs.nodes,
            points: lab.lab.points(),
            solved: is_done(lab),
            open: mine.iter().any(|e| e.lab == lab.slug),
            unready: unready.get(&lab.lab.needs.template()).cloned().flatten(),
        })
        .collect();
    let count = |test: &dyn Fn(&LabFolder) -> bool| labs.iter().filter(|l| test(l)).count();
    let mut topics: BTreeMap<&str, usize> = BTreeMap::new();
    for topic in labs.iter().flat_map(|l| &l.lab.topics) {
        *topics.entry(topic).or_default() += 1;
    }
    let (topics, rare_topics) = topics
        .iter()
        .map(|(topic, n)| filter.choice(topic, *n, &filter.topic, |f, v| f.topic = v))
        .partition(|topic| topic.count > 1 || topic.chosen);
    let page_of = Catalogue {
        filtered: !(filter.q.is_empty()
            && filter.level.is_empty()
            && filter.topic.is_empty()
            && filter.done.is_empty()),
        levels: [Level::Beginner, Level::Intermediate, Level::Hard]
            .into_iter()
            .map(|level| {
                let n = count(&|l| l.lab.level == level);
                filter.choice(level.as_str(), n, &filter.level, |f, v| f.level = v)
            })
            .collect(),
        topics,
        rare_topics,
        states: [
            ("open", count(&|l| !is_done(l))),
            ("solved", count(&is_done)),
        ]
        .into_iter()
        .map(|(name, n)| filter.choice(name, n, &filter.done, |f, v| f.done = v))
        .collect(),
        layout: frame.layout("Labs", &caller),
        open,
        cards,
        total: labs.len(),
        solved: count(&is_done),
        broken: caller
            .signed_in
            .may_author()
            .map(|proof| authoring::broken(&app, &proof))
            .unwrap_or_default(),
        filter,
    };
    page(&page_of)
}

impl Filter {
    fn takes(&self, lab: &LabFolder, solved: bool) -> bool {
        search::finds(&self.q, &lab.slug, &lab.lab)
            && (self.level.is_empty() || self.level == lab.lab.level.as_str())
            && (self.topic.is_empty() || lab.lab.topics.contains(&self.topic))
            && match self.done.as_str() {
                "solved" => solved,
                "open" => !solved,
                _ => true,
            }
    }

    /// Returns a link that chooses a value, or clears it if it is already chosen.
    fn choice(
        &self,
        name: &str,
        count: usize,
        now: &str,
        set: impl Fn(&mut Self, String),
    ) -> Choice {
        let mut next = self.clone();
        let chosen = now == name;
        set(
            &mut next,
            if chosen {
                String::new()
            } else {
                name.to_owned()
            },
        );
        Choice {
            name: name.to_owned(),
            href: next.href(),
            chosen,
            count,
        }
    }

    fn href(&self) -> String {
        let mut pairs = Vec::new();
        for (name, value) in [
            ("q", &self.q),
            ("level", &self.level),
            ("topic", &self.topic),
            ("done", &self.done),
        ] {
            if !value.is_empty() {
                pairs.push(format!("{name}={}", encode(value)));
            }
        }
        if pairs.is_empty() {
            "/".to_owned()
        } else {
            format!("/?{}", pairs.join("&"))
        }
    }
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                char::from(b).to_string()
            }
            b' ' => "+".to_owned(),
            b => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_of_a_filter_keeps_the_other_filters() {
        let filter = Filter {
            q: "dns & co".to_owned(),
            level: "hard".to_owned(),
            ..Filter::default()
        };
        let chosen = filter.choice("hard", 1, "hard", |f, v| f.level = v);
        assert_eq!((chosen.chosen, &*chosen.href), (true, "/?q=dns+%26+co"));
        let other = filter.choice("dns", 1, "", |f, v| f.topic = v);
        assert_eq!(other.href, "/?q=dns+%26+co&level=hard&topic=dns");
    }
}
