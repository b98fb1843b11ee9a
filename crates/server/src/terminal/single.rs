//! A program's WebSocket, which carries a single terminal.

use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::sync::mpsc;

use super::{
    bridge::{Bridges, Output, Terminal},
    connection::{self, Heard, Incoming, Sink},
    message::{FromProgram, Input, Size, Which},
    notice::{End, pong},
};
use crate::{app::Shared, auth::Mine};

/// How long to wait for the program to send the size of its terminal.
const FIRST_SIZE: Duration = Duration::from_secs(2);

pub(super) async fn run(app: &Shared, mine: &Mine, which: Which, socket: WebSocket) {
    let (mut sink, mut incoming) = socket.split();
    let mut bridges = Bridges::new(app, &mine.environment().id);
    let end = tokio::select! {
        end = talk(&mut sink, &mut incoming, &mut bridges, which) => end,
        () = mine.caller.clone().withdrawn(app.clone()) => End::SignedOut,
        () = app.stopping.cancelled() => End::Stopping,
    };
    match end {
        End::Left => bridges.finish().await,
        _ => drop(bridges),
    }
    connection::end(sink, incoming, end).await;
}

async fn talk(
    sink: &mut Sink,
    incoming: &mut Incoming,
    bridges: &mut Bridges,
    which: Which,
) -> End {
    let size = match first_size(incoming).await {
        Ok(size) => size,
        Err(end) => return end,
    };
    let (terminal, output) = bridges.open(which, size);
    let heard = Heard::now();
    // At most one pong needs to be queued.
    let (ping, pings) = mpsc::channel(1);
    tokio::select! {
        end = listen(incoming, &heard, &terminal, &ping) => end,
        end = speak(sink, &terminal, output, pings) => end,
        () = heard.timed_out() => End::Left,
    }
}

/// Waits for the first message, which must be the size of the terminal. Without a message, returns the default size.
async fn first_size(incoming: &mut Incoming) -> Result<Size, End> {
    let Ok(message) = tokio::time::timeout(FIRST_SIZE, connection::next(incoming)).await else {
        return Ok(Size::DEFAULT);
    };
    match FromProgram::read(message?) {
        Ok(FromProgram::Terminal(Input::Resize(size))) => Ok(size),
        Ok(FromProgram::Leave) => Err(End::Left),
        Ok(_) => Err(End::Malformed("the first message must be a resize")),
        Err(why) => Err(End::Malformed(why)),
    }
}

/// Handles the program's messages until it disconnects.
async fn listen(
    incoming: &mut Incoming,
    heard: &Heard,
    terminal: &Terminal,
    ping: &mpsc::Sender<()>,
) -> End {
    loop {
        let message = match connection::next(incoming).await {
            Ok(message) => message,
            Err(end) => return end,
        };
        heard.reset();
        match FromProgram::read(message) {
            Ok(FromProgram::Terminal(input)) => terminal.give(input),
            Ok(FromProgram::Close) => terminal.close(),
            Ok(FromProgram::Alive) => {}
            Ok(FromProgram::Ping) => {
                let _ = ping.try_send(());
            }
            Ok(FromProgram::Leave) => return End::Left,
            Err(why) => return End::Malformed(why),
        }
    }
}

/// Sends the output, notices and pongs until the terminal ends or the program disconnects.
async fn speak(
    sink: &mut Sink,
    terminal: &Terminal,
    mut output: mpsc::Receiver<Output>,
    mut pings: mpsc::Receiver<()>,
) -> End {
    let mut heartbeat = connection::heartbeat();
    loop {
        let (message, bytes) = tokio::select! {
            biased;
            _ = heartbeat.tick() => (Message::Ping(Bytes::new()), 0),
            Some(()) = pings.recv() => (pong(), 0),
            next = output.recv() => match next {
                Some(Output::Bytes(bytes)) => {
                    let count = bytes.len();
                    (Message::Binary(bytes), count)
                }
                Some(Output::Notice(notice)) => (notice.message(), 0),
                Some(Output::End(end)) => return end,
                None => return End::Failed,
            },
        };
        if sink.send(message).await.is_err() {
            return End::Left;
        }
        // A program sends no acknowledgements; it simply reads more slowly.
        terminal.shown(bytes);
    }
}
