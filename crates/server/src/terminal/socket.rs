//! The single WebSocket of a page, with its events and all of its terminals.
//!
//! Over plain HTTP, a browser opens at most six connections to a host. If each page had an event stream, the seventh
//! page would never load. WebSockets don't count towards this limit.
//!
//! Messages are sent in this order: pongs, then events, then one message from each terminal in turn. Every queue is
//! bounded, and a terminal has at most one window of bytes in flight, so a terminal with a lot of output hardly delays
//! the others.

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
    message::{Channel, FromPage, Input},
    notice::{End, ToPage, pong, shown_on},
};
use crate::{app::Shared, auth::Mine, lock::lock, looks::Look, web::live::Changes};

/// The open terminals. A channel is free again once its end was sent.
type Open = Mutex<HashMap<Channel, Terminal>>;

/// A newly opened terminal's channel and output.
type Opened = (Channel, mpsc::Receiver<Output>);

/// What is to be sent to the page.
struct Outgoing {
    /// Pings that need a pong.
    pings: mpsc::Receiver<()>,
    events: mpsc::Receiver<Message>,
    opened: mpsc::Receiver<Opened>,
}

/// What a page may do with the terminals that it shows.
pub(super) enum Access {
    /// Everything: it belongs to the owner of the environment.
    Full,
    /// Never resize or close them, and type only while the look allows it.
    Look(Look),
}

impl Access {
    /// Returns whether this message of the page is obeyed.
    fn allows(&self, message: &FromPage) -> bool {
        match (self, message) {
            (Self::Look(look), FromPage::Terminal { input, .. }) => {
                matches!(input, Input::Keys(_)) && look.types()
            }
            (Self::Look(_), FromPage::Close { .. }) => false,
            _ => true,
        }
    }
}

pub(super) async fn run(app: &Shared, mine: &Mine, socket: WebSocket) {
    let environment = &mine.environment().id;
    let bridges = Bridges::new(app, environment);
    let changes = Changes::new(app, environment);
    let over = async {
        mine.caller.clone().withdrawn(app.clone()).await;
        End::SignedOut
    };
    serve(app, socket, Access::Full, bridges, changes, over).await;
}

/// Serves a page until it disconnects, or `over` returns.
pub(super) async fn serve(
    app: &Shared,
    socket: WebSocket,
    access: Access,
    mut bridges: Bridges,
    changes: Changes,
    over: impl Future<Output = End>,
) {
    let (mut sink, mut incoming) = socket.split();
    let (open, heard) = (Open::default(), Heard::now());
    // At most one pong needs to be queued.
    let (ping, pings) = mpsc::channel(1);
    let (event, events) = mpsc::channel(1);
    let (opening, opened) = mpsc::channel(1);
    let outgoing = Outgoing {
        pings,
        events,
        opened,
    };
    let end = tokio::select! {
        end = listen(&mut incoming, &heard, &access, &open, &mut bridges, &opening, &ping) => end,
        end = speak(&mut sink, &open, outgoing) => end,
        end = report(changes, &event) => end,
        () = heard.timed_out() => End::Left,
        end = over => end,
        () = app.stopping.cancelled() => End::Stopping,
    };
    lock(&open).clear();
    match end {
        End::Left => bridges.finish().await,
        _ => drop(bridges),
    }
    // A look ends now, not when the client has closed too.
    drop(access);
    connection::end(sink, incoming, end).await;
}

/// Handles the page's messages until it disconnects. Never waits for a machine.
async fn listen(
    incoming: &mut Incoming,
    heard: &Heard,
    access: &Access,
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
        heard.reset();
        match FromPage::read(message) {
            Ok(message) if !access.allows(&message) => {}
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

/// Calls `act` with the terminal on this channel. Does nothing if the terminal has just ended.
fn on(open: &Open, channel: Channel, act: impl FnOnce(&Terminal)) {
    if let Some(terminal) = lock(open).get(&channel) {
        act(terminal);
    }
}

/// Sends pongs, events and the output of terminals until the page disconnects.
async fn speak(sink: &mut Sink, open: &Open, mut outgoing: Outgoing) -> End {
    let mut heartbeat = connection::heartbeat();
    // Terminals with output take turns.
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

/// Returns a terminal's output. The last item is always its end, even if its task panicked.
fn until_end(output: mpsc::Receiver<Output>) -> impl Stream<Item = Output> {
    stream::unfold(Some(output), async |output| {
        let mut output = output?;
        let next = output.recv().await.unwrap_or(Output::End(End::Failed));
        let rest = (!matches!(next, Output::End(_))).then_some(output);
        Some((next, rest))
    })
}

/// Sends an event for each change of the page.
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
