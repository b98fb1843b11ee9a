//! Stage `bake`: an image booted once, settled, and frozen with its memory.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use faultline_domain::{EnvironmentId, NodeName, limits::Limits, progress::Progress};
use faultline_guest::{client, wire::Exec};
use faultline_launcher::{
    accel::{Verdict, detect, machine_identity},
    cgroup, client as launcher,
    protocol::{Channel, SOCKET},
    qemu,
    snapshot::Manifest,
    spec::{Accelerator, LaunchSpec, Machine, Start},
};

use crate::{
    Error, Result, at,
    build::{Image, build},
    cache::{Cache, Key},
    recipe::Recipe,
};

const STAGE: &str = "bake";
/// What QEMU needs beside its guest's memory, in MiB.
pub const QEMU_OVERHEAD_MIB: u32 = 256;

/// Where bakes have their launchers' folders.
pub const RUN: &str = "/run/faultline";

/// A template that environments are cloned from.
#[derive(Debug, Clone)]
pub struct Template {
    /// The image it was made of.
    pub image: Image,
    /// The snapshot's folder.
    pub snapshot: PathBuf,
    /// What it is.
    pub manifest: Manifest,
}

/// The limits of an environment with so many nodes of a machine.
#[must_use]
pub fn limits(machine: &Machine, nodes: u32) -> Limits {
    Limits {
        cpu_millis: machine.vcpus * nodes * 1000,
        memory_mib: (machine.memory_mib + QEMU_OVERHEAD_MIB) * nodes + 128,
        pids: 64 * nodes + 64,
        disk_mib: machine.disk_mib,
        bandwidth_mbit: 100,
    }
}

/// What would be baked, without baking it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The content address.
    pub key: String,
    /// The machine.
    pub machine: Machine,
    /// How it runs, and why.
    pub verdict: Verdict,
}

/// Finds the key of a built image's snapshot with so many nodes on this machine.
pub fn plan(recipe: &Recipe, image: &Image, nodes: &[NodeName], cache: &Cache) -> Result<Plan> {
    let verdict = at(
        STAGE,
        detect(&image.kernel(), &cache.folder().join("accelerator")),
    )?;
    let machine = Machine {
        accelerator: verdict.accelerator,
        vcpus: recipe.machine.vcpus,
        memory_mib: recipe.machine.memory_mib,
        disk_mib: recipe.machine.disk_mib,
    };
    // Under emulation the processor is QEMU's; under KVM it is this machine's, and a snapshot is of use only here.
    let processor = match verdict.accelerator {
        Accelerator::Tcg => format!("{} {}", at(STAGE, qemu::version())?, qemu::TCG_CPU),
        Accelerator::Kvm => at(STAGE, machine_identity())?,
    };
    let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
    let key = Key::default()
        .with("image", &image.key)
        .with("machine", format!("{machine:?}"))
        .with("processor", processor)
        .with("arguments", qemu::GENERATION)
        .with("link", faultline_guest::wire::VERSION.to_string())
        .with("warm", recipe.warm.join("\n"))
        .with("nodes", names.join(" "))
        .finish();
    Ok(Plan {
        key,
        machine,
        verdict,
    })
}

/// The template of a recipe with these nodes, if it was baked already. Quick.
pub fn find(recipe: &Recipe, nodes: &[NodeName], cache: &Cache) -> Result<Option<Template>> {
    let key = crate::build::image_key(recipe)?;
    let Some(folder) = cache.get("disk", &key) else {
        return Ok(None);
    };
    let image = Image { key, folder };
    let plan = plan(recipe, &image, nodes, cache)?;
    Ok(cache.get(STAGE, &plan.key).and_then(|snapshot| {
        let manifest = Manifest::load(&snapshot).ok()?;
        Some(Template {
            image,
            snapshot,
            manifest,
        })
    }))
}

/// Builds and bakes, or finds it done. `program` is the faultline program, run as the launcher.
pub async fn bake(
    recipe: &Recipe,
    nodes: &[NodeName],
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
    let plan = plan(recipe, &image, nodes, cache)?;
    let stage = progress.stage(
        STAGE,
        format!(
            "Image {}: booting once and freezing ({}: {})",
            recipe.name,
            plan.machine.accelerator.as_str(),
            plan.verdict.reason
        ),
    );
    let found = |snapshot: PathBuf| -> Result<Template> {
        let manifest = at(STAGE, Manifest::load(&snapshot))?;
        Ok(Template {
            image: image.clone(),
            snapshot,
            manifest,
        })
    };
    let _lock = {
        let (cache, key) = (cache.clone(), plan.key.clone());
        let lock = tokio::task::spawn_blocking(move || cache.lock(STAGE, &key)).await;
        at(STAGE, lock.map_err(std::io::Error::other).and_then(|l| l))?
    };
    if let Some(snapshot) = cache.get(STAGE, &plan.key) {
        let template = found(snapshot.clone())?;
        stage.cached();
        return Ok(template);
    }
    let draft = at(STAGE, cache.draft(STAGE, &plan.key))?;
    // Of this bake alone: another of the same key, with another cache, has its own.
    let id = format!(
        "bake-{}-{:06x}",
        plan.key.get(..8).unwrap_or("x"),
        rand::random::<u32>() >> 8
    );
    let id: EnvironmentId = id.parse().map_err(|_| Error::Stage {
        stage: STAGE,
        reason: "malformed key".to_owned(),
    })?;
    let dir = at(STAGE, folder(&id))?;
    let spec = LaunchSpec {
        id: id.clone(),
        nodes: nodes.to_vec(),
        machine: plan.machine.clone(),
        start: Start::Boot {
            kernel: image.kernel(),
            initrd: image.initrd(),
            freeze_to: Some(draft.clone()),
        },
        base_disk: image.disk(),
        limits: limits(&plan.machine, u32::try_from(nodes.len()).unwrap_or(1)),
        egress: Vec::new(),
    };
    at(STAGE, spec.save(&dir))?;
    let result = settle_and_freeze(&spec, &dir, program, recipe, &stage).await;
    let _ = cgroup::destroy(&id);
    let _ = std::fs::remove_dir_all(&dir);
    let (cold_shell_millis, cold_boot_millis) = result?;
    stage.update(Some(0.95), "checksums");
    let manifest = Manifest {
        key: plan.key.clone(),
        nodes: nodes.to_vec(),
        machine: plan.machine,
        qemu: at(STAGE, qemu::version())?,
        cold_boot_millis,
        cold_shell_millis,
        files: std::collections::BTreeMap::default(),
    };
    at(STAGE, manifest.seal(&draft))?;
    let snapshot = at(STAGE, cache.keep(&draft, STAGE, &plan.key))?;
    stage.done();
    found(snapshot)
}

/// A folder for the launcher that nobody else can have made before: short, since a socket's path is bounded, and
/// where only root writes.
fn folder(id: &EnvironmentId) -> std::io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::create_dir_all(RUN)?;
    let dir = PathBuf::from(RUN).join(id.as_str());
    std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
    Ok(dir)
}

/// A killed build takes its machine along.
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

async fn settle_and_freeze(
    spec: &LaunchSpec,
    dir: &std::path::Path,
    program: &std::path::Path,
    recipe: &Recipe,
    stage: &faultline_domain::progress::Stage,
) -> Result<(u64, u64)> {
    let fail = |reason: String| Error::Stage {
        stage: STAGE,
        reason,
    };
    let began = Instant::now();
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
    for _ in 0..500 {
        if dir.join(SOCKET).exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let log_tail = || std::fs::read_to_string(dir.join("launcher.log")).unwrap_or_default();
    launcher::watch(dir, &Progress::ignored())
        .await
        .map_err(|e| fail(format!("{e}\n{}", log_tail())))?;
    let shell = millis(began);
    for (n, node) in spec.nodes.iter().enumerate() {
        let guest = |script: String, seconds: u32| async move {
            let stream = launcher::open(dir, node, Channel::Guest)
                .await
                .map_err(|e| fail(e.to_string()))?;
            let exec = Exec {
                argv: vec!["/bin/bash".to_owned(), "-c".to_owned(), script],
                timeout_seconds: Some(seconds),
                ..Exec::default()
            };
            client::run(stream, exec, 16 * 1024)
                .await
                .map_err(|e| fail(e.to_string()))
        };
        let part = |share: f64| {
            (f64::from(u32::try_from(n).unwrap_or(0)) + share)
                / f64::from(u32::try_from(spec.nodes.len()).unwrap_or(1))
        };
        stage.update(
            Some(0.2 + 0.7 * part(0.2)),
            format!("{node}: waiting until it has settled"),
        );
        let state = guest("systemctl is-system-running --wait".to_owned(), 600).await?;
        let state_word = String::from_utf8_lossy(&state.stdout).trim().to_owned();
        if state_word != "running" {
            let failed = guest("systemctl --failed --no-legend --plain; journalctl -b -p warning --no-pager | tail -n 12".to_owned(), 60).await?;
            return Err(fail(format!(
                "{node} came up {state_word:?}: {}",
                String::from_utf8_lossy(&failed.stdout)
            )));
        }
        for (i, line) in recipe.warm.iter().enumerate() {
            stage.update(
                Some(0.2 + 0.7 * part(0.4)),
                format!("{node}: warming {} of {}", i + 1, recipe.warm.len()),
            );
            let done = guest(line.clone(), 600).await?;
            if done.code != 0 {
                return Err(fail(format!(
                    "{node}: warm command {line:?} ended with {}: {}",
                    done.code,
                    String::from_utf8_lossy(&done.stderr).trim()
                )));
            }
        }
    }
    let settled = millis(began);
    stage.update(Some(0.9), "quiet for three seconds, then frozen");
    tokio::time::sleep(Duration::from_secs(3)).await;
    launcher::freeze(dir)
        .await
        .map_err(|e| fail(format!("{e}\n{}", log_tail())))?;
    let _ = tokio::time::timeout(Duration::from_secs(20), child.wait()).await;
    Ok((shell, settled))
}
