//! A provider without machines: it has latency, fails on demand, loses nodes.
//!
//! Its guests speak the real protocol of the guest link, in-process, with files in memory and a shell with a handful of
//! commands (see [`shell`]). They have no processes, kernel, users or network. A TCP port listens if a test does so with
//! [`FakeProvider::listen`]; it listens, and echoes, if the file `/run/listen/PORT` exists in the guest. Everything is lost when the value is dropped. Clones share the same
//! machines, so a test can pass one to a server, drop the server, and pass another to the next.

mod files;
mod guest;
pub mod process;
mod shell;
mod terminal;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use faultline_domain::{
    NodeName, SavePointId, TemplateRef, TenantId, container::ContainerImage, memory::Memory,
    progress::Progress, save_point::Saved, shape::MAX_NODES,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    io::DuplexStream,
    sync::{Notify, broadcast, mpsc},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::guest::Guest;
use crate::{
    Allowance, ApiAccess, Capability, Change, Error, Identity, Observed, Priority, Provider,
    Readiness, Result, Stream, Target, Usage,
    api::{ClientCertificate, Credential, OnNode},
};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The stages of a creation: name, text, and share of the latency in percent.
const STAGES: [(&str, &str, u32); 3] = [
    ("clone", "copying the machine", 60),
    ("network", "setting up its private network", 10),
    ("refresh", "renewing its keys, clock and identity", 30),
];

/// The stages of continuing from a save point, in the same form.
const RESTORATION: [(&str, &str, u32); 2] = [
    ("verify", "checking the save point", 10),
    ("restore", "waking up the copy", 20),
];

/// The stages of adding a node, in the same form.
const ADDITION: [(&str, &str, u32); 2] = [
    ("power-on", "powering on the machine", 20),
    ("boot", "booting until its services are up", 80),
];

/// The memory of a node, in MiB.
pub const NODE_MIB: u64 = 48;
/// The port of a cluster's API server.
const API_PORT: u16 = 6443;
/// The number of changes that a receiver may lag behind.
const CHANGES: usize = 256;

/// The only image that the fake has, besides those of clusters (see [`FakeProvider::with_clusters`]).
pub const IMAGE: &str = "debian-12";

/// A provider without machines. Cloning shares the machines.
#[derive(Debug, Clone, Default)]
pub struct FakeProvider(Arc<Inner>);

/// The certificate authority of all clusters, and the client certificate that every identity gets.
#[derive(Debug, Clone)]
struct FakeApi {
    authority: String,
    credential: ClientCertificate,
}

/// The hash of all templates' content.
#[derive(Debug)]
struct TemplateHash(String);

impl Default for TemplateHash {
    fn default() -> Self {
        Self("first".to_owned())
    }
}

/// Makes calls fail at random.
#[derive(Debug)]
struct Chance {
    /// The probability that a stage fails.
    rate: f64,
    rng: StdRng,
}

#[derive(Debug)]
struct Changes(broadcast::Sender<Change>);

impl Default for Changes {
    fn default() -> Self {
        Self(broadcast::channel(CHANGES).0)
    }
}

#[derive(Debug, Default)]
struct Inner {
    environments: Mutex<BTreeMap<TenantId, Environment>>,
    saves: Mutex<BTreeMap<SavePointId, Save>>,
    latency: Mutex<Duration>,
    failures: Mutex<Vec<(String, String)>>,
    chance: Mutex<Option<Chance>>,
    list_fails: Mutex<bool>,
    memory_mib: Mutex<Option<u64>>,
    cpu_millis: Mutex<BTreeMap<TenantId, u64>>,
    held: Mutex<Option<TenantId>>,
    released: Notify,
    readiness: Mutex<Option<Readiness>>,
    template: Mutex<TemplateHash>,
    clusters: Mutex<Option<FakeApi>>,
    listeners: Mutex<BTreeMap<(TenantId, NodeName, u16), mpsc::UnboundedSender<DuplexStream>>>,
    changes: Changes,
    tasks: TaskTracker,
}

/// A save point. Its guests are never used, only copied.
#[derive(Debug)]
struct Save {
    /// False until it is complete.
    is_complete: bool,
    nodes: BTreeMap<NodeName, Arc<Guest>>,
    control_planes: u32,
    is_cluster: bool,
}

impl Save {
    /// The size of each node, in bytes.
    const BYTES: u64 = 64 << 20;
    /// How long nodes stand still, in milliseconds.
    const PAUSED_MILLIS: u64 = 200;

    fn saved(&self) -> Saved {
        Saved {
            bytes: self.nodes.len() as u64 * Self::BYTES,
            paused_millis: Self::PAUSED_MILLIS,
        }
    }
}

fn copies(nodes: &BTreeMap<NodeName, Arc<Guest>>) -> BTreeMap<NodeName, Arc<Guest>> {
    let copy = |(name, guest): (&NodeName, &Arc<Guest>)| (name.clone(), Arc::new(guest.copy()));
    nodes.iter().map(copy).collect()
}

#[derive(Debug)]
struct Environment {
    observed: Observed,
    nodes: BTreeMap<NodeName, Arc<Guest>>,
    /// The number of control planes. They are the first nodes and can't be removed.
    control_planes: u32,
    is_cluster: bool,
    allowance: Option<Allowance>,
    /// Nodes whose addition hasn't finished.
    unfinished: Vec<NodeName>,
    /// Ends all its streams when cancelled.
    life: CancellationToken,
}

impl FakeProvider {
    /// Creates a provider that has no latency and never fails.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how long creations take, in all.
    #[must_use]
    pub fn with_latency(self, latency: Duration) -> Self {
        *lock(&self.0.latency) = latency;
        self
    }

    /// Sets how long creations take from now on.
    pub fn set_latency(&self, latency: Duration) {
        *lock(&self.0.latency) = latency;
    }

    /// Adds the images of clusters. Their API servers have this certificate authority, and every identity gets this
    /// client certificate. No API server listens.
    #[must_use]
    pub fn with_clusters(self, authority: String, credential: ClientCertificate) -> Self {
        *lock(&self.0.clusters) = Some(FakeApi {
            authority,
            credential,
        });
        self
    }

    /// Returns a tenant's allowance, if it was configured.
    #[must_use]
    pub fn allowance(&self, id: &TenantId) -> Option<Allowance> {
        lock(&self.0.environments).get(id)?.allowance.clone()
    }

    /// Makes the next call that reaches `stage` fail there: a creation (`clone`, `network`, `refresh`), an addition of
    /// a node (`power-on`, `boot`), a removal (`leave`), `resume`, `save` or `restore`. Called twice, the next two calls
    /// fail.
    pub fn fail_next(&self, stage: &str, reason: &str) {
        lock(&self.0.failures).push((stage.to_owned(), reason.to_owned()));
    }

    /// Limits the memory of all tenants together, as a provider on a small host does. Each node uses [`NODE_MIB`].
    pub fn limit_memory(&self, total_mib: u64) {
        *lock(&self.0.memory_mib) = Some(total_mib);
    }

    /// Sets the CPU time that a tenant has used, in milliseconds.
    pub fn set_cpu(&self, id: &TenantId, millis: u64) {
        lock(&self.0.cpu_millis).insert(id.clone(), millis);
    }

    /// Makes each stage that [`Self::fail_next`] knows fail with this probability, from 0 to 1.
    pub fn fail_at_random(&self, rate: f64, seed: u64) {
        *lock(&self.0.chance) = Some(Chance {
            rate,
            rng: StdRng::seed_from_u64(seed),
        });
    }

    /// Makes `list` fail, or work again.
    pub fn fail_list(&self, fails: bool) {
        *lock(&self.0.list_fails) = fails;
    }

    /// Makes `destroy` of this tenant hang until [`Self::release_destroy`].
    pub fn hold_destroy(&self, id: &TenantId) {
        *lock(&self.0.held) = Some(id.clone());
    }

    /// Lets `destroy` continue, including calls that hang.
    pub fn release_destroy(&self) {
        *lock(&self.0.held) = None;
        self.0.released.notify_waiters();
    }

    /// Sets what `readiness` returns from now on.
    pub fn set_readiness(&self, readiness: Readiness) {
        *lock(&self.0.readiness) = Some(readiness);
    }

    /// Changes the hash of all templates, as if their images had been built anew.
    pub fn set_template(&self, hash: &str) {
        lock(&self.0.template).0 = hash.to_owned();
    }

    /// Breaks a tenant, as if a node had died: its streams end.
    pub fn crash(&self, id: &TenantId) {
        if let Some(e) = lock(&self.0.environments).get_mut(id) {
            e.observed = Observed::Broken;
            e.life.cancel();
            self.0.tell(id, Observed::Broken);
        }
    }

    /// Removes a tenant, as if all its machines had vanished.
    pub fn lose(&self, id: &TenantId) {
        if let Some(e) = lock(&self.0.environments).remove(id) {
            e.life.cancel();
            self.0.tell(id, Observed::Absent);
        }
    }

    /// Breaks all open streams to a tenant. New ones can be opened.
    pub fn drop_streams(&self, id: &TenantId) {
        if let Some(e) = lock(&self.0.environments).get_mut(id) {
            e.life.cancel();
            e.life = CancellationToken::new();
        }
    }

    /// Makes a guest's helper stop responding, or respond again. The console keeps working.
    pub fn silence(&self, id: &TenantId, node: &NodeName, silent: bool) {
        if let Ok((guest, _)) = self.guest(id, node) {
            guest.set_silent(silent);
        }
    }

    /// Makes a guest's terminals ignore input. They still show output.
    pub fn deafen(&self, id: &TenantId, node: &NodeName) {
        if let Ok((guest, _)) = self.guest(id, node) {
            guest.deafen();
        }
    }

    /// Adds a running tenant that nobody requested.
    pub fn plant(&self, id: &TenantId) {
        lock(&self.0.environments).insert(
            id.clone(),
            Environment {
                observed: Observed::Running,
                nodes: BTreeMap::new(),
                control_planes: 1,
                is_cluster: false,
                allowance: None,
                unfinished: Vec::new(),
                life: CancellationToken::new(),
            },
        );
    }

    /// Returns the content of a file in a guest.
    #[must_use]
    pub fn file(&self, id: &TenantId, node: &NodeName, path: &str) -> Option<Vec<u8>> {
        self.guest(id, node)
            .ok()
            .and_then(|(g, _)| g.read_file(path))
    }

    /// Writes a file in a guest.
    pub fn put_file(&self, id: &TenantId, node: &NodeName, path: &str, content: &[u8]) {
        if let Ok((guest, _)) = self.guest(id, node) {
            guest.write_file(path, 0o644, content.to_vec());
        }
    }

    /// Listens on a TCP port of a node until the result is dropped. It has the other ends of the streams that are opened to
    /// this port.
    #[must_use]
    pub fn listen(&self, id: &TenantId, node: &NodeName, port: u16) -> FakeListener {
        let (sender, streams) = mpsc::unbounded_channel();
        lock(&self.0.listeners).insert((id.clone(), node.clone(), port), sender);
        FakeListener(streams)
    }

    fn guest(&self, id: &TenantId, node: &NodeName) -> Result<(Arc<Guest>, Access)> {
        let all = lock(&self.0.environments);
        let e = all.get(id).ok_or(Error::NotFound)?;
        let guest = e.nodes.get(node).ok_or(Error::NotFound)?;
        let access = Access {
            observed: e.observed,
            life: e.life.clone(),
        };
        Ok((guest.clone(), access))
    }

    /// Goes through the stages of a creation that has begun.
    async fn finish(
        &self,
        id: &TenantId,
        stages: &[(&'static str, &str, u32)],
        progress: &Progress,
    ) -> Result<()> {
        for (name, text, percent) in stages {
            self.stage(name, text, *percent, progress).await?;
        }
        match lock(&self.0.environments).get_mut(id) {
            Some(e) => {
                e.observed = Observed::Running;
                self.0.tell(id, Observed::Running);
                Ok(())
            }
            None => Err(Error::failed("clone", "it was destroyed in the meantime")),
        }
    }

    async fn stage(
        &self,
        name: &'static str,
        text: &str,
        percent: u32,
        p: &Progress,
    ) -> Result<()> {
        let stage = p.stage(name, text);
        let latency = *lock(&self.0.latency) * percent / 100;
        for tenth in 1..=10u32 {
            if !latency.is_zero() {
                tokio::time::sleep(latency / 10).await;
                stage.update(Some(f64::from(tenth) / 10.0), text);
            }
        }
        self.fail(name)?;
        stage.done();
        Ok(())
    }

    /// Fails if the next call that reaches this stage should.
    fn fail(&self, stage: &str) -> Result<()> {
        let mut failures = lock(&self.0.failures);
        match failures.iter().position(|(name, _)| name == stage) {
            Some(at) => {
                let (stage, reason) = failures.remove(at);
                Err(Error::failed(stage, reason))
            }
            None if self.fails_at_random() => {
                Err(Error::failed(stage, "the fake failed at random"))
            }
            None => Ok(()),
        }
    }

    fn fails_at_random(&self) -> bool {
        let mut chance = lock(&self.0.chance);
        let Some(Chance { rate, rng }) = chance.as_mut() else {
            return false;
        };
        rng.random_bool(rate.clamp(0.0, 1.0))
    }
}

/// A listening TCP port of a node.
#[derive(Debug)]
pub struct FakeListener(mpsc::UnboundedReceiver<DuplexStream>);

impl FakeListener {
    /// Waits for the next connection.
    pub async fn accept(&mut self) -> Option<DuplexStream> {
        self.0.recv().await
    }
}

struct Access {
    observed: Observed,
    life: CancellationToken,
}

#[async_trait]
impl Provider for FakeProvider {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn capabilities(&self) -> &'static [Capability] {
        &[
            Capability::GuestLink,
            Capability::Console,
            Capability::AddNodes,
            Capability::Pause,
            Capability::Save,
            Capability::LoadImages,
            Capability::ClusterAdmin,
            Capability::OwnNamespaces,
        ]
    }

    fn memory(&self) -> Option<Memory> {
        let total_mib = (*lock(&self.0.memory_mib))?;
        let all = lock(&self.0.environments);
        let nodes = all.values().map(|e| e.nodes.len() as u64).sum::<u64>();
        Some(Memory {
            total_mib,
            available_mib: total_mib.saturating_sub(nodes * NODE_MIB),
        })
    }

    async fn readiness(&self, template: &TemplateRef) -> Readiness {
        let has_clusters = lock(&self.0.clusters).is_some();
        if template.image != IMAGE && !(template.is_cluster() && has_clusters) {
            let image = &template.image;
            return Readiness::Unavailable {
                reason: format!("the fake has no image {image}, only {IMAGE}"),
            };
        }
        let ready = || Readiness::Ready {
            template: lock(&self.0.template).0.clone(),
        };
        lock(&self.0.readiness).clone().unwrap_or_else(ready)
    }

    async fn create(
        &self,
        id: &TenantId,
        template: &TemplateRef,
        _: Priority,
        progress: &Progress,
    ) -> Result<()> {
        {
            let mut all = lock(&self.0.environments);
            if all.contains_key(id) {
                return Err(Error::Exists);
            }
            let nodes = template
                .shape
                .node_names()
                .into_iter()
                .map(|node| (node.clone(), Arc::new(Guest::new(node))))
                .collect();
            // If this future is dropped, `list` reports the tenant as broken.
            let begun = Environment {
                observed: Observed::Broken,
                nodes,
                control_planes: template.shape.control_planes(),
                is_cluster: template.is_cluster(),
                allowance: None,
                unfinished: Vec::new(),
                life: CancellationToken::new(),
            };
            all.insert(id.clone(), begun);
        }
        self.finish(id, &STAGES, progress).await
    }

    async fn configure(&self, id: &TenantId, allowance: &Allowance) -> Result<()> {
        let mut all = lock(&self.0.environments);
        let e = all.get_mut(id).ok_or(Error::NotFound)?;
        if e.observed == Observed::Broken {
            return Err(Error::WrongState(Observed::Broken));
        }
        e.allowance = Some(allowance.clone());
        Ok(())
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.0.changes.0.subscribe()
    }

    async fn list(&self) -> Result<Vec<Change>> {
        if *lock(&self.0.list_fails) {
            return Err(Error::failed("list", "the fake was told to fail"));
        }
        let all = lock(&self.0.environments);
        Ok(all.iter().map(|(id, e)| (id.clone(), e.observed)).collect())
    }

    async fn pause(&self, id: &TenantId) -> Result<()> {
        set(&self.0, id, Observed::Paused)
    }

    async fn resume(&self, id: &TenantId) -> Result<()> {
        self.fail("resume")?;
        set(&self.0, id, Observed::Running)
    }

    async fn save(&self, id: &TenantId, to: &SavePointId) -> Result<Saved> {
        {
            let all = lock(&self.0.environments);
            let e = all.get(id).ok_or(Error::NotFound)?;
            if e.observed == Observed::Broken {
                return Err(Error::WrongState(Observed::Broken));
            }
            let mut saves = lock(&self.0.saves);
            if saves.contains_key(to) {
                return Err(Error::Exists);
            }
            let begun = Save {
                is_complete: false,
                nodes: copies(&e.nodes),
                control_planes: e.control_planes,
                is_cluster: e.is_cluster,
            };
            saves.insert(to.clone(), begun);
        }
        let latency = *lock(&self.0.latency);
        if !latency.is_zero() {
            tokio::time::sleep(latency / 10).await;
        }
        if let Err(e) = self.fail("save") {
            lock(&self.0.saves).remove(to);
            return Err(e);
        }
        let mut saves = lock(&self.0.saves);
        let save = saves
            .get_mut(to)
            .ok_or_else(|| Error::failed("save", "it was deleted in the meantime"))?;
        save.is_complete = true;
        Ok(save.saved())
    }

    async fn restore(&self, id: &TenantId, from: &SavePointId, progress: &Progress) -> Result<()> {
        {
            let mut all = lock(&self.0.environments);
            if all.contains_key(id) {
                return Err(Error::Exists);
            }
            let saves = lock(&self.0.saves);
            let save = saves.get(from).filter(|save| save.is_complete);
            let save = save.ok_or(Error::NotFound)?;
            let begun = Environment {
                observed: Observed::Broken,
                nodes: copies(&save.nodes),
                control_planes: save.control_planes,
                is_cluster: save.is_cluster,
                allowance: None,
                unfinished: Vec::new(),
                life: CancellationToken::new(),
            };
            all.insert(id.clone(), begun);
        }
        self.finish(id, &RESTORATION, progress).await
    }

    async fn saves(&self) -> Result<Vec<(SavePointId, Option<Saved>)>> {
        let saves = lock(&self.0.saves);
        let figures = |save: &Save| save.is_complete.then(|| save.saved());
        Ok(saves
            .iter()
            .map(|(id, save)| (id.clone(), figures(save)))
            .collect())
    }

    async fn delete_save(&self, id: &SavePointId) -> Result<()> {
        lock(&self.0.saves).remove(id);
        Ok(())
    }

    async fn destroy(&self, id: &TenantId) -> Result<()> {
        let released = self.0.released.notified();
        if lock(&self.0.held).as_ref() == Some(id) {
            released.await;
        }
        self.lose(id);
        Ok(())
    }

    async fn add_node(&self, id: &TenantId, node: &NodeName, progress: &Progress) -> Result<()> {
        {
            let mut all = lock(&self.0.environments);
            let e = all.get_mut(id).ok_or(Error::NotFound)?;
            if e.observed != Observed::Running {
                return Err(Error::WrongState(e.observed));
            }
            if node
                .number()
                .is_none_or(|n| n <= e.control_planes || n > MAX_NODES)
            {
                return Err(Error::NotAWorker(node.clone()));
            }
            if e.nodes.contains_key(node) || e.unfinished.contains(node) {
                return Err(Error::NodeExists(node.clone()));
            }
            e.unfinished.push(node.clone());
        }
        for (name, text, percent) in ADDITION {
            let stage = self.stage(name, text, percent, progress).await;
            if stage.is_err() {
                if let Some(e) = lock(&self.0.environments).get_mut(id) {
                    e.unfinished.retain(|n| n != node);
                }
                return stage;
            }
        }
        let mut all = lock(&self.0.environments);
        let e = all
            .get_mut(id)
            .ok_or_else(|| Error::failed("boot", "it was destroyed in the meantime"))?;
        e.unfinished.retain(|n| n != node);
        e.nodes
            .insert(node.clone(), Arc::new(Guest::new(node.clone())));
        Ok(())
    }

    async fn remove_node(&self, id: &TenantId, node: &NodeName, progress: &Progress) -> Result<()> {
        {
            let all = lock(&self.0.environments);
            let e = all.get(id).ok_or(Error::NotFound)?;
            if node.number().is_some_and(|n| n <= e.control_planes) {
                return Err(Error::NotAWorker(node.clone()));
            }
            if !e.nodes.contains_key(node) && !e.unfinished.contains(node) {
                return Ok(());
            }
        }
        self.stage("leave", "powering off the machine", 20, progress)
            .await?;
        if let Some(e) = lock(&self.0.environments).get_mut(id) {
            e.nodes.remove(node);
            e.unfinished.retain(|n| n != node);
        }
        Ok(())
    }

    /// Creates a file in `/run/images`.
    async fn load_image(
        &self,
        id: &TenantId,
        nodes: &[NodeName],
        image: &ContainerImage,
    ) -> Result<()> {
        for node in nodes {
            let (guest, access) = self.guest(id, node)?;
            if access.observed != Observed::Running {
                return Err(Error::WrongState(access.observed));
            }
            guest.write_file(&format!("/run/images/{}", image.name), 0o644, Vec::new());
        }
        Ok(())
    }

    async fn open(&self, id: &TenantId, node: &NodeName, target: Target) -> Result<Stream> {
        let (guest, access) = self.guest(id, node)?;
        match access.observed {
            Observed::Running => {}
            Observed::Paused => return Err(Error::WrongState(Observed::Paused)),
            Observed::Absent | Observed::Broken | Observed::Unknown => {
                return Err(Error::Unreachable("the node is dead".to_owned()));
            }
        }
        if let Target::Port(port) = target
            && let Some(stream) = self.0.accepted(id, node, port, &access.life)
        {
            return Ok(Box::new(stream));
        }
        if let Target::Port(port) = target
            && guest.read_file(&format!("/run/listen/{port}")).is_none()
        {
            return Err(Error::Unreachable(format!(
                "connection to port {port} refused"
            )));
        }
        let (ours, theirs) = tokio::io::duplex(256 * 1024);
        self.0.tasks.spawn(async move {
            let serve = async {
                // The other end notices a broken stream itself.
                let _ = match target {
                    Target::Guest => guest.serve(theirs).await,
                    Target::Console => guest.console(theirs).await,
                    Target::Port(_) => echo(theirs).await,
                };
            };
            access.life.run_until_cancelled(serve).await;
        });
        Ok(Box::new(ours))
    }

    async fn api(&self, id: &TenantId, _: &Identity) -> Result<ApiAccess> {
        let all = lock(&self.0.environments);
        let e = all.get(id).ok_or(Error::NotFound)?;
        let api = lock(&self.0.clusters).clone();
        let api = api.filter(|_| e.is_cluster).ok_or(Error::NotFound)?;
        let own = e.nodes.keys().take(e.control_planes as usize);
        let server = |node: &NodeName| -> Arc<dyn crate::api::ApiServer> {
            Arc::new(OnNode {
                provider: self.clone(),
                tenant: id.clone(),
                node: node.clone(),
                port: API_PORT,
            })
        };
        Ok(ApiAccess {
            servers: own.map(server).collect(),
            server_name: "kubernetes".to_owned(),
            authority: api.authority,
            credential: Credential::Certificate(api.credential),
            namespace: None,
        })
    }

    async fn usage(&self, id: &TenantId) -> Result<Usage> {
        let all = lock(&self.0.environments);
        let e = all.get(id).ok_or(Error::NotFound)?;
        let nodes = e.nodes.len() as u64;
        Ok(Usage {
            private_bytes: nodes * NODE_MIB * 1024 * 1024,
            cpu_millis: lock(&self.0.cpu_millis)
                .get(id)
                .copied()
                .unwrap_or(nodes * 1200),
            disk_bytes: nodes * 12 * 1024 * 1024,
        })
    }
}

impl Inner {
    /// Connects to a port, if a test listens on it. The stream ends with `life`.
    fn accepted(
        &self,
        id: &TenantId,
        node: &NodeName,
        port: u16,
        life: &CancellationToken,
    ) -> Option<DuplexStream> {
        let (ours, mut near) = tokio::io::duplex(256 * 1024);
        let (mut far, theirs) = tokio::io::duplex(256 * 1024);
        let key = (id.clone(), node.clone(), port);
        lock(&self.listeners).get(&key)?.send(theirs).ok()?;
        let life = life.clone();
        self.tasks.spawn(async move {
            // Both ends notice a broken stream themselves.
            let carried = tokio::io::copy_bidirectional(&mut near, &mut far);
            let _ = life.run_until_cancelled(carried).await;
        });
        Some(ours)
    }

    /// Sends a change to all receivers.
    fn tell(&self, id: &TenantId, observed: Observed) {
        let _ = self.changes.0.send((id.clone(), observed));
    }
}

fn set(inner: &Inner, id: &TenantId, to: Observed) -> Result<()> {
    let mut all = lock(&inner.environments);
    let e = all.get_mut(id).ok_or(Error::NotFound)?;
    if e.observed == Observed::Broken {
        return Err(Error::WrongState(Observed::Broken));
    }
    if e.observed != to {
        e.observed = to;
        inner.tell(id, to);
    }
    Ok(())
}

async fn echo(stream: tokio::io::DuplexStream) -> std::io::Result<()> {
    let (mut read, mut write) = tokio::io::split(stream);
    tokio::io::copy(&mut read, &mut write).await.map(|_| ())
}

#[cfg(test)]
mod tests;
