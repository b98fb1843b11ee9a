//! Tests of `/api/v1`, by path.

use super::*;

#[test]
fn the_committed_openapi_document_is_up_to_date() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let now = crate::openapi();
    if std::env::var_os("FAULTLINE_UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &now).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == now,
        "docs/openapi.json is out of date: run this test with FAULTLINE_UPDATE=1 and commit it"
    );
}

#[test]
fn operation_ids_are_unique_and_verb_noun() {
    let document: serde_json::Value = serde_json::from_str(&crate::openapi()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap();
        methods
            .iter()
            .map(move |(method, operation)| (format!("{method} {path}"), &operation["operationId"]))
    });
    let mut seen = std::collections::BTreeMap::new();
    for (route, id) in operations {
        let id = id.as_str().unwrap_or_else(|| panic!("{route} has no ID"));
        assert!(id.contains('_'), "{route}: `{id}` is not a verb and a noun");
        if let Some(other) = seen.insert(id, route.clone()) {
            panic!("{other} and {route} are both `{id}`");
        }
    }
    assert!(seen.len() > 20, "{}", seen.len());
}

#[tokio::test]
async fn unknown_paths_and_methods_return_problems() {
    let bed = bed().await;
    for (method, path, status) in [
        (Method::GET, "/nosuch", StatusCode::NOT_FOUND),
        (Method::PATCH, "/me", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let answer = bed.api(method, path, None).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.json()["status"], status.as_u16());
    }
}

#[tokio::test]
async fn a_lab_from_start_to_solved() {
    let mut bed = bed().await;
    let labs = bed.api(Method::GET, "/labs", None).await.json();
    assert_eq!(labs[0]["slug"], "stale-flag");
    let lab = bed.api(Method::GET, "/labs/stale-flag", None).await.json();
    assert!(lab["readme"].as_str().unwrap().contains("maintenance"));
    let made = bed
        .api(Method::POST, "/labs/stale-flag/environments", None)
        .await;
    assert_eq!(made.status, StatusCode::CREATED);
    let id: EnvironmentId = made.json()["id"].as_str().unwrap().parse().unwrap();
    let at = format!("/environments/{id}");
    let early = bed.api(Method::POST, &format!("{at}/checks"), None).await;
    assert_eq!(early.status, StatusCode::CONFLICT);
    assert_eq!(
        early.headers[header::CONTENT_TYPE],
        "application/problem+json"
    );
    bed.until(&id, is_active).await;
    let shown = bed.api(Method::GET, &at, None).await.json();
    assert_eq!(shown["phase"], "active");
    let stages: Vec<_> = shown["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["stage"].as_str().unwrap())
        .collect();
    assert_eq!(stages, ["clone", "network", "refresh", "keys", "setup"]);
    let hint = bed.api(Method::POST, &format!("{at}/hints/1"), None).await;
    assert!(hint.json()["text"].as_str().unwrap().contains("ls"));
    let run = bed.api(Method::POST, &format!("{at}/checks"), None).await;
    assert_eq!(run.status, StatusCode::OK);
    assert_eq!(run.json()["passed"], false);
    assert_eq!(
        run.json()["results"][0]["seen"],
        "/var/lib/orders/maintenance exists"
    );
    let begun = format!("{at}/checks?wait=0");
    let begun = bed.api(Method::POST, &begun, None).await;
    assert!(matches!(
        begun.status,
        StatusCode::OK | StatusCode::ACCEPTED
    ));
    assert_ne!(begun.json()["id"], run.json()["id"], "a new run");
    let odd = format!("{at}/checks?wait=soon");
    let odd = bed.api(Method::POST, &odd, None).await;
    assert_eq!(odd.status, StatusCode::BAD_REQUEST);
    let hidden = bed.api(Method::GET, &format!("{at}/solution"), None).await;
    assert_eq!(hidden.status, StatusCode::CONFLICT);
    bed.api(Method::POST, &format!("{at}/give-up"), None).await;
    let shown = bed.api(Method::GET, &format!("{at}/solution"), None).await;
    assert_eq!(shown.status, StatusCode::OK);
    let extended = bed.api(Method::POST, &format!("{at}/extend"), None).await;
    assert_eq!(extended.status, StatusCode::OK);
    assert_eq!(
        bed.api(Method::DELETE, &at, None).await.status,
        StatusCode::ACCEPTED
    );
    bed.until(&id, is_final).await;
    let list = async |query: &str| {
        let at = format!("/environments{query}");
        bed.api(Method::GET, &at, None).await
    };
    assert_eq!(list("").await.json(), serde_json::json!([]));
    assert_eq!(list("?all=true").await.json()[0]["phase"], "gone");
    assert_eq!(list("?all=some").await.status, StatusCode::BAD_REQUEST);
    let progress = bed.api(Method::GET, "/progress", None).await.json();
    assert_eq!(progress[0]["gave_up"], true);
}

#[tokio::test]
async fn an_environment_keeps_working_after_its_labs_folder_is_removed() {
    let mut bed = bed().await;
    let id = bed.start("stale-flag").await;
    bed.until(&id, is_active).await;
    let at = format!("/environments/{id}");
    bed.api(Method::POST, &format!("{at}/give-up"), None).await;
    bed.app
        .set_catalogue(Catalogue::load(tempfile::tempdir().unwrap().path()));
    // It keeps using the lab as it was. Only a reset is impossible.
    for (method, path) in [
        (Method::POST, "checks"),
        (Method::POST, "hints/1"),
        (Method::GET, "solution"),
    ] {
        let answer = bed.api(method, &format!("{at}/{path}"), None).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
    }
    let reset = bed.api(Method::POST, &format!("{at}/reset"), None).await;
    assert_eq!(reset.status, StatusCode::CONFLICT);
    assert_eq!(reset.json()["code"], "lab-gone");
    let shown = bed.api(Method::GET, &at, None).await.json();
    assert_eq!(shown["phase"], "active");
    let ended = bed.api(Method::DELETE, &at, None).await;
    assert_eq!(ended.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn the_event_stream_sends_the_state_at_once_and_on_each_change() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let request = Request::get(format!("/api/v1/environments/{id}/events"))
        .header(header::AUTHORIZATION, format!("Bearer {}", bed.token));
    let response = bed
        .router()
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "text/event-stream"
    );
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("\"phase\":\"active\""));
    bed.provider.crash(&bed.tenant(&id).await);
    bed.reconcile().await;
    let next = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(String::from_utf8_lossy(&next).contains("\"phase\":\"failed\""));
}

#[tokio::test]
async fn the_gateways_address_and_host_key_are_returned() {
    let host_key =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEgOEz/GqkTO4M8ZMsb8dImXQJCDYaZJOJwySRNE4JUH";
    let bed = bed_with(Config {
        ssh_host: Some("ssh.example.org".to_owned()),
        ssh_port: Some(2022),
        ssh_host_key: Some(faultline_gateway::PublicKey::parse(host_key).unwrap()),
        ..Config::default()
    })
    .await;
    assert_eq!(
        bed.api(Method::GET, "/gateway", None).await.json(),
        serde_json::json!({ "host": "ssh.example.org", "port": 2022, "host_key": host_key })
    );
    let page = bed.get("/keys").await.body;
    assert!(page.contains("ssh -p 2022 ENVIRONMENT@ssh.example.org") && page.contains("SHA256:"));
}

#[tokio::test]
async fn account_keys_tokens_and_links() {
    let bed = bed().await;
    let me = bed.api(Method::GET, "/me", None).await.json();
    assert_eq!(me["role"], "operator");
    let none = bed.api(Method::GET, "/gateway", None).await;
    assert_eq!(none.status, StatusCode::NOT_FOUND);
    let made = bed
        .api(Method::POST, "/tokens", Some(r#"{"name":"ci"}"#))
        .await;
    assert_eq!(made.status, StatusCode::CREATED);
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let removed = bed
        .api(Method::DELETE, &format!("/tokens/{id}"), None)
        .await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    let bad = bed
        .api(Method::POST, "/keys", Some(r#"{"public_key":"nonsense"}"#))
        .await;
    assert_eq!(bad.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        bed.api(Method::DELETE, "/keys/none", None).await.status,
        StatusCode::NOT_FOUND
    );
    let link = bed.api(Method::POST, "/sign-in-links", None).await.json();
    assert!(
        link["url"]
            .as_str()
            .unwrap()
            .contains("/sign-in?token=flt_")
    );
    let status = bed.api(Method::GET, "/operator/status", None).await.json();
    assert_eq!(status["provider"], "fake");
    let audit = bed.api(Method::GET, "/operator/audit", None).await.json();
    assert!(
        audit
            .as_array()
            .unwrap()
            .iter()
            .any(|l| l["action"] == "token-remove")
    );
}

#[tokio::test]
async fn unknown_methods_do_not_fill_the_metrics() {
    let bed = bed().await;
    for n in 0..20 {
        let method = Method::from_bytes(format!("MADEUP{n}").as_bytes()).unwrap();
        let request = Request::builder().method(method).uri("/healthz");
        bed.send(request.body(Body::empty()).unwrap()).await;
    }
    let metrics = bed.get("/metrics").await.body;
    assert!(!metrics.contains("MADEUP"), "{metrics}");
    assert!(metrics.contains("method=\"other\""), "{metrics}");
}

#[tokio::test]
async fn health_readiness_and_metrics() {
    let mut bed = bed().await;
    bed.active("stale-flag").await;
    assert_eq!(bed.get("/healthz").await.body, "ok\n");
    assert_eq!(bed.get("/readyz").await.body, "ready\n");
    // The start is counted just after its environment is active.
    let started = "faultline_starts_total{outcome=\"active\"} 1";
    let mut metrics = bed.get("/metrics").await.body;
    for _ in 0..200 {
        if metrics.contains(started) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        metrics = bed.get("/metrics").await.body;
    }
    for line in [
        started,
        "faultline_environments{phase=",
        "faultline_reconcile_seconds{reconciler=\"environments\"}",
        "# EOF",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    bed.app.stopping.cancel();
    assert_eq!(
        bed.get("/readyz").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn a_token_that_may_only_read_changes_nothing_and_one_with_an_end_ends() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let wrong = Some(r#"{"name": "x", "days": 0}"#);
    let refused = bed.api(Method::POST, "/tokens", wrong).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let new = Some(r#"{"name": "dashboard", "read_only": true, "days": 2}"#);
    let made = bed.api(Method::POST, "/tokens", new).await.json();
    let listed = bed.api(Method::GET, "/tokens", None).await.json();
    let mine = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|t| t["id"] == made["id"]);
    assert_eq!(mine.unwrap()["scope"], "read");
    let page = bed.get("/keys").await.body;
    assert!(page.contains("read only, ends in 2 days"), "{page}");

    let new = Some(r#"{"name": "for the course", "days": 2}"#);
    let ends = bed.api(Method::POST, "/tokens", new).await.json();
    bed.token = ends["token"].as_str().unwrap().to_owned();
    for path in ["/tokens", "/sign-in-links"] {
        let outlasting = Some(r#"{"name": "for ever"}"#);
        let refused = bed.api(Method::POST, path, outlasting).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(refused.json()["code"], "token-ends", "{path}");
    }

    bed.token = made["token"].as_str().unwrap().to_owned();
    let at = format!("/environments/{id}");
    assert_eq!(bed.api(Method::GET, &at, None).await.status, StatusCode::OK);
    for (method, path) in [
        (Method::DELETE, at.clone()),
        (Method::POST, format!("{at}/check")),
        (Method::POST, "/tokens".to_owned()),
        (Method::PATCH, "/pools".to_owned()),
        (Method::PUT, "/groups/x/members/y".to_owned()),
    ] {
        let answer = bed.api(method.clone(), &path, Some("{}")).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}");
        assert!(answer.body.contains("may only read"), "{}", answer.body);
    }
    // Through a WebSocket, programs could be run.
    let upgrade = Request::get(format!("/api/v1{at}"))
        .header(header::AUTHORIZATION, format!("Bearer {}", bed.token))
        .header(header::UPGRADE, "websocket");
    let answer = bed.send(upgrade.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    bed.clock.advance(jiff::SignedDuration::from_hours(49));
    let late = bed.api(Method::GET, "/tokens", None).await;
    assert_eq!(late.status, StatusCode::UNAUTHORIZED);
}
