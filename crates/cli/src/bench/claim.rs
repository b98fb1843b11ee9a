//! `bench claim`: the wait for a tenant, by how it comes about: cold boot, copy of a golden disk and boot, clone, claim from
//! a pool.

use std::time::{Duration, Instant};

use faultline_cluster::client;
use faultline_domain::{Clock, TenantId};
use faultline_image::bake;
use faultline_provider::{Priority, Provider};
use hyper::Request;

use super::{
    Machines, Report,
    machines::{Bed, millis, on_bed},
};

const COLD: &str = "cold boot until it has settled";
const COPIED: &str = "copy of a golden disk, and boot until it has settled";
const CLONE: &str = "clone to probed";
const CLAIM: &str = "claim to a shell and the API server's answer";
/// The time for which a tenant waits in its pool.
const IN_POOL: Duration = Duration::from_secs(15);

/// The number of plain machines that are claimed at once.
const AT_ONCE: usize = 20;

/// The times of a claim, in milliseconds since it began.
struct Claimed {
    resumed: f64,
    shell: f64,
    answered: Option<f64>,
}

/// Runs `bench claim`.
pub async fn claim(args: &Machines) -> anyhow::Result<Report> {
    on_bed(args, async |bed| {
        let mut report = bed.report("claim");
        let (_, settled) = bake::cold(
            &bed.recipe,
            &bed.template,
            &bed.of,
            &bed.program,
            &bed.progress,
        )
        .await?;
        #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
        let settled = settled as f64;
        report.add(COLD, "ms", &[settled]);
        let copied = copy_of_disks(bed).await?;
        report.add(COPIED, "ms", &[copied + settled]);
        let (mut made, mut paused, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=args.rounds.max(1) {
            let what = format!("A tenant for the pool, {round} of {}", args.rounds);
            let stage = bed.progress.stage("pool", what);
            let id = Bed::id(0)?;
            let began = Instant::now();
            let quiet = faultline_domain::progress::Progress::ignored();
            bed.provider
                .create(&id, &bed.of, Priority::Low, &quiet)
                .await?;
            made.push(millis(began));
            bed.provider.pause(&id).await?;
            tokio::time::sleep(IN_POOL).await;
            let bytes = bed.provider.usage(&id).await?.private_bytes;
            paused.push(super::machines::mib(bytes));
            all.push(claimed(bed, &id).await?);
            stage.done();
            bed.free().await?;
        }
        report.add(CLONE, "ms", &made);
        report.add("memory of a paused tenant", "MiB", &paused);
        let of = |time: fn(&Claimed) -> f64| all.iter().map(time).collect::<Vec<_>>();
        report.add("claim to running and configured", "ms", &of(|c| c.resumed));
        report.add("claim to a shell on every node", "ms", &of(|c| c.shell));
        let usable = of(|c| c.answered.unwrap_or(c.shell).max(c.shell));
        report.add(CLAIM, "ms", &usable);
        report.ratio("cold boot / claim", COLD, CLAIM);
        report.ratio("copy and boot / claim", COPIED, CLAIM);
        report.ratio("clone / claim", CLONE, CLAIM);
        let many = args
            .clones
            .unwrap_or(if bed.of.is_cluster() { 0 } else { AT_ONCE });
        if many > 0 {
            at_once(bed, many, &mut report).await?;
        }
        Ok(report)
    })
    .await
}

/// Copies the image's disk for each node of the shape, as platforms do that have no overlays. Returns the milliseconds until
/// the copies are on the disk.
async fn copy_of_disks(bed: &Bed) -> anyhow::Result<f64> {
    let stage = bed.progress.stage("copy", "Copying the image's disk");
    let (disk, nodes) = (bed.template.image.disk(), bed.of.shape.nodes());
    let folder = super::scratch()?;
    let copy = move || {
        let began = Instant::now();
        for n in 0..nodes {
            let to = folder.path().join(format!("{n}.disk"));
            std::fs::copy(&disk, &to)?;
            std::fs::File::open(&to)?.sync_all()?;
        }
        let took = millis(began);
        folder.close()?;
        std::io::Result::Ok(took)
    };
    let took = tokio::task::spawn_blocking(copy).await??;
    stage.done();
    Ok(took)
}

/// Fills a pool, and claims all of its tenants at once.
async fn at_once(bed: &Bed, many: usize, report: &mut Report) -> anyhow::Result<()> {
    let stage = bed.progress.stage("pool", format!("A pool of {many}"));
    let quiet = faultline_domain::progress::Progress::ignored();
    let began = Instant::now();
    let mut ids = Vec::with_capacity(many);
    for n in 0..many {
        let id = Bed::id(n)?;
        bed.provider
            .create(&id, &bed.of, Priority::Low, &quiet)
            .await?;
        bed.provider.pause(&id).await?;
        ids.push(id);
    }
    #[expect(clippy::cast_precision_loss, reason = "a number of tenants")]
    let each = millis(began) / many as f64;
    tokio::time::sleep(IN_POOL).await;
    stage.done();
    let stage = bed
        .progress
        .stage("claims", format!("{many} claims at once"));
    let all = futures::future::try_join_all(ids.iter().map(|id| claimed(bed, id))).await?;
    stage.done();
    let usable: Vec<f64> = all
        .iter()
        .map(|c| c.answered.unwrap_or(c.shell).max(c.shell))
        .collect();
    report.add("refill: time for each tenant", "ms", &[each]);
    let metric = format!("{many} claims at once, to a shell");
    report.add(&metric, "ms", &usable);
    report.ratio("many claims at once / one", &metric, CLAIM);
    bed.free().await
}

/// Claims a paused tenant as the server does, and uses its shells and its API server at once.
async fn claimed(bed: &Bed, id: &TenantId) -> anyhow::Result<Claimed> {
    let began = Instant::now();
    bed.provider.resume(id).await?;
    bed.provider.configure(id, &bed.spec().allowance).await?;
    let resumed = millis(began);
    let (shell, answered) = used(bed, id, began).await?;
    Ok(Claimed {
        resumed,
        shell,
        answered,
    })
}

/// Uses a tenant's shells and its API server at once. Returns the milliseconds since `began` until each has answered.
async fn used(bed: &Bed, id: &TenantId, began: Instant) -> anyhow::Result<(f64, Option<f64>)> {
    let shells = async {
        bed.shells(id).await?;
        anyhow::Ok(millis(began))
    };
    let api = async {
        if !bed.of.is_cluster() {
            return Ok(None);
        }
        let identity = client::platform(Clock::system().now());
        let access = bed.provider.api(id, &identity).await?;
        let client = client::connect(&access).await?;
        let text = client
            .request_text(Request::get("/readyz").body(Vec::new())?)
            .await?;
        anyhow::ensure!(text == "ok", "the API server is not ready: {text}");
        anyhow::Ok(Some(millis(began)))
    };
    futures::try_join!(shells, api)
}

/// Returns the milliseconds since `began` until a tenant's shells and its API server have answered.
pub(super) async fn usable(bed: &Bed, id: &TenantId, began: Instant) -> anyhow::Result<f64> {
    let (shell, answered) = used(bed, id, began).await?;
    Ok(answered.unwrap_or(shell).max(shell))
}
