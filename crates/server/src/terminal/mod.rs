//! Terminals in browsers and for programs, over WebSockets.
//!
//! ```text
//! page ◄── binary: channel, output ──┐                      ┌── Stdout, Exit ◄── guest link, terminal `web-N`
//!      ◄── text: events, notices     ├── socket ── bridge ──┤
//!      ─── binary: channel, keys ───►│             bridge   └── Stdin, Resize ─►
//!      ─── text: open, resize, … ───►┘             …          or, when the guest's helper is silent, the serial console
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`socket`] | the one WebSocket of a page: its events, and its terminals by channels |
//! | [`single`] | a program's WebSocket: one terminal, without channels |
//! | [`bridge`] | one terminal, between the queues of a WebSocket and a node |
//! | [`message`] | what pages and programs send |
//! | [`notice`] | messages to them, and why something ended |
//! | [`connection`] | signs of life, and closing with a reason |
//!
//! The session goes on in the guest when the browser goes away; the guest replays the screen to whoever comes back,
//! so the page only has to connect again. Messages are bounded; one that can't be understood closes the WebSocket with
//! the reason.

mod bridge;
mod connection;
mod message;
mod notice;
mod single;
mod socket;

use axum::{
    extract::{
        FromRequestParts, State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection,
    },
    http::{HeaderMap, request::Parts},
    response::Response,
};

pub(crate) use message::Which;

#[cfg(fuzzing)]
pub use message::fuzz as fuzz_message;

use crate::{
    app::Shared,
    auth::{Mine, csrf::same_origin, param},
    problem::Problem,
};

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

impl FromRequestParts<Shared> for Which {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        let node = param(parts, "node").await?;
        let number = param(parts, "n").await?;
        Self::new(node, number).ok_or_else(Problem::not_found)
    }
}

/// The events and terminals of a page: only of our own, since a WebSocket is not bound by the same-origin policy.
pub(crate) async fn of_page(
    State(app): State<Shared>,
    mine: Mine,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    let browser = headers.contains_key("origin") || headers.contains_key("sec-fetch-site");
    if browser && !same_origin(&headers) {
        return Err(Problem::forged());
    }
    Ok(bounded(upgrade)?.on_upgrade(async move |socket| {
        let _under_way = app.tasks.token();
        socket::run(&app, &mine, socket).await;
    }))
}

/// A terminal on a node, as a WebSocket.
///
/// Binary messages are what it shows and what is typed. Text messages are JSON: the size that it is to have,
/// `{"type":"resize","rows":24,"cols":80}`, comes first; what happens to it goes back. `{"type":"ping"}` is answered by
/// `{"type":"pong"}`, and `{"type":"close"}` ends its shell.
#[utoipa::path(get, path = "/api/v1/environments/{id}/nodes/{node}/terminals/{n}", tag = "environments", operation_id = "open_terminal",
    params(("id" = String, Path), ("node" = String, Path), ("n" = u32, Path, description = "1 to 8")),
    responses((status = 101, description = "the terminal"), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub(crate) async fn from_api(
    State(app): State<Shared>,
    mine: Mine,
    which: Which,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    if !mine.environment().nodes().contains(which.node()) {
        return Err(Problem::not_found());
    }
    Ok(bounded(upgrade)?.on_upgrade(async move |socket| {
        let _under_way = app.tasks.token();
        single::run(&app, &mine, which, socket).await;
    }))
}

fn bounded(upgrade: Upgrade) -> Result<WebSocketUpgrade, Problem> {
    let upgrade = upgrade.map_err(|e| Problem::bad_request(e.to_string()))?;
    Ok(upgrade
        .max_message_size(message::MAX)
        .max_frame_size(message::MAX))
}
