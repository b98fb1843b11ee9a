//! One terminal: transfers data between the queues of a WebSocket and a node, until either ends.

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

/// How long to wait for the guest's helper before falling back to the serial console.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(4);
/// The length of the queue to the machine, in messages.
const INPUT_QUEUE: usize = 256;
/// The length of the queue to the browser, in messages.
const OUTPUT_QUEUE: usize = 16;
/// The maximum number of output bytes that were sent but not yet shown. A slow reader delays only this terminal, not
/// the others on the same connection.
const WINDOW: usize = 256 * 1024;
/// How long the last input may take to reach the machine after the browser has left.
const LAST_KEYS: Duration = Duration::from_secs(1);

/// The browser's side of a terminal. Dropping it means that the browser has left.
pub(super) struct Terminal {
    input: mpsc::Sender<Input>,
    /// Ends the terminal at once, even if input is queued.
    end: mpsc::Sender<End>,
    window: Arc<Semaphore>,
}

impl Terminal {
    /// Queues input for the machine. If the queue is full, the terminal ends. Input after the end is dropped.
    pub(super) fn give(&self, input: Input) {
        let end = match self.input.try_send(input) {
            Ok(()) | Err(TrySendError::Closed(_)) => return,
            Err(TrySendError::Full(_)) => {
                End::Malformed("the machine does not accept input; reconnect")
            }
        };
        // If it is already ending, the first reason counts.
        let _ = self.end.try_send(end);
    }

    /// Ends the shell and everything that runs in it.
    pub(super) fn close(&self) {
        let _ = self.end.try_send(End::Closed);
    }

    /// Acknowledges that this many bytes of output were shown.
    pub(super) fn shown(&self, bytes: usize) {
        let in_flight = WINDOW.saturating_sub(self.window.available_permits());
        self.window.add_permits(bytes.min(in_flight));
    }
}

/// Output of a terminal for the browser. `End` comes last, and exactly once.
pub(super) enum Output {
    Bytes(Bytes),
    Notice(Notice),
    End(End),
}

/// The terminals of one WebSocket, one task each. Dropping it ends them at once.
pub(super) struct Bridges {
    app: Shared,
    environment: EnvironmentId,
    part: Part,
    tasks: JoinSet<()>,
}

/// How a terminal is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// As one of its viewers; it is created if it doesn't exist.
    Viewer,
    /// Only if it exists, without an effect on its size, its queries and the time of last use.
    Look,
}

impl Bridges {
    pub(super) fn new(app: &Shared, environment: &EnvironmentId) -> Self {
        Self {
            app: app.clone(),
            environment: environment.clone(),
            part: Part::Viewer,
            tasks: JoinSet::new(),
        }
    }

    /// Returns the terminals of somebody who looks at the environment.
    pub(super) fn looking(app: &Shared, environment: &EnvironmentId) -> Self {
        Self {
            part: Part::Look,
            ..Self::new(app, environment)
        }
    }

    /// Starts to attach to a terminal.
    pub(super) fn open(&mut self, which: Which, size: Size) -> (Terminal, mpsc::Receiver<Output>) {
        while self.tasks.try_join_next().is_some() {}
        let (input, typed) = mpsc::channel(INPUT_QUEUE);
        let (output, shown) = mpsc::channel(OUTPUT_QUEUE);
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
        let (app, environment, part) = (self.app.clone(), self.environment.clone(), self.part);
        self.tasks.spawn(async move {
            let _counted = Counted::new(&app);
            let wanted = (&which, size, part);
            let end = run(&app, &environment, wanted, browser).await;
            // The browser may have left.
            let _ = output.send(Output::End(end)).await;
        });
        (terminal, shown)
    }

    /// Waits until the last input has reached the machines, or no longer can. Every [`Terminal`] must have been
    /// dropped.
    pub(super) async fn finish(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Counts an open terminal in the metrics until dropped. A guard, so that a panic can't make the count wrong.
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

/// The terminal task's side of the queues.
struct Browser {
    input: mpsc::Receiver<Input>,
    ends: mpsc::Receiver<End>,
    output: mpsc::Sender<Output>,
    window: Arc<Semaphore>,
}

async fn run(
    app: &App,
    id: &EnvironmentId,
    wanted: (&Which, Size, Part),
    mut browser: Browser,
) -> End {
    let (which, ..) = wanted;
    let environment = match running(app, id).await {
        Ok(environment) if environment.nodes().contains(which.node()) => environment,
        Ok(_) => return End::Gone,
        Err(end) => return end,
    };
    let told_to_end = async {
        if let Some(end) = browser.ends.recv().await {
            return end;
        }
        // Gives slow machines time for the last input, without waiting for dead ones.
        tokio::time::sleep(LAST_KEYS).await;
        End::Left
    };
    let queues = (browser.input, &browser.output, &*browser.window);
    let end = tokio::select! {
        end = carry(app, &environment, wanted, queues) => end,
        () = paused(app, &environment) => End::Paused,
        end = told_to_end => end,
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

/// Returns the environment if there is something to connect to, else why not.
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

/// Checks that the environment still runs on the same tenant; if not, returns why.
pub(super) async fn unchanged(app: &App, environment: &Environment) -> Result<(), End> {
    let now = running(app, &environment.id).await?;
    if now.tenant_id() == environment.tenant_id() {
        Ok(())
    } else {
        Err(End::Gone)
    }
}

/// Returns when the machine has been paused. An open stream to it would just hang.
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
    (which, size, part): (&Which, Size, Part),
    (input, output, window): (mpsc::Receiver<Input>, &mpsc::Sender<Output>, &Semaphore),
) -> End {
    let attached = match part {
        Part::Viewer => attach(app, environment, which, size)
            .await
            .ok_or(End::Dropped),
        Part::Look => look(app, environment, which).await,
    };
    let (reader, writer, notice) = match attached {
        Ok(attached) => attached,
        Err(end) => return end,
    };
    if part == Part::Viewer {
        app.touch(&environment.id).await;
    }
    if output.send(Output::Notice(notice)).await.is_err() {
        return End::Left;
    }
    tokio::select! {
        end = to_machine(app, environment, input, writer) => end,
        end = from_machine(reader, output, window) => end,
    }
}

/// Attaches to the terminal or, if the guest's helper doesn't respond, to the serial console.
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
    if let Ok(Some((session, new))) = tokio::time::timeout(ATTACH_TIMEOUT, link).await {
        return Some((
            Reader::Guest(session.output),
            Writer::Guest(session.input),
            Notice::Attached { new },
        ));
    }
    let console = app.provider.open(tenant, which.node(), Target::Console);
    let stream = tokio::time::timeout(ATTACH_TIMEOUT, console)
        .await
        .ok()?
        .ok()?;
    let (output, input) = tokio::io::split(stream);
    Some((
        Reader::Console(output),
        Writer::Console(input),
        Notice::Console,
    ))
}

/// Attaches to a terminal that is open, to look at it. Never to the serial console, which has no viewers that could be
/// told apart.
async fn look(
    app: &App,
    environment: &Environment,
    which: &Which,
) -> Result<(Reader, Writer, Notice), End> {
    let tenant = environment.tenant_id().ok_or(End::Gone)?;
    let link = async {
        let stream = app
            .provider
            .open(tenant, which.node(), Target::Guest)
            .await
            .map_err(|_| End::Dropped)?;
        match client::look(stream, &which.session()).await {
            Ok(session) => Ok(session),
            Err(client::Error::Refused(_)) => Err(End::NotOpen),
            Err(_) => Err(End::Dropped),
        }
    };
    let session = tokio::time::timeout(ATTACH_TIMEOUT, link)
        .await
        .map_err(|_| End::Dropped)??;
    Ok((
        Reader::Guest(session.output),
        Writer::Guest(session.input),
        Notice::Attached { new: false },
    ))
}

/// Ends a terminal's shell and everything that runs in it. A console has no shell to end.
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
    if !matches!(
        tokio::time::timeout(ATTACH_TIMEOUT, end).await,
        Ok(Some(()))
    ) {
        tracing::debug!(environment = %environment.id, node = %which.node(), "a terminal could not be closed");
    }
}

/// Sends input to the machine, until the machine accepts no more, or the browser has left and all input was sent.
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

/// Sends output to the browser, as fast as the browser acknowledges it. Not cancel-safe: a frame that was read in part
/// would be lost.
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
            Shown::Size(size) => output.send(Output::Notice(Notice::Size(size))).await,
            Shown::Exit(code) => {
                // The browser may have left.
                let _ = output.send(Output::Notice(Notice::Ended { code })).await;
                return End::Exited;
            }
        };
        if sent.is_err() {
            // The browser has left, but its last input must still be sent.
            std::future::pending::<()>().await;
        }
    }
    End::Dropped
}

/// The input side of a machine's terminal.
enum Writer {
    Guest(client::Input<Stream>),
    Console(WriteHalf<Stream>),
}

impl Writer {
    /// Returns false if the machine is gone.
    async fn keys(&mut self, bytes: Bytes) -> bool {
        match self {
            Self::Guest(input) => input.stdin(bytes).await.is_ok(),
            Self::Console(input) => {
                input.write_all(&bytes).await.is_ok() && input.flush().await.is_ok()
            }
        }
    }

    /// Returns false if the machine is gone.
    async fn resize(&mut self, Size { rows, cols }: Size) -> bool {
        match self {
            Self::Guest(input) => input.send(Frame::Resize { rows, cols }).await.is_ok(),
            // A serial line has no size.
            Self::Console(_) => true,
        }
    }
}

/// The output side of a machine's terminal.
enum Reader {
    Guest(client::Output<Stream>),
    Console(ReadHalf<Stream>),
}

enum Shown {
    Bytes(Bytes),
    Size(Size),
    Exit(i32),
}

impl Reader {
    /// Returns the next output; none if the machine is gone.
    async fn next(&mut self) -> Option<Shown> {
        match self {
            Self::Guest(output) => match output.next().await.ok()?? {
                Frame::Stdout(bytes) | Frame::Stderr(bytes) => Some(Shown::Bytes(bytes)),
                Frame::Exit(code) => Some(Shown::Exit(code)),
                Frame::Resize { rows, cols } => Size::new(rows, cols).ok().map(Shown::Size),
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
