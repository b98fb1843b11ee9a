//! Tests of warm pools: what is claimed from them, what fills and drains them, and that nobody enters their tenants.

use faultline_domain::{
    environment::Environment,
    pool::{PoolSave, PoolSavePhase, Pooled},
    tenant,
};
use faultline_gateway::{Directory, HostKey, Login};
use faultline_provider::Provider;
use jiff::SignedDuration;

use super::*;
use crate::{
    config::PoolSettings,
    directory::StoreDirectory,
    pools::{PoolStatus, survey},
};

const LAB: &str = "stale-flag";
const TEMPLATE: &str = "debian-12@1+0";

async fn bed() -> Bed {
    bed_with(Config {
        pools: PoolSettings {
            max_tenants: 4,
            parallel: 1,
        },
        ..Config::default()
    })
    .await
}

async fn set_floor(bed: &Bed, pool: &str, floor: u32) {
    let json = serde_json::json!({ "pool": pool, "floor": floor }).to_string();
    let answer = bed.api(Method::PATCH, "/pools", Some(&json)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
}

async fn pool(bed: &Bed, name: &str) -> Option<PoolStatus> {
    let all = survey(&bed.app).await.unwrap().all;
    all.into_iter().find(|s| s.pool.to_string() == name)
}

/// Reconciles until a pool has this many warm tenants, and returns them with the others that exist.
async fn until_warm(bed: &Bed, name: &str, warm: u32) -> Vec<TenantId> {
    for _ in 0..400 {
        bed.reconcile().await;
        let status = pool(bed, name).await;
        if status.is_some_and(|s| s.warm == warm && s.unfinished == 0) {
            let all = bed.provider.list().await.unwrap();
            return all.into_iter().map(|(id, _)| id).collect();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{:?}", pool(bed, name).await);
}

async fn served_by(bed: &Bed) -> Vec<(String, u64)> {
    let answer = bed.api(Method::GET, "/pools", None).await.json();
    let waits = answer["waits"].as_array().unwrap().clone();
    let each = waits.iter().map(|w| {
        let by = w["served_by"].as_str().unwrap().to_owned();
        (by, w["starts"].as_u64().unwrap())
    });
    each.collect()
}

#[tokio::test]
async fn without_demand_a_pool_is_empty_and_says_so() {
    let bed = bed().await;
    for _ in 0..3 {
        bed.reconcile().await;
    }
    assert!(bed.provider.list().await.unwrap().is_empty());
    let page = bed.get("/operator/pools").await.body;
    assert!(page.contains("All pools are empty"), "{page}");
    assert_eq!(served_by(&bed).await, []);
}

#[tokio::test]
async fn a_staged_tenant_is_claimed_and_replaced() {
    let mut bed = bed().await;
    set_floor(&bed, LAB, 1).await;
    let staged = until_warm(&bed, LAB, 1).await;
    let seen = bed.provider.list().await.unwrap();
    assert_eq!(seen, [(staged[0].clone(), Observed::Paused)]);
    assert!(bed.provider.allowance(&staged[0]).is_none());
    let broken = bed
        .provider
        .file(&staged[0], &node(), "/var/lib/orders/maintenance");
    assert!(broken.is_some(), "its setup is done");

    bed.key().await;
    let id = bed.active(LAB).await;
    assert_eq!(bed.tenant(&id).await, staged[0]);
    assert!(bed.provider.allowance(&staged[0]).is_some());
    assert_eq!(served_by(&bed).await, [("lab".to_owned(), 1)]);
    // The keys follow.
    let keys = || {
        bed.provider
            .file(&staged[0], &node(), "/root/.ssh/authorized_keys")
    };
    for _ in 0..100 {
        if keys().is_some() {
            break;
        }
        bed.reconcile().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(keys().is_some());
    let now = until_warm(&bed, LAB, 1).await;
    assert_eq!(now.len(), 2);
    // A reset takes the other one, and the first is freed.
    bed.clock.advance(SignedDuration::from_secs(5));
    let answer = bed.post(&format!("/environments/{id}/reset"), "").await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    bed.until(&id, is_active).await;
    let second = bed.tenant(&id).await;
    assert!(second != staged[0] && now.contains(&second));
    assert_eq!(served_by(&bed).await, [("lab".to_owned(), 2)]);
    let page = bed.get("/operator/pools").await.body;
    assert!(
        page.contains("The lab&#39;s pool, with its setup done")
            || page.contains("The lab's pool, with its setup done")
    );
}

#[tokio::test]
async fn a_tenant_of_the_template_serves_any_of_its_labs() {
    let mut bed = bed().await;
    set_floor(&bed, TEMPLATE, 1).await;
    let warm = until_warm(&bed, TEMPLATE, 1).await;
    let before = bed
        .provider
        .file(&warm[0], &node(), "/var/lib/orders/maintenance");
    assert!(before.is_none(), "no setup has run");
    let id = bed.active(LAB).await;
    assert_eq!(bed.tenant(&id).await, warm[0]);
    let broken = bed
        .provider
        .file(&warm[0], &node(), "/var/lib/orders/maintenance");
    assert!(broken.is_some());
    assert_eq!(served_by(&bed).await, [("template".to_owned(), 1)]);
}

#[tokio::test]
async fn people_who_start_at_once_never_get_the_same_tenant() {
    let mut bed = bed().await;
    set_floor(&bed, LAB, 3).await;
    until_warm(&bed, LAB, 3).await;
    let mut ids = Vec::new();
    for name in ["ann", "ben", "cleo", "dan", "eve"] {
        bed.become_another(name).await;
        ids.push(bed.start(LAB).await);
    }
    let mut tenants = Vec::new();
    for id in &ids {
        bed.until(id, is_active).await;
        tenants.push(bed.tenant(id).await);
    }
    tenants.sort();
    tenants.dedup();
    assert_eq!(tenants.len(), ids.len());
    bed.become_another("local").await;
    let served = bed.app.store.served_since(Timestamp::MIN).await.unwrap();
    let of_pool = served.iter().filter(|s| s.by.as_str() == "lab").count();
    assert_eq!((of_pool, served.len()), (3, 5));
}

#[tokio::test]
async fn dead_tenants_fall_through_to_the_next_and_are_replaced() {
    let mut bed = bed().await;
    set_floor(&bed, LAB, 2).await;
    let warm = until_warm(&bed, LAB, 2).await;
    // One is seen to be dead, another dies when it is resumed.
    bed.provider.crash(&warm[0]);
    bed.provider.fail_next("resume", "its QEMU is gone");
    let id = bed.active(LAB).await;
    let got = bed.tenant(&id).await;
    assert!(!warm.contains(&got), "{got} {warm:?}");
    let e = bed.app.store.environment(&id).await.unwrap().unwrap();
    assert!(is_active(&e));
    let audit = bed.app.store.audit(40).await.unwrap();
    assert!(
        audit.iter().all(|line| line.action != "retry"),
        "no try was lost"
    );
    let left = until_warm(&bed, LAB, 2).await;
    assert!(
        left.iter().all(|t| !warm.contains(t)),
        "the dead ones are freed"
    );
}

#[tokio::test]
async fn a_start_takes_over_a_tenant_that_is_being_made() {
    let mut bed = bed().await;
    bed.provider.set_latency(Duration::from_millis(600));
    set_floor(&bed, TEMPLATE, 1).await;
    bed.reconcile().await;
    bed.reconcile().await;
    let begun = bed.provider.list().await.unwrap();
    assert_eq!(begun.len(), 1, "{begun:?}");
    let id = bed.active(LAB).await;
    assert_eq!(bed.tenant(&id).await, begun[0].0);
    assert_eq!(served_by(&bed).await, [("unfinished".to_owned(), 1)]);
}

#[tokio::test]
async fn a_changed_lab_or_template_drains_what_is_old() {
    let mut bed = bed().await;
    set_floor(&bed, LAB, 1).await;
    let first = until_warm(&bed, LAB, 1).await;
    bed.provider.set_template("second");
    bed.clock.advance(SignedDuration::from_secs(11));
    let mut second = until_warm(&bed, LAB, 1).await;
    for _ in 0..20 {
        if !second.contains(&first[0]) && second.len() == 1 {
            break;
        }
        second = until_warm(&bed, LAB, 1).await;
    }
    assert!(second != first && second.len() == 1, "{first:?} {second:?}");

    let edited = tempfile::tempdir().unwrap();
    copy(&labs(), edited.path());
    let script = edited.path().join(LAB).join("setup/break.sh");
    let text = std::fs::read_to_string(&script).unwrap();
    std::fs::write(&script, format!("{text}\n# edited\n")).unwrap();
    bed.app.set_catalogue(Catalogue::load(edited.path()));
    // What is staged with the previous content isn't handed out, even before it is released.
    let id = bed.active(LAB).await;
    assert_ne!(bed.tenant(&id).await, second[0]);
    let third = until_warm(&bed, LAB, 1).await;
    assert!(!third.contains(&second[0]));
}

#[tokio::test]
async fn an_unreadable_template_keeps_its_pool() {
    let bed = bed().await;
    set_floor(&bed, LAB, 1).await;
    let before = until_warm(&bed, LAB, 1).await;
    bed.provider
        .set_readiness(faultline_provider::Readiness::Unavailable {
            reason: "its recipe can't be read".to_owned(),
        });
    bed.clock.advance(SignedDuration::from_mins(15));
    for _ in 0..5 {
        bed.reconcile().await;
    }
    assert_eq!(until_warm(&bed, LAB, 1).await, before);
    assert!(
        pool(&bed, LAB)
            .await
            .unwrap()
            .reason()
            .contains("not built")
    );
}

#[tokio::test]
async fn a_drained_pool_is_filled_from_disk() {
    const DONE: &str = "/var/lib/orders/maintenance";
    let mut bed = bed().await;
    set_floor(&bed, LAB, 1).await;
    let before = until_warm(&bed, LAB, 1).await.remove(0);
    // What only this tenant has: it is not made again.
    bed.provider
        .put_file(&before, &node(), "/etc/machine-id", b"own");
    let at = (bed.app.now() + jiff::SignedDuration::from_hours(1)).to_string();
    let wanted = serde_json::json!({ "end_environments_at": at }).to_string();
    let path = "/operator/maintenance";
    let begun = bed.api(Method::PUT, path, Some(&wanted)).await;
    assert_eq!(begun.status, StatusCode::OK, "{}", begun.body);
    for _ in 0..400 {
        bed.reconcile().await;
        if bed.provider.list().await.unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(bed.provider.list().await.unwrap().is_empty(), "it is freed");
    let pools = bed.api(Method::GET, "/pools", None).await.json();
    assert_eq!(pools["pools"][0]["on_disk"], 1, "{pools}");
    assert!(bed.get("/operator/pools").await.body.contains("1 on disk"));
    assert_eq!(bed.provider.saves().await.unwrap().len(), 1);

    bed.api(Method::DELETE, path, None).await;
    let after = until_warm(&bed, LAB, 1).await.remove(0);
    assert_ne!(before, after);
    let file = |path| bed.provider.file(&after, &node(), path);
    assert_eq!(file("/etc/machine-id").as_deref(), Some(&b"own"[..]));
    assert!(file(DONE).is_some(), "its setup was done before");
    let seen = bed.provider.list().await.unwrap();
    assert_eq!(seen, [(after.clone(), Observed::Paused)]);
    for _ in 0..100 {
        bed.reconcile().await;
        if bed.app.store.pool_saves().await.unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(bed.provider.saves().await.unwrap().is_empty(), "used once");
    let id = bed.active(LAB).await;
    assert_eq!(bed.tenant(&id).await, after);
}

#[tokio::test]
async fn what_is_on_disk_of_a_changed_lab_is_deleted() {
    let bed = bed().await;
    set_floor(&bed, LAB, 1).await;
    let warm = until_warm(&bed, LAB, 1).await.remove(0);
    let held = bed.app.store.tenant(&warm).await.unwrap().unwrap();
    let save = PoolSave {
        id: "stored".parse().unwrap(),
        tenant: warm.clone(),
        pooled: Pooled {
            lab: Some("another content".to_owned()),
            ..held.pooled.unwrap()
        },
        created_at: bed.app.now(),
        phase: PoolSavePhase::Saving,
    };
    let now = bed.app.now();
    assert!(bed.app.store.save_to_pool(&save, now).await.unwrap());
    let next = until_warm(&bed, LAB, 1).await;
    assert!(!next.contains(&warm), "another one was made");
    for _ in 0..400 {
        bed.reconcile().await;
        if bed.app.store.pool_saves().await.unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(bed.app.store.pool_saves().await.unwrap().is_empty());
    assert!(bed.provider.saves().await.unwrap().is_empty());
}

#[tokio::test]
async fn pools_that_are_turned_off_are_drained_and_say_so() {
    let bed = bed_with(Config {
        pools: PoolSettings {
            max_tenants: 0,
            parallel: 1,
        },
        ..Config::default()
    })
    .await;
    set_floor(&bed, LAB, 1).await;
    for _ in 0..3 {
        bed.reconcile().await;
    }
    assert!(bed.provider.list().await.unwrap().is_empty());
    let answer = bed.api(Method::GET, "/pools", None).await.json();
    assert!(answer["hold"].as_str().unwrap().contains("turned off"));
    assert!(
        bed.get("/operator/pools")
            .await
            .body
            .contains("Pools are turned off")
    );
}

#[tokio::test]
async fn failures_delay_the_next_attempt_and_are_shown() {
    let bed = bed().await;
    bed.provider.fail_next("refresh", "no entropy");
    set_floor(&bed, LAB, 1).await;
    let mut failures = 0;
    for _ in 0..100 {
        bed.reconcile().await;
        failures = pool(&bed, LAB).await.map_or(0, |s| s.failures);
        if failures > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(failures, 1);
    let page = bed.get("/operator/pools").await.body;
    assert!(
        page.contains("no entropy") && page.contains("next attempt in 30 s"),
        "{page}"
    );
    for _ in 0..5 {
        bed.reconcile().await;
    }
    assert!(bed.provider.list().await.unwrap().is_empty(), "it waits");
    bed.clock.advance(SignedDuration::from_secs(31));
    until_warm(&bed, LAB, 1).await;
    assert_eq!(pool(&bed, LAB).await.unwrap().failures, 0);
}

#[tokio::test]
async fn an_old_tenant_is_replaced_before_it_goes() {
    let bed = bed().await;
    set_floor(&bed, LAB, 1).await;
    let first = until_warm(&bed, LAB, 1).await;
    bed.clock.advance(SignedDuration::from_mins(41));
    bed.reconcile().await;
    let during = bed.provider.list().await.unwrap();
    assert!(during.iter().any(|(id, _)| *id == first[0]), "{during:?}");
    for _ in 0..200 {
        bed.reconcile().await;
        let now = bed.provider.list().await.unwrap();
        if now.len() == 1 && now[0].0 != first[0] && now[0].1 == Observed::Paused {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", bed.provider.list().await.unwrap());
}

#[tokio::test]
async fn a_crash_while_a_tenant_is_made_leaks_nothing() {
    let bed = bed().await;
    bed.provider.set_latency(Duration::from_secs(30));
    set_floor(&bed, LAB, 1).await;
    bed.reconcile().await;
    bed.reconcile().await;
    let begun = bed.provider.list().await.unwrap();
    assert_eq!(begun.len(), 1);
    let bed = bed.restart().await;
    bed.provider.set_latency(Duration::ZERO);
    bed.reconcile().await;
    // The interrupted tenant counts as a failure.
    bed.clock.advance(SignedDuration::from_mins(5));
    let now = until_warm(&bed, LAB, 1).await;
    assert!(now.len() == 1 && now[0] != begun[0].0, "{now:?}");
    // Warm ones outlive the server.
    let bed = bed.restart().await;
    assert_eq!(until_warm(&bed, LAB, 1).await, now);
}

#[tokio::test]
async fn events_fill_a_pool_in_time() {
    let bed = bed().await;
    let begins = bed.app.now() + SignedDuration::from_mins(20);
    let json = serde_json::json!({
        "lab": LAB, "at": begins.to_string(), "seats": 3, "note": "Class of Monday",
    });
    let made = bed
        .api(Method::POST, "/events", Some(&json.to_string()))
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    bed.reconcile().await;
    let before = pool(&bed, LAB).await.unwrap();
    let next = before.forecast.next.unwrap();
    assert_eq!((before.size, next.size), (0, 3));
    let page = bed.get("/operator/pools").await.body;
    assert!(
        page.contains("event of 3 at") && page.contains("Class of Monday"),
        "{page}"
    );
    bed.clock.advance(SignedDuration::from_mins(17));
    until_warm(&bed, LAB, 3).await;
    assert_eq!(
        pool(&bed, LAB).await.unwrap().reason(),
        "an announced event"
    );
    // Cancelled, it is drained after a while.
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let gone = bed
        .api(Method::DELETE, &format!("/events/{id}"), None)
        .await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    let again = bed
        .api(Method::DELETE, &format!("/events/{id}"), None)
        .await;
    assert_eq!(again.status, StatusCode::NOT_FOUND);
    bed.clock.advance(SignedDuration::from_mins(11));
    for _ in 0..200 {
        bed.reconcile().await;
        if bed.provider.list().await.unwrap().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", bed.provider.list().await.unwrap());
}

#[tokio::test]
async fn invalid_bounds_and_events_are_refused_with_the_reason() {
    let bed = bed().await;
    for (json, part) in [
        (
            serde_json::json!({ "pool": "nothing", "floor": 1 }),
            "no pool",
        ),
        (
            serde_json::json!({ "pool": LAB, "floor": 3, "ceiling": 2 }),
            "must not exceed",
        ),
        (
            serde_json::json!({ "pool": LAB, "ceiling": 9999 }),
            "must not exceed",
        ),
    ] {
        let answer = bed
            .api(Method::PATCH, "/pools", Some(&json.to_string()))
            .await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(answer.body.contains(part), "{}", answer.body);
    }
    let soon = (bed.app.now() + SignedDuration::from_mins(5)).to_string();
    let past = (bed.app.now() - SignedDuration::from_mins(5)).to_string();
    for (lab, at, seats) in [
        ("nothing", soon.as_str(), 3),
        (LAB, "soon", 3),
        (LAB, past.as_str(), 3),
        (LAB, soon.as_str(), 0),
        (LAB, soon.as_str(), 9999),
    ] {
        let json = serde_json::json!({ "lab": lab, "at": at, "seats": seats }).to_string();
        let answer = bed.api(Method::POST, "/events", Some(&json)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{lab} {at} {seats}");
    }
    let form = "lab=stale-flag&at=&seats=3&note=";
    let page = bed.post("/operator/events", form).await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
    assert!(
        page.body.contains("Enter the day and time"),
        "{}",
        page.body
    );
    let page = bed
        .post("/operator/pools/bounds", "pool=stale-flag&floor=x&ceiling=")
        .await;
    assert!(page.body.contains("whole numbers"), "{}", page.body);
    let done = bed
        .post("/operator/pools/bounds", "pool=stale-flag&floor=1&ceiling=")
        .await;
    assert_eq!(done.status, StatusCode::SEE_OTHER);
    assert_eq!(pool(&bed, LAB).await.unwrap().bounds.floor, 1);
}

/// Every route and gateway, with the ID of a pooled tenant as an environment's.
#[tokio::test]
async fn a_pooled_tenant_has_no_open_door() {
    let bed = bed().await;
    set_floor(&bed, LAB, 1).await;
    set_floor(&bed, TEMPLATE, 1).await;
    until_warm(&bed, TEMPLATE, 1).await;
    let pooled = until_warm(&bed, LAB, 1).await;
    assert_eq!(pooled.len(), 2);
    let key = HostKey::generate(&mut rand::rngs::StdRng::seed_from_u64(9)).public();
    let json = serde_json::json!({ "name": "laptop", "public_key": key.as_openssh() }).to_string();
    bed.api(Method::POST, "/keys", Some(&json)).await;
    let directory = StoreDirectory::new(bed.app.clone());
    for tenant in &pooled {
        for (method, path) in routes::with_environments() {
            let path = routes::filled(&path, tenant.as_str());
            let answer = if path.starts_with("/api/v1") {
                bed.api(
                    method.clone(),
                    path.trim_start_matches("/api/v1"),
                    Some("{}"),
                )
                .await
            } else if method == Method::GET {
                bed.get(&path).await
            } else {
                bed.post(&path, "").await
            };
            // A WebSocket's route wants the handshake first.
            let refused = [
                StatusCode::NOT_FOUND,
                StatusCode::BAD_REQUEST,
                StatusCode::UNPROCESSABLE_ENTITY,
            ];
            assert!(
                refused.contains(&answer.status),
                "{method} {path}: {}",
                answer.status
            );
        }
        for login in [tenant.to_string(), format!("node1.{tenant}")] {
            let login = Login::parse(&login).unwrap();
            assert!(directory.authorize(&login, &key).await.is_none(), "SSH");
        }
        let file = |path: &str| bed.provider.file(tenant, &node(), path);
        assert!(
            file("/root/.ssh/authorized_keys").is_none(),
            "no key is inside"
        );
    }
    let states = bed.provider.list().await.unwrap();
    assert!(
        states.iter().all(|(_, o)| *o == Observed::Paused),
        "nothing woke them"
    );
    let rows = bed.app.store.unfinished_tenants().await.unwrap();
    assert!(
        rows.iter()
            .all(|t| t.environment.is_none() && matches!(t.state, tenant::State::Warm { .. }))
    );
}

#[tokio::test]
async fn only_operators_see_and_change_pools() {
    let mut bed = bed().await;
    bed.become_another("mallory").await;
    for (method, path) in [
        (Method::GET, "/pools"),
        (Method::PATCH, "/pools"),
        (Method::GET, "/events"),
        (Method::POST, "/events"),
        (Method::DELETE, "/events/x"),
    ] {
        let answer = bed.api(method.clone(), path, Some("{}")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {path}");
    }
    assert_eq!(
        bed.get("/operator/pools").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn no_tenant_is_made_while_somebody_waits() {
    let mut bed = bed().await;
    bed.provider.set_latency(Duration::from_millis(400));
    let id = bed.start("two-nodes").await;
    set_floor(&bed, LAB, 1).await;
    bed.begun(&id).await;
    assert_eq!(
        survey(&bed.app).await.unwrap().hold,
        Some("somebody's start is in progress")
    );
    bed.until(&id, |e: &Environment| {
        e.state.holds_resources() && is_active(e)
    })
    .await;
    until_warm(&bed, LAB, 1).await;
}

/// Kills the server at many moments between two claims and their environments' activation. Afterwards each tenant belongs
/// to one environment or none, and none is leaked.
#[tokio::test]
async fn a_crash_at_any_moment_of_a_claim_loses_nothing() {
    for moment in 0..24_u64 {
        let mut bed = bed().await;
        set_floor(&bed, LAB, 2).await;
        until_warm(&bed, LAB, 2).await;
        let own = (bed.cookie.clone(), bed.csrf.clone(), bed.token.clone());
        let mut ids = Vec::new();
        for name in ["ann", "ben"] {
            bed.become_another(name).await;
            ids.push(bed.start(LAB).await);
        }
        (bed.cookie, bed.csrf, bed.token) = own;
        let passes = async {
            loop {
                bed.reconcile().await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(moment * 3), passes).await;
        let mut bed = bed.restart().await;
        let mut tenants = Vec::new();
        for id in &ids {
            bed.until(id, is_active).await;
            tenants.push(bed.tenant(id).await);
        }
        assert_ne!(tenants[0], tenants[1], "moment {moment}");
        // A tenant whose preparation was interrupted counts as a failure of the pool only if it was never warm.
        bed.clock.advance(SignedDuration::from_mins(1));
        for _ in 0..400 {
            bed.reconcile().await;
            let rows = bed.app.store.unfinished_tenants().await.unwrap();
            let listed = bed.provider.list().await.unwrap();
            if rows.len() == 4 && listed.len() == 4 && pool(&bed, LAB).await.unwrap().warm == 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let rows = bed.app.store.unfinished_tenants().await.unwrap();
        let owners: Vec<_> = rows.iter().filter_map(|t| t.environment.clone()).collect();
        let listed = bed.provider.list().await.unwrap();
        assert_eq!(
            (rows.len(), listed.len()),
            (4, 4),
            "moment {moment}: {rows:?} {listed:?}"
        );
        assert_eq!(owners.len(), 2, "moment {moment}: {rows:?}");
    }
}
