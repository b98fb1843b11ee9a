//! Tests of limits: of a person, a group and everyone; who sees and changes them; what waits instead.

use jiff::SignedDuration;

use super::{groups::school, *};
use crate::config::UseLimits;

fn starts(per_hour: u32) -> UseLimits {
    UseLimits {
        starts_per_hour: per_hour,
        ..UseLimits::default()
    }
}

async fn end(bed: &mut Bed, id: &EnvironmentId) {
    bed.post(&format!("/environments/{id}/end"), "").await;
    bed.until(id, is_final).await;
}

/// Returns the used part and the limit of a resource of the caller.
async fn used(bed: &Bed, holder: &str, resource: &str) -> Option<(u64, u64)> {
    let all = bed.api(Method::GET, "/limits", None).await.json();
    let all = all.as_array().unwrap();
    let found = all
        .iter()
        .find(|l| l["holder"] == holder && l["resource"] == resource)?;
    Some((found["used"].as_u64()?, found["limit"].as_u64()?))
}

#[tokio::test]
async fn starts_within_an_hour_are_limited_and_free_again() {
    let mut bed = bed_with(Config {
        person_limits: starts(2),
        ..Config::default()
    })
    .await;
    let one = bed.active("stale-flag").await;
    assert_eq!(used(&bed, "person", "starts_per_hour").await, Some((1, 2)));
    end(&mut bed, &one).await;
    bed.clock.advance(SignedDuration::from_mins(20));
    // A reset is a start, too.
    bed.post(&format!("/environments/{one}/reset"), "").await;
    bed.until(&one, is_active).await;
    // People see it before they try.
    let lab = bed.get("/labs/two-nodes").await.body;
    assert!(
        lab.contains("2 of your 2 starts within an hour are used; again in 40 min"),
        "{lab}"
    );
    let account = bed.get("/account").await.body;
    assert!(
        account.contains("2 / 2") && account.contains("free again in 40 min"),
        "{account}"
    );
    let refused = bed.post("/labs/two-nodes/start", "").await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(
        refused.body.contains("A limit is reached"),
        "{}",
        refused.body
    );
    let path = "/labs/two-nodes/environments";
    let refused = bed.api(Method::POST, path, None).await;
    assert_eq!(refused.json()["code"], "limit");
    assert_eq!(refused.headers[header::RETRY_AFTER], "2400");
    bed.clock.advance(SignedDuration::from_mins(40));
    bed.start("two-nodes").await;
}

#[tokio::test]
async fn hours_count_while_an_environment_runs_but_not_while_it_is_paused() {
    let mut bed = bed_with(Config {
        person_limits: UseLimits {
            hours_per_month: 2,
            ..UseLimits::default()
        },
        hard_minutes: 100_000,
        idle_minutes: 100_000,
        ..Config::default()
    })
    .await;
    let id = bed.active("stale-flag").await;
    for _ in 0..8 {
        bed.post(&format!("/environments/{id}/extend"), "").await;
    }
    bed.clock.advance(SignedDuration::from_mins(70));
    assert_eq!(used(&bed, "person", "hours_per_month").await, Some((1, 2)));
    bed.post(&format!("/environments/{id}/suspend"), "").await;
    bed.until(&id, |e| matches!(e.state, State::Suspended { .. }))
        .await;
    bed.clock.advance(SignedDuration::from_mins(80));
    assert_eq!(used(&bed, "person", "hours_per_month").await, Some((1, 2)));
    bed.post(&format!("/environments/{id}/resume"), "").await;
    bed.until(&id, is_active).await;
    bed.clock.advance(SignedDuration::from_mins(50));
    assert_eq!(used(&bed, "person", "hours_per_month").await, Some((2, 2)));
    let refused = bed.post("/labs/two-nodes/start", "").await;
    assert!(
        refused
            .body
            .contains("2 of your 2 hours this month are used; again on 1 February"),
        "{}",
        refused.body
    );
    // The clock of the tests stands in January 2027.
    bed.clock.advance(SignedDuration::from_hours(24 * 20));
    bed.reconcile().await;
    let left = used(&bed, "person", "hours_per_month").await.unwrap();
    assert_eq!(left.1, 2);
    assert!(bed.app.store.environment(&id).await.unwrap().is_some());
}

#[tokio::test]
async fn nodes_are_limited_for_starts_and_for_added_nodes() {
    let mut bed = bed_with(Config {
        person_limits: UseLimits {
            nodes: 3,
            ..UseLimits::default()
        },
        ..Config::default()
    })
    .await;
    let id = bed.active("two-nodes").await;
    let path = format!("/environments/{id}/nodes");
    let added = bed.api(Method::POST, &path, None).await;
    assert_eq!(added.status, StatusCode::ACCEPTED, "{}", added.body);
    let refused = bed.api(Method::POST, &path, None).await;
    assert_eq!(refused.json()["code"], "limit");
    let refused = bed.post("/labs/stale-flag/start", "").await;
    assert!(
        refused
            .body
            .contains("3 of your 3 nodes are in use, and this needs 1"),
        "{}",
        refused.body
    );
}

#[tokio::test]
async fn nodes_in_total_wait_in_the_queue() {
    let mut bed = bed_with(Config {
        total_limits: UseLimits {
            nodes: 2,
            ..UseLimits::default()
        },
        ..Config::default()
    })
    .await;
    let first = bed.active("stale-flag").await;
    let next = bed.start("two-nodes").await;
    bed.reconcile().await;
    let page = bed.get(&format!("/environments/{next}")).await.body;
    assert!(page.contains("All places are taken"), "{page}");
    end(&mut bed, &first).await;
    bed.until(&next, is_active).await;
}

#[tokio::test]
async fn a_lab_with_more_nodes_than_there_may_be_is_refused() {
    let bed = bed_with(Config {
        total_limits: UseLimits {
            nodes: 1,
            ..UseLimits::default()
        },
        ..Config::default()
    })
    .await;
    let refused = bed.post("/labs/two-nodes/start", "").await;
    assert!(
        refused
            .body
            .contains("needs 2 nodes, and this server runs at most 1 at once"),
        "{}",
        refused.body
    );
}

#[tokio::test]
async fn the_members_of_a_group_share_its_limits() {
    let (mut bed, mine, _) = school().await;
    let own = (bed.cookie.clone(), bed.csrf.clone(), bed.token.clone());
    let set = bed
        .api(
            Method::PUT,
            &format!("/groups/{mine}/limits"),
            Some("{\"environments\": 1}"),
        )
        .await;
    assert_eq!(set.status, StatusCode::OK, "{}", set.body);
    assert_eq!(
        bed.api(
            Method::PUT,
            &format!("/groups/{mine}/members/eve"),
            Some("{}")
        )
        .await
        .status,
        StatusCode::NO_CONTENT
    );
    bed.become_another("stu").await;
    bed.active("stale-flag").await;
    bed.become_another("eve").await;
    assert_eq!(used(&bed, "group", "environments").await, Some((1, 1)));
    let refused = bed.post("/labs/stale-flag/start", "").await;
    assert!(
        refused
            .body
            .contains("The group Monday&#39;s limit is one environment, which is open; try again when it has ended"),
        "{}",
        refused.body
    );
    // Who instructs doesn't count, but sees it, and can't change it.
    bed.become_another("ida").await;
    bed.active("stale-flag").await;
    let page = bed.get(&format!("/groups/{mine}")).await.body;
    assert!(
        page.contains("1 / 1") && !page.contains("Set limits") && !page.contains("shared by"),
        "{page}"
    );
    let path = format!("/groups/{mine}/limits");
    let seen = bed.api(Method::GET, &path, None).await.json();
    assert_eq!(seen["overrides"]["environments"], 1);
    let set = bed.api(Method::PUT, &path, Some("{}")).await;
    assert_eq!(set.status, StatusCode::NOT_FOUND);
    (bed.cookie, bed.csrf, bed.token) = own;
    let page = bed.get(&format!("/groups/{mine}")).await.body;
    assert!(page.contains("Set limits"), "{page}");
    let raised = bed.post(&path, "environments=2&nodes=").await;
    assert_eq!(raised.status, StatusCode::SEE_OTHER, "{}", raised.body);
    bed.become_another("eve").await;
    bed.start("stale-flag").await;
}

#[tokio::test]
async fn operators_make_exceptions_for_a_person() {
    let mut bed = bed_with(Config {
        max_of_person: 1,
        ..Config::default()
    })
    .await;
    let own = (bed.cookie.clone(), bed.csrf.clone(), bed.token.clone());
    bed.become_another("stu").await;
    let theirs = (bed.cookie.clone(), bed.csrf.clone(), bed.token.clone());
    bed.active("stale-flag").await;
    let refused = bed.post("/labs/two-nodes/start", "").await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    let denied = bed
        .api(
            Method::PUT,
            "/people/stu/limits",
            Some("{\"environments\": 0}"),
        )
        .await;
    assert_eq!(denied.status, StatusCode::NOT_FOUND);

    (bed.cookie, bed.csrf, bed.token) = own;
    let page = bed.get("/people/stu/limits").await.body;
    assert!(
        page.contains("1 / 1") && page.contains("placeholder=\"1\""),
        "{page}"
    );
    for bad in [
        "environments=-1",
        "environments=many",
        "nodes=100001",
        "nodes=1.5",
    ] {
        let answer = bed.post("/people/stu/limits", bad).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{bad}");
        assert!(answer.body.contains("A limit is a whole number"), "{bad}");
    }
    for bad in [
        "{\"environments\": 100001}",
        "{\"pods\": 1}",
        "{\"nodes\": -1}",
    ] {
        let answer = bed.api(Method::PUT, "/people/stu/limits", Some(bad)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{bad}");
    }
    let nobody = bed
        .api(Method::PUT, "/people/nobody/limits", Some("{}"))
        .await;
    assert_eq!(nobody.status, StatusCode::NOT_FOUND);
    let set = bed
        .post("/people/stu/limits", "environments=0&hours_per_month=9")
        .await;
    assert_eq!(set.location(), "/people/stu/limits");
    let seen = bed
        .api(Method::GET, "/people/stu/limits", None)
        .await
        .json();
    assert_eq!(seen["defaults"]["environments"], 1);
    assert_eq!(seen["overrides"]["environments"], 0);
    assert_eq!(seen["limits"][0]["resource"], "hours_per_month");

    (bed.cookie, bed.csrf, bed.token) = theirs;
    bed.start("two-nodes").await;
}

#[tokio::test]
async fn pools_hold_no_more_than_can_start() {
    let bed = bed_with(Config {
        max_environments: 2,
        pools: PoolSettings {
            max_tenants: 9,
            parallel: 1,
        },
        ..Config::default()
    })
    .await;
    let json = "{\"pool\": \"stale-flag\", \"floor\": 5}";
    let set = bed.api(Method::PATCH, "/pools", Some(json)).await;
    assert!(set.status.is_success(), "{}", set.body);
    let pools = bed.api(Method::GET, "/pools", None).await.json();
    let pool = &pools["pools"][0];
    assert_eq!(
        (&pool["pool"], &pool["size"]),
        (&"stale-flag".into(), &2.into())
    );
}
