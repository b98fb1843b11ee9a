//! Tests of adding and removing nodes.

use faultline_domain::{NodeName, PersonId, authz::Role, nodes::NodeState};
use faultline_provider::{Provider, Target};
use jiff::SignedDuration;

use faultline_store::credentials::NewApiToken;

use super::*;

fn two() -> NodeName {
    "node2".parse().unwrap()
}

fn has(node: &NodeName) -> impl Fn(&Environment) -> bool + use<'_> {
    move |e| e.nodes().contains(node)
}

fn is_adding(e: &Environment) -> bool {
    let adding = |state: &NodeState| matches!(state, NodeState::Adding { .. });
    e.added.iter().any(|n| adding(&n.state))
}

async fn answers(bed: &Bed, id: &EnvironmentId, node: &NodeName) -> bool {
    let opened = bed
        .provider
        .open(&bed.tenant(id).await, node, Target::Guest)
        .await;
    opened.is_ok()
}

async fn actions(bed: &Bed) -> Vec<String> {
    let audit = bed.app.store.audit(50).await.unwrap();
    audit.into_iter().map(|line| line.action).collect()
}

#[tokio::test]
async fn environments_id_nodes_adds_and_removes_a_node() {
    let mut bed = bed().await;
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ ann@laptop";
    let key = serde_json::json!({ "public_key": key }).to_string();
    let added = bed.api(Method::POST, "/keys", Some(&key)).await;
    assert_eq!(added.status, StatusCode::CREATED, "{}", added.body);
    let id = bed.active("stale-flag").await;
    let at = format!("/environments/{id}");
    let made = bed.api(Method::POST, &format!("{at}/nodes"), None).await;
    assert_eq!(made.status, StatusCode::ACCEPTED, "{}", made.body);
    assert_eq!(made.json()["name"], "node2");
    let shown = bed.api(Method::GET, &at, None).await.json();
    assert_eq!(shown["nodes"], serde_json::json!(["node1"]));
    assert_eq!(shown["changing"][0]["state"], "requested");
    assert!(bed.get(&at).await.body.contains("node2 is being added"));

    bed.until(&id, has(&two())).await;
    assert!(answers(&bed, &id, &two()).await);
    let shown = bed.api(Method::GET, &at, None).await.json();
    assert_eq!(shown["nodes"], serde_json::json!(["node1", "node2"]));
    assert_eq!(shown["changing"], serde_json::json!([]));
    let stages = shown["stages"].as_array().unwrap();
    let of_node = stages.iter().filter(|s| s["stage"] == "node2 boot");
    assert_eq!(of_node.count(), 1);
    let lab = "stale-flag".parse().unwrap();
    let typical = bed.app.typical_stages(&lab);
    let names: Vec<String> = typical.await.unwrap().into_iter().map(|t| t.name).collect();
    assert!(!names.iter().any(|n| n.contains("node2")), "{names:?}");
    let page = bed.get(&at).await.body;
    assert!(page.contains("data-nodes=\"node1,node2\""));
    let keys = bed
        .provider
        .file(&bed.tenant(&id).await, &two(), "/root/.ssh/authorized_keys");
    assert!(String::from_utf8(keys.unwrap()).unwrap().contains("AAAA"));
    // The next server finds it unchanged.
    let mut bed = bed.restart().await;
    bed.reconcile().await;
    let e = bed.app.store.environment(&id).await.unwrap().unwrap();
    assert!(has(&two())(&e) && !e.is_resizing());

    assert!(page.contains("/remove/node2\"") && page.contains("/nodes\""));
    for _ in 0..2 {
        let gone = bed
            .api(Method::DELETE, &format!("{at}/nodes/node2"), None)
            .await;
        assert_eq!(gone.status, StatusCode::ACCEPTED, "{}", gone.body);
    }
    bed.until(&id, |e| e.added.is_empty()).await;
    assert!(!answers(&bed, &id, &two()).await);
    let late = bed
        .api(Method::DELETE, &format!("{at}/nodes/node2"), None)
        .await;
    assert_eq!(late.status, StatusCode::NOT_FOUND);
    let actions = actions(&bed).await;
    for action in ["add-node", "node-ready", "remove-node", "node-gone"] {
        let times = actions.iter().filter(|a| *a == action).count();
        assert_eq!(times, 1, "{action}: {actions:?}");
    }
}

#[tokio::test]
async fn environments_id_nodes_and_remove_node_on_the_page() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let at = format!("/environments/{id}");
    let added = bed.post(&format!("{at}/nodes"), "").await;
    assert_eq!(added.status, StatusCode::SEE_OTHER);
    bed.until(&id, has(&two())).await;
    let own = bed.post(&format!("{at}/remove/node1"), "").await;
    assert_eq!(own.status, StatusCode::CONFLICT);
    assert!(own.body.contains("belongs to the lab"));
    let removed = bed.post(&format!("{at}/remove/node2"), "").await;
    assert_eq!(removed.status, StatusCode::SEE_OTHER);
    let page = bed.get(&at).await.body;
    let place = |part: &str| page.find(part).unwrap_or_else(|| panic!("{part}: {page}"));
    let told = place("node2 is being removed");
    assert!(
        told < place("id=\"workspace\""),
        "shown above both panes, since a narrow screen shows only one"
    );
    bed.until(&id, |e| e.added.is_empty()).await;
}

#[tokio::test]
async fn there_are_at_most_five_nodes_and_the_labs_own_cannot_be_removed() {
    let mut bed = bed().await;
    let id = bed.active("two-nodes").await;
    let at = format!("/environments/{id}/nodes");
    for number in 3..=5 {
        let made = bed.api(Method::POST, &at, None).await;
        assert_eq!(made.json()["name"], format!("node{number}"));
    }
    let sixth = bed.api(Method::POST, &at, None).await;
    assert_eq!(sixth.status, StatusCode::CONFLICT);
    assert_eq!(sixth.json()["code"], "too-many-nodes");
    assert!(sixth.body.contains("at most 5"));
    for own in ["node1", "node2"] {
        let refused = bed.api(Method::DELETE, &format!("{at}/{own}"), None).await;
        assert_eq!(refused.json()["code"], "node-of-lab");
    }
    let unknown = bed.api(Method::DELETE, &format!("{at}/node9"), None).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    bed.until(&id, |e| e.nodes().len() == 5).await;
    // The number of a removed node is used again.
    bed.api(Method::DELETE, &format!("{at}/node4"), None).await;
    bed.until(&id, |e| e.nodes().len() == 4 && !e.is_resizing())
        .await;
    let made = bed.api(Method::POST, &at, None).await;
    assert_eq!(made.json()["name"], "node4", "{}", made.body);
    bed.until(&id, |e| e.nodes().len() == 5).await;
}

#[tokio::test]
async fn nodes_are_added_only_to_running_machines() {
    let mut bed = bed().await;
    let id = bed.start("stale-flag").await;
    let at = format!("/environments/{id}");
    let early = bed.api(Method::POST, &format!("{at}/nodes"), None).await;
    assert_eq!(early.json()["code"], "not-running");
    bed.until(&id, is_active).await;
    bed.provider.set_latency(Duration::from_millis(300));
    bed.api(Method::POST, &format!("{at}/nodes"), None).await;
    let pause = bed.api(Method::POST, &format!("{at}/suspend"), None).await;
    assert_eq!(pause.json()["code"], "resizing");
    bed.until(&id, has(&two())).await;
    bed.api(Method::POST, &format!("{at}/suspend"), None).await;
    bed.until(&id, |e| matches!(e.state, State::Suspended { .. }))
        .await;
    let paused = bed.api(Method::POST, &format!("{at}/nodes"), None).await;
    assert_eq!(paused.json()["code"], "not-running");
}

#[tokio::test]
async fn no_node_is_added_if_the_host_is_full() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let full = faultline_domain::limits::Capacity {
        environments: 0,
        max_environments: 0,
        nodes: 0,
        max_nodes: None,
        free_memory_mib: 100,
        reserve_memory_mib: 50,
        free_disk_mib: 100,
        reserve_disk_mib: 0,
    };
    let need = faultline_domain::limits::Need {
        nodes: 1,
        memory_mib: 60,
        disk_mib: 1,
    };
    let fits = |_| faultline_domain::limits::fits(&full, need);
    let store = &bed.app.store;
    let me = PersonId::local();
    let refused = store.request_node(&id, &fits, &me, bed.app.now());
    let problem: crate::problem::Problem = refused.await.unwrap_err().into();
    let answer = axum::response::IntoResponse::into_response(problem);
    assert_eq!(answer.status(), StatusCode::CONFLICT);
    let e = store.environment(&id).await.unwrap().unwrap();
    assert!(e.wanted.is_empty(), "nothing was requested");
}

#[tokio::test]
async fn a_failed_node_has_a_reason_and_can_be_added_again() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let at = format!("/environments/{id}");
    bed.provider.fail_next("boot", "the kernel panicked");
    bed.api(Method::POST, &format!("{at}/nodes"), None).await;
    let failed = |e: &Environment| {
        let failed = |state: &NodeState| matches!(state, NodeState::Failed { .. });
        e.added.iter().any(|n| failed(&n.state)) && e.wanted.is_empty()
    };
    let e = bed.until(&id, failed).await;
    assert!(is_active(&e), "the machine keeps running");
    let shown = bed.api(Method::GET, &at, None).await.json();
    let reason = shown["changing"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("the kernel panicked"), "{reason}");
    assert!(bed.get(&at).await.body.contains("the kernel panicked"));
    // The second request gets the same name and succeeds.
    let made = bed.api(Method::POST, &format!("{at}/nodes"), None).await;
    assert_eq!(made.json()["name"], "node2");
    bed.until(&id, has(&two())).await;
    // A removal that fails is retried.
    bed.provider.fail_next("leave", "busy");
    bed.api(Method::DELETE, &format!("{at}/nodes/node2"), None)
        .await;
    bed.until(&id, |e| e.added.is_empty()).await;
}

#[tokio::test]
async fn an_interrupted_addition_is_finished_by_the_next_server() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    bed.provider.set_latency(Duration::from_secs(30));
    let at = format!("/environments/{id}/nodes");
    bed.api(Method::POST, &at, None).await;
    bed.until(&id, is_adding).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut bed = bed.restart().await;
    bed.provider.set_latency(Duration::ZERO);
    bed.until(&id, has(&two())).await;
    assert!(answers(&bed, &id, &two()).await);
}

#[tokio::test]
async fn adding_is_cancelled_when_the_node_or_the_environment_is_no_longer_wanted() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    bed.provider.set_latency(Duration::from_secs(30));
    let at = format!("/environments/{id}/nodes");
    bed.api(Method::POST, &at, None).await;
    bed.until(&id, is_adding).await;
    bed.api(Method::DELETE, &format!("{at}/node2"), None).await;
    bed.provider.set_latency(Duration::ZERO);
    bed.until(&id, |e| e.added.is_empty()).await;

    bed.provider.set_latency(Duration::from_secs(30));
    bed.api(Method::POST, &at, None).await;
    bed.until(&id, is_adding).await;
    bed.clock.advance(SignedDuration::from_hours(9));
    bed.until(&id, is_final).await;
    assert!(bed.provider.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn only_operators_may_add_nodes_to_somebody_elses_environment() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let (now, owner) = (bed.app.now(), bed.token.clone());
    for (name, role, status) in [
        ("mallory", Role::Student, StatusCode::NOT_FOUND),
        ("olga", Role::Operator, StatusCode::ACCEPTED),
    ] {
        let person: PersonId = name.parse().unwrap();
        let store = &bed.app.store;
        store.ensure_person(&person, name, role, now).await.unwrap();
        let token = bed.app.secret();
        store
            .add_api_token(&token, &NewApiToken::full(name, &person, name), now)
            .await
            .unwrap();
        bed.token = token.expose().to_owned();
        let at = format!("/environments/{id}");
        let answer = bed.api(Method::POST, &format!("{at}/nodes"), None).await;
        assert_eq!(answer.status, status, "{name}");
        let seen = bed.api(Method::GET, &at, None).await;
        assert_eq!(
            seen.status,
            StatusCode::NOT_FOUND,
            "{name} can't see the environment"
        );
    }
    bed.token = owner;
    bed.until(&id, has(&two())).await;
    let audit = bed.app.store.audit(50).await.unwrap();
    let asked = audit.iter().find(|l| l.action == "add-node").unwrap();
    assert_eq!(asked.person.as_deref(), Some("olga"));
}

#[tokio::test]
async fn a_labs_setup_may_add_a_node() {
    let mut bed = bed().await;
    let folder = tempfile::tempdir().unwrap();
    let lab = folder.path().join("stale-flag");
    let from = labs().join("stale-flag");
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .args([&from, &lab])
        .status();
    assert!(copied.unwrap().success());
    let yaml = std::fs::read_to_string(lab.join("lab.yaml")).unwrap();
    let (first, further) = ("setup:\n", "setup:\n  - add_node: true\n");
    std::fs::write(lab.join("lab.yaml"), yaml.replacen(first, further, 1)).unwrap();
    let catalogue = Catalogue::load(folder.path());
    assert!(catalogue.broken().is_empty(), "{:?}", catalogue.broken());
    bed.app.set_catalogue(catalogue);
    let id = bed.active("stale-flag").await;
    let e = bed.app.store.environment(&id).await.unwrap().unwrap();
    assert!(has(&two())(&e) && !e.is_resizing());
    let flag = bed.provider.file(
        &bed.tenant(&id).await,
        &two(),
        "/var/lib/orders/maintenance",
    );
    assert!(flag.is_some(), "later scripts run on it too");
    let at = format!("/environments/{id}/nodes");
    let own = bed.api(Method::DELETE, &format!("{at}/node2"), None).await;
    assert_eq!(own.json()["code"], "node-of-lab");
    let made = bed.api(Method::POST, &at, None).await;
    assert_eq!(made.json()["name"], "node3");
}
