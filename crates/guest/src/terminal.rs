//! Terminals that outlive their viewers: after a reload of the page or a network failure, the same shell and screen are
//! there.
//!
//! Each terminal keeps its last output and a model of its screen. For a new viewer, the raw output is replayed (so that
//! scrolling back works) or, while a full-screen program uses the alternate screen, that screen is redrawn. A program's
//! queries go to one viewer, once. The terminal has the size of its smallest viewer. Whoever only looks is not counted
//! among the viewers.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::OwnedFd,
    rc::Rc,
};

use bytes::Bytes;
use faultline_guest::{
    link::Substream,
    wire::{Exec, Frame, MAX_FRAME, Reply, Terminal as Order},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::broadcast,
};

use crate::{
    port::Port,
    queries::{Piece, Splitter},
    respond, spawn,
};

/// The output that is kept for new viewers, in bytes.
const KEEP: usize = 96 * 1024;
/// The maximum number of terminals in a guest.
const MAX: usize = 16;
/// The number of chunks that a slow viewer may lag behind before its screen is redrawn.
const BEHIND: usize = 64;

/// All terminals of the guest.
pub struct Terminals {
    lasting: RefCell<BTreeMap<String, Rc<Terminal>>>,
    /// Announced lines, for the terminals that end with their viewer (those of SSH).
    passing: broadcast::Sender<Bytes>,
}

impl Default for Terminals {
    fn default() -> Self {
        Self {
            lasting: RefCell::default(),
            passing: broadcast::channel(BEHIND).0,
        }
    }
}

struct Terminal {
    pid: u32,
    master: OwnedFd,
    screen: RefCell<Screen>,
    viewers: RefCell<Vec<Viewer>>,
    last_viewer: Cell<u64>,
    output: broadcast::Sender<Event>,
}

/// A viewer of a terminal. The last viewer in the list is the one that typed or attached last; it responds to queries.
struct Viewer {
    id: u64,
    size: Size,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Size {
    rows: u16,
    cols: u16,
}

impl Size {
    fn new(rows: u16, cols: u16) -> Self {
        Self {
            rows: rows.clamp(1, 500),
            cols: cols.clamp(1, 500),
        }
    }
}

#[derive(Clone)]
enum Event {
    Output(Bytes),
    /// A query, for one viewer.
    Query(u64, Bytes),
    /// The new size.
    Resized(Size),
    Exit(i32),
}

struct Screen {
    recent: VecDeque<u8>,
    model: vt100::Parser,
}

impl Screen {
    fn new(size: Size) -> Self {
        Self {
            recent: VecDeque::new(),
            model: vt100::Parser::new(size.rows, size.cols, 0),
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.model.process(bytes);
        self.recent.extend(bytes);
        if self.recent.len() > KEEP {
            let excess = self.recent.len() - KEEP;
            // Start at a line, so that no escape sequence is cut.
            let line = self
                .recent
                .iter()
                .skip(excess)
                .position(|b| *b == b'\n')
                .map_or(0, |i| i + 1);
            self.recent.drain(..excess + line);
        }
    }

    fn restore(&self) -> Bytes {
        let screen = self.model.screen();
        if screen.alternate_screen() {
            let mut bytes = b"\x1b[?1049h".to_vec();
            bytes.extend(screen.state_formatted());
            return bytes.into();
        }
        self.recent.iter().copied().collect()
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

impl Terminals {
    /// Returns the IDs of the terminals that outlive their viewers.
    pub fn ids(&self) -> Vec<String> {
        self.lasting.borrow().keys().cloned().collect()
    }

    /// Closes a terminal, which hangs up its programs.
    pub fn close(&self, id: &str) -> io::Result<()> {
        let Some(terminal) = self.lasting.borrow_mut().remove(id) else {
            return Err(invalid("there is no such terminal"));
        };
        spawn::signal(terminal.pid, None, libc::SIGHUP);
        spawn::signal(terminal.pid, None, libc::SIGKILL);
        Ok(())
    }

    /// Shows a line in every terminal. It isn't input for the programs.
    pub fn announce(&self, text: &str) {
        let clean: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
        let line = Bytes::from(format!("\r\n\x1b[7m {clean} \x1b[0m\r\n"));
        for terminal in self.lasting.borrow().values() {
            terminal.show(Piece::Shown(line.clone()));
        }
        let _ = self.passing.send(line);
    }

    /// Subscribes to the lines announced from now on, formatted for a terminal.
    pub fn announced(&self) -> broadcast::Receiver<Bytes> {
        self.passing.subscribe()
    }

    /// Attaches a viewer, creating the terminal if it doesn't exist.
    pub async fn attach(self: &Rc<Self>, mut stream: Substream, order: Order) -> io::Result<()> {
        let (terminal, new) = match self.find_or_make(&order) {
            Ok(found) => found,
            Err(e) => return respond(&mut stream, Err(e)).await,
        };
        respond(&mut stream, Ok(Reply::Attached { new })).await?;
        let size = Size::new(order.pty.rows, order.pty.cols);
        let id = terminal.arrive(size)?;
        let viewed = view(stream, &terminal, Some(id)).await;
        terminal.leave(id)?;
        viewed
    }

    /// Shows an existing terminal to somebody who is not counted among its viewers.
    pub async fn look(&self, mut stream: Substream, id: &str) -> io::Result<()> {
        let terminal = self.lasting.borrow().get(id).cloned();
        let Some(terminal) = terminal else {
            return respond(&mut stream, Err(invalid("there is no such terminal"))).await;
        };
        respond(&mut stream, Ok(Reply::Attached { new: false })).await?;
        view(stream, &terminal, None).await
    }

    fn find_or_make(self: &Rc<Self>, order: &Order) -> io::Result<(Rc<Terminal>, bool)> {
        let id = &order.id;
        if !order.is_valid() {
            return Err(invalid(Order::ID_RULE));
        }
        if let Some(terminal) = self.lasting.borrow().get(id) {
            return Ok((Rc::clone(terminal), false));
        }
        if self.lasting.borrow().len() >= MAX {
            return Err(invalid(
                "this node has 16 terminals open, which is the most; close one",
            ));
        }
        let command = spawn::command(&Exec::default())?;
        let (mut child, master) = spawn::with_pty(command, &Exec::default(), &order.pty)?;
        let (output, _) = broadcast::channel(BEHIND);
        let terminal = Rc::new(Terminal {
            pid: child.id().unwrap_or(0),
            screen: RefCell::new(Screen::new(Size::new(order.pty.rows, order.pty.cols))),
            viewers: RefCell::default(),
            last_viewer: Cell::default(),
            master,
            output,
        });
        self.lasting
            .borrow_mut()
            .insert(id.clone(), Rc::clone(&terminal));
        let (all, id, pumped) = (Rc::clone(self), id.clone(), Rc::clone(&terminal));
        tokio::task::spawn_local(async move {
            pump(&pumped).await;
            let code = child.wait().await.map_or(-1, spawn::code);
            let mut all = all.lasting.borrow_mut();
            // Another terminal may have the ID since this one was closed.
            if all.get(&id).is_some_and(|t| Rc::ptr_eq(t, &pumped)) {
                all.remove(&id);
            }
            let _ = pumped.output.send(Event::Exit(code));
        });
        Ok((terminal, true))
    }
}

impl Terminal {
    /// Adds a viewer and returns its number.
    fn arrive(&self, size: Size) -> io::Result<u64> {
        let id = self.last_viewer.get() + 1;
        self.last_viewer.set(id);
        self.viewers.borrow_mut().push(Viewer { id, size });
        self.fit()?;
        Ok(id)
    }

    fn leave(&self, id: u64) -> io::Result<()> {
        self.viewers.borrow_mut().retain(|v| v.id != id);
        self.fit()
    }

    fn resize(&self, id: u64, size: Size) -> io::Result<()> {
        if let Some(viewer) = self.viewers.borrow_mut().iter_mut().find(|v| v.id == id) {
            viewer.size = size;
        }
        self.fit()
    }

    /// Makes this viewer the one that responds to queries.
    fn typed(&self, id: u64) {
        let mut viewers = self.viewers.borrow_mut();
        if viewers.last().is_some_and(|v| v.id != id) {
            viewers.sort_by_key(|v| v.id == id);
        }
    }

    /// Sets the terminal to the size of its smallest viewer. Without viewers it keeps its size.
    fn fit(&self) -> io::Result<()> {
        let viewers = self.viewers.borrow();
        let rows = viewers.iter().map(|v| v.size.rows).min();
        let cols = viewers.iter().map(|v| v.size.cols).min();
        let (Some(rows), Some(cols)) = (rows, cols) else {
            return Ok(());
        };
        let mut screen = self.screen.borrow_mut();
        if screen.model.screen().size() != (rows, cols) {
            screen.model.screen_mut().set_size(rows, cols);
            spawn::resize(&self.master, rows, cols)?;
            let _ = self.output.send(Event::Resized(Size { rows, cols }));
        }
        Ok(())
    }

    /// Returns the frame that tells the size.
    fn size(&self) -> Frame {
        let (rows, cols) = self.screen.borrow().model.screen().size();
        Frame::Resize { rows, cols }
    }

    fn show(&self, piece: Piece) {
        let event = match piece {
            Piece::Shown(bytes) => {
                self.screen.borrow_mut().feed(&bytes);
                Event::Output(bytes)
            }
            Piece::Query(bytes) => match self.viewers.borrow().last() {
                Some(viewer) => Event::Query(viewer.id, bytes),
                None => return,
            },
        };
        // It is fine if there are no viewers.
        let _ = self.output.send(event);
    }
}

/// Reads the shell's output until the shell ends.
async fn pump(terminal: &Terminal) {
    let Ok(mut master) = Port::new(&terminal.master) else {
        return;
    };
    let mut splitter = Splitter::default();
    let mut buffer = vec![0; 8 * 1024];
    while let Ok(n) = master.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..n).filter(|b| !b.is_empty()) else {
            break;
        };
        for piece in splitter.split(bytes) {
            terminal.show(piece);
        }
    }
}

/// Transfers frames between a terminal and a viewer, whose number is none for a look.
async fn view(stream: Substream, terminal: &Terminal, id: Option<u64>) -> io::Result<()> {
    let (mut from_host, mut to_host) = tokio::io::split(stream);
    // There is no await between subscribing and restoring, so nothing is missed or shown twice.
    let mut output = terminal.output.subscribe();
    let restored = terminal.screen.borrow().restore();
    let size = terminal.size();
    let outgoing = async {
        if id.is_none() {
            size.write(&mut to_host).await?;
        }
        for chunk in Frame::chunks(&restored) {
            Frame::Stdout(chunk).write(&mut to_host).await?;
        }
        loop {
            match output.recv().await {
                Ok(Event::Query(viewer, _)) if Some(viewer) != id => {}
                Ok(Event::Output(bytes) | Event::Query(_, bytes)) => {
                    Frame::Stdout(bytes).write(&mut to_host).await?;
                }
                Ok(Event::Resized(_)) if id.is_some() => {}
                Ok(Event::Resized(Size { rows, cols })) => {
                    Frame::Resize { rows, cols }.write(&mut to_host).await?;
                }
                Ok(Event::Exit(code)) => {
                    Frame::Exit(code).write(&mut to_host).await?;
                    return to_host.shutdown().await;
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    output = output.resubscribe();
                    let mut again = b"\x1bc".to_vec();
                    again.extend(terminal.screen.borrow().restore());
                    if id.is_none() {
                        terminal.size().write(&mut to_host).await?;
                    }
                    for chunk in Frame::chunks(&Bytes::from(again)) {
                        Frame::Stdout(chunk).write(&mut to_host).await?;
                    }
                }
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            }
        }
    };
    let incoming = async {
        let mut keys = Port::new(&terminal.master)?;
        loop {
            match Frame::read(&mut from_host).await? {
                Some(Frame::Stdin(bytes)) => {
                    if let Some(id) = id {
                        terminal.typed(id);
                    }
                    keys.write_all(bytes.get(..bytes.len().min(MAX_FRAME)).unwrap_or_default())
                        .await?
                }
                Some(Frame::Resize { rows, cols }) => {
                    if let Some(id) = id {
                        terminal.resize(id, Size::new(rows, cols))?;
                    }
                }
                Some(Frame::Signal(number)) => {
                    spawn::signal(terminal.pid, Some(&terminal.master), number.into())
                }
                Some(_) => return Err(io::Error::from(io::ErrorKind::InvalidData)),
                None => return Ok(()),
            }
        }
    };
    tokio::select! {
        result = outgoing => result,
        result = incoming => result,
    }
}

#[cfg(test)]
mod tests;
