//! Tests of CPU credits: a long full load slows an environment down, and its owner and the operator are notified.

use jiff::SignedDuration;

use super::*;

/// Lets an environment use its CPU for some minutes, in thousandths of a core.
async fn load(bed: &Bed, id: &EnvironmentId, used: &mut u64, minutes: u64, millis: u64) {
    let tenant = bed.tenant(id).await;
    for _ in 0..minutes {
        *used += millis * 60;
        bed.provider.set_cpu(&tenant, *used);
        bed.clock.advance(SignedDuration::from_mins(1));
        bed.app.touch(id).await;
        bed.reconcile().await;
    }
}

async fn limit(bed: &Bed, id: &EnvironmentId) -> u32 {
    let tenant = bed.tenant(id).await;
    bed.provider.allowance(&tenant).unwrap().limits.cpu_millis
}

#[tokio::test]
async fn a_long_full_load_is_slowed_down_and_told() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let at = format!("/environments/{id}");
    bed.reconcile().await;
    let (full, mut used) = (limit(&bed, &id).await, 0);
    load(&bed, &id, &mut used, 44, full.into()).await;
    assert_eq!(limit(&bed, &id).await, full);
    assert!(!bed.get(&at).await.body.contains("runs slower"));
    load(&bed, &id, &mut used, 2, full.into()).await;
    assert_eq!(limit(&bed, &id).await, full * 40 / 100);
    assert!(bed.get(&at).await.body.contains("runs slower"));
    assert!(bed.get("/operator").await.body.contains("slowed down"));
    let metrics = bed.get("/metrics").await.body;
    assert!(metrics.contains("faultline_slowed 1"), "{metrics}");
    // A new server doesn't know, and gives it its whole limit back.
    let mut bed = bed.restart().await;
    bed.until(&id, is_active).await;
    assert_eq!(limit(&bed, &id).await, full);
    load(&bed, &id, &mut used, 30, full.into()).await;
    bed.post(&format!("{at}/extend"), "").await;
    load(&bed, &id, &mut used, 16, full.into()).await;
    assert_eq!(limit(&bed, &id).await, full * 40 / 100);
    bed.post(&format!("{at}/extend"), "").await;
    load(&bed, &id, &mut used, 15, 0).await;
    assert_eq!(limit(&bed, &id).await, full, "it has rested");
    let audit = bed.app.store.audit(50).await.unwrap();
    let count = |action: &str| audit.iter().filter(|l| l.action == action).count();
    assert_eq!((count("slow-down"), count("speed-up")), (2, 1));
}
