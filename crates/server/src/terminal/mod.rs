//! A browser's terminal on a node, over a WebSocket.
//!
//! ```text
//! xterm.js ◄── binary: what it shows ──┐                       ┌── Stdout, Exit ◄── guest link, terminal `web-N`
//!          ◄── text: JSON [`Notice`]   ├── bridge (one task) ──┤
//!          ─── binary: keys typed  ───►│                       └── Stdin, Resize ─►
//!          ─── text: JSON Control  ───►┘        or, when the guest's helper is silent, the serial console
//! ```
//!
//! The session goes on in the guest when the browser goes away; the guest replays the screen to whoever comes back,
//! so the page only has to connect again. Frames are bounded; one that can't be understood closes the socket with
//! the reason.

mod bridge;
mod message;

use axum::{
    extract::{FromRequestParts, State, WebSocketUpgrade, ws::WebSocket},
    http::request::Parts,
    response::Response,
};
use faultline_domain::NodeName;

use crate::{
    app::Shared,
    auth::{Mine, csrf::same_origin, param},
    problem::Problem,
};

/// The most terminals on one node.
const MAX_TERMINALS: u32 = 8;

/// Which terminal: node and number, both from the path.
#[derive(Debug)]
pub(crate) struct Which {
    node: NodeName,
    number: u32,
}

impl Which {
    /// What the guest calls it.
    fn session(&self) -> String {
        format!("web-{}", self.number)
    }
}

impl FromRequestParts<Shared> for Which {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        let node = param(parts, "node").await?;
        let number: u32 = param(parts, "n").await?;
        if (1..=MAX_TERMINALS).contains(&number) {
            Ok(Self { node, number })
        } else {
            Err(Problem::not_found())
        }
    }
}

/// From a page: only from our own, since a WebSocket is not bound by the same-origin policy.
pub(crate) async fn from_page(
    State(app): State<Shared>,
    mine: Mine,
    which: Which,
    headers: axum::http::HeaderMap,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let browser = headers.contains_key("origin") || headers.contains_key("sec-fetch-site");
    if browser && !same_origin(&headers) {
        return Err(Problem::forged());
    }
    accept(app, mine, which, upgrade)
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
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    accept(app, mine, which, upgrade)
}

fn accept(
    app: Shared,
    mine: Mine,
    which: Which,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    if !mine.environment().nodes().contains(&which.node) {
        return Err(Problem::not_found());
    }
    let upgrade = upgrade.map_err(|e| Problem::bad_request(e.to_string()))?;
    Ok(upgrade
        .max_message_size(message::MAX)
        .max_frame_size(message::MAX)
        .on_upgrade(move |socket| serve(app, mine, which, socket)))
}

async fn serve(app: Shared, mine: Mine, which: Which, socket: WebSocket) {
    app.metrics.terminals.inc();
    // Counted down by a guard, so that a panic in the bridge is counted too.
    let _open = Open(app.clone());
    let token = app.tasks.token();
    bridge::run(&app, &mine, &which, socket).await;
    drop(token);
}

/// Reads a message as the bridge does: the first byte says of which kind it is.
#[cfg(fuzzing)]
pub fn fuzz_message(data: &[u8]) {
    use axum::extract::ws::Message;
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let bytes = bytes::Bytes::copy_from_slice(rest);
    let message = match (kind % 4, std::str::from_utf8(rest)) {
        (0 | 1, Ok(text)) => Message::Text(text.into()),
        (2, _) => Message::Ping(bytes),
        _ => Message::Binary(bytes),
    };
    if let Ok(message::Incoming::Resize { rows, cols }) = message::read(message) {
        assert!((1..=500).contains(&rows) && (1..=1000).contains(&cols));
    }
}

struct Open(Shared);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.metrics.terminals.dec();
    }
}
