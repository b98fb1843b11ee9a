//! Who may enter over SSH, as the gateway asks it.

use faultline_gateway::{Access, Directory, HostKey, Login, PublicKey};

use super::*;
use crate::directory::StoreDirectory;

/// A new key of whom the bed is signed in as.
async fn key(bed: &Bed, seed: u64) -> PublicKey {
    let key = HostKey::generate(&mut rand::rngs::StdRng::seed_from_u64(seed)).public();
    let json = serde_json::json!({ "name": "laptop", "public_key": key.as_openssh() }).to_string();
    let answer = bed.api(Method::POST, "/keys", Some(&json)).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    key
}

async fn ask(bed: &Bed, id: &EnvironmentId, key: &PublicKey) -> Option<Access> {
    let login = Login::parse(id.as_str()).unwrap();
    let directory = StoreDirectory::new(bed.app.clone());
    directory.authorize(&login, key).await
}

#[tokio::test]
async fn a_second_person_s_key_opens_what_is_theirs_and_nothing_else() {
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
async fn a_key_opens_nothing_that_starts_is_paused_or_has_ended() {
    let mut bed = bed().await;
    let key = key(&bed, 1).await;
    let id = bed.start("stale-flag").await;
    let at = format!("/environments/{id}");
    assert!(ask(&bed, &id, &key).await.is_none(), "it only starts");
    bed.until(&id, is_active).await;
    assert!(ask(&bed, &id, &key).await.is_some());
    bed.post(&format!("{at}/suspend"), "").await;
    bed.until(&id, |e| matches!(e.state, State::Suspended { .. }))
        .await;
    assert!(ask(&bed, &id, &key).await.is_none(), "it is paused");
    bed.post(&format!("{at}/resume"), "").await;
    bed.until(&id, is_active).await;
    bed.post(&format!("{at}/end"), "").await;
    let e = bed.app.store.environment(&id).await.unwrap().unwrap();
    assert!(is_active(&e), "nothing is freed yet");
    assert!(ask(&bed, &id, &key).await.is_none(), "it is to end");
    bed.until(&id, is_final).await;
    assert!(ask(&bed, &id, &key).await.is_none(), "it has ended");
}
