//! Tests of what operators see of the host's capacity, and of failures.

use jiff::SignedDuration;

use super::*;

const PATH: &str = "/operator/capacity";

#[tokio::test]
async fn operators_see_what_is_used_and_what_still_fits() {
    let mut bed = bed_with(Config {
        max_environments: 3,
        ..Config::default()
    })
    .await;
    let id = bed.active("two-nodes").await;
    bed.start("stale-flag").await;
    let seen = bed.api(Method::GET, PATH, None).await;
    assert_eq!(seen.status, StatusCode::OK, "{}", seen.body);
    let seen = seen.json();
    // The fake provider's machines use 48 MiB of memory and 12 MiB of disk each.
    assert_eq!(seen["memory"]["environments_mib"], 96);
    assert_eq!(seen["disk"]["environments_mib"], 24);
    assert_eq!(seen["memory"]["pools_mib"], 0);
    assert!(seen["memory"]["total_mib"].as_u64() > seen["memory"]["free_mib"].as_u64());
    assert!(seen["processors"]["total"].as_u64() > Some(0));
    let of = &seen["environments"];
    assert_eq!(
        of.as_array().unwrap().len(),
        1,
        "those in the queue have none: {of}"
    );
    assert_eq!(of[0]["environment"], id.as_str());
    assert_eq!(
        (&of[0]["lab"], &of[0]["person"]),
        (&"two-nodes".into(), &"Operator".into())
    );
    assert_eq!(
        (&of[0]["memory_mib"], &of[0]["nodes"]),
        (&96.into(), &2.into())
    );
    let template = |name: &str| {
        let all = seen["templates"].as_array().unwrap();
        all.iter().find(|t| t["template"] == name).unwrap().clone()
    };
    let small = template("debian-12@1+0");
    let need = u64::from(small["nodes"].as_u64() == Some(1)) * bed.app.config.node_memory_mib;
    assert_eq!(small["memory_mib"], need);
    assert!(small["more"].as_u64().unwrap() <= 2, "two places are left");

    // The use of processors is known after the second measurement. The fake's doesn't grow.
    bed.clock.advance(SignedDuration::from_secs(60));
    bed.reconcile().await;
    bed.clock.advance(SignedDuration::from_secs(30));
    let seen = bed.api(Method::GET, PATH, None).await.json();
    assert_eq!(seen["environments"][0]["processors"], 0.0);
    let page = bed.get("/operator").await.body;
    for text in ["96 MiB", "0 %", "debian-12@1+0", "Fit now"] {
        assert!(page.contains(text), "{text}: {page}");
    }
}

#[tokio::test]
async fn failures_are_shown_by_stage_with_their_log() {
    let mut bed = bed().await;
    assert!(
        bed.get("/operator")
            .await
            .body
            .contains("Failed in the last 24 hours")
    );
    for _ in 0..2 {
        bed.provider.fail_next("clone", "no memory left");
    }
    let id = bed.start("stale-flag").await;
    bed.until(&id, is_final).await;
    let page = bed.get("/operator").await.body;
    for text in ["Stage “clone”", "no memory left", "failed: "] {
        assert!(page.contains(text), "{text}: {page}");
    }
    bed.clock.advance(SignedDuration::from_hours(25));
    let later = bed.get("/operator").await.body;
    assert!(!later.contains("Stage “clone”"));
}
