//! Terminals for browsers and programs, over WebSockets.
//!
//! ```text
//! page ◄── binary: channel, output ──┐                      ┌── Stdout, Exit ◄── guest link, terminal `web-N`
//!      ◄── text: events, notices     ├── socket ── bridge ──┤
//!      ─── binary: channel, keys ───►│             bridge   └── Stdin, Resize ─►
//!      ─── text: open, resize, … ───►┘             …          or, without the guest's helper, the serial console
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`socket`] | the single WebSocket of a page: events, and terminals on channels |
//! | [`look`] | the WebSocket of a page that looks into somebody else's terminals |
//! | [`single`] | a program's WebSocket: one terminal, without channels |
//! | [`bridge`] | one terminal, between the queues of a WebSocket and a node |
//! | [`message`] | messages from pages and programs |
//! | [`notice`] | messages to pages and programs, and close reasons |
//! | [`connection`] | keep-alives, and closing with a reason |
//!
//! The shell keeps running in the guest when the browser disconnects. The guest replays the screen to each new client,
//! so the page only has to reconnect. The size of messages is limited. An invalid message closes the WebSocket with the
//! reason.

mod bridge;
mod connection;
mod look;
mod message;
mod notice;
mod single;
mod socket;

use std::time::Duration;

use axum::{
    extract::{
        FromRequestParts, State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection,
    },
    http::{HeaderMap, request::Parts},
    response::Response,
};
use faultline_domain::PersonId;

pub(crate) use message::Which;

#[cfg(fuzzing)]
pub use message::fuzz as fuzz_message;

use crate::{
    app::Shared,
    auth::{Looking, Mine, csrf::same_origin, param},
    counts::Counted,
    operations,
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

/// Serves the WebSocket of a page, with events and terminals. Checks the origin, because the same-origin policy of
/// browsers doesn't cover WebSockets.
pub(crate) async fn of_page(
    State(app): State<Shared>,
    mine: Mine,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    refuse_other_sites(&headers)?;
    let counted = counted(&app, mine.caller.signed_in.person())?;
    Ok(bounded(upgrade)?.on_upgrade(async move |socket| {
        let (_in_progress, _counted) = (app.tasks.token(), counted);
        socket::run(&app, &mine, socket).await;
    }))
}

/// Serves the WebSocket of a page that looks into somebody's terminals. The look lasts as long as the WebSocket.
pub(crate) async fn of_look(
    State(app): State<Shared>,
    looking: Looking,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    refuse_other_sites(&headers)?;
    let counted = counted(&app, looking.proof.person())?;
    let upgrade = bounded(upgrade)?;
    let look = operations::look::begin(&app, &looking.proof).await?;
    Ok(upgrade.on_upgrade(async move |socket| {
        let (_in_progress, _counted) = (app.tasks.token(), counted);
        look::run(&app, &looking, look, socket).await;
    }))
}

/// Refuses WebSockets that another site's page opens.
fn refuse_other_sites(headers: &HeaderMap) -> Result<(), Problem> {
    let browser = headers.contains_key("origin") || headers.contains_key("sec-fetch-site");
    if browser && !same_origin(headers) {
        return Err(Problem::forged());
    }
    Ok(())
}

/// Opens a terminal on a node, as a WebSocket.
///
/// Binary messages carry input and output. Text messages are JSON. The client first sends the size,
/// `{"type":"resize","rows":24,"cols":80}`; the server reports what happens to the terminal. The server responds to
/// `{"type":"ping"}` with `{"type":"pong"}`, and `{"type":"close"}` ends the shell.
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
    let counted = counted(&app, mine.caller.signed_in.person())?;
    Ok(bounded(upgrade)?.on_upgrade(async move |socket| {
        let (_in_progress, _counted) = (app.tasks.token(), counted);
        single::run(&app, &mine, which, socket).await;
    }))
}

/// Counts one more open WebSocket of a person, until the result is dropped.
fn counted(app: &Shared, person: &PersonId) -> Result<Counted<PersonId>, Problem> {
    app.sockets
        .admit(person, app.config.max_sockets_of_person)
        .ok_or_else(|| Problem::too_many(Duration::from_secs(10)))
}

fn bounded(upgrade: Upgrade) -> Result<WebSocketUpgrade, Problem> {
    let upgrade = upgrade.map_err(|e| Problem::bad_request(e.to_string()))?;
    Ok(upgrade
        .max_message_size(message::MAX)
        .max_frame_size(message::MAX))
}
