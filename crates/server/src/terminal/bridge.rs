//! Carries bytes between one WebSocket and one terminal of a node, until either ends.

use std::time::{Duration, Instant};

use axum::extract::ws::{Message, WebSocket};
use bytes::{Bytes, BytesMut};
use faultline_domain::environment::{Environment, State};
use faultline_guest::{
    client,
    wire::{Frame, Pty, Terminal},
};
use faultline_provider::{Stream, Target};
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{
        Notify,
        mpsc::{self, error::TrySendError},
    },
};

use super::{
    Which,
    message::{End, Incoming, Notice, read},
};
use crate::{
    app::{App, Shared},
    auth::Mine,
};

/// How long the guest's helper may take before the serial console takes its place.
const ANSWER: Duration = Duration::from_secs(4);
/// How long the browser may take to say how large its terminal is.
const FIRST_SIZE: Duration = Duration::from_secs(2);
/// A browser that gives no sign of life for two of these is gone.
const HEARTBEAT: Duration = Duration::from_secs(25);
/// How many messages of keys may wait for a machine that takes none.
const QUEUED: usize = 256;
/// How long what was typed last may take to reach the machine once the browser has gone.
const LAST_KEYS: Duration = Duration::from_secs(1);

type Sink = SplitSink<WebSocket, Message>;

pub(super) async fn run(app: &Shared, mine: &Mine, which: &Which, socket: WebSocket) {
    let environment = mine.environment();
    let (mut sink, mut stream) = socket.split();
    let end = tokio::select! {
        end = talk(app, environment, which, &mut sink, &mut stream) => end,
        () = paused(app, environment) => End::Paused,
        () = mine.caller.clone().withdrawn(app.clone()) => End::SignedOut,
        () = app.stopping.cancelled() => End::Stopping,
    };
    let end = match end {
        End::Dropped => runs(app, environment).await.err().unwrap_or(End::Dropped),
        end => end,
    };
    if let Some(frame) = end.frame() {
        // What the browser still sends is read until it has closed too: a socket with unread bytes is reset, and the
        // reason would be lost. The browser may be gone already.
        let _ = tokio::time::timeout(Duration::from_secs(2), async {
            sink.send(frame).await?;
            while let Some(Ok(_)) = stream.next().await {}
            Ok::<_, axum::Error>(())
        })
        .await;
    }
}

/// Whether there is something to connect to; if not, why.
async fn runs(app: &App, environment: &Environment) -> Result<(), End> {
    match app.store.environment(&environment.id).await {
        Ok(Some(e)) if e.is_open() && e.tenant_id() == environment.tenant_id() => match e.state {
            State::Active { .. } => Ok(()),
            State::Suspended { .. } => Err(End::Paused),
            _ => Err(End::Gone),
        },
        _ => Err(End::Gone),
    }
}

/// Returns when the machine stands still: an open stream to it would only be silent.
async fn paused(app: &App, environment: &Environment) {
    let mut watch = app.hub.watch(&environment.id);
    loop {
        watch.mark_unchanged();
        if runs(app, environment).await == Err(End::Paused) {
            return;
        }
        if watch.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn talk(
    app: &App,
    environment: &Environment,
    which: &Which,
    sink: &mut Sink,
    stream: &mut SplitStream<WebSocket>,
) -> End {
    if let Err(end) = runs(app, environment).await {
        return end;
    }
    let (rows, cols) = match first_size(stream).await {
        Ok(size) => size,
        Err(end) => return end,
    };
    let Some((reader, writer, notice)) = open(app, environment, which, rows, cols).await else {
        return End::Dropped;
    };
    app.touch(&environment.id).await;
    if sink.send(notice.message()).await.is_err() {
        return End::Left;
    }
    let end = carry(app, environment, sink, stream, reader, writer).await;
    if end == End::Closed {
        close(app, environment, which).await;
    }
    end
}

/// Ends a terminal's shell and what runs in it. A console has none.
async fn close(app: &App, environment: &Environment, which: &Which) {
    let Some(tenant) = environment.tenant_id() else {
        return;
    };
    let end = async {
        let stream = app
            .provider
            .open(tenant, &which.node, Target::Guest)
            .await
            .ok()?;
        client::close_terminal(stream, &which.session()).await.ok()
    };
    if !matches!(tokio::time::timeout(ANSWER, end).await, Ok(Some(()))) {
        tracing::debug!(environment = %environment.id, node = %which.node, "a terminal was not closed");
    }
}

/// The page says how large its terminal is before anything else.
async fn first_size(stream: &mut SplitStream<WebSocket>) -> Result<(u16, u16), End> {
    match tokio::time::timeout(FIRST_SIZE, stream.next()).await {
        Ok(Some(Ok(message))) => match read(message) {
            Ok(Incoming::Resize { rows, cols }) => Ok((rows, cols)),
            Ok(Incoming::Close) => Err(End::Left),
            Ok(_) => Err(End::Malformed("the first message must be a resize")),
            Err(why) => Err(End::Malformed(why)),
        },
        Ok(Some(Err(_))) => Err(End::Malformed("message too large or malformed")),
        Ok(None) => Err(End::Left),
        Err(_) => Ok((24, 80)),
    }
}

async fn open(
    app: &App,
    environment: &Environment,
    which: &Which,
    rows: u16,
    cols: u16,
) -> Option<(Reader, Writer, Notice)> {
    let tenant = environment.tenant_id()?;
    let terminal = Terminal {
        id: which.session(),
        pty: Pty {
            term: "xterm-256color".to_owned(),
            rows,
            cols,
        },
    };
    let link = async {
        let stream = app
            .provider
            .open(tenant, &which.node, Target::Guest)
            .await
            .ok()?;
        client::terminal(stream, terminal).await.ok()
    };
    if let Ok(Some((session, new))) = tokio::time::timeout(ANSWER, link).await {
        return Some((
            Reader::Guest(session.output),
            Writer::Guest(session.input),
            Notice::Attached { new },
        ));
    }
    let console = app.provider.open(tenant, &which.node, Target::Console);
    let stream = tokio::time::timeout(ANSWER, console).await.ok()?.ok()?;
    let (output, input) = tokio::io::split(stream);
    Some((
        Reader::Console(output),
        Writer::Console(input),
        Notice::Console,
    ))
}

/// Something for the machine.
enum Typed {
    Keys(Bytes),
    Size { rows: u16, cols: u16 },
}

/// What the browser sends, until it leaves. A machine that takes no keys for a while holds up none of its other questions.
async fn from_browser(
    app: &App,
    environment: &Environment,
    stream: &mut SplitStream<WebSocket>,
    to_machine: mpsc::Sender<Typed>,
    pings: mpsc::Sender<()>,
    alive: &std::sync::Mutex<Instant>,
) -> End {
    loop {
        let message = match stream.next().await {
            Some(Ok(message)) => message,
            Some(Err(_)) => return End::Malformed("message too large or malformed"),
            None => return End::Left,
        };
        *crate::lock::lock(alive) = Instant::now();
        let typed = match read(message) {
            Ok(Incoming::Keys(bytes)) => {
                app.touch(&environment.id).await;
                Typed::Keys(bytes)
            }
            Ok(Incoming::Resize { rows, cols }) => Typed::Size { rows, cols },
            Ok(Incoming::Alive) => continue,
            Ok(Incoming::Ping) => {
                // One that waits for its answer already is enough.
                let _ = pings.try_send(());
                continue;
            }
            Ok(Incoming::CloseTerminal) => return End::Closed,
            Ok(Incoming::Close) => return End::Left,
            Err(why) => return End::Malformed(why),
        };
        match to_machine.try_send(typed) {
            Ok(()) => {}
            Err(TrySendError::Closed(_)) => return End::Dropped,
            Err(TrySendError::Full(_)) => {
                return End::Malformed("the machine does not take what is typed; connect again");
            }
        }
    }
}

/// Gives the machine what was typed, until it takes no more. `done` hears that nothing more will be typed and all of it
/// was given.
async fn to_machine(mut typed: mpsc::Receiver<Typed>, mut writer: Writer, done: &Notify) -> End {
    while let Some(next) = typed.recv().await {
        let written = match next {
            Typed::Keys(bytes) => writer.keys(bytes).await,
            Typed::Size { rows, cols } => writer.resize(rows, cols).await,
        };
        if !written {
            return End::Dropped;
        }
    }
    done.notify_one();
    // The browser went, which is said elsewhere.
    std::future::pending().await
}

fn heartbeat() -> tokio::time::Interval {
    tokio::time::interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT)
}

/// The side of a machine that takes what is typed.
enum Writer {
    Guest(client::Input<Stream>),
    Console(WriteHalf<Stream>),
}

impl Writer {
    /// False when the machine is gone.
    async fn keys(&mut self, bytes: Bytes) -> bool {
        match self {
            Self::Guest(input) => input.stdin(bytes).await.is_ok(),
            Self::Console(input) => {
                input.write_all(&bytes).await.is_ok() && input.flush().await.is_ok()
            }
        }
    }

    /// False when the machine is gone.
    async fn resize(&mut self, rows: u16, cols: u16) -> bool {
        match self {
            Self::Guest(input) => input.send(Frame::Resize { rows, cols }).await.is_ok(),
            // A serial line has no size.
            Self::Console(_) => true,
        }
    }
}

/// The side of a machine that shows something.
enum Reader {
    Guest(client::Output<Stream>),
    Console(ReadHalf<Stream>),
}

enum Shown {
    Bytes(Bytes),
    Exit(i32),
}

impl Reader {
    /// What is shown next; nothing when the machine is gone.
    async fn next(&mut self) -> Option<Shown> {
        match self {
            Self::Guest(output) => match output.next().await.ok()?? {
                Frame::Stdout(bytes) | Frame::Stderr(bytes) => Some(Shown::Bytes(bytes)),
                Frame::Exit(code) => Some(Shown::Exit(code)),
                _ => None,
            },
            Self::Console(output) => {
                let mut buffer = BytesMut::with_capacity(16 * 1024);
                let read = output.read_buf(&mut buffer).await.ok()?;
                (read > 0).then(|| Shown::Bytes(buffer.freeze()))
            }
        }
    }
}

async fn carry(
    app: &App,
    environment: &Environment,
    sink: &mut Sink,
    stream: &mut SplitStream<WebSocket>,
    mut reader: Reader,
    writer: Writer,
) -> End {
    let alive = std::sync::Mutex::new(Instant::now());
    let (keys, queued) = mpsc::channel(QUEUED);
    let (ping, mut pings) = mpsc::channel(1);
    let given = Notify::new();
    let typed = async {
        let end = from_browser(app, environment, stream, keys, ping, &alive).await;
        if end == End::Left {
            // Slow machines get what was typed, dead ones don't.
            let _ = tokio::time::timeout(LAST_KEYS, given.notified()).await;
        }
        end
    };
    let taken = to_machine(queued, writer, &given);
    let (send, mut shown) = mpsc::channel(16);
    let pump = async move {
        // Reading a frame must not be interrupted half-way, so it has a loop of its own.
        while let Some(next) = reader.next().await {
            if send.send(next).await.is_err() {
                break;
            }
        }
        drop(send);
        // What is still queued is shown first.
        std::future::pending::<End>().await
    };
    let show = async {
        let mut beat = heartbeat();
        loop {
            let message = tokio::select! {
                next = shown.recv() => match next {
                    Some(Shown::Bytes(bytes)) => Message::Binary(bytes),
                    Some(Shown::Exit(code)) => {
                        // The browser may be gone already.
                        let _ = sink.send(Notice::Ended { code }.message()).await;
                        return End::Exited;
                    }
                    None => return End::Dropped,
                },
                Some(()) = pings.recv() => Notice::Pong.message(),
                _ = beat.tick() => {
                    if crate::lock::lock(&alive).elapsed() > HEARTBEAT * 2 {
                        return End::Left;
                    }
                    Message::Ping(Bytes::new())
                }
            };
            if sink.send(message).await.is_err() {
                return End::Left;
            }
        }
    };
    tokio::select! {
        end = typed => end,
        end = taken => end,
        end = show => end,
        end = pump => end,
    }
}
