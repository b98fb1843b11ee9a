//! The forms of the workspace. Each calls one operation and redirects back to the workspace. Scripts request only the
//! part of the page that changed.

use std::time::Duration;

use axum::{
    extract::{FromRequestParts, State},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Redirect, Response},
};

use super::{layout::Frame, workspace};
use crate::{
    app::Shared,
    auth::{Managed, Mine, Node, param},
    operations,
    problem::Problem,
};

fn to_workspace(mine: &Mine) -> Response {
    Redirect::to(&format!("/environments/{}", mine.environment().id)).into_response()
}

/// Without scripts, the response waits for the results. With scripts, they arrive as events.
pub(super) async fn check(
    State(app): State<Shared>,
    mine: Mine,
    frame: Frame,
) -> Result<Response, Problem> {
    let id = mine.environment().id.clone();
    let mut watch = app.hub.watch(&id);
    operations::check::check(&app, &mine.proof).await?;
    if frame.partial {
        return Ok(StatusCode::ACCEPTED.into_response());
    }
    let wait = async {
        while operations::check::is_running(&app, &id) && watch.changed().await.is_ok() {}
    };
    // After the timeout, the page shows the results so far.
    let _ = tokio::time::timeout(Duration::from_secs(45), wait).await;
    Ok(Redirect::to(&format!("/environments/{id}#checks")).into_response())
}

pub(super) struct Number(u32);

impl FromRequestParts<Shared> for Number {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        param(parts, "number").await.map(Self)
    }
}

pub(super) async fn hint(
    State(app): State<Shared>,
    mine: Mine,
    Number(number): Number,
    frame: Frame,
) -> Result<Response, Problem> {
    operations::reveal_hint::reveal_hint(&app, &mine.proof, number).await?;
    if frame.partial {
        return workspace::hints(&app, &mine).await;
    }
    let place = format!("/environments/{}#hint-{number}", mine.environment().id);
    Ok(Redirect::to(&place).into_response())
}

pub(super) async fn extend(
    State(app): State<Shared>,
    mine: Mine,
    frame: Frame,
) -> Result<Response, Problem> {
    operations::extend::extend(&app, &mine.proof).await?;
    if frame.partial {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(to_workspace(&mine))
}

pub(super) async fn suspend(State(app): State<Shared>, mine: Mine) -> Result<Response, Problem> {
    operations::suspend::suspend(&app, &mine.proof).await?;
    Ok(to_workspace(&mine))
}

pub(super) async fn resume(State(app): State<Shared>, mine: Mine) -> Result<Response, Problem> {
    operations::resume::resume(&app, &mine.proof).await?;
    Ok(to_workspace(&mine))
}

pub(super) async fn add_node(State(app): State<Shared>, its: Managed) -> Result<Response, Problem> {
    operations::add_node::add_node(&app, &its.proof).await?;
    Ok(Redirect::to(&format!("/environments/{}", its.proof.environment().id)).into_response())
}

pub(super) async fn remove_node(
    State(app): State<Shared>,
    its: Managed,
    Node(node): Node,
) -> Result<Response, Problem> {
    operations::remove_node::remove_node(&app, &its.proof, &node).await?;
    Ok(Redirect::to(&format!("/environments/{}", its.proof.environment().id)).into_response())
}

pub(super) async fn reset(State(app): State<Shared>, mine: Mine) -> Result<Response, Problem> {
    let made = operations::reset::reset(&app, &mine.proof).await?;
    Ok(Redirect::to(&format!("/environments/{}", made.id)).into_response())
}

pub(super) async fn end(State(app): State<Shared>, its: Managed) -> Result<Response, Problem> {
    operations::end::end(&app, &its.proof).await?;
    // An operator can't see other people's environments.
    let environment = its.proof.environment();
    Ok(if environment.person == *its.proof.person() {
        Redirect::to(&format!("/environments/{}", environment.id)).into_response()
    } else {
        Redirect::to("/operator").into_response()
    })
}

pub(super) async fn give_up(State(app): State<Shared>, mine: Mine) -> Result<Response, Problem> {
    operations::give_up::give_up(&app, &mine.proof).await?;
    let place = format!("/environments/{}#solution", mine.environment().id);
    Ok(Redirect::to(&place).into_response())
}

/// Serves the kubeconfig of an environment's cluster as a download. Never cached, because it contains a token.
pub(super) async fn kubeconfig(State(app): State<Shared>, mine: Mine) -> Result<Response, Problem> {
    let text = operations::credential::file(&app, &mine.caller, &mine.proof).await?;
    let name = format!(
        "attachment; filename=\"faultline-{}.kubeconfig\"",
        mine.environment().id
    );
    let headers = [
        (header::CONTENT_TYPE, "application/yaml".to_owned()),
        (header::CONTENT_DISPOSITION, name),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((headers, text).into_response())
}
