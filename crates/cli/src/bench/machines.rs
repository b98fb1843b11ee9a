//! `bench clone`, `density` and `idle`: measurements of real machines.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use faultline_domain::{
    NodeName, TemplateRef, TenantId,
    progress::{Event, Progress},
    template::Form,
};
use faultline_guest::{client, wire::Exec};
use faultline_image::{
    bake::{self, Template},
    cache::Cache,
    recipe::Recipe,
};
use faultline_launcher::client as launcher;
use faultline_provider::{Allowance, Provider, Spec, Target, make};
use faultline_tenancy_local::Local;

use super::{Machines, Report, merging::Pages, served::Served};
use crate::{
    lab::platform::Platform,
    progress,
    signals::told_to_stop,
    sources::{self, Recipes},
};

/// What the measured machines are made from.
#[derive(Clone)]
pub(super) struct Bed {
    pub(super) program: PathBuf,
    pub(super) provider: Local,
    pub(super) recipe: Recipe,
    pub(super) template: Template,
    pub(super) of: TemplateRef,
    pub(super) progress: Progress,
}

impl Bed {
    async fn make(args: &Machines, provider: Local) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?;
        let progress = progress::shown();
        let (of, recipe, template) = baked(args, args.shape, &program, &progress).await?;
        Ok(Self {
            progress,
            program,
            provider,
            recipe,
            template,
            of,
        })
    }

    /// Returns the same bed for another shape.
    async fn with_shape(&self, args: &Machines, shape: Form) -> anyhow::Result<Self> {
        let (of, recipe, template) = baked(args, shape, &self.program, &self.progress).await?;
        Ok(Self {
            recipe,
            template,
            of,
            ..Clone::clone(self)
        })
    }

    pub(super) fn report(&self, name: &str) -> Report {
        Report::new(name, self.template.manifest.accelerator().as_str())
    }

    pub(super) fn id(n: usize) -> anyhow::Result<TenantId> {
        Ok(format!("bench-{}-{n}", std::process::id()).parse()?)
    }

    pub(super) fn spec(&self) -> Spec {
        Spec {
            template: self.of.clone(),
            save_point: None,
            allowance: Allowance {
                limits: bake::limits(&self.template.manifest.nodes),
                egress: Vec::new(),
            },
        }
    }

    /// Clones a tenant and measures until it is usable, and until a cluster has been probed. It is used as soon as it
    /// is refreshed, while the provider still probes it.
    async fn clone(&self, n: usize) -> anyhow::Result<Cloned> {
        let (id, spec) = (Self::id(n)?, self.spec());
        let began = Instant::now();
        let (tell, told) = std::sync::mpsc::channel();
        let (refreshed, mut is_refreshed) = tokio::sync::watch::channel(false);
        let progress = Progress::new(move |event| {
            if matches!(&event, Event::Done { stage, .. } if stage == "refresh") {
                refreshed.send_replace(true);
            }
            let _ = tell.send(event);
        });
        let made = async {
            make(&self.provider, &id, &spec, &progress).await?;
            Ok::<_, anyhow::Error>(millis(began))
        };
        let used = async {
            is_refreshed.wait_for(|yes| *yes).await?;
            self.used(&id, began).await
        };
        let (made, mut cloned) = futures::try_join!(made, used)?;
        cloned.probed = cloned.ready.map(|_| made);
        cloned.stages = told
            .try_iter()
            .filter_map(|event| match event {
                #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
                Event::Done { stage, millis, .. } => Some((stage.into_owned(), millis as f64)),
                _ => None,
            })
            .collect();
        Ok(cloned)
    }

    /// Runs a command line in a shell on a node.
    async fn shell(
        &self,
        id: &TenantId,
        node: &NodeName,
        line: &str,
    ) -> anyhow::Result<client::Finished> {
        let stream = self.provider.open(id, node, Target::Guest).await?;
        let exec = Exec {
            argv: ["/bin/bash", "-lc", line].map(Into::into).to_vec(),
            ..Exec::default()
        };
        Ok(client::run(stream, exec, 16 * 1024).await?)
    }

    /// Opens a shell on one node after the other, until each has answered.
    pub(super) async fn shells(&self, id: &TenantId) -> anyhow::Result<()> {
        for node in &self.of.shape.node_names() {
            let done = self.shell(id, node, "echo here").await?;
            anyhow::ensure!(done.stdout.ends_with(b"here\n"), "the shell did not answer");
        }
        Ok(())
    }

    /// Opens a shell on every node and, on a cluster, runs `kubectl get nodes` until all of them are Ready.
    async fn used(&self, id: &TenantId, began: Instant) -> anyhow::Result<Cloned> {
        let nodes = self.of.shape.node_names();
        self.shells(id).await?;
        let mut cloned = Cloned {
            stages: Vec::new(),
            shells: millis(began),
            answered: None,
            ready: None,
            probed: None,
        };
        if let Some(first) = nodes.first()
            && self.recipe.kubernetes.is_some()
        {
            while cloned.ready.is_none() {
                let line = "kubectl get nodes --no-headers";
                let done = self.shell(id, first, line).await?;
                if done.code != 0 {
                    continue;
                }
                cloned.answered.get_or_insert_with(|| millis(began));
                let text = String::from_utf8_lossy(&done.stdout);
                let ready = |line: &&str| line.split_whitespace().nth(1) == Some("Ready");
                if text.lines().filter(ready).count() == nodes.len() {
                    cloned.ready = Some(millis(began));
                }
            }
        }
        Ok(cloned)
    }

    /// Leaves the machines alone for a while.
    async fn rest(&self, args: &Machines) {
        let usual = if self.recipe.kubernetes.is_some() {
            120
        } else {
            30
        };
        let seconds = args.rest.unwrap_or(usual);
        let what = format!("Leaving it alone for {seconds} s");
        let stage = self.progress.stage("rest", what);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        stage.done();
    }

    pub(super) async fn free(&self) -> anyhow::Result<()> {
        for (id, _) in self.provider.list().await? {
            self.provider.destroy(&id).await?;
        }
        Ok(())
    }
}

/// Returns the image's template in a shape, and bakes it if necessary.
async fn baked(
    args: &Machines,
    shape: Form,
    program: &Path,
    progress: &Progress,
) -> anyhow::Result<(TemplateRef, Recipe, Template)> {
    let cache = &Cache::of_user();
    let recipes = Recipes {
        folder: args.images.folder(None)?,
        sources: args.sources.sources(),
    };
    let of = sources::template(&recipes.folder, &args.image, shape)?;
    let recipe = recipes.recipe(&of, cache).await?;
    let template = bake::bake(&recipe, &of, cache, program, progress).await?;
    Ok((of, recipe, template))
}

/// The times of events, in milliseconds since the clone was requested.
struct Cloned {
    /// The provider's stages with their durations.
    stages: Vec<(String, f64)>,
    /// A shell had answered on every node.
    shells: f64,
    /// The API server had answered. Clusters only.
    answered: Option<f64>,
    /// The API server had reported every node as Ready. Clusters only.
    ready: Option<f64>,
    /// Every node's lease was fresh, and a new pod on each had resolved a name. Clusters only.
    probed: Option<f64>,
}

impl Cloned {
    /// Returns the time after which a student can work.
    fn usable(&self) -> f64 {
        self.ready.unwrap_or(self.shells)
    }
}

/// Creates a bed, measures on it, and cleans up in any case.
pub(super) async fn on_bed(
    args: &Machines,
    measure: impl AsyncFnOnce(&Bed) -> anyhow::Result<Report>,
) -> anyhow::Result<Report> {
    let platform = Platform::open(&args.images.folder(None)?, args.sources.sources()).await?;
    let measured = tokio::select! {
        measured = async {
            let bed = Bed::make(args, platform.local()?).await?;
            measure(&bed).await
        } => measured,
        () = told_to_stop() => Err(anyhow::anyhow!("interrupted; the machines that were made are destroyed")),
    };
    platform.close().await;
    measured
}

pub(super) fn millis(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}

/// Runs `bench clone`.
pub async fn clone(args: &Machines) -> anyhow::Result<Report> {
    on_bed(args, async |bed| {
        let mut report = bed.report("clone");
        let cluster = bed.recipe.kubernetes.is_some();
        // A cluster's cold boot takes minutes, so one is compared with several clones.
        let colds = if cluster { 1 } else { args.rounds.clamp(1, 3) };
        let (mut shells, mut settled) = (Vec::new(), Vec::new());
        for _ in 0..colds {
            let (shell, all) = bake::cold(
                &bed.recipe,
                &bed.template,
                &bed.of,
                &bed.program,
                &bed.progress,
            )
            .await?;
            #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
            {
                shells.push(shell as f64);
                settled.push(all as f64);
            }
        }
        let cold = if cluster {
            report.add("cold boot to all pods ready", "ms", &settled);
            "cold boot to all pods ready"
        } else {
            report.add("cold boot to shell", "ms", &shells);
            "cold boot to shell"
        };
        let (mut shells, mut answered) = (Vec::new(), Vec::new());
        let (mut usable, mut probed) = (Vec::new(), Vec::new());
        let mut stages: Vec<(String, Vec<f64>)> = Vec::new();
        for round in 1..=args.rounds.max(1) {
            let what = format!("A clone until it was probed, {round} of {}", args.rounds);
            let stage = bed.progress.stage("clone", what);
            let cloned = bed.clone(0).await?;
            stage.done();
            shells.push(cloned.shells);
            answered.extend(cloned.answered);
            usable.push(cloned.usable());
            probed.extend(cloned.probed);
            for (stage, took) in cloned.stages {
                match stages.iter_mut().find(|(name, _)| *name == stage) {
                    Some((_, all)) => all.push(took),
                    None => stages.push((stage, vec![took])),
                }
            }
            bed.free().await?;
        }
        for (stage, took) in &stages {
            report.add(&format!("stage {stage}"), "ms", took);
        }
        if cluster {
            report.add("clone to a shell on every node", "ms", &shells);
            report.add("clone to the API server's first answer", "ms", &answered);
        }
        report.add("clone to usable, 1", "ms", &usable);
        report.ratio("cold boot / clone to usable", cold, "clone to usable, 1");
        if cluster {
            report.add("clone to probed, 1", "ms", &probed);
            report.ratio("cold boot / clone to probed", cold, "clone to probed, 1");
            return Ok(report);
        }
        for at_once in [4, 8] {
            let what = format!("{at_once} clones at once");
            let stage = bed.progress.stage("clones", what);
            let all = futures::future::try_join_all((0..at_once).map(|n| bed.clone(n))).await?;
            let all: Vec<f64> = all.iter().map(Cloned::usable).collect();
            report.add(&format!("clone to usable, {at_once} at once"), "ms", &all);
            bed.free().await?;
            stage.done();
        }
        report.ratio(
            "8 at once cost, times one",
            "clone to usable, 8 at once",
            "clone to usable, 1",
        );
        Ok(report)
    })
    .await
}

/// Runs `bench density`.
pub async fn density(args: &Machines) -> anyhow::Result<Report> {
    on_bed(args, async |bed| {
        let usual = if bed.recipe.kubernetes.is_some() {
            1
        } else {
            8
        };
        let clones = args.clones.unwrap_or(usual);
        let mut report = bed.report("density");
        let mut ids = Vec::new();
        for n in 0..clones {
            let what = format!("A clone until it was probed, {} of {clones}", n + 1);
            let stage = bed.progress.stage("clone", what);
            bed.clone(n).await?;
            stage.done();
            ids.push(Bed::id(n)?);
        }
        bed.rest(args).await;
        let (mut guest, mut own) = (Vec::new(), Vec::new());
        let mut pages = Pages::default();
        for id in &ids {
            let folder = bed.provider.folder(id);
            for node in &launcher::status(&folder).await?.nodes {
                pages.add(node.pid)?;
            }
            let nodes = launcher::usage(&folder).await?.nodes;
            guest.push(mib(nodes.iter().map(|n| n.guest_private_bytes).sum()));
            own.push(mib(nodes.iter().map(|n| n.qemu_private_bytes).sum()));
        }
        let memory = f64::from(bed.template.manifest.memory_mib());
        report.add("template memory", "MiB", &[memory]);
        report.add("guest memory private to a clone", "MiB", &guest);
        report.add("QEMU's own memory", "MiB", &own);
        report.add(
            "savings by merging identical pages, all clones",
            "MiB",
            &[mib(pages.repeated_bytes())],
        );
        let each: Vec<f64> = guest.iter().zip(&own).map(|(a, b)| a + b).collect();
        for host_gib in [24.0, 64.0] {
            let fit: Vec<f64> = each.iter().map(|m| fit(host_gib, memory, *m)).collect();
            let metric = format!("tenants like these that fit {host_gib} GiB");
            report.add(&metric, "tenants", &fit);
        }
        report.ratio(
            "template memory / private memory of a clone",
            "template memory",
            "guest memory private to a clone",
        );
        Ok(report)
    })
    .await
}

/// Memory that stays for the host and the server, in GiB.
const HOST_GIB: f64 = 2.0;

/// Returns how many tenants of `each_mib` fit a host's memory beside their template, which they share. Extrapolated: the same
/// private memory for each.
fn fit(host_gib: f64, template_mib: f64, each_mib: f64) -> f64 {
    let free = (host_gib - HOST_GIB) * 1024.0 - template_mib;
    (free / each_mib.max(1.0)).floor().max(0.0)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Runs `bench idle`. Shapes are measured one after the other: two clusters at once may need more than a small machine
/// has, and then the larger consumer would be measured too low.
pub async fn idle(args: &Machines) -> anyhow::Result<Report> {
    const OF_CLONE: &str = "CPU of an idle clone";
    on_bed(args, async |bed| {
        let mut report = bed.report("idle");
        let other = match args.against {
            Some(shape) => {
                let other = bed.with_shape(args, shape).await?;
                let name = format!("{OF_CLONE}, {shape}");
                report.add(&name, "% of a core", &at_rest(&other, args).await?);
                other.free().await?;
                Some(name)
            }
            None => None,
        };
        report.add(OF_CLONE, "% of a core", &at_rest(bed, args).await?);
        if let Some(name) = &other {
            report.ratio("shape / compared shape", OF_CLONE, name);
        }
        let id = Bed::id(0)?;
        looked_after(bed, args, &id, &mut report).await?;
        report.ratio("with a server / without", LOOKED_AFTER, OF_CLONE);
        bed.provider.pause(&id).await?;
        report.add(
            "CPU of a suspended clone",
            "% of a core",
            &[share(bed, &id).await?],
        );
        Ok(report)
    })
    .await
}

const LOOKED_AFTER: &str = "CPU of an idle clone that a server looks after";

/// Measures the clone while a server's reconcilers look after it, and the server itself.
async fn looked_after(
    bed: &Bed,
    args: &Machines,
    id: &TenantId,
    report: &mut Report,
) -> anyhow::Result<()> {
    let server = Served::begin(&bed.provider, id, bed.spec()).await?;
    let (mut shares, mut own) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds.max(1) {
        let (before, began) = (own_cpu(), Instant::now());
        shares.push(share(bed, id).await?);
        own.push((own_cpu() - before).as_secs_f64() * 1000.0 / millis(began) * 100.0);
    }
    server.end().await?;
    report.add(LOOKED_AFTER, "% of a core", &shares);
    report.add("CPU of the server that looks after it", "% of a core", &own);
    Ok(())
}

/// Returns the CPU time of this process.
fn own_cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(now).unwrap_or_default()
}

/// Clones, leaves the clone alone, and measures it.
async fn at_rest(bed: &Bed, args: &Machines) -> anyhow::Result<Vec<f64>> {
    let what = format!("A clone of {} until it was probed", bed.of);
    let stage = bed.progress.stage("clone", what);
    bed.clone(0).await?;
    stage.done();
    bed.rest(args).await;
    let id = Bed::id(0)?;
    let mut shares = Vec::new();
    for _ in 0..args.rounds.max(1) {
        shares.push(share(bed, &id).await?);
    }
    Ok(shares)
}

async fn share(bed: &Bed, id: &TenantId) -> anyhow::Result<f64> {
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
