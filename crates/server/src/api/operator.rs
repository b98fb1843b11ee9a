//! The operator's view.

use axum::{Json, extract::State};
use faultline_domain::environment::Environment;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::views::{
    environments::{EnvironmentView, WaitingView},
    operator::{AuditView, CapacityView, OperatorView, ReconcilerView},
};
use crate::{
    app::Shared, auth::Operator, capacity::Free, lock::lock, problem::Problem, usage::overview,
};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(get_status))
        .routes(routes!(get_capacity))
        .routes(routes!(list_audit))
        .routes(routes!(list_queue))
}

/// Returns everyone's environments, the capacity, and the status of the reconcilers.
#[utoipa::path(get, path = "/api/v1/operator/status", tag = "operator",
    responses((status = 200, body = OperatorView), (status = 404, body = Problem)))]
async fn get_status(
    State(app): State<Shared>,
    _operator: Operator,
) -> Result<Json<OperatorView>, Problem> {
    let all = app.store.unfinished_environments().await?;
    let free = Free::now(&app);
    let reconcilers = lock(&app.statuses)
        .iter()
        .map(|(name, s)| ReconcilerView {
            name,
            last: s.last.to_string(),
            millis: u64::try_from(s.took.as_millis()).unwrap_or(u64::MAX),
            runs: s.runs,
            counts: s.done.clone().unwrap_or_default(),
            error: s.done.as_ref().err().cloned(),
        })
        .collect();
    Ok(Json(OperatorView {
        provider: app.provider.name(),
        environments: all.iter().map(|e| EnvironmentView::new(&app, e)).collect(),
        max_environments: app.config.max_environments,
        free_memory_mib: free.memory_mib,
        free_disk_mib: free.disk_mib,
        reconcilers,
        broken_labs: app
            .catalogue()
            .broken()
            .iter()
            .map(faultline_lab::Broken::render)
            .collect(),
    }))
}

/// Returns the host's capacity: what environments and pools really use, what is free, and what still fits.
#[utoipa::path(get, path = "/api/v1/operator/capacity", tag = "operator",
    responses((status = 200, body = CapacityView), (status = 404, body = Problem)))]
async fn get_capacity(
    State(app): State<Shared>,
    _operator: Operator,
) -> Result<Json<CapacityView>, Problem> {
    let people = app.store.people().await?;
    Ok(Json(CapacityView::new(overview(&app).await?, &people)))
}

/// Lists the environments that wait for room on the host, next one first.
#[utoipa::path(get, path = "/api/v1/queue", tag = "operator",
    responses((status = 200, body = [WaitingView]), (status = 404, body = Problem)))]
async fn list_queue(
    State(app): State<Shared>,
    _operator: Operator,
) -> Result<Json<Vec<WaitingView>>, Problem> {
    let people = app.store.people().await?;
    let all = app.store.unfinished_environments().await?;
    let places = lock(&app.queue).clone();
    let waits = |e: &Environment| {
        let place = places.get(&e.id)?;
        let person = people.iter().find(|p| p.id == e.person);
        Some(WaitingView {
            position: place.position,
            environment: e.id.to_string(),
            lab: e.lab.to_string(),
            person: person.map_or_else(|| e.person.to_string(), |p| p.name.clone()),
            since: e.created_at.to_string(),
            seconds: place.seconds,
        })
    };
    let mut waiting: Vec<WaitingView> = all.iter().filter_map(waits).collect();
    waiting.sort_by_key(|w| w.position);
    Ok(Json(waiting))
}

/// Lists the latest 200 entries of the audit log.
#[utoipa::path(get, path = "/api/v1/operator/audit", tag = "operator",
    responses((status = 200, body = [AuditView]), (status = 404, body = Problem)))]
async fn list_audit(
    State(app): State<Shared>,
    _operator: Operator,
) -> Result<Json<Vec<AuditView>>, Problem> {
    let lines = app.store.audit(200).await?;
    let view = |line: faultline_store::audit::Entry| AuditView {
        at: line.at.to_string(),
        person: line.person,
        action: line.action,
        subject: line.subject,
        detail: line.detail,
    };
    Ok(Json(lines.into_iter().map(view).collect()))
}
