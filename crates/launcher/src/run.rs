//! The launcher itself: spec → namespace → nodes → ready → serving until it is stopped or a node dies.
//!
//! ```text
//! Starting ──► Running ◄──► Paused
//!     │           │           │
//!     └───────────┴───► Broken (a node died; the server notices it and frees the rest)
//! ```
//!
//! The phase is not stored: [`Launcher::phase`] derives it from the result of the start and the state of the nodes, so
//! that a running request can't overwrite a node's death.

mod configure;
mod grow;
mod hold;
mod save;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use faultline_domain::{
    Clock, NodeName, TenantId,
    progress::{Event, Progress},
};
use faultline_guest::{
    client as guest,
    wire::{HostKey, Refresh},
};
use rand::Rng;
use serde::Serialize;
use ssh_key::{LineEnding, PrivateKey, private::Ed25519Keypair};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpStream, UnixListener, UnixStream},
    sync::{Notify, watch},
};

use crate::{
    cgroup,
    claim::Claim,
    net,
    node::{Node, private_memory},
    protocol::{
        Answer, Channel, MAX_LINE, NodeMemory, Notification, Operation, Phase, Refusal,
        RefusalKind, Request, SOCKET, Status, Usage, VERSION,
    },
    qemu,
    spec::{Accelerator, LaunchSpec, NodeSpec, Start},
};

/// The time limits for the first answer of a clone's helper, and of a booting node's.
const LINK_AFTER_CLONE: Duration = Duration::from_secs(60);
const LINK_AFTER_BOOT: Duration = Duration::from_secs(600);
/// The same under KVM, where a boot takes seconds.
const LINK_AFTER_BOOT_WITH_KVM: Duration = Duration::from_secs(180);

/// A stage that failed.
#[derive(Debug, Clone)]
struct Failure {
    stage: &'static str,
    reason: String,
}

trait At<T> {
    fn at(self, stage: &'static str) -> Result<T, Failure>;
}

impl<T, E: std::error::Error> At<T> for Result<T, E> {
    fn at(self, stage: &'static str) -> Result<T, Failure> {
        self.map_err(|e| {
            let mut reason = e.to_string();
            let mut source = e.source();
            while let Some(cause) = source {
                reason.push_str(": ");
                reason.push_str(&cause.to_string());
                source = cause.source();
            }
            Failure { stage, reason }
        })
    }
}

/// What a node's guest is given before anyone may enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    /// Nothing: it has just booted.
    Booted,
    /// An identity of its own, which it must not share with its template.
    New,
    /// Only randomness and the time: it continues from its own save point.
    Kept,
}

/// Returns fresh randomness for a guest.
fn seed() -> [u8; 64] {
    let mut seed = [0; 64];
    rand::rng().fill(&mut seed);
    seed
}

struct Launcher {
    dir: PathBuf,
    /// The host's network namespace, for connections out of the environment.
    host: File,
    claim: Claim,
    id: TenantId,
    /// The content of `spec.json`.
    spec: Mutex<LaunchSpec>,
    clock: Clock,
    nodes: Mutex<Vec<Arc<Node>>>,
    /// The result of the start; `None` while it runs.
    started: Mutex<Option<Result<(), Failure>>>,
    told: watch::Sender<Vec<Notification>>,
    /// Notified when the status may have changed: a node has died, was paused or resumed, added or removed.
    changes: watch::Sender<()>,
    stop: Notify,
    /// Held while nodes are paused, resumed, frozen, added or removed: one at a time.
    turn: tokio::sync::Mutex<()>,
}

/// Runs the launcher of an environment's folder. Must be called while the process has only one thread, since it moves
/// into its own network namespace.
pub fn main(dir: &Path) -> io::Result<()> {
    let claim = Claim::open(dir)?;
    let spec = LaunchSpec::load(dir)?;
    let host = File::open("/proc/self/ns/net")?;
    #[expect(
        unsafe_code,
        reason = "unshare of the network namespace, before any thread was started"
    )]
    // SAFETY: this process has only one thread, and doesn't share its descriptor table.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
        .map_err(|e| io::Error::other(format!("cannot make a network namespace: {e}")))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(Launcher::new(dir, host, claim, spec).live())
}

impl Launcher {
    fn new(dir: &Path, host: File, claim: Claim, spec: LaunchSpec) -> Arc<Self> {
        Arc::new(Self {
            dir: dir.to_owned(),
            host,
            claim,
            id: spec.id.clone(),
            spec: Mutex::new(spec),
            clock: Clock::system(),
            nodes: Mutex::default(),
            started: Mutex::default(),
            told: watch::channel(Vec::new()).0,
            changes: watch::channel(()).0,
            stop: Notify::new(),
            turn: tokio::sync::Mutex::new(()),
        })
    }

    /// Records the result of the start.
    fn set_started(&self, result: Result<(), Failure>) {
        *self.started.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.changes.send_replace(());
    }

    fn phase(&self) -> Phase {
        let nodes = self.nodes();
        if let Some((node, reason)) = nodes.iter().find_map(|n| Some((n, n.end()?))) {
            return Phase::Broken {
                node: Some(node.name.clone()),
                reason,
            };
        }
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        match &*started {
            None => Phase::Starting,
            Some(Err(Failure { stage, reason })) => Phase::Broken {
                node: None,
                reason: format!("{stage}: {reason}"),
            },
            Some(Ok(())) if nodes.iter().any(|node| node.is_paused()) => Phase::Paused,
            Some(Ok(())) => Phase::Running,
        }
    }

    fn tell(&self, told: Notification) {
        self.told.send_modify(|all| all.push(told));
    }

    /// Returns the current nodes.
    fn nodes(&self) -> Vec<Arc<Node>> {
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns the current spec.
    fn spec(&self) -> LaunchSpec {
        self.spec
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn live(self: Arc<Self>) -> io::Result<()> {
        let socket = self.dir.join(SOCKET);
        // Clients connect as soon as they see the socket. It exists before it listens, so it is bound under another
        // name and then renamed.
        let draft = self.dir.join("launcher.new");
        let _ = std::fs::remove_file(&draft);
        let listener = UnixListener::bind(&draft)?;
        std::fs::set_permissions(&draft, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        std::fs::rename(&draft, &socket)?;
        let server = tokio::spawn(Arc::clone(&self).accept(listener));
        let progress = {
            let this = Arc::clone(&self);
            Progress::new(move |event: Event| this.tell(Notification::Event { event }))
        };
        tokio::select! {
            started = self.bring_up(&progress) => match started {
                Ok(()) => {
                    self.set_started(Ok(()));
                    self.tell(Notification::Ready);
                    self.stop.notified().await;
                }
                Err(failure) => {
                    self.set_started(Err(failure.clone()));
                    let Failure { stage, reason } = failure;
                    tracing::error!(stage, reason, "could not start");
                    self.tell(Notification::Failed { stage: stage.to_owned(), reason });
                    // The server reads the reason and then ends this launcher. If the environment is being freed,
                    // nobody will.
                    if self.claim.is_valid() {
                        let _ = tokio::time::timeout(Duration::from_secs(300), self.stop.notified()).await;
                    }
                }
            },
            () = self.stop.notified() => {}
        }
        for node in self.nodes() {
            let _ = node.qmp.run("quit", serde_json::Value::Null).await;
        }
        server.abort();
        let _ = std::fs::remove_file(socket);
        Ok(())
    }

    async fn bring_up(&self, progress: &Progress) -> Result<(), Failure> {
        let spec = &self.spec();
        let stage = progress.stage("network", "Setting up its private network");
        self.claim.join(&spec.id, &spec.limits).at("network")?;
        if spec.freezes() {
            cgroup::lower_priority(&spec.id).at("network")?;
        }
        let taps = net::build(spec.nodes.len(), spec.limits.bandwidth_mbit).at("network")?;
        self.open_egress(&spec.egress).at("network")?;
        stage.done();

        let continues = spec.continues();
        let stage = if continues {
            progress.stage("clone", "Copying the prepared machine")
        } else {
            progress.stage("power-on", "Powering it on")
        };
        let mut nodes = Vec::with_capacity(spec.nodes.len());
        for ((index, node), tap) in (1..).zip(&spec.nodes).zip(taps) {
            nodes.push(self.start_node(spec, node, index, tap).await?);
        }
        // Added nodes of a save point: they were booted, not cloned.
        for added in &spec.added {
            let index = added.index().unwrap_or_default();
            let tap = net::add_tap(index, spec.limits.bandwidth_mbit).at("clone")?;
            let booted = LaunchSpec {
                saved: spec.saved.clone(),
                ..grow::boot_spec(spec)
            };
            nodes.push(self.start_node(&booted, &added.node, index, tap).await?);
        }
        stage.done();

        if continues {
            let stage = progress.stage("restore", "Waking up the copy");
            if let Some(saved) = &spec.saved {
                let filled = nodes.iter().map(|node| save::restore_memory(node, saved));
                futures::future::try_join_all(filled).await.at("restore")?;
            }
            for node in &nodes {
                node.qmp.restore(&node.state).await.map_err(|e| Failure {
                    stage: "restore",
                    reason: format!("{e}; {}", self.qemu_log(&node.name)),
                })?;
            }
            for node in &nodes {
                node.resume().await.at("restore")?;
            }
            stage.done();
        }
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&nodes);

        let (name, text, wait) = if continues {
            (
                "refresh",
                "Setting its clock and its keys",
                LINK_AFTER_CLONE,
            )
        } else {
            let has_kvm = |n: &NodeSpec| n.machine.accelerator == Accelerator::Kvm;
            let wait = if spec.nodes.iter().all(has_kvm) {
                LINK_AFTER_BOOT_WITH_KVM
            } else {
                LINK_AFTER_BOOT
            };
            ("boot", "Booting", wait)
        };
        let stage = progress.stage(name, text);
        let identity = match (&spec.saved, continues) {
            (Some(_), _) => Identity::Kept,
            (None, true) => Identity::New,
            (None, false) => Identity::Booted,
        };
        let refreshed = nodes.iter().map(|node| self.refresh(node, identity, wait));
        futures::future::try_join_all(refreshed)
            .await
            .map_err(|reason| Failure {
                stage: name,
                reason,
            })?;
        stage.done();
        Ok(())
    }

    /// Starts a node's QEMU, on its disk.
    async fn start_node(
        &self,
        spec: &LaunchSpec,
        node: &NodeSpec,
        index: usize,
        tap: net::Tap,
    ) -> Result<Arc<Node>, Failure> {
        self.make_disk(spec, node).at("clone")?;
        let started = qemu::start(spec, &self.dir, node, index, tap).at("clone")?;
        let adopted = Node::adopt(node.name.clone(), index, started, self.changes.clone()).await;
        adopted.map(Arc::new).map_err(|e| Failure {
            stage: "clone",
            reason: format!("{e}; {}", self.qemu_log(&node.name)),
        })
    }

    /// Makes a node's disk: an empty overlay on the frozen disk, or on the image's, or a copy of the saved one.
    fn make_disk(&self, spec: &LaunchSpec, node: &NodeSpec) -> io::Result<()> {
        let name = format!("{}.qcow2", node.name);
        if let Some(saved) = &spec.saved {
            let path = self.dir.join(&name);
            return crate::save::copy_disk(&saved.join(&name), &path);
        }
        match &spec.start {
            Start::Clone { snapshot } => {
                std::fs::copy(snapshot.join("overlay.qcow2"), self.dir.join(&name)).and_then(|_| {
                    std::fs::set_permissions(
                        self.dir.join(name),
                        std::os::unix::fs::PermissionsExt::from_mode(0o600),
                    )
                })
            }
            Start::Boot { freeze_to, .. } => {
                let folder = freeze_to.as_deref().unwrap_or(&self.dir);
                qemu::make_overlay(&folder.join(name), node.machine.disk_mib)
            }
        }
    }

    fn qemu_log(&self, node: &NodeName) -> String {
        let text =
            std::fs::read_to_string(self.dir.join(format!("{node}.qemu.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        if lines.is_empty() {
            return "QEMU printed nothing".to_owned();
        }
        format!(
            "QEMU said: {}",
            lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
        )
    }

    async fn refresh(&self, node: &Node, identity: Identity, wait: Duration) -> Result<(), String> {
        let silent = || {
            let console = String::from_utf8_lossy(&node.console.recent()).into_owned();
            let tail: Vec<&str> = console
                .lines()
                .rev()
                .filter(|l| !l.trim().is_empty())
                .take(3)
                .collect();
            format!(
                "the helper of {} did not answer; its console shows: {}",
                node.name,
                tail.join(" | ")
            )
        };
        let link = node.link(wait).await.ok_or_else(silent)?;
        let open = || async { link.open().await.map_err(|e| e.to_string()) };
        let done = match identity {
            Identity::Booted => guest::ping(open().await?).await.map(drop),
            Identity::New => {
                let order = self.refresh_order(&node.name)?;
                guest::refresh(open().await?, order).await
            }
            Identity::Kept => {
                // The kernel has done so already, because the VM's generation ID has changed.
                if let Err(e) = guest::reseed(open().await?, hex::encode(seed())).await {
                    tracing::warn!(node = %node.name, error = %e, "mixing in randomness failed");
                }
                guest::step_clock(open().await?, self.unix_nanos()).await
            }
        };
        done.map_err(|e| format!("{}: {e}", node.name))
    }

    fn unix_nanos(&self) -> i64 {
        i64::try_from(self.clock.now().as_nanosecond()).unwrap_or(0)
    }

    fn refresh_order(&self, node: &NodeName) -> Result<Refresh, String> {
        let mut rng = rand::rng();
        let machine_id: [u8; 16] = rng.random();
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&rng.random()));
        let written = |e: ssh_key::Error| format!("{node}: its host key: {e}");
        let host_key = HostKey {
            private: key.to_openssh(LineEnding::LF).map_err(written)?.to_string(),
            public: key.public_key().to_openssh().map_err(written)?,
        };
        Ok(Refresh {
            seed: hex::encode(seed()),
            unix_nanos: self.unix_nanos(),
            machine_id: hex::encode(machine_id),
            hostname: node.to_string(),
            host_key,
        })
    }

    async fn accept(self: Arc<Self>, listener: UnixListener) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                // Such as a lack of file descriptors, which is temporary. The launcher must keep accepting.
                Err(e) => {
                    tracing::warn!(error = %e, "accepting a connection failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let this = Arc::clone(&self);
            tokio::spawn(async move {
                if let Err(e) = this.serve(stream).await {
                    tracing::debug!(error = %e, "a connection ended");
                }
            });
        }
    }

    async fn serve(&self, stream: UnixStream) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        (&mut stream).take(MAX_LINE).read_line(&mut line).await?;
        // The client waits for the answer, so the buffer contains nothing of the stream.
        let mut stream = stream.into_inner();
        let request: Request = match serde_json::from_str(&line) {
            Ok(request) => request,
            Err(e) => return refuse(&mut stream, format!("not a request: {e}").into()).await,
        };
        if request.version != VERSION {
            let reason = format!(
                "this launcher speaks protocol version {VERSION}, but the request has version {}",
                request.version
            );
            return refuse(&mut stream, reason.into()).await;
        }
        match request.operation {
            Operation::Status => answer(&mut stream, &Answer::Status(self.status())).await,
            Operation::Follow => self.follow(stream).await,
            Operation::Usage => match self.usage().await {
                Ok(usage) => answer(&mut stream, &Answer::Usage(usage)).await,
                Err(e) => refuse(&mut stream, e.to_string().into()).await,
            },
            Operation::Configure { limits, egress } => {
                finish(&mut stream, self.configure(limits, egress).await).await
            }
            Operation::Watch => self.tell_all(stream).await,
            Operation::Pause => finish(&mut stream, self.pause().await).await,
            Operation::Resume => finish(&mut stream, self.resume().await).await,
            Operation::Save { folder } => match self.save(&folder).await {
                Ok(saved) => answer(&mut stream, &Answer::Saved(saved)).await,
                Err(refusal) => refuse(&mut stream, refusal).await,
            },
            Operation::Freeze => {
                let frozen = self.freeze().await;
                let done = frozen.is_ok();
                finish(&mut stream, frozen).await?;
                if done {
                    self.stop.notify_one();
                }
                Ok(())
            }
            Operation::Stop => {
                answer(&mut stream, &Answer::Done).await?;
                self.stop.notify_one();
                Ok(())
            }
            Operation::AddNode { added } => self.add_node(stream, added).await,
            Operation::RemoveNode { node } => {
                finish(&mut stream, self.remove_node(&node).await).await
            }
            Operation::Open { node, to } => self.open(stream, &node, to).await,
        }
    }

    fn status(&self) -> Status {
        Status {
            phase: self.phase(),
            nodes: self.nodes().iter().map(|node| node.status()).collect(),
        }
    }

    /// Sends the status, now and after each change, until the client disconnects.
    async fn follow(&self, stream: UnixStream) -> io::Result<()> {
        let mut changes = self.changes.subscribe();
        let (mut from, mut to) = stream.into_split();
        let tell = async {
            loop {
                changes.borrow_and_update();
                write_line(&mut to, &Answer::Status(self.status())).await?;
                if changes.changed().await.is_err() {
                    return Ok(());
                }
            }
        };
        let mut byte = [0];
        tokio::select! {
            told = tell => told,
            _ = from.read(&mut byte) => Ok(()),
        }
    }

    /// Returns what the environment uses. Reading the memory maps of its nodes takes milliseconds per GiB, so this runs
    /// on another thread.
    async fn usage(&self) -> Result<Usage, tokio::task::JoinError> {
        let spec = self.spec();
        let disks: Vec<PathBuf> = spec
            .all_nodes()
            .map(|node| self.dir.join(format!("{}.qcow2", node.name)))
            .collect();
        let nodes: Vec<(NodeName, u32)> = self
            .nodes()
            .iter()
            .map(|node| (node.name.clone(), node.pid))
            .collect();
        let cpu_millis = cgroup::cpu_millis(&self.id);
        tokio::task::spawn_blocking(move || {
            let blocks = |path: &PathBuf| {
                std::fs::metadata(path).map_or(0, |m| std::os::unix::fs::MetadataExt::blocks(&m))
            };
            let memory = |(name, pid): (NodeName, u32)| {
                let (guest_private_bytes, qemu_private_bytes) = private_memory(pid);
                NodeMemory {
                    name,
                    guest_private_bytes,
                    qemu_private_bytes,
                }
            };
            Usage {
                disk_bytes: disks.iter().map(|path| blocks(path) * 512).sum(),
                nodes: nodes.into_iter().map(memory).collect(),
                cpu_millis,
            }
        })
        .await
    }

    async fn tell_all(&self, mut stream: UnixStream) -> io::Result<()> {
        answer(&mut stream, &Answer::Done).await?;
        let mut told = self.told.subscribe();
        let mut sent = 0;
        loop {
            let news: Vec<Notification> = told
                .borrow_and_update()
                .get(sent..)
                .unwrap_or_default()
                .to_vec();
            sent += news.len();
            for item in news {
                write_line(&mut stream, &item).await?;
                if !matches!(item, Notification::Event { .. }) {
                    return Ok(());
                }
            }
            if told.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn open(&self, mut stream: UnixStream, node: &NodeName, to: Channel) -> io::Result<()> {
        let Some(node) = self.nodes().into_iter().find(|n| n.name == *node) else {
            let reason = format!("there is no node {node}");
            return refuse(&mut stream, Refusal::new(RefusalKind::NoNode, reason)).await;
        };
        if let Some(end) = node.end() {
            return refuse(&mut stream, Refusal::new(RefusalKind::Broken, end)).await;
        }
        if node.is_paused() {
            let reason = "the environment is paused";
            return refuse(&mut stream, Refusal::new(RefusalKind::Paused, reason)).await;
        }
        match to {
            Channel::Console => {
                answer(&mut stream, &Answer::Done).await?;
                node.console.view(stream).await
            }
            Channel::Port(port) => {
                let connect = TcpStream::connect((net::address(node.index), port));
                match tokio::time::timeout(Duration::from_secs(10), connect).await {
                    Ok(Ok(mut tcp)) => {
                        answer(&mut stream, &Answer::Done).await?;
                        tokio::io::copy_bidirectional(&mut stream, &mut tcp)
                            .await
                            .map(drop)
                    }
                    Ok(Err(e)) => {
                        let reason = format!("port {port} of {}: {e}", node.name);
                        refuse(&mut stream, reason.into()).await
                    }
                    Err(_) => {
                        let reason = format!("port {port} of {}: no answer", node.name);
                        refuse(&mut stream, reason.into()).await
                    }
                }
            }
            Channel::Guest => {
                let link = node.link(Duration::from_secs(3)).await;
                let opened = match link {
                    Some(link) => link.open().await.ok(),
                    None => None,
                };
                match opened {
                    Some(mut substream) => {
                        answer(&mut stream, &Answer::Done).await?;
                        tokio::io::copy_bidirectional(&mut stream, &mut substream)
                            .await
                            .map(drop)
                    }
                    None => {
                        let reason = format!(
                            "the guest link of {} is lost; its serial console still works",
                            node.name
                        );
                        refuse(&mut stream, reason.into()).await
                    }
                }
            }
        }
    }
}

async fn answer(stream: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    write_line(stream, answer).await
}

/// Writes one line of the socket's protocol.
async fn write_line(to: &mut (impl AsyncWrite + Unpin), what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    to.write_all(&line).await
}

async fn refuse(stream: &mut UnixStream, refusal: Refusal) -> io::Result<()> {
    answer(stream, &Answer::Refused(refusal)).await
}

async fn finish(stream: &mut UnixStream, result: Result<(), Refusal>) -> io::Result<()> {
    match result {
        Ok(()) => answer(stream, &Answer::Done).await,
        Err(refusal) => refuse(stream, refusal).await,
    }
}
