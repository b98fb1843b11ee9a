//! `/operator/pools`: warm pools, their forecasts and bounds, announced events, and how long people waited.

use askama::Template;
use axum::{
    Form,
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use faultline_domain::clock::utc;
use faultline_store::pools::ServedBy;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde::Deserialize;

use super::{
    after_form,
    layout::{Frame, Layout},
    page, text,
};
use crate::{
    app::{App, Shared},
    auth::{Operator, Row},
    operations::pools::{self, NewEvent},
    pools::{PoolStatus, names, survey, waits},
    problem::Problem,
};

/// The page's path.
const HERE: &str = "/operator/pools";

struct Pool {
    name: String,
    is_lab: bool,
    warm: u32,
    on_disk: u32,
    unfinished: u32,
    size: u32,
    reason: String,
    next: String,
    takes: String,
    memory: u64,
    problem: String,
    floor: u32,
    ceiling: String,
}

struct Event {
    id: String,
    lab: String,
    at: String,
    seats: String,
    note: String,
}

struct Wait {
    by: &'static str,
    starts: usize,
    p50: String,
    p95: String,
}

#[derive(Template)]
#[template(path = "pools.html")]
struct Page {
    layout: Layout,
    problem: Option<Problem>,
    is_on: bool,
    hold: Option<&'static str>,
    pools: Vec<Pool>,
    /// The pools without demand and bounds.
    others: Vec<String>,
    events: Vec<Event>,
    labs: Vec<(String, String)>,
    soon: String,
    waits: Vec<Wait>,
}

fn pool(of: &PoolStatus, now: Timestamp) -> Pool {
    let next = of.forecast.next.as_ref().map(|next| {
        let (from, at) = (utc(next.from, now), utc(next.event.at, now));
        format!(
            "{} from {from}: event of {} at {at}",
            next.size, next.event.seats
        )
    });
    let problem = of.failure.as_ref().map(|reason| {
        let again = match of.backoff.as_secs() {
            0 => "next attempt soon".to_owned(),
            seconds => format!("next attempt in {}", text::left(seconds)),
        };
        let times = text::plural(of.failures as usize, "failure", "failures");
        format!("{times}, last: {reason}; {again}")
    });
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a duration"
    )]
    let millis = (of.make_seconds * 1000.0) as u64;
    Pool {
        name: of.pool.to_string(),
        is_lab: of.lab.is_some(),
        warm: of.warm,
        on_disk: of.on_disk,
        unfinished: of.unfinished,
        size: of.size,
        reason: of.reason(),
        next: next.unwrap_or_default(),
        takes: text::duration(millis),
        memory: of.memory_mib,
        problem: problem.unwrap_or_default(),
        floor: of.bounds.floor,
        ceiling: match of.bounds.ceiling {
            faultline_domain::pool::Bounds::MAX => String::new(),
            ceiling => ceiling.to_string(),
        },
    }
}

async fn render(
    app: &App,
    operator: &Operator,
    frame: &Frame,
    problem: Option<Problem>,
) -> Result<Response, Problem> {
    let now = app.now();
    let found = survey(app).await?;
    let shown: Vec<Pool> = found.all.iter().map(|s| pool(s, now)).collect();
    let mut others = names(app);
    others.retain(|name| shown.iter().all(|pool| pool.name != *name));
    let events = app.store.events_since(now).await?;
    let waits = waits(app).await?;
    let labs = app.catalogue();
    let tomorrow = now.saturating_add(jiff::SignedDuration::from_hours(24));
    page(&Page {
        layout: frame.layout("Pools", &operator.caller),
        problem,
        is_on: app.config.pools.max_tenants > 0,
        hold: found.hold,
        pools: shown,
        others,
        events: events
            .into_iter()
            .map(|e| Event {
                at: utc(e.at, now),
                id: e.id,
                lab: e.lab.to_string(),
                seats: text::plural(e.seats as usize, "person", "people"),
                note: e.note,
            })
            .collect(),
        labs: labs
            .labs()
            .iter()
            .map(|lab| (lab.slug.to_string(), lab.lab.title.clone()))
            .collect(),
        soon: tomorrow
            .unwrap_or(now)
            .to_zoned(TimeZone::UTC)
            .strftime("%Y-%m-%dT%H:00")
            .to_string(),
        waits: waits
            .into_iter()
            .map(|w| Wait {
                by: match w.by {
                    ServedBy::Lab => "The lab's pool, with its setup done",
                    ServedBy::Template => "The template's pool",
                    ServedBy::Unfinished => "A tenant that was being made for a pool",
                    ServedBy::Clone => "A clone of its own",
                },
                starts: w.starts,
                p50: text::duration(w.p50),
                p95: text::duration(w.p95),
            })
            .collect(),
    })
}

pub(super) async fn show(
    State(app): State<Shared>,
    operator: Operator,
    frame: Frame,
) -> Result<Response, Problem> {
    render(&app, &operator, &frame, None).await
}

#[derive(Deserialize)]
pub(super) struct Bounds {
    #[serde(default)]
    pool: String,
    #[serde(default)]
    floor: String,
    #[serde(default)]
    ceiling: String,
}

impl Bounds {
    /// Returns the floor and the ceiling. An empty field means the default.
    fn read(&self) -> Result<(u32, u32), Problem> {
        let number = |text: &str, default| match text.trim() {
            "" => Ok(default),
            text => text.parse().map_err(|_| {
                Problem::bad_request("Enter the floor and the ceiling as whole numbers.")
            }),
        };
        let default = faultline_domain::pool::Bounds::default();
        Ok((
            number(&self.floor, default.floor)?,
            number(&self.ceiling, default.ceiling)?,
        ))
    }
}

pub(super) async fn set_bounds(
    State(app): State<Shared>,
    operator: Operator,
    frame: Frame,
    Form(form): Form<Bounds>,
) -> Result<Response, Problem> {
    let done = match form.read() {
        Ok((floor, ceiling)) => {
            let (floor, ceiling) = (Some(floor), Some(ceiling));
            pools::set_bounds(&app, &operator.proof, &form.pool, floor, ceiling).await
        }
        Err(problem) => Err(problem),
    };
    after_form(done, HERE, async |problem| {
        render(&app, &operator, &frame, Some(problem)).await
    })
    .await
}

#[derive(Deserialize)]
pub(super) struct Announcement {
    #[serde(default)]
    lab: String,
    #[serde(default)]
    at: String,
    #[serde(default)]
    seats: String,
    #[serde(default)]
    note: String,
}

impl Announcement {
    fn read(self) -> Result<NewEvent, Problem> {
        let lab = self.lab.parse();
        let at = self.at.trim().parse::<DateTime>().ok();
        let at = at.and_then(|at| at.to_zoned(TimeZone::UTC).ok());
        Ok(NewEvent {
            lab: lab.map_err(|_| Problem::bad_request("Choose a lab."))?,
            at: at
                .ok_or_else(|| Problem::bad_request("Enter the day and time at which it begins."))?
                .timestamp(),
            seats: self.seats.trim().parse().map_err(|_| {
                Problem::bad_request("Enter the number of people as a whole number.")
            })?,
            note: self.note,
        })
    }
}

pub(super) async fn announce(
    State(app): State<Shared>,
    operator: Operator,
    frame: Frame,
    Form(form): Form<Announcement>,
) -> Result<Response, Problem> {
    let done = match form.read() {
        Ok(new) => pools::announce(&app, &operator.proof, new).await,
        Err(problem) => Err(problem),
    };
    after_form(done, HERE, async |problem| {
        render(&app, &operator, &frame, Some(problem)).await
    })
    .await
}

pub(super) async fn cancel(
    State(app): State<Shared>,
    operator: Operator,
    Row(id): Row,
) -> Result<Response, Problem> {
    pools::cancel(&app, &operator.proof, &id).await?;
    Ok(Redirect::to(HERE).into_response())
}
