//! `bench save`: how long machines stand still to be saved, the size of a save point, and the time until another tenant
//! that continues from it can be used. A fork is such a tenant too. Then the same machines are suspended to disk and
//! resumed.

use std::time::{Duration, Instant};

use faultline_domain::progress::Progress;
use faultline_provider::{Priority, Provider};

use super::{
    Machines, Report,
    claim::usable,
    machines::{Bed, mib, millis, on_bed},
};

const CLONE: &str = "clone to probed";
const RESTORED: &str = "restore to a shell and the API server's answer";

/// Runs `bench save`.
pub async fn save(args: &Machines) -> anyhow::Result<Report> {
    let default = if args.image.starts_with("kubernetes") {
        120
    } else {
        30
    };
    let rest = Duration::from_secs(args.rest.unwrap_or(default));
    on_bed(args, async |bed| {
        let mut report = bed.report("save");
        let (source, other) = (Bed::id(0)?, Bed::id(1)?);
        let (point, quiet) = ("bench-save".parse()?, Progress::ignored());
        let on_disk = "bench-suspended".parse()?;
        for left in [&point, &on_disk] {
            bed.provider.delete_save(left).await?;
        }
        let began = Instant::now();
        bed.provider
            .create(&source, &bed.of, Priority::Normal, &quiet)
            .await?;
        report.add(CLONE, "ms", &[millis(began)]);
        bed.provider
            .configure(&source, &bed.spec().allowance)
            .await?;
        let stage = bed.progress.stage("rest", "Using it for a while");
        tokio::time::sleep(rest).await;
        stage.done();
        let (mut paused, mut written, mut size) = (Vec::new(), Vec::new(), Vec::new());
        let (mut made, mut restored) = (Vec::new(), Vec::new());
        let (mut suspended, mut resumed) = (Vec::new(), Vec::new());
        for round in 1..=args.rounds.max(1) {
            let what = format!("Saving and restoring, {round} of {}", args.rounds);
            let stage = bed.progress.stage("save", what);
            let began = Instant::now();
            let saved = bed.provider.save(&source, &point).await?;
            written.push(millis(began));
            #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
            paused.push(saved.paused_millis as f64);
            size.push(mib(saved.bytes));
            // Two of them would compete for the CPU.
            bed.provider.pause(&source).await?;
            let began = Instant::now();
            bed.provider.restore(&other, &point, &quiet).await?;
            made.push(millis(began));
            bed.provider
                .configure(&other, &bed.spec().allowance)
                .await?;
            restored.push(usable(bed, &other, began).await?);
            bed.provider.destroy(&other).await?;
            bed.provider.delete_save(&point).await?;
            bed.provider.resume(&source).await?;
            let began = Instant::now();
            bed.provider.pause(&source).await?;
            bed.provider.save(&source, &on_disk).await?;
            bed.provider.destroy(&source).await?;
            suspended.push(millis(began));
            let began = Instant::now();
            bed.provider.restore(&source, &on_disk, &quiet).await?;
            bed.provider
                .configure(&source, &bed.spec().allowance)
                .await?;
            resumed.push(usable(bed, &source, began).await?);
            bed.provider.delete_save(&on_disk).await?;
            stage.done();
        }
        bed.free().await?;
        report.add("save: time that the nodes stand still", "ms", &paused);
        report.add("save: time until it is on disk", "ms", &written);
        report.add("save: size", "MiB", &size);
        report.add("restore to running", "ms", &made);
        report.add(RESTORED, "ms", &restored);
        report.add("suspend until the memory is free", "ms", &suspended);
        report.add(
            "resume to a shell and the API server's answer",
            "ms",
            &resumed,
        );
        report.ratio("clone / restore", CLONE, RESTORED);
        Ok(report)
    })
    .await
}
