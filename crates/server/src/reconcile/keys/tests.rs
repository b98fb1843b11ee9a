//! Tests with the fake provider's guests, which can be made unresponsive.

use faultline_domain::{
    EnvironmentId, PersonId,
    authz::{Principal, Role, SignedIn},
};

use super::*;
use crate::{
    operations,
    tests::{Bed, bed, bed_with, in_memory, is_active},
};

const PATH: &str = "/root/.ssh/authorized_keys";
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
/// A line that a lab or a student has written.
const OWN: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAtT9yWBdwLWbieU1ebz9JdD7y3aLq454/cu7/QEXn9O root@node1";

fn one() -> NodeName {
    NodeName::numbered(1).unwrap()
}

fn two() -> NodeName {
    NodeName::numbered(2).unwrap()
}

async fn file(bed: &Bed, id: &EnvironmentId, node: &NodeName) -> String {
    let content = bed.provider.file(&bed.tenant(id).await, node, PATH);
    String::from_utf8(content.unwrap_or_default()).unwrap()
}

fn me() -> SignedIn {
    SignedIn::verified(Principal {
        person: PersonId::local(),
        role: Role::Operator,
    })
}

async fn add(bed: &Bed) {
    operations::keys::add(&bed.app, &me(), "ann", KEY)
        .await
        .unwrap();
}

async fn remove(bed: &Bed) {
    let keys = bed.app.store.ssh_keys(me().person()).await.unwrap();
    operations::keys::remove(&bed.app, &me(), &keys[0].id)
        .await
        .unwrap();
}

/// Makes the node stop responding.
async fn silence(bed: &Bed, id: &EnvironmentId, node: &NodeName) {
    bed.provider.silence(&bed.tenant(id).await, node, true);
}

/// Makes the node respond again, and breaks the connections opened in the meantime.
async fn answer(bed: &Bed, id: &EnvironmentId, node: &NodeName) {
    let tenant = bed.tenant(id).await;
    bed.provider.silence(&tenant, node, false);
    bed.provider.drop_streams(&tenant);
}

/// Starts a lab and waits until it is observed running.
async fn active(bed: &mut Bed, lab: &str) -> EnvironmentId {
    let id = bed.active(lab).await;
    let runs = Some(Observed::Running);
    bed.until(&id, |e| e.tenant.as_ref().unwrap().observed == runs)
        .await;
    id
}

/// Reconciles until the file on a node contains the key, or (if `has` is false) doesn't.
async fn until(bed: &Bed, id: &EnvironmentId, node: &NodeName, has: bool) {
    for _ in 0..500 {
        bed.reconcile().await;
        if file(bed, id, node).await.contains(KEY) == has {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{node}: {}", file(bed, id, node).await);
}

/// Reconciles until all nodes have the current keys.
async fn until_current(bed: &Bed, id: &EnvironmentId) {
    let e = bed.app.store.environment(id).await.unwrap().unwrap();
    for _ in 0..500 {
        bed.reconcile().await;
        let all = bed.app.store.key_versions().await.unwrap();
        let versions = &all[e.tenant_id().unwrap()];
        if versions.outdated(&e.nodes()).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("keys stay outdated");
}

#[tokio::test]
async fn a_node_that_is_unresponsive_when_a_key_is_removed_loses_it_later() {
    let mut bed = bed().await;
    add(&bed).await;
    let id = active(&mut bed, "two-nodes").await;
    for node in [one(), two()] {
        assert_eq!(file(&bed, &id, &node).await, KEY, "before anybody enters");
        let lines = format!("{OWN}\n{KEY}\n");
        let tenant = bed.tenant(&id).await;
        bed.provider
            .put_file(&tenant, &node, PATH, lines.as_bytes());
    }
    silence(&bed, &id, &two()).await;
    remove(&bed).await;
    until(&bed, &id, &one(), false).await;
    assert_eq!(
        file(&bed, &id, &one()).await,
        OWN,
        "everything else is kept"
    );
    assert!(file(&bed, &id, &two()).await.contains(KEY));
    answer(&bed, &id, &two()).await;
    until(&bed, &id, &two(), false).await;
    assert_eq!(file(&bed, &id, &two()).await, OWN);
}

#[tokio::test]
async fn a_key_added_and_removed_while_a_node_is_unresponsive_never_appears() {
    let mut bed = bed().await;
    let id = active(&mut bed, "two-nodes").await;
    silence(&bed, &id, &two()).await;
    add(&bed).await;
    until(&bed, &id, &one(), true).await;
    remove(&bed).await;
    until(&bed, &id, &one(), false).await;
    answer(&bed, &id, &two()).await;
    for _ in 0..150 {
        bed.reconcile().await;
        assert!(!file(&bed, &id, &two()).await.contains(KEY));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until_current(&bed, &id).await;
    assert!(!file(&bed, &id, &two()).await.contains(KEY));
}

#[tokio::test]
async fn the_next_server_applies_keys_that_the_previous_one_could_not() {
    let mut bed = bed().await;
    add(&bed).await;
    let id = active(&mut bed, "stale-flag").await;
    silence(&bed, &id, &one()).await;
    remove(&bed).await;
    bed.reconcile().await;
    let bed = bed.restart().await;
    bed.reconcile().await;
    assert!(file(&bed, &id, &one()).await.contains(KEY));
    answer(&bed, &id, &one()).await;
    until(&bed, &id, &one(), false).await;
}

#[tokio::test]
async fn nothing_is_applied_while_versions_match() {
    let mut bed = bed().await;
    add(&bed).await;
    let id = active(&mut bed, "two-nodes").await;
    let tenant = bed.tenant(&id).await;
    for node in [one(), two()] {
        bed.provider.put_file(&tenant, &node, PATH, b"untouched");
    }
    let steps = Steps::default();
    for _ in 0..20 {
        let counts = pass(bed.app.clone(), steps.clone()).await.unwrap();
        assert_eq!(
            (counts["nodes"], counts["outdated"], counts["steps"]),
            (2, 0, 0)
        );
    }
    let mut bed = bed.restart().await;
    bed.until(&id, is_active).await;
    for node in [one(), two()] {
        assert_eq!(file(&bed, &id, &node).await, "untouched");
    }
}

#[tokio::test]
async fn an_unresponsive_node_is_retried_with_increasing_delays() {
    assert_eq!(
        [0, 1, 2, 3, 6, 7, 100].map(|failures| retry_delay(failures).as_secs()),
        [1, 1, 2, 4, 32, 60, 60]
    );
    let mut bed = bed().await;
    let id = active(&mut bed, "stale-flag").await;
    silence(&bed, &id, &one()).await;
    add(&bed).await;
    let steps = Steps::default();
    let counts = pass(bed.app.clone(), steps.clone()).await.unwrap();
    assert_eq!((counts["outdated"], counts["steps"]), (1, 1));
    let counts = pass(bed.app.clone(), steps.clone()).await.unwrap();
    assert_eq!(counts["steps"], 0, "one at a time");
    tokio::time::sleep(Duration::from_millis(50)).await;
    bed.provider.drop_streams(&bed.tenant(&id).await);
    while !steps.busy().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let counts = pass(bed.app.clone(), steps.clone()).await.unwrap();
    assert_eq!((counts["retrying"], counts["steps"]), (1, 0));
}

#[tokio::test]
async fn a_resumed_machine_loses_a_removed_key_before_anyone_can_enter() {
    let mut bed = bed_with(in_memory()).await;
    add(&bed).await;
    let id = active(&mut bed, "stale-flag").await;
    let at = format!("/environments/{id}");
    bed.post(&format!("{at}/suspend"), "").await;
    bed.until(&id, |e| matches!(e.state, State::Suspended { .. }))
        .await;
    remove(&bed).await;
    bed.reconcile().await;
    assert!(file(&bed, &id, &one()).await.contains(KEY));
    bed.post(&format!("{at}/resume"), "").await;
    for _ in 0..200 {
        bed.reconcile().await;
        let before = file(&bed, &id, &one()).await;
        let e = bed.app.store.environment(&id).await.unwrap().unwrap();
        if is_active(&e) {
            assert!(!file(&bed, &id, &one()).await.contains(KEY), "{before}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it was not resumed");
}

#[tokio::test]
async fn a_reset_and_a_new_node_start_with_the_current_keys() {
    let mut bed = bed().await;
    let id = active(&mut bed, "stale-flag").await;
    let former = bed.tenant(&id).await;
    let at = format!("/environments/{id}");
    bed.post(&format!("{at}/nodes"), "").await;
    bed.until(&id, |e| e.nodes().contains(&two())).await;
    bed.post(&format!("{at}/remove/node2"), "").await;
    bed.until(&id, |e| e.added.is_empty()).await;
    let versions = bed.app.store.key_versions().await.unwrap();
    let known: Vec<_> = versions[&former].applied.keys().cloned().collect();
    assert_eq!(known, [one()], "the removed node is forgotten");
    add(&bed).await;
    bed.post(&format!("{at}/reset"), "").await;
    let e = bed
        .until(&id, |e| is_active(e) && e.tenant_id() != Some(&former))
        .await;
    assert_eq!(file(&bed, &id, &one()).await, KEY);
    let versions = bed.app.store.key_versions().await.unwrap();
    let versions = &versions[e.tenant_id().unwrap()];
    assert_eq!(versions.outdated(&[one()]), []);
}

#[tokio::test]
async fn a_file_that_is_too_large_to_merge_is_replaced() {
    let mut bed = bed().await;
    let id = active(&mut bed, "stale-flag").await;
    let large = "x\n".repeat(64 * 1024);
    let tenant = bed.tenant(&id).await;
    bed.provider
        .put_file(&tenant, &one(), PATH, large.as_bytes());
    add(&bed).await;
    until(&bed, &id, &one(), true).await;
    assert_eq!(file(&bed, &id, &one()).await, KEY);
}
