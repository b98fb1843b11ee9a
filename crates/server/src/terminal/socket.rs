//! The one WebSocket of a page, with its events and all of its terminals.
//!
//! Over plain HTTP a browser opens at most six connections to a host. With an event stream for each page the seventh
//! would never load; WebSockets are not counted among the six.
//!
//! What is sent is taken in turns: an answer to a ping first, then an event, then one message of each terminal that has
//! some. Every queue has a bound, and a terminal has at most a window's bytes under way, so one that floods delays the
//! others by little.

use std::{collections::HashMap, sync::Mutex};

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::{
    SinkExt, Stream, StreamExt,
    stream::{self, SelectAll},
};
use tokio::sync::mpsc;

use super::{
    bridge::{Bridges, Output, Terminal},
    connection::{self, Heard, Incoming, Sink},
    message::{Channel, FromPage},
    notice::{End, ToPage, pong, shown_on},
};
use crate::{app::Shared, auth::Mine, lock::lock, web::live::Changes};

/// The terminals that are open. A channel is free again once its end was sent.
type Open = Mutex<HashMap<Channel, Terminal>>;

/// A terminal that was opened, with what it has for the page.
type Opened = (Channel, mpsc::Receiver<Output>);

/// What is to be sent.
struct Outgoing {
    /// Pings that want an answer.
    pings: mpsc::Receiver<()>,
    events: mpsc::Receiver<Message>,
    opened: mpsc::Receiver<Opened>,
}

pub(super) async fn run(app: &Shared, mine: &Mine, socket: WebSocket) {
    let environment = &mine.environment().id;
    let (mut sink, mut incoming) = socket.split();
    let mut bridges = Bridges::new(app, environment);
    let (open, heard) = (Open::default(), Heard::now());
    // One ping that waits for its answer is enough.
    let (ping, pings) = mpsc::channel(1);
    let (event, events) = mpsc::channel(1);
    let (opening, opened) = mpsc::channel(1);
    let outgoing = Outgoing {
        pings,
        events,
        opened,
    };
    let end = tokio::select! {
        end = listen(&mut incoming, &heard, &open, &mut bridges, &opening, &ping) => end,
        end = speak(&mut sink, &open, outgoing) => end,
        end = report(Changes::new(app, environment), &event) => end,
        () = heard.no_more() => End::Left,
        () = mine.caller.clone().withdrawn(app.clone()) => End::SignedOut,
        () = app.stopping.cancelled() => End::Stopping,
    };
    lock(&open).clear();
    match end {
        End::Left => bridges.finish().await,
        _ => drop(bridges),
    }
    connection::end(sink, incoming, end).await;
}

/// Takes what the page sends, until it leaves. A machine that takes no keys holds up nothing here.
async fn listen(
    incoming: &mut Incoming,
    heard: &Heard,
    open: &Open,
    bridges: &mut Bridges,
    opening: &mpsc::Sender<Opened>,
    ping: &mpsc::Sender<()>,
) -> End {
    loop {
        let message = match connection::next(incoming).await {
            Ok(message) => message,
            Err(end) => return end,
        };
        heard.again();
        match FromPage::read(message) {
            Ok(FromPage::Open {
                channel,
                which,
                size,
            }) => {
                if lock(open).contains_key(&channel) {
                    return End::Malformed("the channel is in use");
                }
                let (terminal, output) = bridges.open(which, size);
                lock(open).insert(channel, terminal);
                if opening.send((channel, output)).await.is_err() {
                    return End::Left;
                }
            }
            Ok(FromPage::Terminal { channel, input }) => on(open, channel, |t| t.give(input)),
            Ok(FromPage::Shown { channel, bytes }) => on(open, channel, |t| t.shown(bytes)),
            Ok(FromPage::Close { channel }) => on(open, channel, Terminal::close),
            Ok(FromPage::Alive) => {}
            Ok(FromPage::Ping) => {
                let _ = ping.try_send(());
            }
            Ok(FromPage::Leave) => return End::Left,
            Err(why) => return End::Malformed(why),
        }
    }
}

/// Does something with the terminal on this channel. What comes for a terminal that has just ended is dropped.
fn on(open: &Open, channel: Channel, act: impl FnOnce(&Terminal)) {
    if let Some(terminal) = lock(open).get(&channel) {
        act(terminal);
    }
}

/// Sends pongs, events and the output of terminals until the page disconnects.
async fn speak(sink: &mut Sink, open: &Open, mut outgoing: Outgoing) -> End {
    let mut heartbeat = connection::heartbeat();
    // Those that have something take turns.
    let mut terminals = SelectAll::new();
    loop {
        let message = tokio::select! {
            biased;
            _ = heartbeat.tick() => Message::Ping(Bytes::new()),
            Some(()) = outgoing.pings.recv() => pong(),
            Some(event) = outgoing.events.recv() => event,
            Some((channel, output)) = outgoing.opened.recv() => {
                terminals.push(until_end(output).map(move |output| (channel, output)).boxed());
                continue;
            }
            Some((channel, output)) = terminals.next() => match output {
                Output::Bytes(bytes) => shown_on(channel, &bytes),
                Output::Notice(notice) => notice.on(channel),
                Output::End(end) => {
                    lock(open).remove(&channel);
                    end.on(channel)
                }
            },
        };
        if sink.send(message).await.is_err() {
            return End::Left;
        }
    }
}

/// What a terminal has for the page: at last its end, whatever became of its task.
fn until_end(output: mpsc::Receiver<Output>) -> impl Stream<Item = Output> {
    stream::unfold(Some(output), async |output| {
        let mut output = output?;
        let next = output.recv().await.unwrap_or(Output::End(End::Failed));
        let rest = (!matches!(next, Output::End(_))).then_some(output);
        Some((next, rest))
    })
}

/// Tells what changes on the page.
async fn report(mut changes: Changes, event: &mpsc::Sender<Message>) -> End {
    while let Some(parts) = changes.next().await {
        for (name, data) in parts {
            let message = ToPage::Event { name, data: &data }.message();
            if event.send(message).await.is_err() {
                return End::Left;
            }
        }
    }
    End::Failed
}
