//! The forms of `/operator` that begin, change and end maintenance.

use axum::{Form, extract::State, response::Response};
use faultline_domain::maintenance::Maintenance;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde::Deserialize;

use super::{after_form, layout::Frame, operator, text};
use crate::{
    app::{App, Shared},
    auth::Operator,
    operations::maintenance::{self, NewMaintenance, Running},
    problem::Problem,
};

/// The page with the forms.
const HERE: &str = "/operator#maintenance";

/// What the page shows of the maintenance that is in effect.
pub(super) struct Current {
    pub since: String,
    pub message: String,
    /// The times as the form's fields take them; empty if they aren't set.
    pub until: String,
    pub end_environments_at: String,
    /// What still runs.
    pub running: String,
    /// True if nothing runs.
    pub is_drained: bool,
}

impl Current {
    pub(super) async fn of(app: &App) -> Result<Option<Self>, Problem> {
        let Some(of) = app.maintenance() else {
            return Ok(None);
        };
        let running = Running::now(app).await?;
        let Maintenance {
            since,
            message,
            until,
            end_environments_at,
        } = of;
        Ok(Some(Self {
            since: text::ago(since, app.now()),
            message,
            until: until.map(field).unwrap_or_default(),
            end_environments_at: end_environments_at.map(field).unwrap_or_default(),
            running: format!(
                "{} and {} still run.",
                text::plural(running.environments, "environment", "environments"),
                text::plural(running.pool_tenants, "tenant of a pool", "tenants of pools")
            ),
            is_drained: running.is_nothing(),
        }))
    }
}

/// Formats a time as the value of a field for dates and times.
fn field(at: Timestamp) -> String {
    let at = at.to_zoned(TimeZone::UTC);
    at.strftime("%Y-%m-%dT%H:%M").to_string()
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    message: String,
    #[serde(default)]
    until: String,
    #[serde(default)]
    end_environments_at: String,
}

impl Wanted {
    fn read(self) -> Result<NewMaintenance, Problem> {
        let time = |text: &str| match text.trim() {
            "" => Ok(None),
            text => text
                .parse::<DateTime>()
                .and_then(|at| at.to_zoned(TimeZone::UTC))
                .map(|at| Some(at.timestamp()))
                .map_err(|_| {
                    Problem::bad_request("Enter a day and a time, or leave the field empty.")
                }),
        };
        Ok(NewMaintenance {
            until: time(&self.until)?,
            end_environments_at: time(&self.end_environments_at)?,
            message: self.message,
        })
    }
}

pub(super) async fn begin(
    State(app): State<Shared>,
    operator: Operator,
    frame: Frame,
    Form(form): Form<Wanted>,
) -> Result<Response, Problem> {
    let done = match form.read() {
        Ok(new) => maintenance::begin(&app, &operator.proof, new).await,
        Err(problem) => Err(problem),
    };
    after_form(done, HERE, async |problem| {
        operator::render(&app, &operator, &frame, Some(problem), None).await
    })
    .await
}

pub(super) async fn end(
    State(app): State<Shared>,
    operator: Operator,
    frame: Frame,
) -> Result<Response, Problem> {
    let done = maintenance::end(&app, &operator.proof).await;
    after_form(done, HERE, async |problem| {
        operator::render(&app, &operator, &frame, Some(problem), None).await
    })
    .await
}
