//! One terminal: carries bytes between the queues of a WebSocket and a node, until either ends.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use faultline_domain::{
    EnvironmentId,
    environment::{Environment, State},
};
use faultline_guest::{
    client,
    wire::{Frame, Pty, Terminal as Wanted},
};
use faultline_provider::{Stream, Target};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{
        Semaphore,
        mpsc::{self, error::TrySendError},
    },
    task::JoinSet,
};

use super::{
    message::{Input, Size, Which},
    notice::{End, Notice},
};
use crate::app::{App, Shared};

/// How long the guest's helper may take before the serial console takes its place.
const ANSWER: Duration = Duration::from_secs(4);
/// How many messages may wait for a machine that takes none.
const QUEUED: usize = 256;
/// How many messages may wait for a browser that takes none.
const UNSENT: usize = 16;
/// How many bytes of output may be under way to where they are shown. One that shows them slowly holds up this
/// terminal, and no other on the same connection.
const WINDOW: usize = 256 * 1024;
/// How long what was typed last may take to reach the machine once the browser has gone.
const LAST_KEYS: Duration = Duration::from_secs(1);

/// The browser's side of a terminal. Dropped, the browser has left.
pub(super) struct Terminal {
    input: mpsc::Sender<Input>,
    /// Ends it, whatever waits for the machine.
    end: mpsc::Sender<End>,
    window: Arc<Semaphore>,
}

impl Terminal {
    /// Queues something for the machine. A terminal whose queue is full ends; what comes after the end is dropped.
    pub(super) fn give(&self, input: Input) {
        let end = match self.input.try_send(input) {
            Ok(()) | Err(TrySendError::Closed(_)) => return,
            Err(TrySendError::Full(_)) => {
                End::Malformed("the machine does not take what is typed; connect again")
            }
        };
        // One that ends already needs no other reason.
        let _ = self.end.try_send(end);
    }

    /// Ends the shell and what runs in it.
    pub(super) fn close(&self) {
        let _ = self.end.try_send(End::Closed);
    }

    /// So many bytes of output were shown.
    pub(super) fn shown(&self, bytes: usize) {
        let under_way = WINDOW.saturating_sub(self.window.available_permits());
        self.window.add_permits(bytes.min(under_way));
    }
}

/// What a terminal has for the browser. The end comes last, and once.
pub(super) enum Output {
    Bytes(Bytes),
    Notice(Notice),
    End(End),
}

/// The terminals of one WebSocket, each a task. Dropped, they end at once.
pub(super) struct Bridges {
    app: Shared,
    environment: EnvironmentId,
    tasks: JoinSet<()>,
}

impl Bridges {
    pub(super) fn new(app: &Shared, environment: &EnvironmentId) -> Self {
        Self {
            app: app.clone(),
            environment: environment.clone(),
            tasks: JoinSet::new(),
        }
    }

    /// Begins to attach to a terminal.
    pub(super) fn open(&mut self, which: Which, size: Size) -> (Terminal, mpsc::Receiver<Output>) {
        while self.tasks.try_join_next().is_some() {}
        let (input, typed) = mpsc::channel(QUEUED);
        let (output, shown) = mpsc::channel(UNSENT);
        let (end, ends) = mpsc::channel(1);
        let window = Arc::new(Semaphore::new(WINDOW));
        let terminal = Terminal {
            input,
            end,
            window: window.clone(),
        };
        let browser = Browser {
            input: typed,
            ends,
            output: output.clone(),
            window,
        };
        let (app, environment) = (self.app.clone(), self.environment.clone());
        self.tasks.spawn(async move {
            let _counted = Counted::new(&app);
            let end = run(&app, &environment, &which, size, browser).await;
            // The browser may have left.
            let _ = output.send(Output::End(end)).await;
        });
        (terminal, shown)
    }

    /// Waits until what was typed last has reached the machines, or can't any more. Every [`Terminal`] must be dropped.
    pub(super) async fn finish(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// A terminal as the metrics count it; by a guard, so that a panic is counted too.
struct Counted(Shared);

impl Counted {
    fn new(app: &Shared) -> Self {
        app.metrics.terminals.inc();
        Self(app.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.terminals.dec();
    }
}

/// What the task of a terminal has of its browser.
struct Browser {
    input: mpsc::Receiver<Input>,
    ends: mpsc::Receiver<End>,
    output: mpsc::Sender<Output>,
    window: Arc<Semaphore>,
}

async fn run(
    app: &App,
    id: &EnvironmentId,
    which: &Which,
    size: Size,
    mut browser: Browser,
) -> End {
    let environment = match running(app, id).await {
        Ok(environment) if environment.nodes().contains(which.node()) => environment,
        Ok(_) => return End::Gone,
        Err(end) => return end,
    };
    let told = async {
        if let Some(end) = browser.ends.recv().await {
            return end;
        }
        // Slow machines get what was typed last, dead ones don't.
        tokio::time::sleep(LAST_KEYS).await;
        End::Left
    };
    let queues = (browser.input, &browser.output, &*browser.window);
    let end = tokio::select! {
        end = carry(app, &environment, which, size, queues) => end,
        () = paused(app, &environment) => End::Paused,
        end = told => end,
    };
    match end {
        End::Dropped => unchanged(app, &environment).await.err().unwrap_or(end),
        End::Closed => {
            close(app, &environment, which).await;
            end
        }
        _ => end,
    }
}

/// The environment, if there is something to connect to; else why not.
async fn running(app: &App, id: &EnvironmentId) -> Result<Environment, End> {
    match app.store.environment(id).await {
        Ok(Some(e)) if e.is_open() => match e.state {
            State::Active { .. } => Ok(e),
            State::Suspended { .. } => Err(End::Paused),
            _ => Err(End::Gone),
        },
        _ => Err(End::Gone),
    }
}

/// Whether the environment still runs on the same tenant; if not, why.
async fn unchanged(app: &App, environment: &Environment) -> Result<(), End> {
    let now = running(app, &environment.id).await?;
    if now.tenant_id() == environment.tenant_id() {
        Ok(())
    } else {
        Err(End::Gone)
    }
}

/// Returns when the machine stands still: an open stream to it would only be silent.
async fn paused(app: &App, environment: &Environment) {
    let mut watch = app.hub.watch(&environment.id);
    loop {
        watch.mark_unchanged();
        if unchanged(app, environment).await == Err(End::Paused) {
            return;
        }
        if watch.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn carry(
    app: &App,
    environment: &Environment,
    which: &Which,
    size: Size,
    (input, output, window): (mpsc::Receiver<Input>, &mpsc::Sender<Output>, &Semaphore),
) -> End {
    let Some((reader, writer, notice)) = attach(app, environment, which, size).await else {
        return End::Dropped;
    };
    app.touch(&environment.id).await;
    if output.send(Output::Notice(notice)).await.is_err() {
        return End::Left;
    }
    tokio::select! {
        end = to_machine(app, environment, input, writer) => end,
        end = from_machine(reader, output, window) => end,
    }
}

/// Attaches to the terminal, or when the guest's helper is silent, to the serial console.
async fn attach(
    app: &App,
    environment: &Environment,
    which: &Which,
    size: Size,
) -> Option<(Reader, Writer, Notice)> {
    let tenant = environment.tenant_id()?;
    let wanted = Wanted {
        id: which.session(),
        pty: Pty {
            term: "xterm-256color".to_owned(),
            rows: size.rows,
            cols: size.cols,
        },
    };
    let link = async {
        let stream = app
            .provider
            .open(tenant, which.node(), Target::Guest)
            .await
            .ok()?;
        client::terminal(stream, wanted).await.ok()
    };
    if let Ok(Some((session, new))) = tokio::time::timeout(ANSWER, link).await {
        return Some((
            Reader::Guest(session.output),
            Writer::Guest(session.input),
            Notice::Attached { new },
        ));
    }
    let console = app.provider.open(tenant, which.node(), Target::Console);
    let stream = tokio::time::timeout(ANSWER, console).await.ok()?.ok()?;
    let (output, input) = tokio::io::split(stream);
    Some((
        Reader::Console(output),
        Writer::Console(input),
        Notice::Console,
    ))
}

/// Ends a terminal's shell and what runs in it. A console has none.
async fn close(app: &App, environment: &Environment, which: &Which) {
    let Some(tenant) = environment.tenant_id() else {
        return;
    };
    let end = async {
        let stream = app
            .provider
            .open(tenant, which.node(), Target::Guest)
            .await
            .ok()?;
        client::close_terminal(stream, &which.session()).await.ok()
    };
    if !matches!(tokio::time::timeout(ANSWER, end).await, Ok(Some(()))) {
        tracing::debug!(environment = %environment.id, node = %which.node(), "a terminal was not closed");
    }
}

/// Gives the machine what was typed, until it takes no more, or all of it was given and the browser has left.
async fn to_machine(
    app: &App,
    environment: &Environment,
    mut input: mpsc::Receiver<Input>,
    mut writer: Writer,
) -> End {
    while let Some(next) = input.recv().await {
        let written = match next {
            Input::Keys(bytes) => {
                app.touch(&environment.id).await;
                writer.keys(bytes).await
            }
            Input::Resize(size) => writer.resize(size).await,
        };
        if !written {
            return End::Dropped;
        }
    }
    End::Left
}

/// Gives the browser what the machine shows, as far as it shows what it has. A frame is read in one piece: this must not
/// be begun anew for each.
async fn from_machine(
    mut reader: Reader,
    output: &mpsc::Sender<Output>,
    window: &Semaphore,
) -> End {
    while let Some(next) = reader.next().await {
        let sent = match next {
            Shown::Bytes(bytes) => {
                let taken = u32::try_from(bytes.len().min(WINDOW)).unwrap_or(u32::MAX);
                if let Ok(room) = window.acquire_many(taken).await {
                    room.forget();
                }
                output.send(Output::Bytes(bytes)).await
            }
            Shown::Exit(code) => {
                // The browser may have left.
                let _ = output.send(Output::Notice(Notice::Ended { code })).await;
                return End::Exited;
            }
        };
        if sent.is_err() {
            // The browser has left; what it typed last is still given.
            std::future::pending::<()>().await;
        }
    }
    End::Dropped
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
    async fn resize(&mut self, Size { rows, cols }: Size) -> bool {
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
