//! Warm pools and announced events, for operators.

use axum::{Json, extract::State, http::StatusCode};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Body,
    views::pools::{
        BoundsUpdate, BoundsView, EventView, NewEventView, PoolView, PoolsView, WaitView,
    },
};
use crate::{
    app::Shared,
    auth::{Operator, Row},
    operations::pools::{self, NewEvent},
    pools::{survey, waits},
    problem::Problem,
};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_pools, update_bounds))
        .routes(routes!(list_events, announce_event))
        .routes(routes!(cancel_event))
}

/// Returns the warm pools with their forecasts, and how long starts took in the last 24 hours. For operators.
#[utoipa::path(get, path = "/api/v1/pools", tag = "pools",
    responses((status = 200, body = PoolsView), (status = 404, body = Problem)))]
async fn list_pools(
    State(app): State<Shared>,
    _operator: Operator,
) -> Result<Json<PoolsView>, Problem> {
    let found = survey(&app).await?;
    let waits = waits(&app).await?;
    Ok(Json(PoolsView {
        hold: found.hold,
        pools: found.all.iter().map(PoolView::from).collect(),
        waits: waits.into_iter().map(WaitView::from).collect(),
    }))
}

/// Sets the floor or the ceiling of a pool. For operators.
#[utoipa::path(patch, path = "/api/v1/pools", tag = "pools", request_body = BoundsUpdate,
    responses((status = 200, body = BoundsView), (status = 400, body = Problem), (status = 404, body = Problem)))]
async fn update_bounds(
    State(app): State<Shared>,
    operator: Operator,
    Body(update): Body<BoundsUpdate>,
) -> Result<Json<BoundsView>, Problem> {
    let BoundsUpdate {
        pool,
        floor,
        ceiling,
    } = update;
    let bounds = pools::set_bounds(&app, &operator.proof, &pool, floor, ceiling).await?;
    Ok(Json(BoundsView {
        pool,
        floor: bounds.floor,
        ceiling: bounds.ceiling,
    }))
}

/// Lists the announced events that haven't begun, earliest first. For operators.
#[utoipa::path(get, path = "/api/v1/events", tag = "pools",
    responses((status = 200, body = [EventView]), (status = 404, body = Problem)))]
async fn list_events(
    State(app): State<Shared>,
    _operator: Operator,
) -> Result<Json<Vec<EventView>>, Problem> {
    let all = app.store.events_since(app.now()).await?;
    Ok(Json(all.into_iter().map(EventView::from).collect()))
}

/// Announces an event: many people will start a lab at about the same time. For operators.
///
/// The lab's pool is filled shortly before.
#[utoipa::path(post, path = "/api/v1/events", tag = "pools", request_body = NewEventView,
    responses((status = 201, body = EventView), (status = 400, body = Problem), (status = 404, body = Problem)))]
async fn announce_event(
    State(app): State<Shared>,
    operator: Operator,
    Body(new): Body<NewEventView>,
) -> Result<(StatusCode, Json<EventView>), Problem> {
    let lab = new.lab.parse();
    let lab = lab.map_err(|_| Problem::bad_request(format!("There is no lab {}.", new.lab)))?;
    let at = new.at.parse().map_err(|_| {
        Problem::bad_request("The time is not in RFC 3339 format, such as 2026-12-01T09:45:00Z.")
    })?;
    let new = NewEvent {
        lab,
        at,
        seats: new.seats,
        note: new.note,
    };
    let event = pools::announce(&app, &operator.proof, new).await?;
    Ok((StatusCode::CREATED, Json(event.into())))
}

/// Cancels an announced event. For operators.
#[utoipa::path(delete, path = "/api/v1/events/{row}", tag = "pools", params(("row" = String, Path)),
    responses((status = 204, description = "cancelled"), (status = 404, body = Problem)))]
async fn cancel_event(
    State(app): State<Shared>,
    operator: Operator,
    Row(id): Row,
) -> Result<StatusCode, Problem> {
    pools::cancel(&app, &operator.proof, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
