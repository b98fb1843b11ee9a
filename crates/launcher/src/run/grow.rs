//! Adding and removing nodes while the environment runs.
//!
//! ```text
//! add     name in spec.json ─► limits ─► disk ─► tap ─► QEMU ─► boot ─► identity ─► in the list of nodes
//! remove  out of the list of nodes ─► tap ─► QEMU ─► files ─► name in spec.json ─► limits
//! ```
//!
//! If adding a node fails, or the client disconnects, what was made is removed in the reverse order. `spec.json`
//! contains a node's name before anything else of it exists, and until nothing else of it is left.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, PoisonError},
    time::Duration,
};

use faultline_domain::{
    NodeName,
    progress::{Event, Progress},
    shape::MAX_NODES,
};
use faultline_guest::{client as guest, wire::Exec};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{io::AsyncReadExt, net::UnixStream, sync::mpsc};

use super::{At, Failure, Identity, LINK_AFTER_BOOT, Launcher, answer, refuse, write_line};
use crate::{
    cgroup, net,
    node::Node,
    protocol::{Answer, Notification, Refusal, RefusalKind},
    qemu,
    spec::{AddedNode, LaunchSpec, Start},
};

/// The stage for everything before the machine boots.
const POWER_ON: &str = "power-on";
/// How long to wait for a booted node's services, in seconds. The node is used even if they are not up then.
const SETTLE: u32 = 600;
/// How long QEMU may take to exit by itself.
const QUIT: Duration = Duration::from_secs(5);

/// The QEMU that was started for a node, to be killed if adding the node fails.
#[derive(Default)]
struct StartedQemu(std::sync::Mutex<Option<OwnedFd>>);

impl StartedQemu {
    fn set(&self, pid: Option<u32>) {
        let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let held = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }

    /// Kills the QEMU and waits until it has exited.
    async fn kill(&self) {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(qemu) = held else { return };
        let gone = async {
            while pidfd_send_signal(&qemu, Signal::KILL).is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(QUIT, gone).await;
    }
}

/// Returns the spec for booting a node next to cloned ones: with the same kernel, and an overlay on the image's disk.
pub(super) fn boot_spec(spec: &LaunchSpec) -> LaunchSpec {
    let (kernel, initrd) = match &spec.start {
        Start::Clone { snapshot } => (snapshot.join("kernel"), snapshot.join("initrd")),
        Start::Boot { kernel, initrd, .. } => (kernel.clone(), initrd.clone()),
    };
    LaunchSpec {
        nodes: spec.all_nodes().cloned().collect(),
        start: Start::Boot {
            kernel,
            initrd,
            freeze_to: None,
        },
        saved: None,
        ..spec.clone()
    }
}

impl Launcher {
    /// Adds a node and reports progress to the client.
    pub(super) async fn add_node(
        &self,
        mut stream: UnixStream,
        added: AddedNode,
    ) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        let index = match self.may_add(&added) {
            Ok(index) => index,
            Err(refusal) => return refuse(&mut stream, refusal).await,
        };
        answer(&mut stream, &Answer::Done).await?;
        let (mut from, mut to) = stream.into_split();
        let (tell, mut told) = mpsc::unbounded_channel::<Event>();
        let progress = Progress::new(move |event| {
            let _ = tell.send(event);
        });
        let started_qemu = StartedQemu::default();
        let work = async {
            let made = self.power_on(&added, index, &started_qemu, &progress).await;
            drop(progress);
            made
        };
        let relay = async {
            while let Some(event) = told.recv().await {
                let _ = write_line(&mut to, &Notification::Event { event }).await;
            }
        };
        let hung_up = async {
            let mut byte = [0];
            while matches!(from.read(&mut byte).await, Ok(1..)) {}
        };
        let made = tokio::select! {
            (made, ()) = async { tokio::join!(work, relay) } => made,
            () = hung_up => Err(Failure {
                stage: POWER_ON,
                reason: "the client has disconnected".to_owned(),
            }),
        };
        let last = match made {
            Ok(node) => {
                tracing::info!(node = %node.name, "added");
                self.nodes
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(node);
                Notification::Ready
            }
            Err(Failure { stage, reason }) => {
                tracing::warn!(node = %added.node.name, stage, reason, "not added");
                net::remove_tap(index);
                started_qemu.kill().await;
                self.forget(&added.node.name);
                Notification::Failed {
                    stage: stage.to_owned(),
                    reason,
                }
            }
        };
        write_line(&mut to, &last).await
    }

    /// Returns the index of the node, if it may be added now.
    fn may_add(&self, added: &AddedNode) -> Result<usize, Refusal> {
        let (spec, name) = (self.spec(), &added.node.name);
        let planes = usize::try_from(spec.control_planes).unwrap_or(usize::MAX);
        let index = added
            .index()
            .filter(|index| *index > planes)
            .ok_or_else(|| {
                Refusal::new(
                    RefusalKind::NotAWorker,
                    format!("{name} can't be used as a worker's name in this environment"),
                )
            })?;
        self.ensure_running()?;
        if spec.all_nodes().any(|node| node.name == *name) {
            let reason = format!("{name} exists already");
            return Err(Refusal::new(RefusalKind::NodeExists, reason));
        }
        if spec.all_nodes().count() >= usize::try_from(MAX_NODES).unwrap_or(5) {
            return Err(format!("an environment has at most {MAX_NODES} nodes").into());
        }
        match spec.start {
            Start::Boot {
                freeze_to: Some(_), ..
            } => Err("nodes can't be added while a template is being baked"
                .to_owned()
                .into()),
            _ => Ok(index),
        }
    }

    async fn power_on(
        &self,
        added: &AddedNode,
        index: usize,
        started_qemu: &StartedQemu,
        progress: &Progress,
    ) -> Result<Arc<Node>, Failure> {
        let name = &added.node.name;
        let stage = progress.stage(POWER_ON, format!("Powering on {name}"));
        let mut spec = self.spec();
        spec.added.push(added.clone());
        self.keep(spec.clone()).at(POWER_ON)?;
        cgroup::limit(&spec.id, &spec.current_limits()).at(POWER_ON)?;
        let machine = boot_spec(&spec);
        self.make_disk(&machine, &added.node).at(POWER_ON)?;
        let tap = net::add_tap(index, spec.limits.bandwidth_mbit).at(POWER_ON)?;
        let started = qemu::start(&machine, &self.dir, &added.node, index, tap).at(POWER_ON)?;
        started_qemu.set(started.child.id());
        let node = Node::adopt(name.clone(), index, started, self.changes.clone())
            .await
            .map_err(|e| Failure {
                stage: POWER_ON,
                reason: format!("{e}; {}", self.qemu_log(name)),
            })?;
        stage.done();
        let stage = progress.stage("boot", format!("Booting {name} until its services are up"));
        let failed = |reason| Failure {
            stage: "boot",
            reason,
        };
        let died = async {
            while node.is_alive() {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let booted = async {
            self.settle(&node).await;
            stage.update(Some(0.9), "giving it its own identity");
            self.refresh(&node, Identity::New, LINK_AFTER_BOOT).await
        };
        tokio::select! {
            booted = booted => booted.map_err(failed)?,
            () = died => return Err(failed(self.qemu_log(name))),
        }
        stage.done();
        Ok(Arc::new(node))
    }

    /// Waits until a booted node's services are up: its identity must not change while they start.
    async fn settle(&self, node: &Node) {
        let Some(link) = node.link(LINK_AFTER_BOOT).await else {
            return;
        };
        let Ok(stream) = link.open().await else {
            return;
        };
        let wait = Exec {
            argv: ["systemctl", "is-system-running", "--wait"]
                .map(Into::into)
                .to_vec(),
            timeout_seconds: Some(SETTLE),
            ..Exec::default()
        };
        match guest::run(stream, wait, 1024).await {
            Ok(done) if done.code == 0 => {}
            Ok(done) => {
                let state = String::from_utf8_lossy(&done.stdout).trim().to_owned();
                tracing::warn!(node = %node.name, state, "a service did not start");
            }
            Err(e) => {
                tracing::warn!(node = %node.name, error = %e, "waiting for its services failed")
            }
        }
    }

    /// Removes a worker. Succeeds if it doesn't exist.
    pub(super) async fn remove_node(&self, name: &NodeName) -> Result<(), Refusal> {
        let _turn = self.turn.lock().await;
        let spec = self.spec();
        if !spec.all_nodes().any(|node| node.name == *name) {
            return Ok(());
        }
        let Some(number) = name.number().filter(|n| *n > spec.control_planes) else {
            let reason = format!("{name} is a control plane; it can't be removed");
            return Err(Refusal::new(RefusalKind::NotAWorker, reason));
        };
        self.ensure_complete()?;
        // Before QEMU ends, so that its end doesn't count as a death.
        let gone: Vec<Arc<Node>> = {
            let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
            nodes.extract_if(.., |node| node.name == *name).collect()
        };
        net::remove_tap(usize::try_from(number).unwrap_or_default());
        for node in gone {
            end(&node).await;
        }
        self.forget(name);
        tracing::info!(node = %name, "removed");
        Ok(())
    }

    /// Removes a node's files, its name, and its share of the limits.
    fn forget(&self, name: &NodeName) {
        for kind in ["qcow2", "mem", "state", "qemu.log"] {
            match std::fs::remove_file(self.dir.join(format!("{name}.{kind}"))) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(node = %name, kind, error = %e, "removing a file failed");
                }
                _ => {}
            }
        }
        let mut spec = self.spec();
        spec.nodes.retain(|node| node.name != *name);
        spec.added.retain(|added| added.node.name != *name);
        let limits = spec.current_limits();
        if let Err(e) = self.keep(spec) {
            tracing::warn!(node = %name, error = %e, "removing its name from spec.json failed");
        }
        // The kernel refuses a limit below the current usage; then the old limit stays.
        if let Err(e) = cgroup::limit(&self.id, &limits) {
            tracing::warn!(error = %e, "lowering the limits failed");
        }
    }

    /// Stores a new spec, on disk and in memory. Fails if the environment is being freed.
    pub(super) fn keep(&self, spec: LaunchSpec) -> io::Result<()> {
        if !self.claim.is_valid() {
            return Err(io::Error::other("the environment is being freed"));
        }
        spec.save(&self.dir)?;
        *self.spec.lock().unwrap_or_else(PoisonError::into_inner) = spec;
        Ok(())
    }
}

/// Ends a node's QEMU: asks it to quit, so that it closes its files, and kills it if that takes too long.
async fn end(node: &Node) {
    let ended = async {
        while node.is_alive() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let quit = async {
        let _ = node.qmp.run("quit", serde_json::Value::Null).await;
        ended.await;
    };
    if tokio::time::timeout(QUIT, quit).await.is_err() {
        let started_qemu = StartedQemu::default();
        started_qemu.set(node.is_alive().then_some(node.pid));
        started_qemu.kill().await;
    }
}

#[cfg(test)]
mod tests {
    use faultline_domain::limits::Limits;

    use super::*;
    use crate::{
        claim::Claim,
        spec::{Accelerator, Machine, NodeSpec},
    };

    const LIMITS: Limits = Limits {
        cpu_millis: 1000,
        memory_mib: 512,
        pids: 128,
        disk_mib_s: 200,
        disk_iops: 4000,
        bandwidth_mbit: 100,
    };

    fn node(name: &str) -> NodeSpec {
        NodeSpec {
            name: name.parse().unwrap(),
            machine: Machine {
                accelerator: Accelerator::Tcg,
                vcpus: 1,
                memory_mib: 256,
                disk_mib: 4096,
            },
        }
    }

    fn added(name: &str) -> AddedNode {
        AddedNode {
            node: node(name),
            share: LIMITS,
        }
    }

    fn launcher(dir: &std::path::Path, nodes: &[&str], planes: u32) -> Arc<Launcher> {
        let spec = LaunchSpec {
            id: "grow-test".parse().unwrap(),
            user: None,
            nodes: nodes.iter().map(|name| node(name)).collect(),
            added: Vec::new(),
            control_planes: planes,
            start: Start::Clone {
                snapshot: "/snapshot".into(),
            },
            saved: None,
            kvm_cpu: crate::qemu::KVM_CPU.to_owned(),
            base_disk: "/disk".into(),
            limits: LIMITS,
            egress: Vec::new(),
        };
        spec.save(dir).unwrap();
        let host = std::fs::File::open("/proc/self/ns/net").unwrap();
        Launcher::new(dir, host, Claim::open(dir).unwrap(), spec)
    }

    #[test]
    fn only_a_further_worker_is_added_and_only_to_what_runs() {
        let dir = tempfile::tempdir().unwrap();
        let it = launcher(dir.path(), &["node1", "node2"], 1);
        assert_eq!(
            it.may_add(&added("node3")).unwrap_err().why,
            RefusalKind::Starting
        );
        it.set_started(Ok(()));
        assert_eq!(it.may_add(&added("node3")), Ok(3));
        for (name, why) in [
            ("node1", RefusalKind::NotAWorker),
            ("node2", RefusalKind::NodeExists),
            ("node6", RefusalKind::NotAWorker),
            ("other", RefusalKind::NotAWorker),
        ] {
            assert_eq!(it.may_add(&added(name)).unwrap_err().why, why, "{name}");
        }
        let full = launcher(
            dir.path(),
            &["node1", "node2", "node3", "node4", "node5"],
            3,
        );
        full.set_started(Ok(()));
        assert!(full.may_add(&added("node2")).is_err());
    }

    #[test]
    fn what_boots_beside_clones_has_their_kernel_and_no_template() {
        let dir = tempfile::tempdir().unwrap();
        let mut spec = launcher(dir.path(), &["node1"], 1).spec();
        spec.added.push(added("node3"));
        let machine = boot_spec(&spec);
        assert_eq!(machine.nodes.len(), 2);
        assert_eq!(
            machine.start,
            Start::Boot {
                kernel: "/snapshot/kernel".into(),
                initrd: "/snapshot/initrd".into(),
                freeze_to: None
            }
        );
    }

    #[tokio::test]
    async fn a_removed_node_leaves_no_file_and_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let it = launcher(dir.path(), &["node1"], 1);
        it.set_started(Ok(()));
        let mut spec = it.spec();
        spec.added.push(added("node2"));
        it.keep(spec).unwrap();
        let of_disk = LaunchSpec::load(dir.path()).unwrap();
        assert_eq!(of_disk.added.len(), 1, "whoever comes later knows it");
        for kind in ["qcow2", "mem", "state", "qemu.log"] {
            std::fs::write(dir.path().join(format!("node2.{kind}")), "x").unwrap();
        }
        assert!(it.remove_node(&"node1".parse().unwrap()).await.is_err());
        let two: NodeName = "node2".parse().unwrap();
        it.forget(&two);
        it.remove_node(&two).await.unwrap();
        assert!(LaunchSpec::load(dir.path()).unwrap().added.is_empty());
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn what_is_being_freed_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let it = launcher(dir.path(), &["node1"], 1);
        std::fs::remove_file(LaunchSpec::path(dir.path())).unwrap();
        assert!(it.keep(it.spec()).is_err());
        assert!(!LaunchSpec::path(dir.path()).exists());
    }
}
