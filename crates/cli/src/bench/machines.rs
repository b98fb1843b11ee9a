//! `bench clone`, `density`, `idle`: real machines, made and freed.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use faultline_domain::{EnvironmentId, NodeName, Shape, progress::Progress};
use faultline_guest::{client, wire::Exec};
use faultline_image::{
    bake::{self, Template},
    cache::Cache,
    recipe::Recipe,
};
use faultline_launcher::{
    client as launcher,
    protocol::{Channel, SOCKET},
    spec::{LaunchSpec, Start},
};
use faultline_provider::{Provider, Spec, Target, local::Local};

use super::{Machines, Report};
use crate::progress;

/// Where the bench's environments live for the time of a run.
struct Bed {
    dir: PathBuf,
    program: PathBuf,
    provider: Local,
    template: Template,
    image: String,
}

impl Bed {
    async fn make(args: &Machines) -> anyhow::Result<Self> {
        let cache = Cache::of_user();
        let program = std::env::current_exe()?;
        let recipe = Recipe::load(&args.images, &args.image)?;
        let template =
            bake::bake(&recipe, Shape::SINGLE, &cache, &program, &progress::shown()).await?;
        let dir = std::env::temp_dir().join(format!("faultline-bench-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let provider = Local::new(&dir, &args.images, cache, &program)?;
        Ok(Self {
            dir,
            program,
            provider,
            template,
            image: args.image.clone(),
        })
    }

    fn report(&self, name: &str) -> Report {
        Report::new(name, self.template.manifest.accelerator().as_str())
    }

    fn spec(&self, n: usize) -> anyhow::Result<Spec> {
        Ok(Spec {
            id: format!("bench-{}-{n}", std::process::id()).parse()?,
            image: self.image.clone(),
            shape: Shape::SINGLE,
            limits: bake::limits(&self.template.manifest.nodes),
            egress: Vec::new(),
        })
    }

    /// From nothing to a shell that has answered: what a student waits for. Milliseconds.
    async fn clone(&self, n: usize) -> anyhow::Result<f64> {
        let spec = self.spec(n)?;
        let began = Instant::now();
        self.provider.create(&spec, &Progress::ignored()).await?;
        self.shell(&spec.id).await?;
        Ok(millis(began))
    }

    async fn shell(&self, id: &EnvironmentId) -> anyhow::Result<()> {
        let stream = self
            .provider
            .open(id, &first_node()?, Target::Guest)
            .await?;
        answered(stream).await
    }

    /// The same machine, powered on. Milliseconds until a shell has answered.
    async fn cold(&self) -> anyhow::Result<f64> {
        let template = &self.template;
        let dir = self.dir.join("cold");
        std::fs::create_dir_all(&dir)?;
        let nodes = template.manifest.nodes.clone();
        let spec = LaunchSpec {
            id: format!("bench-{}-cold", std::process::id()).parse()?,
            limits: bake::limits(&nodes),
            nodes,
            control_planes: 1,
            start: Start::Boot {
                kernel: template.image.kernel(),
                initrd: template.image.initrd(),
                freeze_to: None,
            },
            base_disk: template.image.disk(),
            egress: Vec::new(),
        };
        spec.save(&dir)?;
        let began = Instant::now();
        let mut child = tokio::process::Command::new(&self.program)
            .arg("launch")
            .arg(&dir)
            .kill_on_drop(true)
            .spawn()?;
        while !dir.join(SOCKET).exists() {
            anyhow::ensure!(
                began.elapsed() < Duration::from_secs(20),
                "the launcher did not start"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        launcher::watch(&dir, &Progress::ignored()).await?;
        answered(launcher::open(&dir, &first_node()?, Channel::Guest).await?).await?;
        let took = millis(began);
        launcher::stop(&dir).await?;
        let _ = tokio::time::timeout(Duration::from_secs(20), child.wait()).await;
        faultline_launcher::cgroup::destroy(&spec.id)?;
        std::fs::remove_dir_all(dir)?;
        Ok(took)
    }

    async fn free(&self) -> anyhow::Result<()> {
        for (id, _) in self.provider.list().await? {
            self.provider.destroy(&id).await?;
        }
        Ok(())
    }

    async fn end(self) -> anyhow::Result<()> {
        self.free().await?;
        std::fs::remove_dir_all(&self.dir)?;
        Ok(())
    }
}

fn first_node() -> anyhow::Result<NodeName> {
    Shape::SINGLE
        .node_names()
        .into_iter()
        .next()
        .context("an environment has a node")
}

fn millis(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}

async fn answered(stream: impl client::Duplex) -> anyhow::Result<()> {
    let exec = Exec {
        argv: vec!["/bin/bash".into(), "-lc".into(), "echo here".into()],
        ..Exec::default()
    };
    let done = client::run(stream, exec, 1024).await?;
    anyhow::ensure!(done.stdout.ends_with(b"here\n"), "the shell did not answer");
    Ok(())
}

/// `bench clone`.
pub async fn clone(args: &Machines) -> anyhow::Result<Report> {
    let bed = Bed::make(args).await?;
    let mut report = bed.report("clone");
    let mut cold = Vec::new();
    for _ in 0..args.rounds.clamp(1, 3) {
        cold.push(bed.cold().await?);
    }
    report.add("cold boot to shell", "ms", &cold);
    let mut one = Vec::new();
    for _ in 0..args.rounds.max(1) {
        one.push(bed.clone(0).await?);
        bed.free().await?;
    }
    report.add("clone to shell, 1", "ms", &one);
    for at_once in [4, 8] {
        let all = futures::future::try_join_all((0..at_once).map(|n| bed.clone(n))).await?;
        report.add(&format!("clone to shell, {at_once} at once"), "ms", &all);
        bed.free().await?;
    }
    report.ratio(
        "clone is faster than a cold boot, times",
        "cold boot to shell",
        "clone to shell, 1",
    );
    report.ratio(
        "8 at once cost, times one",
        "clone to shell, 8 at once",
        "clone to shell, 1",
    );
    bed.end().await?;
    Ok(report)
}

/// `bench density`.
pub async fn density(args: &Machines) -> anyhow::Result<Report> {
    const CLONES: usize = 8;
    let bed = Bed::make(args).await?;
    let mut report = bed.report("density");
    let mut ids = Vec::new();
    for n in 0..CLONES {
        bed.clone(n).await?;
        ids.push(bed.spec(n)?.id);
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    let (mut guest, mut own) = (Vec::new(), Vec::new());
    for id in &ids {
        let status = launcher::status(&bed.provider.folder(id)).await?;
        for node in &status.nodes {
            guest.push(mib(node.guest_private_bytes));
            own.push(mib(node.qemu_private_bytes));
        }
    }
    let memory = f64::from(bed.template.manifest.memory_mib());
    report.add("template memory", "MiB", &[memory]);
    report.add("guest memory private to a clone", "MiB", &guest);
    report.add("QEMU's own memory", "MiB", &own);
    report.ratio(
        "template memory shared by a clone, times",
        "template memory",
        "guest memory private to a clone",
    );
    bed.end().await?;
    Ok(report)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// `bench idle`.
pub async fn idle(args: &Machines) -> anyhow::Result<Report> {
    let bed = Bed::make(args).await?;
    let mut report = bed.report("idle");
    bed.clone(0).await?;
    let id = bed.spec(0)?.id;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let mut running = Vec::new();
    for _ in 0..args.rounds.max(1) {
        running.push(share(&bed, &id).await?);
    }
    report.add("CPU of an idle clone", "% of a core", &running);
    bed.provider.pause(&id).await?;
    report.add(
        "CPU of a suspended clone",
        "% of a core",
        &[share(&bed, &id).await?],
    );
    bed.end().await?;
    Ok(report)
}

async fn share(bed: &Bed, id: &EnvironmentId) -> anyhow::Result<f64> {
    let (before, began) = (bed.provider.usage(id).await?.cpu_millis, Instant::now());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let used = bed
        .provider
        .usage(id)
        .await?
        .cpu_millis
        .saturating_sub(before);
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of ten seconds")]
    Ok(used as f64 / millis(began) * 100.0)
}
