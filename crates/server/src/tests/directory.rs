//! Tests of authorization for the SSH gateway.

use faultline_gateway::{Access, Admission, Directory, HostKey, Login, PublicKey};

use super::*;
use crate::directory::StoreDirectory;

/// Adds a new key for the signed-in person.
async fn key(bed: &Bed, seed: u64) -> PublicKey {
    let key = HostKey::generate(&mut rand::rngs::StdRng::seed_from_u64(seed)).public();
    let json = serde_json::json!({ "name": "laptop", "public_key": key.as_openssh() }).to_string();
    let answer = bed.api(Method::POST, "/keys", Some(&json)).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    key
}

async fn admitted(bed: &Bed, login: &str, key: &PublicKey) -> Option<Admission> {
    let login = Login::parse(login).unwrap();
    let directory = StoreDirectory::new(bed.app.clone());
    directory.authorize(&login, key).await
}

async fn ask(bed: &Bed, id: &EnvironmentId, key: &PublicKey) -> Option<Access> {
    match admitted(bed, id.as_str(), key).await? {
        Admission::Enter(access) => Some(access),
        Admission::Closed(_) => None,
    }
}

/// Returns why the owner can't enter.
async fn why(bed: &Bed, login: &str, key: &PublicKey) -> String {
    match admitted(bed, login, key).await {
        Some(Admission::Closed(why)) => why,
        other => panic!("{login}: {other:?}"),
    }
}

#[tokio::test]
async fn a_key_opens_only_its_persons_environments() {
    let mut bed = bed().await;
    let (mine, my_key) = (bed.active("stale-flag").await, key(&bed, 1).await);
    bed.become_another("mallory").await;
    let (hers, her_key) = (bed.active("stale-flag").await, key(&bed, 2).await);
    let unknown = HostKey::generate(&mut rand::rngs::StdRng::seed_from_u64(3)).public();
    for (id, key, opens) in [
        (&mine, &my_key, true),
        (&mine, &her_key, false),
        (&mine, &unknown, false),
        (&hers, &her_key, true),
        (&hers, &my_key, false),
        (&"nothing".parse().unwrap(), &my_key, false),
    ] {
        let access = ask(&bed, id, key).await;
        assert_eq!(access.map(|a| a.environment), opens.then(|| id.clone()));
    }
}

#[tokio::test]
async fn a_key_does_not_open_starting_paused_or_ended_environments() {
    let mut bed = bed().await;
    let key = key(&bed, 1).await;
    let id = bed.start("stale-flag").await;
    let at = format!("/environments/{id}");
    assert!(why(&bed, id.as_str(), &key).await.contains("is starting"));
    bed.until(&id, is_active).await;
    assert!(ask(&bed, &id, &key).await.is_some());
    let no_node = why(&bed, &format!("node7.{id}"), &key).await;
    assert!(no_node.contains("its nodes are node1"), "{no_node}");
    bed.post(&format!("{at}/suspend"), "").await;
    bed.until(&id, |e| matches!(e.state, State::Suspended { .. }))
        .await;
    let paused = why(&bed, id.as_str(), &key).await;
    assert!(paused.contains("env resume"), "{paused}");
    bed.post(&format!("{at}/resume"), "").await;
    bed.until(&id, is_active).await;
    bed.post(&format!("{at}/end"), "").await;
    let e = bed.app.store.environment(&id).await.unwrap().unwrap();
    assert!(is_active(&e), "nothing is freed yet");
    assert!(
        ask(&bed, &id, &key).await.is_none(),
        "its end was requested"
    );
    bed.until(&id, is_final).await;
    let ended = why(&bed, id.as_str(), &key).await;
    assert!(ended.contains("/labs/stale-flag"), "{ended}");
}
