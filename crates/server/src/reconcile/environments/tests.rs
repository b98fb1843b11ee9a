//! Single steps and single passes, with what is under way given.

use jiff::SignedDuration;

use super::*;
use crate::tests::{Bed, bed};

async fn row(bed: &Bed, id: &EnvironmentId) -> Environment {
    bed.app.store.environment(id).await.unwrap().unwrap()
}

/// Applies a step and waits for its end.
async fn apply_whole(bed: &Bed, steps: &Steps<EnvironmentId>, id: &EnvironmentId, step: Step) {
    let row = row(bed, id).await;
    apply(&bed.app, steps, &row, step).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), async {
        while steps.kind(id).is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the step ends");
}

/// Looks that it failed so, and that its page, which is returned, says why.
async fn failed(bed: &Bed, id: &EnvironmentId, stage: &str, reason: &str) -> String {
    let e = row(bed, id).await;
    assert!(
        matches!(&e.state, State::Failed { stage: s, reason: r, .. } if s == stage && r.contains(reason)),
        "{stage}: {:?}",
        e.state
    );
    let page = bed.get(&format!("/environments/{id}")).await.body;
    assert!(page.contains(reason), "{stage}");
    page
}

#[tokio::test]
async fn what_can_be_neither_paused_nor_resumed_fails_with_a_reason() {
    for (step, kind, stage, reason) in [
        (Step::Suspend, Kind::Suspend, "suspend", "be paused"),
        (Step::Resume, Kind::Resume, "resume", "be resumed"),
    ] {
        let mut bed = bed().await;
        let id = bed.active("stale-flag").await;
        let steps = Steps::default();
        if step == Step::Resume {
            apply_whole(&bed, &steps, &id, Step::Suspend).await;
        }
        let before = row(&bed, &id).await.state;
        // The provider knows no such machine, so each try fails.
        bed.provider.lose(&bed.tenant(&id).await);
        for times in 1..=TRIES {
            apply_whole(&bed, &steps, &id, step.clone()).await;
            assert_eq!(steps.failures(&id, kind), times);
            assert_eq!(row(&bed, &id).await.state, before, "it may still work");
            assert!(steps.is_resting(&id));
        }
        apply_whole(&bed, &steps, &id, step).await;
        let page = failed(&bed, &id, stage, reason).await;
        assert!(page.contains("Try again"));
    }
}

#[tokio::test]
async fn a_try_that_works_lets_the_failures_before_it_be_forgotten() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let steps = Steps::default();
    bed.provider.lose(&bed.tenant(&id).await);
    for _ in 1..TRIES {
        apply_whole(&bed, &steps, &id, Step::Suspend).await;
    }
    assert_eq!(steps.failures(&id, Kind::Resume), 0, "each has its own");
    bed.provider.plant(&bed.tenant(&id).await);
    apply_whole(&bed, &steps, &id, Step::Suspend).await;
    let e = row(&bed, &id).await;
    assert!(matches!(e.state, State::Suspended { .. }), "{:?}", e.state);
    assert_eq!(steps.failures(&id, Kind::Suspend), 0);
    assert!(!steps.is_resting(&id));
}

/// An environment in a state on the way, and for how many seconds it may be so.
async fn on_the_way(bed: &mut Bed, phase: &str) -> (EnvironmentId, i64) {
    let limits = Config::deadlines();
    let id = bed.start("stale-flag").await;
    if phase == "requested" {
        return (id, limits.requested);
    }
    let machine = bed.app.random(TenantId::generate);
    let e = row(bed, &id).await;
    let (store, now) = (&bed.app.store, bed.app.now());
    assert!(store.ask_for_tenant(&e, &machine, now).await.unwrap());
    let made = store.tenant(&machine).await.unwrap().unwrap();
    bed.provider.plant(&machine);
    let warm = made.state.warm(now).unwrap();
    assert!(store.record_tenant(&made, &warm, now).await.unwrap());
    let e = row(bed, &id).await;
    let preparing = e.state.clone().prepare(now).unwrap();
    assert!(store.claim_tenant(&e, &preparing, now).await.unwrap());
    (id, limits.preparing)
}

#[tokio::test]
async fn a_setup_may_take_as_long_as_its_steps() {
    let bed = bed().await;
    let [short, long] = [bed.start("stale-flag").await, bed.start("two-nodes").await];
    let short = deadlines(&bed.app, &row(&bed, &short).await).await;
    let long = deadlines(&bed.app, &row(&bed, &long).await).await;
    assert_eq!(short, Config::deadlines());
    assert_eq!(long.preparing, 600 + MARGIN);
}

#[tokio::test]
async fn a_state_on_the_way_that_lasts_too_long_is_a_failure_that_is_seen_and_freed() {
    for (phase, kind, stage, reason) in [
        ("requested", None, "queue", "no place became free"),
        ("preparing", Some(Kind::Prepare), "setup", "too long"),
    ] {
        let mut bed = bed().await;
        let (id, seconds) = on_the_way(&mut bed, phase).await;
        assert_eq!(row(&bed, &id).await.state.phase().as_str(), phase);
        let steps = Steps::default();
        if let Some(kind) = kind {
            // It hangs, whatever it does.
            steps.begin(&bed.app, &id, kind, std::future::pending());
            bed.clock.advance(SignedDuration::from_secs(seconds));
            pass(bed.app.clone(), steps.clone()).await.unwrap();
            let e = row(&bed, &id).await;
            assert_eq!(e.state.phase().as_str(), phase, "it has its time");
            bed.clock.advance(SignedDuration::from_secs(1));
        } else {
            bed.clock.advance(SignedDuration::from_secs(seconds + 1));
        }
        pass(bed.app.clone(), steps.clone()).await.unwrap();
        failed(&bed, &id, stage, reason).await;
        bed.until(&id, |e| e.state.is_final()).await;
        assert!(bed.app.provider.list().await.unwrap().is_empty(), "{phase}");
    }
}
