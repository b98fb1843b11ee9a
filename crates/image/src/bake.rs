//! The stage `bake`: boots an image once, lets it settle, and freezes it with its memory.
//!
//! A bake also tests KVM (`launcher/src/accel.rs`). If it succeeds under KVM, this is recorded. If it fails, it is
//! repeated under emulation, and if that succeeds, KVM is not used on this machine any more.

mod failure;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use faultline_domain::{
    NodeName, TemplateRef, TenantId, limits::Limits, memory::Memory, progress::Progress,
};
use faultline_guest::{client, wire::Exec};
use faultline_launcher::{
    accel::{self, Kvm, Verdict, machine_identity, processor_name},
    cgroup, client as launcher,
    protocol::{Channel, NodeStatus, SOCKET},
    qemu,
    snapshot::{Manifest, checksum},
    spec::{Accelerator, LaunchSpec, Machine, NodeSpec, Start},
    user,
};

use self::failure::{Cause, Failure};
use crate::{
    Error, Result, at,
    build::{Image, build},
    cache::{Cache, Key, free},
    recipe::{BakeStep, On, Recipe},
    steps::Place,
};

const STAGE: &str = "bake";
/// The file in a template's folder with the description of its cluster, see [`Recipe::describe`].
const DESCRIPTION: &str = "cluster.json";
/// The parent of the launchers' folders.
pub const RUN: &str = "/run/faultline";

/// A template that environments are cloned from.
#[derive(Debug, Clone)]
pub struct Template {
    /// The image that it was made from.
    pub image: Image,
    /// The snapshot's folder.
    pub snapshot: PathBuf,
    /// The snapshot's manifest.
    pub manifest: Manifest,
}

impl Template {
    /// Returns the description of its cluster, as printed by [`Recipe::describe`]; `None` without a cluster.
    #[must_use]
    pub fn description(&self) -> Option<String> {
        std::fs::read_to_string(self.snapshot.join(DESCRIPTION)).ok()
    }
}

/// Returns the limits of an environment with these nodes: the sum of what its machines may use.
#[must_use]
pub fn limits(nodes: &[NodeSpec]) -> Limits {
    let count = u32::try_from(nodes.len()).unwrap_or(1);
    let memory: u32 = nodes
        .iter()
        .map(|n| n.machine.memory_mib + qemu::overhead_mib(&n.machine))
        .sum();
    Limits {
        cpu_millis: nodes.iter().map(|n| n.machine.vcpus * 1000).sum(),
        memory_mib: memory + 128,
        pids: 64 * count + 64,
        disk_mib_s: Limits::DISK_MIB_S,
        disk_iops: Limits::DISK_IOPS,
        bandwidth_mbit: 100,
    }
}

/// The plan of a bake.
#[derive(Debug, Clone)]
struct Plan {
    /// The content address.
    key: String,
    /// The nodes and their machines.
    nodes: Vec<NodeSpec>,
    /// Whether KVM is used, and why.
    verdict: Verdict,
}

/// Returns the folder where the verdict on KVM is stored.
#[must_use]
pub fn accelerator(cache: &Cache) -> PathBuf {
    cache.folder().join("accelerator")
}

fn verdict(image: &Image, cache: &Cache) -> Result<Verdict> {
    at(STAGE, accel::detect(&image.kernel(), &accelerator(cache)))
}

/// Plans the bake of a built image as this template on this machine.
fn plan(recipe: &Recipe, image: &Image, of: &TemplateRef, verdict: Verdict) -> Result<Plan> {
    let nodes: Vec<NodeSpec> = (1..)
        .zip(of.shape.node_names())
        .map(|(index, name)| {
            let machine = match recipe.worker {
                Some(worker) if !of.shape.is_control_plane(index) => worker,
                _ => recipe.machine,
            };
            NodeSpec {
                name,
                machine: Machine {
                    accelerator: verdict.accelerator(),
                    vcpus: machine.vcpus,
                    memory_mib: machine.memory_mib,
                    disk_mib: machine.disk_mib,
                },
            }
        })
        .collect();
    // Under emulation, the processor is QEMU's and only its clock is this machine's. Under KVM, all of it is this
    // machine's, so that a snapshot can only be used here.
    let processor = match verdict.accelerator() {
        Accelerator::Tcg => format!(
            "{} {} {}",
            at(STAGE, qemu::version())?,
            qemu::TCG_CPU,
            processor_name()
        ),
        Accelerator::Kvm => format!("{} {}", at(STAGE, machine_identity())?, verdict.kvm_cpu()),
    };
    let key = Key::default()
        .with("image", &image.key)
        .with("nodes", format!("{} {nodes:?}", of.form()))
        .with("processor", processor)
        .with("arguments", qemu::GENERATION)
        .with("link", faultline_guest::wire::VERSION.to_string())
        .with("bake", format!("{:?}", recipe.bake))
        .with("describe", format!("{:?}", recipe.describe))
        .with("warm", recipe.warm.join("\n"))
        .with("moment", format!("{:?}", recipe.moment))
        .finish();
    Ok(Plan {
        key,
        nodes,
        verdict,
    })
}

/// Returns the template of a recipe if it was baked already. Quick.
pub fn find(recipe: &Recipe, of: &TemplateRef, cache: &Cache) -> Result<Option<Template>> {
    let key = crate::build::image_key(recipe)?;
    let Some(folder) = cache.get("disk", &key) else {
        return Ok(None);
    };
    let image = Image { key, folder };
    let plan = plan(recipe, &image, of, verdict(&image, cache)?)?;
    Ok(cache.get(STAGE, &plan.key).and_then(|snapshot| {
        let manifest = Manifest::load(&snapshot).ok()?;
        Some(Template {
            image,
            snapshot,
            manifest,
        })
    }))
}

/// Builds and bakes a template unless it is in the cache. `program` is the faultline program, which is run as the
/// launcher.
pub async fn bake(
    recipe: &Recipe,
    of: &TemplateRef,
    cache: &Cache,
    program: &std::path::Path,
    progress: &Progress,
) -> Result<Template> {
    let image = {
        let (recipe, cache, progress) = (recipe.clone(), cache.clone(), progress.clone());
        tokio::task::spawn_blocking(move || build(&recipe, &cache, &progress))
            .await
            .map_err(|e| Error::Stage {
                stage: "disk",
                reason: e.to_string(),
            })??
    };
    let (first, _lock) = loop {
        let first = plan(recipe, &image, of, verdict(&image, cache)?)?;
        let lock = lock(cache, &first.key).await?;
        // The previous holder of the lock may have recorded a verdict on KVM.
        if verdict(&image, cache)? == first.verdict {
            break (first, lock);
        }
    };
    let make = async |plan: &Plan| make(plan, recipe, &image, of, cache, program, progress).await;
    let record = |kvm: &Kvm| {
        at(
            STAGE,
            accel::record(&image.kernel(), &accelerator(cache), kvm),
        )
    };
    let what = format!("{}, shape {},", recipe.name, of.form());
    let is_new = cache.get(STAGE, &first.key).is_none();
    let failure = match make(&first).await {
        Ok(template) => {
            // Another bake may have recorded a verdict in the meantime.
            if is_new && let Kvm::FirstWord { cpu } = verdict(&image, cache)?.kvm {
                record(&Kvm::Works { cpu, image: what })?;
            }
            return Ok(template);
        }
        Err(failure) if failure.may_be_caused_by_kvm(&first.verdict) => failure,
        Err(failure) => return Err(failure.error),
    };
    let reason = format!(
        "image {what} could not be baked under KVM: {}",
        failure.summary()
    );
    tracing::warn!("{reason}; the bake is repeated under emulation");
    let kvm = Kvm::Fails { reason };
    let second = plan(recipe, &image, of, Verdict::of(kvm.clone()))?;
    let _lock_too = lock(cache, &second.key).await?;
    match make(&second).await {
        Ok(template) => record(&kvm).map(|()| template),
        // KVM is not the only cause, if it is one.
        Err(Failure { error, .. }) => Err(Error::Stage {
            stage: STAGE,
            reason: format!("under KVM: {}\nunder emulation: {error}", failure.error),
        }),
    }
}

/// Locks the plan's result. Waits for another bake of it.
async fn lock(cache: &Cache, key: &str) -> Result<std::fs::File> {
    let (cache, key) = (cache.clone(), key.to_owned());
    let lock = tokio::task::spawn_blocking(move || cache.lock(STAGE, &key)).await;
    at(STAGE, lock.map_err(std::io::Error::other).and_then(|l| l))
}

/// Bakes as planned unless the result is in the cache. Call it with the lock on the plan's key held.
async fn make(
    plan: &Plan,
    recipe: &Recipe,
    image: &Image,
    of: &TemplateRef,
    cache: &Cache,
    program: &std::path::Path,
    progress: &Progress,
) -> Result<Template, Failure> {
    let doing = match cache.get(STAGE, &plan.key) {
        Some(_) => "the template".to_owned(),
        None => format!(
            "booting once and freezing ({}: {})",
            plan.verdict.accelerator().as_str(),
            plan.verdict.kvm
        ),
    };
    let stage = progress.stage(
        STAGE,
        format!("Image {}, shape {}: {doing}", recipe.name, of.form()),
    );
    let found = |snapshot: PathBuf| -> Result<Template> {
        let manifest = at(STAGE, Manifest::load(&snapshot))?;
        Ok(Template {
            image: image.clone(),
            snapshot,
            manifest,
        })
    };
    if let Some(snapshot) = cache.get(STAGE, &plan.key) {
        let template = found(snapshot.clone())?;
        stage.cached();
        return Ok(template);
    }
    sweep();
    cache.sweep(STAGE);
    let draft = at(STAGE, cache.draft(STAGE, &plan.key))?;
    ensure_free_space(&draft, &plan.nodes)?;
    // Unique to this bake: another one of the same key, with another cache, has another id.
    let id = format!(
        "bake-{}-{:06x}",
        plan.key.get(..8).unwrap_or("x"),
        rand::random::<u32>() >> 8
    );
    let id: TenantId = id.parse().map_err(|_| Error::Stage {
        stage: STAGE,
        reason: "malformed key".to_owned(),
    })?;
    let kvm_cpu = plan.verdict.kvm_cpu();
    let dir = at(STAGE, folder(&id))?;
    let spec = LaunchSpec {
        id: id.clone(),
        user: Some(at(STAGE, user::allocate(&BTreeSet::new()))?),
        nodes: plan.nodes.clone(),
        added: Vec::new(),
        control_planes: of.shape.control_planes(),
        start: Start::Boot {
            kernel: image.kernel(),
            initrd: image.initrd(),
            freeze_to: Some(draft.clone()),
        },
        saved: None,
        kvm_cpu: kvm_cpu.to_owned(),
        base_disk: image.disk(),
        limits: limits(&plan.nodes),
        egress: Vec::new(),
    };
    at(STAGE, spec.save(&dir))?;
    let log = draft.join("bake.log");
    let place = Place {
        dir: &dir,
        template: of,
        node: None,
        log: Some(&log),
    };
    let result = power_on(&spec, place, program, recipe, &stage).await;
    clear(&id, &dir);
    let (cold_shell_millis, cold_boot_millis) = result.map_err(|e| {
        let e = with_disk_full_hint(e, &draft);
        // Keep the log, but free the disk space of the machines.
        for node in &spec.nodes {
            for what in ["mem", "state", "qcow2"] {
                let _ = std::fs::remove_file(draft.join(format!("{}.{what}", node.name)));
            }
        }
        e
    })?;
    stage.update(Some(0.95), "checksums");
    let manifest = Manifest {
        key: plan.key.clone(),
        nodes: plan.nodes.clone(),
        control_planes: of.shape.control_planes(),
        qemu: at(STAGE, qemu::version())?,
        kvm_cpu: kvm_cpu.to_owned(),
        cold_boot_millis,
        cold_shell_millis,
        files: std::collections::BTreeMap::default(),
        image: image.key.clone(),
        base_disk: at(STAGE, checksum(&image.disk()))?,
    };
    at(STAGE, manifest.seal(&draft))?;
    let snapshot = at(STAGE, cache.keep(&draft, STAGE, &plan.key))?;
    stage.done();
    Ok(found(snapshot)?)
}

/// Removes the folders and control groups that killed bakes left. Their processes ended with them.
fn sweep() {
    // A bake that has just begun has no process in its control group yet.
    const YOUNG: Duration = Duration::from_secs(60);
    for entry in std::fs::read_dir(RUN).into_iter().flatten().flatten() {
        let id = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<TenantId>().ok());
        let age = entry
            .metadata()
            .and_then(|m| m.modified())
            .map(|at| at.elapsed());
        if let (Some(id), Ok(Ok(age))) = (id, age)
            && id.as_str().starts_with("bake-")
            && age > YOUNG
            && !cgroup::is_populated(&id)
        {
            clear(&id, &entry.path());
        }
    }
}

/// Makes a folder for the launcher. Its path is short, since the length of a socket's path is limited, and only root
/// can write there, so that nobody else can have made it before.
fn folder(id: &TenantId) -> std::io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::create_dir_all(RUN)?;
    let dir = PathBuf::from(RUN).join(id.as_str());
    std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
    Ok(dir)
}

/// Ends the child process when this process ends, so that a killed build leaves no machines.
trait WithParentDeath {
    fn with_parent_death(&mut self) -> &mut Self;
}

impl WithParentDeath for tokio::process::Command {
    fn with_parent_death(&mut self) -> &mut Self {
        // SAFETY: one async-signal-safe system call.
        unsafe {
            self.pre_exec(|| {
                Ok(rustix::process::set_parent_process_death_signal(Some(
                    rustix::process::Signal::KILL,
                ))?)
            })
        }
    }
}

/// Measures a cold start, which a clone avoids: brings an image's machines from power-on to the state that is frozen,
/// and ends them. Returns the milliseconds to the first shells and to the settled state.
pub async fn cold(
    recipe: &Recipe,
    template: &Template,
    of: &TemplateRef,
    program: &std::path::Path,
    progress: &Progress,
) -> Result<(u64, u64)> {
    let id: TenantId = format!("bake-cold-{:06x}", rand::random::<u32>() >> 8)
        .parse()
        .map_err(|_| Error::Stage {
            stage: STAGE,
            reason: "malformed key".to_owned(),
        })?;
    let dir = at(STAGE, folder(&id))?;
    let nodes = template.manifest.nodes.clone();
    let spec = LaunchSpec {
        id: id.clone(),
        user: Some(at(STAGE, user::allocate(&BTreeSet::new()))?),
        limits: limits(&nodes),
        nodes,
        added: Vec::new(),
        control_planes: of.shape.control_planes(),
        start: Start::Boot {
            kernel: template.image.kernel(),
            initrd: template.image.initrd(),
            freeze_to: None,
        },
        saved: None,
        kvm_cpu: template.manifest.kvm_cpu.clone(),
        base_disk: template.image.disk(),
        egress: Vec::new(),
    };
    at(STAGE, spec.save(&dir))?;
    let place = Place {
        dir: &dir,
        template: of,
        node: None,
        log: None,
    };
    let what = format!("Image {}, shape {}: a cold start", recipe.name, of.form());
    let stage = progress.stage("cold start", what);
    let result = power_on(&spec, place, program, recipe, &stage).await;
    clear(&id, &dir);
    let millis = result.map_err(|failure| failure.error)?;
    stage.done();
    Ok(millis)
}

/// Fails if there is not enough memory or disk space for a bake. Without this check, its machines would die without an
/// error message.
fn ensure_free_space(draft: &std::path::Path, nodes: &[NodeSpec]) -> Result<()> {
    /// The amount that a node writes to its disk until it is frozen, in MiB.
    const OVERLAY: u64 = 512;
    let need: u64 = nodes
        .iter()
        .map(|n| u64::from(n.machine.memory_mib) + OVERLAY)
        .sum();
    let free = at(STAGE, free(draft))? >> 20;
    let memory = u64::from(limits(nodes).memory_mib);
    let meminfo = at(STAGE, std::fs::read_to_string("/proc/meminfo"))?;
    // If the kernel doesn't report it, assume that there is enough.
    let spare = Memory::parse(&meminfo).map_or(u64::MAX, |m| m.available_mib);
    let reason = if free < need {
        format!(
            "a template needs {need} MiB of disk space, and {} has {free} MiB free; free some space there, or set FAULTLINE_CACHE to another folder",
            draft.parent().unwrap_or(draft).display()
        )
    } else if spare < memory {
        format!(
            "baking a template needs {memory} MiB of memory, and this machine has {spare} MiB available; \
             end environments and build again"
        )
    } else {
        return Ok(());
    };
    let _ = std::fs::remove_dir_all(draft);
    Err(Error::Stage {
        stage: STAGE,
        reason,
    })
}

/// Adds to the reason that the disk is full, if it is. A machine dies without an error message if its disk fills up.
fn with_disk_full_hint(failure: Failure, draft: &std::path::Path) -> Failure {
    match (failure.error, free(draft).map(|bytes| bytes >> 20)) {
        (Error::Stage { stage, reason }, Ok(free)) if free < 64 => Failure::from(Error::Stage {
            stage,
            reason: format!(
                "{reason}; {} has only {free} MiB free: make room there and build again",
                draft.parent().unwrap_or(draft).display()
            ),
        }),
        (error, _) => Failure { error, ..failure },
    }
}

/// Removes a bake's machines and its folder. The spec is removed first, so that a launcher that is still starting
/// doesn't find it.
fn clear(id: &TenantId, dir: &std::path::Path) {
    let _ = std::fs::remove_file(LaunchSpec::path(dir));
    let _ = cgroup::destroy(id);
    let _ = std::fs::remove_dir_all(dir);
}

async fn power_on(
    spec: &LaunchSpec,
    place: Place<'_>,
    program: &std::path::Path,
    recipe: &Recipe,
    stage: &faultline_domain::progress::Stage,
) -> Result<(u64, u64), Failure> {
    let fail = |cause, reason: String| Failure {
        cause,
        error: Error::Stage {
            stage: STAGE,
            reason,
        },
    };
    let (dir, began) = (place.dir, Instant::now());
    let millis = |began: Instant| u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let log = at(STAGE, std::fs::File::create(dir.join("launcher.log")))?;
    let mut child = at(
        STAGE,
        tokio::process::Command::new(program)
            .arg("launch")
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(at(STAGE, log.try_clone())?)
            .stderr(log)
            .kill_on_drop(true)
            .with_parent_death()
            .spawn(),
    )?;
    stage.update(Some(0.1), "powering on");
    // On a busy machine, the launcher takes a moment to check what it inherited.
    for _ in 0..6000 {
        if dir.join(SOCKET).exists() || at(STAGE, child.try_wait())?.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let log_tail = || std::fs::read_to_string(dir.join("launcher.log")).unwrap_or_default();
    let died = |node: NodeStatus| {
        let cause = match node.killed {
            true => Cause::Host,
            false => Cause::Machine,
        };
        let (name, said) = (&node.name, first_qemu_message(dir, &node.name));
        fail(
            cause,
            format!(
                "{name} has died{said}
{}",
                log_tail()
            ),
        )
    };
    // The link to a machine breaks a moment before the launcher notices that it died.
    let unless_dead = async |failure: Failure| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        find_dead_node(dir).await.map_or(failure, died)
    };
    if let Err(e) = launcher::watch(dir, &Progress::ignored()).await {
        let cause = match &e {
            launcher::Error::Failed { stage, .. } if stage == "clone" || stage == "boot" => {
                Cause::Machine
            }
            _ => Cause::Host,
        };
        let failure = fail(cause, format!("{e}\n{}", log_tail()));
        return Err(unless_dead(failure).await);
    }
    let shell = millis(began);
    let settled = tokio::select! {
        settled = settle(spec, place, recipe, stage) => settled.map(|()| millis(began)),
        // Otherwise the step that waits for it would wait until its time limit.
        node = wait_for_death(dir) => return Err(died(node)),
    };
    let settled = match settled {
        Ok(millis) => millis,
        Err(error) => {
            let cause = Cause::Guest;
            return Err(unless_dead(Failure { cause, error }).await);
        }
    };
    if freeze_to(spec).is_some() {
        stage.update(Some(0.9), "waiting three seconds, then freezing");
        tokio::time::sleep(Duration::from_secs(3)).await;
        launcher::freeze(dir)
            .await
            .map_err(|e| fail(Cause::Guest, format!("{e}\n{}", log_tail())))?;
        let _ = tokio::time::timeout(Duration::from_secs(20), child.wait()).await;
    }
    Ok((shell, settled))
}

/// Returns the folder that booting machines are to be frozen to, if any.
fn freeze_to(spec: &LaunchSpec) -> Option<&PathBuf> {
    match &spec.start {
        Start::Boot { freeze_to, .. } => freeze_to.as_ref(),
        Start::Clone { .. } => None,
    }
}

/// Returns a node whose QEMU has exited, if any.
async fn find_dead_node(dir: &std::path::Path) -> Option<NodeStatus> {
    let nodes = launcher::status(dir).await.ok()?.nodes;
    nodes.into_iter().find(|n| !n.alive)
}

/// Returns the first message of a node's QEMU, to be appended to a reason.
fn first_qemu_message(dir: &std::path::Path, node: &NodeName) -> String {
    let log = std::fs::read_to_string(dir.join(format!("{node}.qemu.log"))).unwrap_or_default();
    let first = log.lines().find(|line| !line.contains("warning: "));
    first.map_or_else(String::new, |line| format!("; QEMU said: {line}"))
}

/// Waits until a machine dies and returns its status.
async fn wait_for_death(dir: &std::path::Path) -> NodeStatus {
    loop {
        if let Some(node) = find_dead_node(dir).await {
            return node;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// Brings machines that were powered on to the state that is frozen or measured.
async fn settle(
    spec: &LaunchSpec,
    place: Place<'_>,
    recipe: &Recipe,
    stage: &faultline_domain::progress::Stage,
) -> Result<()> {
    let fail = |e: crate::steps::Failed| Error::Stage {
        stage: STAGE,
        reason: e.to_string(),
    };
    for node in &spec.nodes {
        stage.update(
            Some(0.15),
            format!("{}: waiting until it has settled", node.name),
        );
        has_settled(place.dir, &node.name).await?;
    }
    let count = recipe.bake.len().max(1);
    place
        .carry_out(&recipe.bake, |index, step, who| {
            #[expect(clippy::cast_precision_loss, reason = "a handful of steps")]
            let part = index as f64 / count as f64;
            stage.update(
                Some(0.2 + 0.6 * part),
                format!("{who}{}, step {} of {count}", step.text, index + 1),
            );
        })
        .await
        .map_err(fail)?;
    let Some(draft) = freeze_to(spec) else {
        return Ok(());
    };
    if let Some(step) = &recipe.describe {
        stage.update(Some(0.8), step.text.clone());
        let printed = place.print(step).await.map_err(fail)?;
        at(STAGE, std::fs::write(draft.join(DESCRIPTION), printed))?;
    }
    for (i, line) in recipe.warm.iter().enumerate() {
        stage.update(
            Some(0.82),
            format!("warming, {} of {}", i + 1, recipe.warm.len()),
        );
        let step = BakeStep {
            text: format!("warm command {line:?}"),
            on: On::All,
            // Errors inside a warm command are ignored: it only reads what it can.
            run: format!("set +eu +o pipefail; {line}"),
            keep: None,
            timeout_seconds: 600,
        };
        place.carry_out(&[step], |_, _, _| {}).await.map_err(fail)?;
    }
    let told = |_: usize, step: &BakeStep, who: &str| {
        stage.update(Some(0.88), format!("{who}{}", step.text));
    };
    place.carry_out(&recipe.moment, told).await.map_err(fail)
}

/// Waits until systemd reports that a booted node is running.
async fn has_settled(dir: &std::path::Path, node: &NodeName) -> Result<()> {
    let fail = |reason: String| Error::Stage {
        stage: STAGE,
        reason,
    };
    let guest = |script: &'static str, seconds: u32| async move {
        let stream = launcher::open(dir, node, Channel::Guest)
            .await
            .map_err(|e| fail(e.to_string()))?;
        let exec = Exec {
            argv: ["/bin/bash", "-c", script].map(Into::into).to_vec(),
            timeout_seconds: Some(seconds),
            ..Exec::default()
        };
        client::run(stream, exec, 16 * 1024)
            .await
            .map_err(|e| fail(e.to_string()))
    };
    let state = guest("systemctl is-system-running --wait", 600).await?;
    let word = String::from_utf8_lossy(&state.stdout).trim().to_owned();
    if word == "running" {
        return Ok(());
    }
    let failed = guest(
        "systemctl --failed --no-legend --plain; journalctl -b -p warning --no-pager | tail -n 12",
        60,
    )
    .await?;
    Err(fail(format!(
        "{node} booted, but systemd reports {word:?}: {}",
        String::from_utf8_lossy(&failed.stdout)
    )))
}
