//! Tests of the queue: who waits, for how long, in which order, and who is refused.

use jiff::SignedDuration;

use super::*;

/// Returns a server with this many places.
async fn bed(places: u32) -> Bed {
    bed_with(Config {
        max_environments: places,
        ..Config::default()
    })
    .await
}

async fn place(bed: &Bed, id: &EnvironmentId) -> Option<(u64, u64)> {
    let seen = bed
        .api(Method::GET, &format!("/environments/{id}"), None)
        .await
        .json();
    let queue = seen["queue"].as_object()?;
    Some((queue["position"].as_u64()?, queue["of"].as_u64()?))
}

fn waits(e: &Environment) -> bool {
    matches!(e.state, State::Requested { .. }) && e.tenant.is_none()
}

#[tokio::test]
async fn a_start_without_room_waits_and_is_told_so() {
    let mut bed = bed(1).await;
    let first = bed.active("stale-flag").await;
    let next = bed.start("two-nodes").await;
    bed.reconcile().await;
    assert_eq!(place(&bed, &next).await, Some((1, 1)));
    let page = bed.get(&format!("/environments/{next}")).await.body;
    assert!(
        page.contains("All places are taken") && page.contains("Number 1 of 1"),
        "{page}"
    );
    let catalogue = bed.get("/").await.body;
    assert!(
        catalogue.contains("waiting ·") && !catalogue.contains("starting ·"),
        "{catalogue}"
    );
    let queue = bed.api(Method::GET, "/queue", None).await.json();
    assert_eq!(queue[0]["environment"], next.as_str());
    assert!(
        bed.get("/operator")
            .await
            .body
            .contains("Number 1 of 1 in the queue")
    );
    assert!(
        bed.get("/metrics")
            .await
            .body
            .contains("faultline_queued 1")
    );
    // It starts by itself, with its whole lifetime.
    bed.clock.advance(SignedDuration::from_mins(5));
    bed.app.touch(&next).await;
    bed.post(&format!("/environments/{first}/end"), "").await;
    let e = bed.until(&next, is_active).await;
    assert_eq!(place(&bed, &next).await, None);
    let life = e.lifetime.expires_at.duration_since(bed.app.now());
    let lab = bed.app.lab(&e.lab).unwrap();
    assert_eq!(life.as_mins(), i64::from(lab.lab.needs.lifetime_minutes));
}

#[tokio::test]
async fn people_take_turns_and_nobody_is_forgotten() {
    let mut bed = bed(2).await;
    bed.become_another("ann").await;
    bed.active("stale-flag").await;
    bed.become_another("ben").await;
    let running = bed.active("stale-flag").await;
    bed.become_another("ann").await;
    let ann = bed.start("two-nodes").await;
    bed.clock.advance(SignedDuration::from_secs(30));
    bed.become_another("cleo").await;
    let cleo = bed.start("stale-flag").await;
    bed.reconcile().await;
    assert_eq!(
        place(&bed, &cleo).await,
        Some((1, 2)),
        "cleo has nothing yet"
    );
    bed.become_another("ann").await;
    assert_eq!(place(&bed, &ann).await, Some((2, 2)));
    let reason = faultline_domain::environment::EndReason::Ended;
    let ended = bed
        .app
        .store
        .end_environment(&running, reason, None, bed.app.now());
    assert!(ended.await.unwrap());
    bed.until(&cleo, is_active).await;
    let e = bed.app.store.environment(&ann).await.unwrap().unwrap();
    assert!(waits(&e));
}

#[tokio::test]
async fn a_place_is_kept_for_some_minutes_and_then_lost() {
    let mut bed = bed(1).await;
    bed.active("stale-flag").await;
    let next = bed.start("two-nodes").await;
    bed.clock.advance(SignedDuration::from_mins(9));
    bed.reconcile().await;
    // Looking at it keeps the place.
    assert!(place(&bed, &next).await.is_some());
    bed.clock.advance(SignedDuration::from_mins(9));
    bed.reconcile().await;
    let e = bed.app.store.environment(&next).await.unwrap().unwrap();
    assert!(waits(&e));
    bed.clock.advance(SignedDuration::from_mins(2));
    bed.until(&next, is_final).await;
    let page = bed.get(&format!("/environments/{next}")).await.body;
    assert!(
        page.contains("left the queue because nobody waited"),
        "{page}"
    );
}

#[tokio::test]
async fn a_reset_gets_the_next_place() {
    let mut bed = bed(1).await;
    let mine = bed.active("stale-flag").await;
    bed.become_another("ben").await;
    let his = bed.start("stale-flag").await;
    bed.reconcile().await;
    bed.become_another("local").await;
    bed.clock.advance(SignedDuration::from_secs(5));
    let reset = bed.post(&format!("/environments/{mine}/reset"), "").await;
    assert_eq!(reset.status, StatusCode::SEE_OTHER, "{}", reset.body);
    bed.until(&mine, is_active).await;
    let e = bed.app.store.environment(&his).await.unwrap().unwrap();
    assert!(waits(&e));
}

#[tokio::test]
async fn a_reset_of_an_ended_environment_waits_like_a_start() {
    let mut bed = bed(1).await;
    let old = bed.active("two-nodes").await;
    bed.post(&format!("/environments/{old}/end"), "").await;
    bed.until(&old, is_final).await;
    bed.active("stale-flag").await;
    bed.become_another("ben").await;
    let his = bed.start("stale-flag").await;
    bed.reconcile().await;
    bed.clock.advance(SignedDuration::from_secs(5));
    bed.become_another("local").await;
    let reset = bed.post(&format!("/environments/{old}/reset"), "").await;
    assert_eq!(reset.status, StatusCode::SEE_OTHER, "{}", reset.body);
    bed.reconcile().await;
    assert_eq!(place(&bed, &old).await, Some((2, 2)));
    bed.become_another("ben").await;
    assert_eq!(place(&bed, &his).await, Some((1, 2)));
}

/// It passes the check at the start, but there is never as much memory free.
#[tokio::test]
async fn what_does_not_fit_on_an_idle_host_fails_and_blocks_nobody() {
    let total = crate::capacity::Free::of_host(std::path::Path::new("/")).memory_total_mib;
    let mut bed = bed_with(Config {
        node_memory_mib: total / 2 - 16,
        ..Config::default()
    })
    .await;
    let large = bed.start("two-nodes").await;
    let e = bed.until(&large, is_final).await;
    assert!(
        matches!(&e.state, State::Failed { stage, reason, .. } if stage == "queue" && reason.contains("memory")),
        "{e:?}"
    );
}

#[tokio::test]
async fn who_waits_can_leave() {
    let mut bed = bed(1).await;
    bed.active("stale-flag").await;
    let next = bed.start("two-nodes").await;
    bed.reconcile().await;
    bed.post(&format!("/environments/{next}/end"), "").await;
    bed.until(&next, is_final).await;
    assert_eq!(
        bed.api(Method::GET, "/queue", None).await.json(),
        serde_json::json!([])
    );
}

#[tokio::test]
async fn what_can_never_fit_is_refused_at_once() {
    let bed = bed_with(Config {
        node_memory_mib: 1 << 40,
        ..Config::default()
    })
    .await;
    let refused = bed.post("/labs/stale-flag/start", "").await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(
        refused.body.contains("too small for this lab"),
        "{}",
        refused.body
    );
    assert!(
        bed.app
            .store
            .unfinished_environments()
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_restart_keeps_the_queue() {
    let mut bed = bed(1).await;
    let first = bed.active("stale-flag").await;
    let next = bed.start("two-nodes").await;
    bed.reconcile().await;
    let bed = bed.restart().await;
    // A long time without a server is not the fault of those who wait.
    bed.clock.advance(SignedDuration::from_mins(30));
    let mut bed = bed.restart().await;
    bed.reconcile().await;
    assert_eq!(place(&bed, &next).await, Some((1, 1)));
    bed.post(&format!("/environments/{first}/end"), "").await;
    bed.until(&next, is_active).await;
}

/// A class of thirty starts at once on a host with ten places.
#[tokio::test]
async fn a_class_is_served_in_turns() {
    let mut bed = bed(10).await;
    let mut waiting = Vec::new();
    for n in 0..30 {
        bed.become_another(&format!("p{n}")).await;
        waiting.push(bed.start("stale-flag").await);
        bed.clock.advance(SignedDuration::from_millis(200));
    }
    let mut served = Vec::new();
    for _ in 0..400 {
        bed.reconcile().await;
        let active: Vec<EnvironmentId> = {
            let all = bed.app.store.unfinished_environments().await.unwrap();
            let placed = all
                .iter()
                .filter(|e| e.tenant.is_some() && e.is_open())
                .count();
            assert!(placed <= 10, "{placed}");
            all.iter()
                .filter(|e| is_active(e) && e.is_open())
                .map(|e| e.id.clone())
                .collect()
        };
        for id in active {
            served.push(id.clone());
            let reason = faultline_domain::environment::EndReason::Ended;
            bed.app
                .store
                .end_environment(&id, reason, None, bed.app.now())
                .await
                .unwrap();
        }
        if served.len() == 30 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let position = |id: &EnvironmentId| waiting.iter().position(|w| w == id).unwrap();
    let order: Vec<usize> = served.iter().map(position).collect();
    assert_eq!(order.len(), 30, "{order:?}");
    // Within a wave the order may differ, since starts run in parallel.
    let first: std::collections::BTreeSet<_> = order[..10].iter().copied().collect();
    assert_eq!(first, (0..10).collect());
}
