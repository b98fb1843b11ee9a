//! Tests of a host that is short of memory: what gives it back, in which order, and that nobody's work ends.

use faultline_domain::environment::Intent;
use jiff::SignedDuration;

use super::*;

/// Returns a server whose tenants may use this much memory. A node takes 48 MiB.
async fn bed(memory_mib: u64) -> Bed {
    let bed = bed_with(Config {
        node_memory_mib: 48,
        reserve_memory_mib: 0,
        ..Config::default()
    })
    .await;
    bed.provider.limit_memory(memory_mib);
    bed
}

/// Starts a lab, for which there is no memory, as somebody else.
async fn somebody_waits(bed: &mut Bed) -> EnvironmentId {
    bed.become_another("bob").await;
    let next = bed.start("stale-flag").await;
    bed.until(&next, |e| e.tenant.is_none()).await;
    next
}

async fn settle(bed: &Bed) {
    for _ in 0..10 {
        bed.reconcile().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn now(bed: &Bed, id: &EnvironmentId) -> Environment {
    bed.app.store.environment(id).await.unwrap().unwrap()
}

#[tokio::test]
async fn an_unused_environment_is_suspended_after_a_notice_and_the_next_starts() {
    let mut bed = bed(150).await;
    let (unused, used) = (
        bed.active("stale-flag").await,
        bed.active("two-nodes").await,
    );
    let cookie = bed.cookie.clone();
    let next = somebody_waits(&mut bed).await;
    settle(&bed).await;
    assert!(now(&bed, &unused).await.warned.is_none(), "it is in use");
    bed.clock.advance(SignedDuration::from_mins(11));
    bed.app.touch(&used).await;
    bed.app.touch(&next).await;
    bed.until(&unused, |e| e.warned == Some(120)).await;
    let bob = std::mem::replace(&mut bed.cookie, cookie);
    let page = bed.get(&format!("/environments/{unused}")).await.body;
    assert!(page.contains("The server is short of memory"), "{page}");
    assert!(now(&bed, &used).await.warned.is_none(), "it is in use");
    // Whoever uses it keeps it.
    bed.app.touch(&unused).await;
    bed.until(&unused, |e| {
        e.warned.is_none() && e.lifetime.idle_seconds == 3600
    })
    .await;
    settle(&bed).await;
    assert!(now(&bed, &next).await.tenant.is_none());
    bed.clock.advance(SignedDuration::from_mins(9));
    bed.app.touch(&used).await;
    bed.app.touch(&next).await;
    bed.clock.advance(SignedDuration::from_mins(2));
    bed.until(&unused, |e| e.warned == Some(120)).await;
    bed.clock.advance(SignedDuration::from_secs(121));
    bed.cookie = bob;
    bed.until(&next, is_active).await;
    assert!(now(&bed, &unused).await.state.is_on_disk());
    assert!(is_active(&now(&bed, &used).await));
    // Its owner waits for a place to come back.
    let resumed = bed.app.store.environment(&unused).await.unwrap().unwrap();
    assert_eq!(resumed.intent, Intent::Suspended);
    let audit = bed.app.store.audit(50).await.unwrap();
    assert!(audit.iter().any(|l| l.action == "suspend-notice"));
}

#[tokio::test]
async fn nobody_is_suspended_if_that_would_not_be_enough() {
    let mut bed = bed(110).await;
    let unused = bed.active("stale-flag").await;
    bed.become_another("bob").await;
    let next = bed.start("two-nodes").await;
    bed.clock.advance(SignedDuration::from_mins(9));
    bed.app.touch(&next).await;
    bed.clock.advance(SignedDuration::from_mins(9));
    bed.app.touch(&next).await;
    settle(&bed).await;
    // One node is given back, and that suffices only with what is free.
    bed.until(&unused, |e| e.warned == Some(120)).await;
    bed.provider.limit_memory(80);
    bed.app.touch(&unused).await;
    bed.clock.advance(SignedDuration::from_mins(9));
    bed.app.touch(&next).await;
    bed.clock.advance(SignedDuration::from_mins(5));
    settle(&bed).await;
    let e = now(&bed, &unused).await;
    assert!(is_active(&e) && e.warned.is_none(), "{:?}", e.lifetime);
}

#[tokio::test]
async fn what_grows_into_the_reserve_is_given_back_too() {
    let mut bed = bed_with(Config {
        node_memory_mib: 1,
        reserve_memory_mib: 20,
        ..Config::default()
    })
    .await;
    bed.provider.limit_memory(100);
    let unused = bed.active("stale-flag").await;
    bed.clock.advance(SignedDuration::from_mins(11));
    settle(&bed).await;
    assert!(now(&bed, &unused).await.warned.is_none());
    bed.provider.limit_memory(60);
    bed.until(&unused, |e| e.warned == Some(120)).await;
    bed.clock.advance(SignedDuration::from_secs(121));
    bed.until(&unused, |e| e.state.is_on_disk()).await;
}
