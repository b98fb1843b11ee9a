//! `/api/v1/environments`.

use std::{convert::Infallible, time::Duration};

use axum::{
    Json,
    extract::{FromRequestParts, Query, State, rejection::QueryRejection},
    http::{StatusCode, request::Parts},
    response::sse::{Event, KeepAlive, Sse},
};
use faultline_domain::environment::Environment;
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::views::{
    environments::{
        ClusterTokenView, ClusterView, EnvironmentDetail, EnvironmentView, NewNode, detail,
    },
    labs::{CheckRunView, HintView, SolutionView},
};
use crate::{
    app::Shared,
    auth::{Managed, Mine, Node, Signed, param},
    operations::{
        add_node, check, credential, end, extend, give_up, remove_node, reset, resume, reveal_hint,
        suspend,
    },
    problem::Problem,
    terminal,
};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_environments))
        .routes(routes!(get_environment, end_environment))
        .routes(routes!(watch_environment))
        .routes(routes!(reset_environment))
        .routes(routes!(extend_environment))
        .routes(routes!(suspend_environment))
        .routes(routes!(resume_environment))
        .routes(routes!(add_node))
        .routes(routes!(remove_node))
        .routes(routes!(terminal::from_api))
        .routes(routes!(get_cluster))
        .routes(routes!(issue_credential))
        .routes(routes!(run_checks))
        .routes(routes!(reveal_hint))
        .routes(routes!(give_up))
        .routes(routes!(get_solution))
}

/// Selects which environments are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Also list failed and ended environments; at most 100, the latest ones. Default: false.
    #[serde(default)]
    all: bool,
}

/// Lists the caller's unfinished environments, newest first.
#[utoipa::path(get, path = "/api/v1/environments", tag = "environments", params(Which),
    responses((status = 200, body = [EnvironmentView]), (status = 400, body = Problem)))]
async fn list_environments(
    State(app): State<Shared>,
    Signed(caller): Signed,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Vec<EnvironmentView>>, Problem> {
    let Query(which) = which.map_err(|e| Problem::bad_request(e.body_text()))?;
    let me = caller.signed_in.person();
    let all = if which.all {
        app.store.latest_of(me, 100).await?
    } else {
        app.store.unfinished_of(me).await?
    };
    Ok(Json(
        all.iter().map(|e| EnvironmentView::new(&app, e)).collect(),
    ))
}

/// Returns an environment with its stages, checks and progress.
#[utoipa::path(get, path = "/api/v1/environments/{id}", tag = "environments", params(("id" = String, Path)),
    responses((status = 200, body = EnvironmentDetail), (status = 404, body = Problem)))]
async fn get_environment(
    State(app): State<Shared>,
    mine: Mine,
) -> Result<Json<EnvironmentDetail>, Problem> {
    app.touch_in_queue(mine.environment()).await;
    Ok(Json(detail(&app, mine.environment()).await?))
}

/// Ends an environment. Operators may end anybody's.
#[utoipa::path(delete, path = "/api/v1/environments/{id}", tag = "environments", params(("id" = String, Path)),
    responses((status = 202, description = "the environment will end"), (status = 404, body = Problem)))]
async fn end_environment(State(app): State<Shared>, its: Managed) -> Result<StatusCode, Problem> {
    end::end(&app, &its.proof).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Streams an environment as server-sent events.
///
/// Sends an event `environment` with the whole environment, first at once and then whenever it changes.
#[utoipa::path(get, path = "/api/v1/environments/{id}/events", tag = "environments", params(("id" = String, Path)),
    responses((status = 200, content_type = "text/event-stream", body = EnvironmentDetail), (status = 404, body = Problem)))]
async fn watch_environment(
    State(app): State<Shared>,
    mine: Mine,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let watch = app.hub.watch(&mine.environment().id);
    let id = mine.environment().id.clone();
    let withdrawn = mine.caller.withdrawn(app.clone());
    let first = (app.clone(), watch, true);
    let events = stream::unfold(first, move |(app, mut watch, first)| {
        let id = id.clone();
        async move {
            if !first {
                tokio::select! {
                    changed = watch.changed() => changed.ok()?,
                    () = app.stopping.cancelled() => return None,
                }
                // Combines many small changes into one event.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            watch.mark_unchanged();
            let e = app.store.environment(&id).await.ok()??;
            let event = Event::default()
                .event("environment")
                .json_data(detail(&app, &e).await.ok()?)
                .ok()?;
            Some((Ok(event), (app, watch, false)))
        }
    })
    .take_until(Box::pin(withdrawn));
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}

/// Resets an environment to a fresh machine.
///
/// It stays within the same attempt, unless that was solved or given up. Also used to retry a failed start.
#[utoipa::path(post, path = "/api/v1/environments/{id}/reset", tag = "environments", params(("id" = String, Path)),
    responses((status = 201, body = EnvironmentView), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn reset_environment(
    State(app): State<Shared>,
    mine: Mine,
) -> Result<(StatusCode, Json<EnvironmentView>), Problem> {
    let made = reset::reset(&app, &mine.proof).await?;
    Ok((StatusCode::CREATED, Json(EnvironmentView::new(&app, &made))))
}

/// Extends the lifetime of an environment.
#[utoipa::path(post, path = "/api/v1/environments/{id}/extend", tag = "environments", params(("id" = String, Path)),
    responses((status = 200, body = EnvironmentView), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn extend_environment(
    State(app): State<Shared>,
    mine: Mine,
) -> Result<Json<EnvironmentView>, Problem> {
    let extended = Environment {
        lifetime: extend::extend(&app, &mine.proof).await?,
        ..mine.environment().clone()
    };
    Ok(Json(EnvironmentView::new(&app, &extended)))
}

/// Pauses an environment.
///
/// It uses no CPU and can't be entered. Then it is written to disk, which frees its memory, and its lifetime stands still.
#[utoipa::path(post, path = "/api/v1/environments/{id}/suspend", tag = "environments", params(("id" = String, Path)),
    responses((status = 202, description = "the environment will become `suspended`; watch the events"),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn suspend_environment(State(app): State<Shared>, mine: Mine) -> Result<StatusCode, Problem> {
    suspend::suspend(&app, &mine.proof).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Resumes a paused environment. One on disk gets another tenant, like a start.
#[utoipa::path(post, path = "/api/v1/environments/{id}/resume", tag = "environments", params(("id" = String, Path)),
    responses((status = 202, description = "the environment will become `active`; watch the events"),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn resume_environment(State(app): State<Shared>, mine: Mine) -> Result<StatusCode, Problem> {
    resume::resume(&app, &mine.proof).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Adds a node, in a cluster a worker.
///
/// It gets the next free number. Operators may do this for any environment.
#[utoipa::path(post, path = "/api/v1/environments/{id}/nodes", tag = "environments", params(("id" = String, Path)),
    responses(
        (status = 202, body = NewNode,
            description = "the node is being created; watch `changing` and `nodes` in the events"),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn add_node(
    State(app): State<Shared>,
    its: Managed,
) -> Result<(StatusCode, Json<NewNode>), Problem> {
    let node = add_node::add_node(&app, &its.proof).await?;
    let made = NewNode {
        name: node.to_string(),
    };
    Ok((StatusCode::ACCEPTED, Json(made)))
}

/// Removes a node that was added.
///
/// Operators may do this for any environment.
#[utoipa::path(delete, path = "/api/v1/environments/{id}/nodes/{node}", tag = "environments",
    params(("id" = String, Path), ("node" = String, Path)),
    responses((status = 202, description = "the node is being removed; watch `changing` in the events"),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn remove_node(
    State(app): State<Shared>,
    its: Managed,
    Node(node): Node,
) -> Result<StatusCode, Problem> {
    remove_node::remove_node(&app, &its.proof, &node).await?;
    Ok(StatusCode::ACCEPTED)
}

/// How long to wait for the results.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct WaitQuery {
    /// Seconds to wait, at most 50. Default: 50.
    #[serde(default = "WaitQuery::most")]
    #[param(minimum = 0, maximum = 50)]
    wait: u64,
}

impl WaitQuery {
    /// Below the timeout of requests.
    const fn most() -> u64 {
        50
    }
}

/// Runs the lab's checks, and responds when they have finished.
#[utoipa::path(post, path = "/api/v1/environments/{id}/checks", tag = "environments", params(("id" = String, Path), WaitQuery),
    responses((status = 200, body = CheckRunView),
        (status = 202, body = CheckRunView, description = "the checks are still running; watch the events"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn run_checks(
    State(app): State<Shared>,
    mine: Mine,
    wait: Result<Query<WaitQuery>, QueryRejection>,
) -> Result<(StatusCode, Json<Option<CheckRunView>>), Problem> {
    let Query(WaitQuery { wait }) = wait.map_err(|e| Problem::bad_request(e.body_text()))?;
    let longest = Duration::from_secs(wait.min(WaitQuery::most()));
    let id = mine.environment().id.clone();
    let mut watch = app.hub.watch(&id);
    check::check(&app, &mine.proof).await?;
    let wait = async {
        while check::is_running(&app, &id) {
            if watch.changed().await.is_err() {
                break;
            }
        }
    };
    let done = tokio::time::timeout(longest, wait).await;
    let run = app.store.latest_checks(&id).await?;
    let status = match done {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::ACCEPTED,
    };
    Ok((status, Json(run.as_ref().map(CheckRunView::from))))
}

/// Extractor: the number `{number}` of the path.
struct Number(u32);

impl FromRequestParts<Shared> for Number {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        param(parts, "number").await.map(Self)
    }
}

/// Opens a hint.
///
/// It costs points the first time. Hints open in order.
#[utoipa::path(post, path = "/api/v1/environments/{id}/hints/{number}", tag = "environments",
    params(("id" = String, Path), ("number" = u32, Path)),
    responses((status = 200, body = HintView), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn reveal_hint(
    State(app): State<Shared>,
    mine: Mine,
    Number(number): Number,
) -> Result<Json<HintView>, Problem> {
    let text = reveal_hint::reveal_hint(&app, &mine.proof, number).await?;
    Ok(Json(HintView { number, text }))
}

/// Gives up: the attempt earns no points, and the solution can be read.
#[utoipa::path(post, path = "/api/v1/environments/{id}/give-up", tag = "environments", params(("id" = String, Path)),
    responses((status = 204, description = "given up"), (status = 404, body = Problem)))]
async fn give_up(State(app): State<Shared>, mine: Mine) -> Result<StatusCode, Problem> {
    give_up::give_up(&app, &mine.proof).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Returns the solution with its explanation, once the attempt was solved or given up.
#[utoipa::path(get, path = "/api/v1/environments/{id}/solution", tag = "environments", params(("id" = String, Path)),
    responses((status = 200, body = SolutionView), (status = 404, body = Problem),
        (status = 409, description = "not yet, or the lab is no longer offered", body = Problem)))]
async fn get_solution(
    State(app): State<Shared>,
    mine: Mine,
) -> Result<Json<SolutionView>, Problem> {
    let attempt = app.store.attempt(&mine.environment().attempt).await?;
    if !attempt.is_some_and(|a| a.shows_solution()) {
        return Err(Problem::conflict(
            "not-solved",
            "The solution is not available yet",
            "It becomes available when the checks pass, or when you give up.",
        ));
    }
    let lab = app.lab_of(mine.environment()).await;
    let lab = lab.ok_or_else(Problem::lab_gone)?;
    Ok(Json(SolutionView {
        text: lab.solution.clone(),
    }))
}

/// Returns the URL of the API server of an environment's cluster, and the CA to verify its certificate with.
#[utoipa::path(get, path = "/api/v1/environments/{id}/cluster", tag = "environments", params(("id" = String, Path)),
    responses((status = 200, body = ClusterView), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn get_cluster(State(app): State<Shared>, mine: Mine) -> Result<Json<ClusterView>, Problem> {
    let (server, authority) = credential::place(&app, mine.environment())?;
    Ok(Json(ClusterView { server, authority }))
}

/// Issues a short-lived token for an environment's cluster, in the caller's name.
#[utoipa::path(post, path = "/api/v1/environments/{id}/credential", tag = "environments", params(("id" = String, Path)),
    responses((status = 201, body = ClusterTokenView), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn issue_credential(
    State(app): State<Shared>,
    mine: Mine,
) -> Result<(StatusCode, Json<ClusterTokenView>), Problem> {
    let (token, ends) = credential::credential(&app, &mine.caller, &mine.proof).await?;
    let view = ClusterTokenView {
        token: token.expose().to_owned(),
        expires_at: ends.to_string(),
    };
    Ok((StatusCode::CREATED, Json(view)))
}
