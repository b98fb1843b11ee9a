//! Tests of credentials for clusters, and of how the kubectl gateway's backend judges them.

use faultline_gateway::kube::{ApiServers, Change, Grant, Protocol, Refusal};
use faultline_provider::api::ClientCertificate;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

use super::*;
use crate::api_servers::StoreApiServers;

/// Returns a certificate authority, and a client certificate for the fake's clusters.
pub(super) fn keys() -> (String, ClientCertificate) {
    let pair = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "kubernetes");
    let certificate = params.self_signed(&pair).unwrap().pem();
    let key = pair.serialize_pem();
    (certificate.clone(), ClientCertificate { certificate, key })
}

/// Returns a catalogue with a single lab, which has a cluster and these additional needs.
pub(super) fn catalogue(needs: &str) -> Catalogue {
    let folder = tempfile::tempdir().unwrap();
    let lab = folder.path().join("stale-flag");
    copy(&labs().join("stale-flag"), &lab);
    let text = std::fs::read_to_string(lab.join("lab.yaml")).unwrap();
    let needs = format!("\nneeds: {{kubernetes: \"1.36\", {needs}}}\n\nsetup:");
    std::fs::write(lab.join("lab.yaml"), text.replace("\nsetup:", &needs)).unwrap();
    let catalogue = Catalogue::load(folder.path());
    assert!(catalogue.broken().is_empty(), "{:?}", catalogue.broken());
    catalogue
}

/// Starts the cluster of that lab.
async fn cluster(needs: &str) -> (Bed, EnvironmentId) {
    let (authority, credential) = keys();
    let provider = FakeProvider::new().with_clusters(authority, credential);
    let config = Config {
        kube_port: Some(6443),
        ..Config::default()
    };
    let mut bed = bed_of(config, provider).await;
    bed.app.set_catalogue(catalogue(needs));
    let id = bed.active("stale-flag").await;
    (bed, id)
}

fn status(answer: &Answer) -> (u16, serde_json::Value) {
    (answer.status.as_u16(), answer.json()["code"].clone())
}

/// Checks a token for an environment.
async fn admit(bed: &Bed, id: &EnvironmentId, token: &str) -> Result<Grant, Refusal> {
    let servers = StoreApiServers::new(bed.app.clone());
    servers.admit(id, token, false).await
}

async fn token(bed: &Bed, id: &EnvironmentId) -> String {
    let path = format!("/environments/{id}/credential");
    let made = bed.api(Method::POST, &path, None).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    made.json()["token"].as_str().unwrap().to_owned()
}

/// Returns the token in the kubeconfig that the page offers for download.
async fn file(bed: &Bed, id: &EnvironmentId) -> String {
    let file = bed.get(&format!("/environments/{id}/kubeconfig")).await;
    assert_eq!(file.status, StatusCode::OK, "{}", file.body);
    assert_eq!(file.headers[header::CACHE_CONTROL], "no-store");
    let config = file.json();
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
    assert!(
        server.ends_with(&format!(":6443/environments/{id}")),
        "{server}"
    );
    let token = config["users"][0]["user"]["token"].as_str().unwrap();
    token.to_owned()
}

#[tokio::test]
async fn a_person_is_in_the_groups_that_the_lab_grants() {
    for (needs, groups) in [
        ("nodes: 1", vec!["kubeadm:cluster-admins"]),
        (
            "groups: [\"shop:developers\", viewers]",
            vec!["shop:developers", "viewers"],
        ),
    ] {
        let (bed, id) = cluster(needs).await;
        let e = bed.app.store.environment(&id).await.unwrap().unwrap();
        let identity = crate::api_servers::identity(&e, bed.app.now());
        assert_eq!(identity.user, "person:local");
        assert_eq!(identity.groups, groups);
        // It is valid until after the latest possible end.
        assert!(identity.until > e.lifetime.hard_end);
    }
}

#[tokio::test]
async fn a_token_is_valid_for_its_person_and_environment_for_half_an_hour() {
    let (bed, id) = cluster("nodes: 1").await;
    let token = token(&bed, &id).await;
    let grant = admit(&bed, &id, &token).await.unwrap();
    assert_eq!(grant.tenant, bed.tenant(&id).await);
    assert_eq!(grant.person.as_str(), "local");
    let other = "k7f3q9xw2m".parse().unwrap();
    assert_eq!(admit(&bed, &other, &token).await, Err(Refusal::not_found()));
    for invalid in ["", "flt_wrong", &bed.token] {
        let result = admit(&bed, &id, invalid).await;
        assert_eq!(result, Err(Refusal::unauthorized()), "{invalid}");
    }
    bed.clock.advance(jiff::SignedDuration::from_mins(30));
    let result = admit(&bed, &id, &token).await;
    assert_eq!(result, Err(Refusal::expired()));
    let servers = StoreApiServers::new(bed.app.clone());
    assert!(
        servers.admit(&id, &token, true).await.is_ok(),
        "open connections stay open"
    );
}

#[tokio::test]
async fn a_token_is_revoked_with_the_api_token_that_requested_it() {
    let (bed, id) = cluster("nodes: 1").await;
    let (token, kept) = (token(&bed, &id).await, file(&bed, &id).await);
    for mine in bed
        .api(Method::GET, "/tokens", None)
        .await
        .json()
        .as_array()
        .unwrap()
    {
        let at = format!("/tokens/{}", mine["id"].as_str().unwrap());
        assert!(bed.api(Method::DELETE, &at, None).await.status.is_success());
    }
    let result = admit(&bed, &id, &token).await;
    assert_eq!(result, Err(Refusal::unauthorized()));
    assert!(
        admit(&bed, &id, &kept).await.is_ok(),
        "the page's kubeconfig isn't tied to an API token"
    );
}

#[tokio::test]
async fn a_kubeconfig_is_valid_as_long_as_its_environment_and_after_a_reset() {
    let (mut bed, id) = cluster("nodes: 1").await;
    let token = file(&bed, &id).await;
    let before = admit(&bed, &id, &token).await.unwrap();
    bed.clock.advance(jiff::SignedDuration::from_mins(50));
    assert!(admit(&bed, &id, &token).await.is_ok());
    let at = format!("/environments/{id}");
    bed.post(&format!("{at}/reset"), "").await;
    let starting = admit(&bed, &id, &token).await.unwrap_err();
    assert_eq!(starting.code, 503);
    assert!(starting.message.contains("is starting"), "{starting}");
    bed.until(&id, is_active).await;
    let after = admit(&bed, &id, &token).await.unwrap();
    assert_ne!(after.tenant, before.tenant);
    bed.post(&format!("{at}/suspend"), "").await;
    let paused = admit(&bed, &id, &token).await.unwrap_err();
    assert_eq!(paused.code, 503);
    assert!(paused.message.contains("env resume"), "{paused}");
    bed.post(&format!("{at}/end"), "").await;
    let ended = admit(&bed, &id, &token).await.unwrap_err();
    assert_eq!(ended.code, 410);
    assert!(ended.message.contains("/labs/stale-flag"), "{ended}");
    bed.until(&id, is_final).await;
    let clean = async |bed: &Bed| {
        let now = bed.app.now();
        bed.app.store.remove_old_credentials(now).await.unwrap();
        admit(bed, &id, &token).await
    };
    assert_eq!(clean(&bed).await, Err(ended), "still explained for a while");
    bed.clock.advance(jiff::SignedDuration::from_hours(31 * 24));
    let result = clean(&bed).await;
    assert_eq!(result, Err(Refusal::unauthorized()), "finally forgotten");
}

#[tokio::test]
async fn a_paused_cluster_has_a_kubeconfig_and_an_ended_one_has_none() {
    let (mut bed, id) = cluster("nodes: 1").await;
    let at = format!("/environments/{id}");
    bed.api(Method::POST, &format!("{at}/suspend"), None).await;
    bed.until(&id, |e| matches!(e.state, State::Suspended { .. }))
        .await;
    // A token can still be issued. The gateway explains to clients that the environment is paused.
    token(&bed, &id).await;
    bed.api(Method::DELETE, &at, None).await;
    let path = format!("{at}/credential");
    let refused = bed.api(Method::POST, &path, None).await;
    assert_eq!(status(&refused), (409, "not-running".into()));
    let refused = bed.api(Method::GET, &format!("{at}/cluster"), None).await;
    assert_eq!(status(&refused), (409, "not-running".into()));
    let page = bed.get(&format!("{at}/kubeconfig")).await;
    assert_eq!(page.status, StatusCode::CONFLICT);
    assert!(page.body.contains("There is no running cluster"));
}

#[tokio::test]
async fn an_unreachable_api_server_is_reported_and_changes_are_in_the_audit_log() {
    let (bed, id) = cluster("nodes: 1").await;
    let token = token(&bed, &id).await;
    let servers = StoreApiServers::new(bed.app.clone());
    let grant = servers.admit(&id, &token, false).await.unwrap();
    // The fake's clusters have no API server.
    let Err(unreachable) = servers.connect(&grant, Protocol::Http2).await else {
        panic!("an API server responded");
    };
    assert_eq!(unreachable.code, 503);
    assert!(unreachable.message.contains("node1"), "{unreachable}");
    let change = Change {
        verb: "delete",
        resource: "pods shop/web".to_owned(),
    };
    servers.changes(&grant, &change).await;
    let audit = bed.app.store.audit(5).await.unwrap();
    let line = audit.iter().find(|l| l.action == "kubectl-delete").unwrap();
    assert_eq!(
        (&*line.subject, &*line.detail),
        (id.as_str(), "pods shop/web")
    );
    assert_eq!(line.person.as_deref(), Some("local"));
}

#[tokio::test]
async fn no_token_is_issued_for_plain_machines_and_for_somebody_elses_cluster() {
    let mut plain = bed().await;
    let id = plain.active("stale-flag").await;
    let path = format!("/environments/{id}/credential");
    let refused = plain.api(Method::POST, &path, None).await;
    assert_eq!(status(&refused), (409, "no-cluster".into()));

    let (mut bed, id) = cluster("nodes: 1").await;
    bed.become_another("eve").await;
    let path = format!("/environments/{id}/credential");
    let (theirs, none) = (
        bed.api(Method::POST, &path, None).await,
        bed.api(Method::POST, "/environments/none-there/credential", None)
            .await,
    );
    assert_eq!(theirs.status, StatusCode::NOT_FOUND);
    assert_eq!(theirs.body.replace(id.as_str(), "none-there"), none.body);
    assert_eq!(
        bed.get(&format!("/environments/{id}/kubeconfig"))
            .await
            .status,
        StatusCode::NOT_FOUND
    );
}
