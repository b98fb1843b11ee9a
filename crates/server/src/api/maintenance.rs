//! Maintenance, for operators.

use axum::{Json, extract::State, http::StatusCode};
use jiff::Timestamp;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Body,
    views::maintenance::{MaintenanceView, NewMaintenanceView},
};
use crate::{
    app::{App, Shared},
    auth::Operator,
    operations::maintenance::{self, NewMaintenance, Running},
    problem::Problem,
};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(get_maintenance, begin_maintenance, end_maintenance))
}

async fn view(app: &App) -> Result<Json<MaintenanceView>, Problem> {
    let running = Running::now(app).await?;
    Ok(Json(MaintenanceView::new(app.maintenance(), running)))
}

/// Returns whether the server is in maintenance, and what still runs. For operators.
#[utoipa::path(get, path = "/api/v1/operator/maintenance", tag = "operator",
    responses((status = 200, body = MaintenanceView), (status = 404, body = Problem)))]
async fn get_maintenance(
    State(app): State<Shared>,
    _operator: Operator,
) -> Result<Json<MaintenanceView>, Problem> {
    view(&app).await
}

/// Begins maintenance, or changes the one that is in effect. For operators.
///
/// Nothing can be started meanwhile. What runs goes on. With `end_environments_at`, it is suspended to disk then, or ends
/// if it can't be; pools are emptied, and the owners of environments are notified.
#[utoipa::path(put, path = "/api/v1/operator/maintenance", tag = "operator", request_body = NewMaintenanceView,
    responses((status = 200, body = MaintenanceView), (status = 400, body = Problem), (status = 404, body = Problem)))]
async fn begin_maintenance(
    State(app): State<Shared>,
    operator: Operator,
    Body(new): Body<NewMaintenanceView>,
) -> Result<Json<MaintenanceView>, Problem> {
    let time = |text: Option<String>| {
        let parsed = text.map(|text| text.parse::<Timestamp>()).transpose();
        parsed.map_err(|_| {
            Problem::bad_request("A time is not in RFC 3339 format, such as 2026-12-01T09:45:00Z.")
        })
    };
    let new = NewMaintenance {
        message: new.message,
        until: time(new.until)?,
        end_environments_at: time(new.end_environments_at)?,
    };
    maintenance::begin(&app, &operator.proof, new).await?;
    view(&app).await
}

/// Ends maintenance. For operators.
#[utoipa::path(delete, path = "/api/v1/operator/maintenance", tag = "operator",
    responses((status = 204, description = "ended"), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn end_maintenance(
    State(app): State<Shared>,
    operator: Operator,
) -> Result<StatusCode, Problem> {
    maintenance::end(&app, &operator.proof).await?;
    Ok(StatusCode::NO_CONTENT)
}
