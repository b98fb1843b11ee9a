//! What both kinds of WebSocket do: they notice that nobody is there any more, and say why they end.

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

/// How often the other side is asked for a sign of life. Without one for two of these it is gone.
const HEARTBEAT: Duration = Duration::from_secs(25);
/// How long the other side may take to close.
const FAREWELL: Duration = Duration::from_secs(2);

/// When the other side was heard last.
pub(super) struct Heard(Mutex<Instant>);

impl Heard {
    pub(super) fn now() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    pub(super) fn again(&self) {
        *lock(&self.0) = Instant::now();
    }

    /// Returns when the other side is gone.
    pub(super) async fn no_more(&self) {
        loop {
            let since = lock(&self.0).elapsed();
            let Some(rest) = (2 * HEARTBEAT).checked_sub(since) else {
                return;
            };
            // A little more: the clock of timers is a coarse one.
            tokio::time::sleep(rest + Duration::from_millis(1)).await;
        }
    }
}

/// Ticks when a ping is due.
pub(super) fn heartbeat() -> Interval {
    tokio::time::interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT)
}

/// The next message; or the end, when there is none.
pub(super) async fn next(incoming: &mut Incoming) -> Result<Message, End> {
    match incoming.next().await {
        Some(Ok(message)) => Ok(message),
        Some(Err(_)) => Err(End::Malformed("message too large or malformed")),
        None => Err(End::Left),
    }
}

/// Says why the connection ends, unless the other side has left.
pub(super) async fn end(mut sink: Sink, mut incoming: Incoming, end: End) {
    if end == End::Left {
        return;
    }
    // What the other side still sends is read until it has closed too: a socket with unread bytes is reset, and the
    // reason would be lost. It may be gone already.
    let _ = tokio::time::timeout(FAREWELL, async {
        sink.send(end.frame()).await?;
        while let Some(Ok(_)) = incoming.next().await {}
        Ok::<_, axum::Error>(())
    })
    .await;
}
