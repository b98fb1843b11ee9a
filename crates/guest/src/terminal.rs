//! Terminals that outlive their viewers: a reload of the page or a drop of the network finds the same shell and
//! the same screen.
//!
//! Each terminal keeps its last output and a model of its screen. A new viewer gets the raw output again (so
//! that scrolling back works), or, when a full-screen program has the alternate screen, that screen drawn anew.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::OwnedFd,
    rc::Rc,
};

use bytes::Bytes;
use faultline_guest::{
    link::Substream,
    wire::{Exec, Frame, MAX_FRAME, Pty, Reply, Terminal as Order},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::broadcast,
};

use crate::{port::Port, respond, spawn};

/// Output kept for a new viewer, in bytes.
const KEEP: usize = 96 * 1024;
/// The most terminals in one guest.
const MAX: usize = 16;
/// Chunks that a slow viewer may be behind before its screen is drawn anew.
const BEHIND: usize = 64;

/// All terminals of the guest.
pub struct Terminals {
    lasting: RefCell<BTreeMap<String, Rc<Terminal>>>,
    /// Lines for the terminals that end with their viewer: those of SSH.
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
    output: broadcast::Sender<Event>,
}

#[derive(Clone)]
enum Event {
    Output(Bytes),
    Exit(i32),
}

struct Screen {
    recent: VecDeque<u8>,
    model: vt100::Parser,
}

impl Screen {
    fn new(pty: &Pty) -> Self {
        Self {
            recent: VecDeque::new(),
            model: vt100::Parser::new(pty.rows.max(1), pty.cols.max(1), 0),
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.model.process(bytes);
        self.recent.extend(bytes);
        if self.recent.len() > KEEP {
            let excess = self.recent.len() - KEEP;
            // Begin at a line, so that no escape sequence is cut.
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
    /// The lasting terminals' ids.
    pub fn ids(&self) -> Vec<String> {
        self.lasting.borrow().keys().cloned().collect()
    }

    /// Hangs up a terminal.
    pub fn close(&self, id: &str) -> io::Result<()> {
        let Some(terminal) = self.lasting.borrow_mut().remove(id) else {
            return Err(invalid("there is no such terminal"));
        };
        spawn::signal(terminal.pid, None, libc::SIGHUP);
        spawn::signal(terminal.pid, None, libc::SIGKILL);
        Ok(())
    }

    /// Shows a line in every terminal; what runs in them sees nothing of it.
    pub fn announce(&self, text: &str) {
        let clean: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
        let line = Bytes::from(format!("\r\n\x1b[7m {clean} \x1b[0m\r\n"));
        for terminal in self.lasting.borrow().values() {
            terminal.screen.borrow_mut().feed(&line);
            let _ = terminal.output.send(Event::Output(line.clone()));
        }
        let _ = self.passing.send(line);
    }

    /// What is announced from now on, as a terminal shows it.
    pub fn announced(&self) -> broadcast::Receiver<Bytes> {
        self.passing.subscribe()
    }

    /// Attaches a viewer, making the terminal when there is none.
    pub async fn attach(self: &Rc<Self>, mut stream: Substream, order: Order) -> io::Result<()> {
        let (terminal, new) = match self.find_or_make(&order) {
            Ok(found) => found,
            Err(e) => return respond(&mut stream, Err(e)).await,
        };
        respond(&mut stream, Ok(Reply::Attached { new })).await?;
        view(stream, &terminal, &order.pty).await
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
            screen: RefCell::new(Screen::new(&order.pty)),
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
            // Another terminal may have taken the id after this one was closed.
            if all.get(&id).is_some_and(|t| Rc::ptr_eq(t, &pumped)) {
                all.remove(&id);
            }
            let _ = pumped.output.send(Event::Exit(code));
        });
        Ok((terminal, true))
    }
}

/// Reads what the shell shows until it ends.
async fn pump(terminal: &Terminal) {
    let Ok(mut master) = Port::new(&terminal.master) else {
        return;
    };
    let mut buffer = vec![0; 8 * 1024];
    while let Ok(n) = master.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..n).filter(|b| !b.is_empty()) else {
            break;
        };
        terminal.screen.borrow_mut().feed(bytes);
        let _ = terminal
            .output
            .send(Event::Output(Bytes::copy_from_slice(bytes)));
    }
}

async fn view(stream: Substream, terminal: &Terminal, pty: &Pty) -> io::Result<()> {
    let (mut from_host, mut to_host) = tokio::io::split(stream);
    // Subscribing and restoring happen without a pause between them, so nothing is missed or shown twice.
    let mut output = terminal.output.subscribe();
    let restored = terminal.screen.borrow().restore();
    set_size(terminal, pty.rows, pty.cols)?;
    let outgoing = async {
        for chunk in Frame::chunks(&restored) {
            Frame::Stdout(chunk).write(&mut to_host).await?;
        }
        loop {
            match output.recv().await {
                Ok(Event::Output(bytes)) => Frame::Stdout(bytes).write(&mut to_host).await?,
                Ok(Event::Exit(code)) => {
                    Frame::Exit(code).write(&mut to_host).await?;
                    return to_host.shutdown().await;
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    output = output.resubscribe();
                    let mut again = b"\x1bc".to_vec();
                    again.extend(terminal.screen.borrow().restore());
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
                    keys.write_all(bytes.get(..bytes.len().min(MAX_FRAME)).unwrap_or_default())
                        .await?
                }
                Some(Frame::Resize { rows, cols }) => set_size(terminal, rows, cols)?,
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

fn set_size(terminal: &Terminal, rows: u16, cols: u16) -> io::Result<()> {
    let (rows, cols) = (rows.clamp(1, 500), cols.clamp(1, 500));
    terminal
        .screen
        .borrow_mut()
        .model
        .screen_mut()
        .set_size(rows, cols);
    spawn::resize(&terminal.master, rows, cols)
}
