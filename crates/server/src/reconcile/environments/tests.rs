//! Tests of single steps and single passes, with given steps in progress.

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

/// Asserts that the environment failed like this and that its page says why. Returns the page.
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
async fn an_environment_that_cannot_be_paused_or_resumed_fails_with_a_reason() {
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
        // The provider doesn't know the machine, so each attempt fails.
        bed.provider.lose(&bed.tenant(&id).await);
        for times in 1..=MAX_TRIES {
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
async fn a_successful_step_resets_the_count_of_failures() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let steps = Steps::default();
    bed.provider.lose(&bed.tenant(&id).await);
    for _ in 1..MAX_TRIES {
        apply_whole(&bed, &steps, &id, Step::Suspend).await;
    }
    assert_eq!(
        steps.failures(&id, Kind::Resume),
        0,
        "each kind has its own count"
    );
    bed.provider.plant(&bed.tenant(&id).await);
    apply_whole(&bed, &steps, &id, Step::Suspend).await;
    let e = row(&bed, &id).await;
    assert!(matches!(e.state, State::Suspended { .. }), "{:?}", e.state);
    assert_eq!(steps.failures(&id, Kind::Suspend), 0);
    assert!(!steps.is_resting(&id));
}

/// Returns an environment in a transitional state, and the deadline of that state in seconds.
/// Returns an environment whose setup is running.
async fn in_setup(bed: &mut Bed) -> EnvironmentId {
    let id = bed.start("stale-flag").await;
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
    id
}

#[tokio::test]
async fn the_deadline_of_a_setup_covers_the_timeouts_of_its_steps() {
    let bed = bed().await;
    let [short, long] = [bed.start("stale-flag").await, bed.start("two-nodes").await];
    let short = deadlines(&bed.app, &row(&bed, &short).await).await;
    let long = deadlines(&bed.app, &row(&bed, &long).await).await;
    assert_eq!(short, Config::deadlines());
    assert_eq!(long.preparing, 600 + MARGIN);
}

#[tokio::test]
async fn a_setup_that_lasts_too_long_fails_visibly_and_is_freed() {
    let mut bed = bed().await;
    let id = in_setup(&mut bed).await;
    let steps = Steps::default();
    // A step that hangs.
    steps.begin(&bed.app, &id, Kind::Prepare, std::future::pending());
    let seconds = Config::deadlines().preparing;
    bed.clock.advance(SignedDuration::from_secs(seconds));
    pass(bed.app.clone(), steps.clone()).await.unwrap();
    let phase = row(&bed, &id).await.state.phase().as_str();
    assert_eq!(phase, "preparing", "the deadline isn't over yet");
    bed.clock.advance(SignedDuration::from_secs(1));
    pass(bed.app.clone(), steps.clone()).await.unwrap();
    failed(&bed, &id, "setup", "too long").await;
    bed.until(&id, |e| e.state.is_final()).await;
    assert!(bed.app.provider.list().await.unwrap().is_empty());
}
