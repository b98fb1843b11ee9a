//! What both kinds of WebSocket share: detecting dead clients, and closing with a reason.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use axum::extract::ws::{Message, WebSocket};
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::time::Interval;

use super::notice::End;
use crate::lock::lock;

pub(super) type Sink = SplitSink<WebSocket, Message>;
pub(super) type Incoming = SplitStream<WebSocket>;

/// The interval between pings. A client that sends nothing for two intervals counts as gone.
const HEARTBEAT: Duration = Duration::from_secs(25);
/// How long the client may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// When the client last sent something.
pub(super) struct Heard(Mutex<Instant>);

impl Heard {
    pub(super) fn now() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    pub(super) fn reset(&self) {
        *lock(&self.0) = Instant::now();
    }

    /// Returns when the client has sent nothing for too long.
    pub(super) async fn timed_out(&self) {
        loop {
            let since = lock(&self.0).elapsed();
            let Some(rest) = (2 * HEARTBEAT).checked_sub(since) else {
                return;
            };
            // Sleep slightly longer, because timers have a coarse resolution.
            tokio::time::sleep(rest + Duration::from_millis(1)).await;
        }
    }
}

/// Ticks when a ping is due.
pub(super) fn heartbeat() -> Interval {
    tokio::time::interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT)
}

/// Returns the next message, or the end if there is none.
pub(super) async fn next(incoming: &mut Incoming) -> Result<Message, End> {
    match incoming.next().await {
        Some(Ok(message)) => Ok(message),
        Some(Err(_)) => Err(End::Malformed("message too large or malformed")),
        None => Err(End::Left),
    }
}

/// Closes the connection with a reason, unless the client has already left.
pub(super) async fn end(mut sink: Sink, mut incoming: Incoming, end: End) {
    if end == End::Left {
        return;
    }
    // Reads until the client closes too, because a socket with unread bytes is reset, and the reason would be lost.
    // Errors are ignored, because the client may be gone already.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, async {
        sink.send(end.frame()).await?;
        while let Some(Ok(_)) = incoming.next().await {}
        Ok::<_, axum::Error>(())
    })
    .await;
}
