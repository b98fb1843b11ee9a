//! `/people/{person}/limits`: a person's limits, for operators. Also the parts of other pages that show limits.

use askama::Template;
use axum::{
    Form,
    extract::State,
    response::{IntoResponse, Response},
};
use faultline_domain::{
    PersonId,
    quota::{Frees, Holder, Overrides, Quota, Resource, Standing},
};
use jiff::{Timestamp, tz::TimeZone};
use serde::Deserialize;

use super::{
    after_form,
    layout::{Frame, Layout},
    page, text,
};
use crate::{
    app::{App, Shared},
    auth::{Operator, Person},
    operations::limits,
    problem::Problem,
    quotas::OwnLimits,
};

/// A limit, as pages show it.
pub(super) struct LimitRow {
    pub what: String,
    pub used: u32,
    pub most: u32,
    pub is_near: bool,
    /// When some of it is free again; empty if nothing is used.
    pub frees: String,
}

impl LimitRow {
    /// Returns the rows of limits.
    pub(super) fn all(of: &[Standing], now: Timestamp) -> Vec<Self> {
        of.iter().map(|standing| Self::of(standing, now)).collect()
    }

    /// Returns the rows of a group's page, which says once that the members share them.
    pub(super) fn of_group(of: &[Standing], now: Timestamp) -> Vec<Self> {
        let row = |standing: &Standing| Self {
            what: standing.resource.as_text().to_owned(),
            ..Self::of(standing, now)
        };
        of.iter().map(row).collect()
    }

    fn of(standing: &Standing, now: Timestamp) -> Self {
        let what = standing.resource.as_text();
        let what = match &standing.holder {
            Holder::Person => what.to_owned(),
            Holder::Group(name) => format!("{what}, shared by {name}"),
            Holder::Everyone => format!("{what}, shared by everyone"),
        };
        Self {
            what,
            used: standing.used,
            most: standing.most,
            is_near: standing.is_near(),
            frees: match standing.frees {
                Some(Frees::WithAnEnd) => "when one ends".to_owned(),
                Some(Frees::At(at, _)) if standing.resource == Resource::Hours => {
                    format!("on {}", at.to_zoned(TimeZone::UTC).strftime("%-d %B"))
                }
                Some(Frees::At(at, _)) => {
                    format!(
                        "in {}",
                        text::left(at.duration_since(now).as_secs().max(60))
                    )
                }
                Some(Frees::Never) | None => String::new(),
            },
        }
    }
}

/// A field of the form that makes exceptions.
pub(super) struct LimitField {
    pub name: &'static str,
    pub label: &'static str,
    pub value: String,
    /// What applies if the field is empty.
    pub default: String,
}

impl LimitField {
    /// Returns the fields of the form.
    pub(super) fn all(of: &OwnLimits) -> Vec<Self> {
        let own = of.overrides;
        let field = |resource: Resource, label, own: Option<u32>| {
            let default = of.default.of(resource);
            Self {
                name: resource.as_str(),
                label,
                value: own.map_or_else(String::new, |most| most.to_string()),
                default: default.map_or_else(|| "no limit".to_owned(), |most| most.to_string()),
            }
        };
        vec![
            field(
                Resource::Environments,
                "Environments at once",
                own.environments,
            ),
            field(Resource::Starts, "Starts per hour", own.starts),
            field(Resource::Hours, "Hours per month", own.hours),
            field(Resource::Nodes, "Nodes at once", own.nodes),
        ]
    }
}

/// The form that makes exceptions, as sent.
#[derive(Deserialize)]
pub(super) struct NewLimits {
    #[serde(default)]
    environments: String,
    #[serde(default)]
    starts_per_hour: String,
    #[serde(default)]
    hours_per_month: String,
    #[serde(default)]
    nodes: String,
}

impl NewLimits {
    pub(super) fn read(&self) -> Result<Overrides, Problem> {
        let number = |text: &str| {
            match text.trim() {
            "" => Ok(None),
            number => number.parse().map(Some).map_err(|_| {
                Problem::bad_request(format!(
                    "A limit is a whole number from 1 to {}, 0 for no limit, or empty for the default.",
                    Quota::MAX
                ))
            }),
        }
        };
        Ok(Overrides {
            environments: number(&self.environments)?,
            starts: number(&self.starts_per_hour)?,
            hours: number(&self.hours_per_month)?,
            nodes: number(&self.nodes)?,
        })
    }
}

#[derive(Template)]
#[template(path = "limits.html")]
struct Page {
    layout: Layout,
    person: String,
    name: String,
    limits: Vec<LimitRow>,
    limit_fields: Vec<LimitField>,
    problem: Option<Problem>,
}

async fn render(
    app: &App,
    operator: &Operator,
    frame: &Frame,
    person: &PersonId,
    problem: Option<Problem>,
) -> Result<Response, Problem> {
    let limits = limits::of_person(app, &operator.proof, person).await?;
    let known = app.store.person(person).await?;
    let name = known.ok_or_else(Problem::not_found)?.name;
    page(&Page {
        layout: frame.layout(&format!("Limits of {name}"), &operator.caller),
        person: person.to_string(),
        limits: LimitRow::all(&limits.standings, app.now()),
        limit_fields: LimitField::all(&limits),
        name,
        problem,
    })
}

pub(super) async fn show(
    State(app): State<Shared>,
    operator: Operator,
    Person(person): Person,
    frame: Frame,
) -> Result<Response, Problem> {
    render(&app, &operator, &frame, &person, None).await
}

pub(super) async fn set(
    State(app): State<Shared>,
    operator: Operator,
    Person(person): Person,
    frame: Frame,
    Form(new): Form<NewLimits>,
) -> Result<Response, Problem> {
    let done = match new.read() {
        Ok(new) => limits::limit_person(&app, &operator.proof, &person, new).await,
        Err(problem) => Err(problem),
    };
    let here = format!("/people/{person}/limits");
    after_form(done, &here, async |problem| {
        let html = render(&app, &operator, &frame, &person, Some(problem)).await?;
        Ok(html.into_response())
    })
    .await
}
