//! Tests of maintenance: nothing starts, everybody sees why, and a drained server ends what runs when it said.

use faultline_domain::{authz::Role, environment::EndReason};
use faultline_guest::{client, wire};
use faultline_provider::{Provider, Target};
use faultline_store::people::{Changed, PersonChange};
use jiff::SignedDuration;
use serde_json::json;

use super::*;

const PATH: &str = "/operator/maintenance";

/// Begins maintenance as the operator, whoever is signed in.
async fn begin(bed: &Bed, wanted: serde_json::Value) {
    let answer = bed.api(Method::PUT, PATH, Some(&wanted.to_string())).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
}

async fn finish(bed: &Bed) {
    let answer = bed.api(Method::DELETE, PATH, None).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.body);
}

fn minutes(bed: &Bed, n: i64) -> String {
    (bed.app.now() + SignedDuration::from_mins(n)).to_string()
}

async fn environment(bed: &Bed, id: &EnvironmentId) -> Environment {
    bed.app.store.environment(id).await.unwrap().unwrap()
}

#[tokio::test]
async fn nothing_starts_and_what_runs_goes_on() {
    let mut bed = bed().await;
    let running = bed.active("stale-flag").await;
    let until = minutes(&bed, 90);
    begin(&bed, json!({ "message": "New disks", "until": until })).await;
    // 2027-01-15 08:00 UTC is now.
    let why = "Nothing can be started, reset or resumed now. New disks. Maintenance is expected to end at 09:30 UTC.";
    for (method, path, code) in [
        (Method::POST, "/labs/two-nodes/environments", "maintenance"),
        (
            Method::POST,
            &*format!("/environments/{running}/reset"),
            "maintenance",
        ),
        (
            Method::POST,
            &format!("/environments/{running}/nodes"),
            "maintenance",
        ),
    ] {
        let answer = bed.api(method, path, None).await;
        assert_eq!(
            answer.status,
            StatusCode::SERVICE_UNAVAILABLE,
            "{path}: {}",
            answer.body
        );
        assert_eq!(answer.json()["code"], code);
        assert_eq!(answer.json()["title"], "The server is in maintenance");
        assert_eq!(answer.json()["detail"], why);
    }
    let page = bed.post("/labs/two-nodes/start", "").await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(page.body.contains(why), "{}", page.body);
    // Starting a lab again leads to the machine that runs.
    assert_eq!(bed.start("stale-flag").await, running);
    for path in [
        "/",
        "/labs/two-nodes",
        "/operator",
        &format!("/environments/{running}"),
    ] {
        let page = bed.get(path).await.body;
        assert!(
            page.contains(why) && page.contains("Running machines go on."),
            "{path}"
        );
    }
    let lab = bed.get("/labs/two-nodes").await.body;
    assert!(lab.contains("starts nothing now") && !lab.contains("/labs/two-nodes/start"));
    let signed_out = bed
        .send(Request::get("/sign-in").body(Body::empty()).unwrap())
        .await;
    assert!(signed_out.body.contains(why), "{}", signed_out.body);
    let metrics = bed.get("/metrics").await.body;
    assert!(
        metrics.contains("faultline_maintenance 1") && metrics.contains("faultline_draining 0")
    );

    bed.clock.advance(SignedDuration::from_mins(10));
    bed.reconcile().await;
    assert!(is_active(&environment(&bed, &running).await));
    // It survives a restart.
    let bed = bed.restart().await;
    let status = bed.api(Method::GET, PATH, None).await.json();
    assert_eq!(status["in_maintenance"], true);
    assert_eq!(status["message"], "New disks");
    assert_eq!(status["environments"], 1);
    finish(&bed).await;
    let again = bed.api(Method::DELETE, PATH, None).await;
    assert_eq!(again.status, StatusCode::CONFLICT);
    assert!(!bed.get("/").await.body.contains("New disks"));
    bed.start("two-nodes").await;
    let audit = bed.app.store.audit(20).await.unwrap();
    for action in ["maintenance-begin", "maintenance-end"] {
        let line = audit.iter().find(|line| line.action == action).unwrap();
        assert_eq!(line.person.as_deref(), Some("local"));
    }
}

#[tokio::test]
async fn save_points_are_made_but_not_restored() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    begin(&bed, json!({})).await;
    let at = format!("/environments/{id}");
    let saved = bed
        .api(Method::POST, &format!("{at}/save-points"), Some("{}"))
        .await;
    assert_eq!(saved.status, StatusCode::ACCEPTED, "{}", saved.body);
    let save = saved.json()["id"].as_str().unwrap().to_owned();
    for _ in 0..200 {
        bed.reconcile().await;
        let save = bed
            .app
            .store
            .save_point(&save.parse().unwrap())
            .await
            .unwrap();
        if save.unwrap().state == faultline_domain::save_point::State::Saving {
            tokio::time::sleep(Duration::from_millis(10)).await;
        } else {
            break;
        }
    }
    for path in [
        format!("{at}/saves/{save}/restore"),
        format!("/save-points/{save}/fork"),
    ] {
        let answer = bed.post(&path, "").await;
        assert_eq!(
            answer.status,
            StatusCode::SERVICE_UNAVAILABLE,
            "{path}: {}",
            answer.body
        );
    }
    assert!(is_active(&environment(&bed, &id).await));
}

#[tokio::test]
async fn what_waits_keeps_its_place_and_a_start_in_progress_goes_on() {
    let mut bed = bed_with(Config {
        max_environments: 1,
        ..Config::default()
    })
    .await;
    let first = bed.start("stale-flag").await;
    let next = bed.start("two-nodes").await;
    bed.reconcile().await;
    begin(&bed, json!({ "until": minutes(&bed, 30) })).await;
    bed.until(&first, is_active).await;
    bed.post(&format!("/environments/{first}/end"), "").await;
    bed.until(&first, is_final).await;
    bed.reconcile().await;
    let waits = bed
        .api(Method::GET, &format!("/environments/{next}"), None)
        .await
        .json();
    assert_eq!(waits["queue"]["position"], 1);
    assert_eq!(waits["queue"]["seconds"], 30 * 60);
    assert!(
        waits["queue"]["reason"]
            .as_str()
            .unwrap()
            .contains("maintenance")
    );
    finish(&bed).await;
    bed.until(&next, is_active).await;
}

#[tokio::test]
async fn a_drained_server_tells_people_and_ends_environments_then() {
    let mut bed = bed_with(in_memory()).await;
    let id = bed.active("stale-flag").await;
    let tenant = bed.tenant(&id).await;
    let stream = bed
        .provider
        .open(&tenant, &node(), Target::Guest)
        .await
        .unwrap();
    let terminal = wire::Terminal {
        id: "web-1".to_owned(),
        pty: wire::Pty {
            term: "xterm".to_owned(),
            rows: 24,
            cols: 80,
        },
    };
    let (mut session, _) = client::terminal(stream, terminal).await.unwrap();
    let ends_at = minutes(&bed, 30);
    begin(
        &bed,
        json!({ "message": "Reboot", "end_environments_at": ends_at }),
    )
    .await;
    bed.reconcile().await;
    let mut seen = String::new();
    while !seen.contains("ends at 08:30 UTC, in 30 minutes, because of maintenance (Reboot).") {
        if let Some(wire::Frame::Stdout(bytes)) = session.output.next().await.unwrap() {
            seen.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
    let at = format!("/environments/{id}");
    let page = bed.get(&at).await.body;
    assert!(
        page.contains("Running machines end at 08:30 UTC; progress is kept."),
        "{page}"
    );
    let shown = bed.api(Method::GET, &at, None).await.json();
    assert_eq!(shown["seconds_left"], 30 * 60);
    // Extending and use don't move it.
    bed.post(&format!("{at}/extend"), "").await;
    bed.clock.advance(SignedDuration::from_mins(21));
    bed.app.touch(&id).await;
    bed.until(&id, |e| e.warned == Some(600)).await;
    let page = bed.get(&at).await.body;
    assert!(
        page.contains("Maintenance: this machine ends in 9 minutes."),
        "{page}"
    );
    let mut bed = bed.restart().await;
    bed.clock.advance(SignedDuration::from_secs(9 * 60 - 1));
    bed.reconcile().await;
    assert!(
        is_active(&environment(&bed, &id).await),
        "not a second early"
    );
    bed.clock.advance(SignedDuration::from_secs(1));
    let e = bed.until(&id, is_final).await;
    let expected = EndReason::Maintenance;
    assert!(matches!(e.state, State::Gone { reason, .. } if reason == expected));
    let page = bed.get(&at).await.body;
    assert!(
        page.contains("because the server went into maintenance"),
        "{page}"
    );
    let status = bed.api(Method::GET, PATH, None).await.json();
    assert_eq!(
        (&status["environments"], &status["pool_tenants"]),
        (&json!(0), &json!(0))
    );
    assert!(
        bed.get("/operator")
            .await
            .body
            .contains("the host can be rebooted")
    );
}

#[tokio::test]
async fn an_end_can_be_called_off() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    begin(&bed, json!({ "end_environments_at": minutes(&bed, 5) })).await;
    bed.until(&id, |e| e.warned == Some(600)).await;
    assert_eq!(bed.app.store.end_notices().await.unwrap().len(), 1);
    finish(&bed).await;
    bed.until(&id, |e| e.warned.is_none()).await;
    assert!(bed.app.store.end_notices().await.unwrap().is_empty());
    bed.clock.advance(SignedDuration::from_mins(6));
    bed.reconcile().await;
    assert!(is_active(&environment(&bed, &id).await));
}

#[tokio::test]
async fn nobody_is_surprised_after_the_server_was_down() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    begin(&bed, json!({ "end_environments_at": minutes(&bed, 5) })).await;
    // No reconciler has run since, so nobody was notified.
    bed.clock.advance(SignedDuration::from_mins(20));
    let mut bed = bed.restart().await;
    bed.reconcile().await;
    assert!(is_active(&environment(&bed, &id).await));
    bed.clock.advance(SignedDuration::from_secs(119));
    bed.reconcile().await;
    assert!(is_active(&environment(&bed, &id).await));
    bed.clock.advance(SignedDuration::from_secs(1));
    // Nothing is lost: it continues after the maintenance.
    bed.until(&id, |e| e.state.is_on_disk()).await;
}

#[tokio::test]
async fn a_drained_server_empties_its_pools() {
    let bed = bed_with(Config {
        pools: PoolSettings {
            max_tenants: 4,
            parallel: 1,
        },
        ..Config::default()
    })
    .await;
    let floor = json!({ "pool": "stale-flag", "floor": 1 }).to_string();
    bed.api(Method::PATCH, "/pools", Some(&floor)).await;
    let warm = async |bed: &Bed, wanted: u64| {
        for _ in 0..400 {
            bed.reconcile().await;
            let pools = bed.api(Method::GET, "/pools", None).await.json();
            let listed = bed.provider.list().await.unwrap().len() as u64;
            if pools["pools"][0]["warm"] == wanted && listed == wanted {
                return pools;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the pool did not reach {wanted}");
    };
    warm(&bed, 1).await;
    begin(&bed, json!({})).await;
    let held = warm(&bed, 1).await;
    assert_eq!(held["hold"], "the server is in maintenance");
    begin(&bed, json!({ "end_environments_at": minutes(&bed, 5) })).await;
    warm(&bed, 0).await;
    finish(&bed).await;
    warm(&bed, 1).await;
}

#[tokio::test]
async fn the_operators_page_begins_changes_and_ends_it() {
    let bed = bed().await;
    let page = bed.get("/operator").await.body;
    assert!(page.contains("Begin maintenance"));
    let wrong = bed.post(PATH, "until=2020-01-01T10%3A00").await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert!(wrong.body.contains("in the future") && wrong.body.contains("<h1>Operator</h1>"));
    let begun = bed
        .post(PATH, "message=New+disks&until=2027-01-15T09%3A30")
        .await;
    assert_eq!(begun.status, StatusCode::SEE_OTHER);
    assert_eq!(begun.location(), "/operator#maintenance");
    let page = bed.get("/operator").await.body;
    assert!(page.contains("value=\"2027-01-15T09:30\"") && page.contains("End maintenance"));
    let ended = bed.post(&format!("{PATH}/end"), "").await;
    assert_eq!(ended.status, StatusCode::SEE_OTHER);
    let none = bed.post(&format!("{PATH}/end"), "").await;
    assert_eq!(none.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn only_operators_see_and_change_it() {
    let mut bed = bed().await;
    let operator = faultline_domain::PersonId::local();
    for role in [Role::Student, Role::Author, Role::Instructor] {
        bed.become_another(role.as_str()).await;
        let (person, change) = (role.as_str().parse().unwrap(), PersonChange::Role(role));
        let (store, now) = (&bed.app.store, bed.app.now());
        let changed = store.change_person(&operator, &person, change, now);
        assert_eq!(changed.await.unwrap(), Changed::Done);
        for (method, body) in [
            (Method::GET, None),
            (Method::PUT, Some("{}")),
            (Method::DELETE, None),
        ] {
            let answer = bed.api(method, PATH, body).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{role:?}");
        }
        for path in [PATH.to_owned(), format!("{PATH}/end")] {
            assert_eq!(bed.post(&path, "").await.status, StatusCode::NOT_FOUND);
        }
    }
    assert_eq!(bed.app.store.maintenance().await.unwrap(), None);
}
