//! One VM: its control channel, serial console and guest link.
//!
//! The guest link has a supervisor that runs as long as QEMU. It does the handshake, publishes the link, and starts
//! again if the guest's helper closes its end, stops answering, or sends garbage.

use std::{
    collections::VecDeque,
    io,
    os::unix::{net::UnixStream as StdUnixStream, process::ExitStatusExt},
    process::ExitStatus,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use faultline_domain::{NodeName, limits::Limits};
use faultline_guest::{client, link::Link};
use futures::FutureExt;
use rand::Rng;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixStream, unix::OwnedWriteHalf},
    sync::{Notify, broadcast, mpsc, watch},
};

use crate::{
    protocol::NodeStatus,
    qemu::Started,
    qmp::{self, Qmp},
    save::Memory,
    snapshot,
};

/// The size of the console output that is kept for new viewers, in bytes.
const CONSOLE_KEEP: usize = 32 * 1024;
/// The interval at which the helper is pinged.
const PING_EVERY: Duration = Duration::from_secs(15);
/// The time limit for the helper's answer, long enough for a loaded machine under emulation.
const PING_ANSWER: Duration = Duration::from_secs(20);

/// A link that lost its connection within this time is reconnected only after a pause.
const QUICK_END: Duration = Duration::from_secs(2);
const AFTER_QUICK_END: Duration = Duration::from_millis(500);
/// The pause after an error of the host's disk before the VM is continued to try again.
const AFTER_DISK_ERROR: Duration = Duration::from_secs(3);
/// The maximum size of QEMU's log, in bytes. A guest can make QEMU print without end.
const QEMU_LOG: usize = 64 * 1024;

/// A running node.
#[derive(Debug)]
pub struct Node {
    /// The name.
    pub name: NodeName,
    /// The index, counted from 1.
    pub index: usize,
    /// The process id of QEMU.
    pub pid: u32,
    /// The control channel.
    pub qmp: Arc<Qmp>,
    /// The guest's memory, if it shares nothing with a template.
    pub memory: Option<std::fs::File>,
    /// The file of the device state, which a clone reads and a freeze writes.
    pub state: std::fs::File,
    /// The serial console.
    pub console: Arc<Console>,
    link: watch::Receiver<Option<Link>>,
    hold: Arc<Hold>,
    /// The exit status of QEMU, once it has exited.
    end: Arc<OnceLock<io::Result<ExitStatus>>>,
}

/// The signals to the link's supervisor.
#[derive(Debug, Default)]
struct Hold {
    /// True while the VM is frozen and can't answer.
    paused: AtomicBool,
    /// Signals that the guest's helper closed its end.
    closed: Notify,
    /// True once the port must be closed permanently, before a freeze.
    released: AtomicBool,
    release: Notify,
}

impl Node {
    /// Takes over a started QEMU. `changes` is notified when it exits.
    pub async fn adopt(
        name: NodeName,
        index: usize,
        started: Started,
        changes: watch::Sender<()>,
    ) -> qmp::Result<Self> {
        let Started {
            log,
            mut child,
            monitor,
            console,
            link,
            memory,
            to_be_frozen,
            state,
        } = started;
        let pid = child.id().unwrap_or(0);
        if let Some(said) = child.stderr.take() {
            tokio::spawn(keep_log(said, log));
        }
        let end = Arc::new(OnceLock::new());
        let (end_too, name_too) = (Arc::clone(&end), name.clone());
        tokio::spawn(async move {
            let status = child.wait().await;
            tracing::info!(node = %name_too, ?status, "QEMU ended");
            let _ = end_too.set(status);
            changes.send_replace(());
        });
        let gone = |_: io::Error| qmp::Error::Gone;
        let (events, mut told) = mpsc::channel(64);
        let qmp = Arc::new(Qmp::start(UnixStream::from_std(monitor).map_err(gone)?, events).await?);
        let hold = Arc::new(Hold::default());
        let (publish, published) = watch::channel(None);
        tokio::spawn(supervise(name.clone(), link, publish, Arc::clone(&hold)));
        let (hold_too, qmp_too, name_too) = (Arc::clone(&hold), Arc::clone(&qmp), name.clone());
        tokio::spawn(async move {
            while let Some(event) = told.recv().await {
                match event.name.as_str() {
                    "VSERPORT_CHANGE"
                        if event.data.get("open").and_then(Value::as_bool) == Some(false) =>
                    {
                        hold_too.closed.notify_one();
                    }
                    // A guest that powers itself off is powered on again, since nobody can press the power button.
                    "SHUTDOWN"
                        if event.data.get("guest").and_then(Value::as_bool) == Some(true) =>
                    {
                        tracing::info!(node = %name_too, "guest powered off; powering on");
                        let _ = qmp_too.run("system_reset", Value::Null).await;
                        let _ = qmp_too.run("cont", Value::Null).await;
                    }
                    // KVM can't continue this VM, but QEMU would keep running.
                    "STOP" if !hold_too.paused.load(Ordering::SeqCst) => {
                        let status = qmp_too.run("query-status", Value::Null).await;
                        if status.is_ok_and(|s| s.get("status") == Some(&json!("internal-error"))) {
                            tracing::error!(node = %name_too, "KVM can't continue this machine");
                            let _ = qmp_too.run("quit", Value::Null).await;
                        }
                    }
                    // There is no space on the host's disk for its snapshot either.
                    "BLOCK_IO_ERROR" if to_be_frozen => {
                        tracing::error!(node = %name_too, "writing to the host's disk failed");
                        let _ = qmp_too.run("quit", Value::Null).await;
                    }
                    // The host's disk is full, and QEMU has stopped the VM before the write. It is continued once there
                    // is space again, and the guest doesn't notice.
                    "BLOCK_IO_ERROR" => {
                        tracing::warn!(node = %name_too, "writing to the host's disk failed; retrying");
                        tokio::time::sleep(AFTER_DISK_ERROR).await;
                        while told.try_recv().is_ok() {}
                        if !hold_too.paused.load(Ordering::SeqCst) {
                            let _ = qmp_too.run("cont", Value::Null).await;
                        }
                    }
                    _ => {}
                }
            }
        });
        let console = Console::start(UnixStream::from_std(console).map_err(gone)?);
        Ok(Self {
            name,
            index,
            pid,
            qmp,
            memory,
            state,
            console,
            link: published,
            hold,
            end,
        })
    }

    /// Waits for the guest link, at most for `within`.
    pub async fn link(&self, within: Duration) -> Option<Link> {
        let mut link = self.link.clone();
        let found = tokio::time::timeout(within, link.wait_for(Option::is_some))
            .await
            .ok()?
            .ok()?;
        found.clone()
    }

    /// Returns false if QEMU has exited.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.end.get().is_none()
    }

    fn is_killed(&self) -> bool {
        let end = self.end.get().and_then(|end| end.as_ref().ok());
        end.and_then(ExitStatus::signal) == Some(libc::SIGKILL)
    }

    /// Returns the guest's memory, to be saved or restored.
    pub(crate) fn guest_memory(&self) -> io::Result<Memory> {
        Ok(match &self.memory {
            Some(own) => Memory::Own(own.try_clone()?),
            None => Memory::Private(self.pid),
        })
    }

    /// Returns how QEMU ended, as a message for people; `None` while it runs.
    #[must_use]
    pub fn end(&self) -> Option<String> {
        Some(match self.end.get()? {
            Ok(status) => format!("the machine of {} ended: {status}", self.name),
            Err(e) => format!("the machine of {} can't be watched: {e}", self.name),
        })
    }

    /// Returns true from the request to freeze the VM until it is continued.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.hold.paused.load(Ordering::SeqCst)
    }

    /// Freezes the VM.
    pub async fn pause(&self) -> qmp::Result<()> {
        self.hold.paused.store(true, Ordering::SeqCst);
        self.qmp.run("stop", Value::Null).await.map(drop)
    }

    /// Continues the VM.
    pub async fn resume(&self) -> qmp::Result<()> {
        self.qmp.run("cont", Value::Null).await?;
        self.hold.paused.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Sets the limits of the VM's disks.
    pub async fn limit_disks(&self, limits: &Limits) -> qmp::Result<()> {
        let value = json!({
            "bps-total": u64::from(limits.disk_mib_s) << 20,
            "iops-total": limits.disk_iops,
        });
        let set = json!({ "path": "/objects/disks", "property": "limits", "value": value });
        self.qmp.run("qom-set", set).await.map(drop)
    }

    /// Closes the guest link's port permanently, so that it is closed in the snapshot.
    pub fn release_link(&self) {
        self.hold.released.store(true, Ordering::SeqCst);
        self.hold.release.notify_waiters();
        self.hold.release.notify_one();
    }

    /// Returns the node's status.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        NodeStatus {
            name: self.name.clone(),
            pid: self.pid,
            alive: self.is_alive(),
            killed: self.is_killed(),
            linked: self.link.borrow().as_ref().is_some_and(|l| !l.is_lost()),
        }
    }
}

/// Writes the first part of QEMU's messages to its log, and drops the rest.
async fn keep_log(mut said: tokio::process::ChildStderr, log: std::fs::File) {
    use std::io::Write;
    let (mut room, mut buffer, mut log) = (QEMU_LOG, vec![0; 4096], log);
    while let Ok(n) = said.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..n).filter(|b| !b.is_empty()) else {
            return;
        };
        let part = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        room -= part.len();
        let _ = log.write_all(part);
    }
}

/// Returns the memory that a QEMU doesn't share, in bytes: of its guest, and of its own. Of a clone's guest memory, the
/// anonymous pages count, which are neither shared with the template nor given back. The guest memory of a booted
/// machine counts completely.
#[must_use]
pub fn private_memory(pid: u32) -> (u64, u64) {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/smaps")) else {
        return (0, 0);
    };
    let (mut guest, mut own, mut in_guest, mut counted) = (0, 0, false, "Anonymous:");
    for line in text.lines() {
        let first = line.split_ascii_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            let booted = line.contains(snapshot::NEW_MEMORY);
            in_guest = booted || line.ends_with(".mem");
            counted = if booted { "Rss:" } else { "Anonymous:" };
        } else if first == counted {
            let kib: u64 = line
                .split_ascii_whitespace()
                .nth(1)
                .and_then(|n| n.parse().ok())
                .unwrap_or(0);
            *(if in_guest { &mut guest } else { &mut own }) += kib * 1024;
        }
    }
    (guest, own)
}

async fn supervise(
    name: NodeName,
    socket: StdUnixStream,
    publish: watch::Sender<Option<Link>>,
    hold: Arc<Hold>,
) {
    loop {
        if hold.released.load(Ordering::SeqCst) {
            return;
        }
        let stream = socket.try_clone().and_then(UnixStream::from_std);
        let Ok(stream) = stream else { return };
        let nonce = rand::rng().random();
        let connected = tokio::select! {
            connected = Link::connect(stream, nonce) => connected,
            () = hold.release.notified() => return,
        };
        match connected {
            Ok((link, engine)) => {
                tracing::debug!(node = %name, "guest link up");
                let began = tokio::time::Instant::now();
                // A signal from before this link began is about an earlier link.
                let _ = hold.closed.notified().now_or_never();
                let _ = publish.send(Some(link.clone()));
                tokio::select! {
                    () = engine => {}
                    () = hold.closed.notified() => {}
                    () = hold.release.notified() => return,
                    () = watchdog(&link, &hold) => {}
                }
                tracing::debug!(node = %name, "guest link lost");
                let _ = publish.send(None);
                // Limits the host's work for a guest that makes and breaks the link over and over.
                if began.elapsed() < QUICK_END {
                    tokio::time::sleep(AFTER_QUICK_END).await;
                }
            }
            Err(faultline_guest::link::Error::Io(e)) => {
                tracing::debug!(node = %name, error = %e, "guest link port closed");
                return;
            }
            Err(e) => {
                tracing::error!(node = %name, error = %e, "guest link refused");
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        }
    }
}

/// Returns once the helper doesn't answer any more.
async fn watchdog(link: &Link, hold: &Hold) {
    loop {
        tokio::time::sleep(PING_EVERY).await;
        if hold.paused.load(Ordering::SeqCst) {
            continue;
        }
        let ping = async {
            match link.open().await {
                // A refusal is also an answer.
                Ok(stream) => matches!(
                    client::ping(stream).await,
                    Ok(_) | Err(client::Error::Refused(_))
                ),
                Err(_) => false,
            }
        };
        let answered = tokio::time::timeout(PING_ANSWER, ping)
            .await
            .unwrap_or(false);
        if !answered && !hold.paused.load(Ordering::SeqCst) {
            return;
        }
    }
}

/// A serial console: raw bytes, shared by all viewers.
#[derive(Debug)]
pub struct Console {
    write: tokio::sync::Mutex<OwnedWriteHalf>,
    recent: Mutex<VecDeque<u8>>,
    output: broadcast::Sender<Vec<u8>>,
}

impl Console {
    fn start(stream: UnixStream) -> Arc<Self> {
        let (mut read, write) = stream.into_split();
        let (output, _) = broadcast::channel(256);
        let console = Arc::new(Self {
            write: tokio::sync::Mutex::new(write),
            recent: Mutex::new(VecDeque::new()),
            output,
        });
        let reader = Arc::clone(&console);
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok(n) = read.read(&mut buffer).await {
                let Some(bytes) = buffer.get(..n).filter(|b| !b.is_empty()) else {
                    break;
                };
                {
                    let mut recent = reader.recent.lock().unwrap_or_else(PoisonError::into_inner);
                    recent.extend(bytes);
                    let excess = recent.len().saturating_sub(CONSOLE_KEEP);
                    recent.drain(..excess);
                }
                let _ = reader.output.send(bytes.to_vec());
            }
        });
        console
    }

    /// Returns the latest output.
    #[must_use]
    pub fn recent(&self) -> Vec<u8> {
        self.recent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .copied()
            .collect()
    }

    /// Serves a viewer until it disconnects.
    pub async fn view(&self, stream: UnixStream) -> io::Result<()> {
        let mut output = self.output.subscribe();
        let (mut from, mut to) = stream.into_split();
        to.write_all(&self.recent()).await?;
        let show = async {
            loop {
                match output.recv().await {
                    Ok(bytes) => to.write_all(&bytes).await?,
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                }
            }
        };
        let take = async {
            let mut buffer = vec![0; 4096];
            loop {
                let n = from.read(&mut buffer).await?;
                let Some(bytes) = buffer.get(..n).filter(|b| !b.is_empty()) else {
                    return Ok(());
                };
                self.write.lock().await.write_all(bytes).await?;
            }
        };
        tokio::select! {
            result = show => result,
            result = take => result,
        }
    }
}
