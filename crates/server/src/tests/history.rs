//! Tests of the charts of the last 24 hours.

use jiff::SignedDuration;

use super::*;

#[tokio::test]
async fn the_state_is_sampled_every_minute_and_shown_as_charts() {
    let mut bed = bed().await;
    bed.active("stale-flag").await;
    bed.reconcile().await;
    let samples = bed.app.store.samples_since(Timestamp::MIN).await.unwrap();
    assert_eq!(samples.len(), 1, "however often it runs in a minute");
    assert_eq!((samples[0].environments, samples[0].starts), (0, 0));
    assert!(samples[0].free_memory_mib > 0);
    bed.clock.advance(SignedDuration::from_secs(60));
    bed.provider.fail_next("clone", "no space");
    bed.provider.fail_next("clone", "no space");
    let failed = bed.start("two-nodes").await;
    bed.until(&failed, is_final).await;
    bed.clock.advance(SignedDuration::from_secs(60));
    bed.reconcile().await;
    let samples = bed.app.store.samples_since(Timestamp::MIN).await.unwrap();
    assert_eq!(samples.len(), 3);
    assert_eq!(samples.iter().map(|s| s.starts).sum::<u32>(), 1);
    assert_eq!(samples.iter().map(|s| s.failed_starts).sum::<u32>(), 1);
    let last = samples[2];
    assert_eq!((last.environments, last.queued), (1, 0));
    assert!(last.wait_p95_millis.is_some());
    let page = bed.get("/operator").await.body;
    assert_eq!(page.matches("<svg class=\"chart\"").count(), 6);
    for figures in [
        "now 1, 1 to 1",
        "1 in 24 h, 1 failed",
        "Figures by the hour",
    ] {
        assert!(page.contains(figures), "{figures}: {page}");
    }
    // While the server is down there are no samples, and the old ones are deleted.
    bed.clock.advance(SignedDuration::from_hours(30));
    let bed = bed.restart().await;
    bed.reconcile().await;
    let page = bed.get("/operator").await.body;
    assert!(page.contains("now 0, 0 to 0") || page.contains("now 1, 1 to 1"));
    bed.clock.advance(SignedDuration::from_hours(30));
    bed.reconcile().await;
    let kept = bed.app.store.samples_since(Timestamp::MIN).await.unwrap();
    assert_eq!(kept.len(), 2);
}
