//! Who gets a credential for a cluster, and what it says.

use faultline_provider::ClusterKeys;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use x509_parser::prelude::*;

use super::*;

/// The keys of a cluster that nobody runs.
fn keys() -> ClusterKeys {
    let pair = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "kubernetes");
    ClusterKeys {
        authority: params.self_signed(&pair).unwrap().pem(),
        authority_key: pair.serialize_pem(),
        control_planes: Vec::new(),
    }
}

/// The labs with only one, that has a cluster and needs this beside it.
fn catalogue(needs: &str) -> Catalogue {
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

/// A running cluster of the one lab there is.
async fn cluster(needs: &str) -> (Bed, EnvironmentId) {
    let provider = FakeProvider::new().with_clusters(keys());
    let config = Config {
        kube_port: Some(6443),
        ..Config::default()
    };
    let mut bed = bed_of(config, provider).await;
    bed.app.set_catalogue(catalogue(needs));
    let id = bed.active("stale-flag").await;
    (bed, id)
}

/// The groups and the name in a certificate, and for how many seconds from now it holds.
fn read(bed: &Bed, pem: &str) -> (Vec<String>, i64) {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).unwrap();
    let certificate = pem.parse_x509().unwrap();
    let said = certificate.subject().iter_attributes();
    let said = said.map(|a| a.as_str().unwrap().to_owned()).collect();
    let ends = certificate.validity().not_after.timestamp();
    (said, ends - bed.app.now().as_second())
}

fn status(answer: &Answer) -> (u16, serde_json::Value) {
    (answer.status.as_u16(), answer.json()["code"].clone())
}

#[tokio::test]
async fn a_person_is_in_the_groups_that_the_lab_grants() {
    for (needs, groups) in [
        ("nodes: 1", vec!["kubeadm:cluster-admins", "person:local"]),
        (
            "groups: [\"shop:developers\", viewers]",
            vec!["shop:developers", "viewers", "person:local"],
        ),
    ] {
        let (bed, id) = cluster(needs).await;
        let path = format!("/environments/{id}/credential");
        let made = bed.api(Method::POST, &path, None).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
        let pem = made.json()["certificate"].as_str().unwrap().to_owned();
        assert_eq!(
            read(&bed, &pem),
            (groups.iter().map(|g| (*g).to_owned()).collect(), 1800)
        );
    }
}

#[tokio::test]
async fn a_file_holds_as_long_as_its_environment_may_live() {
    let (bed, id) = cluster("nodes: 1").await;
    let environment = bed.app.store.environment(&id).await.unwrap().unwrap();
    let file = bed.get(&format!("/environments/{id}/kubeconfig")).await;
    assert_eq!(file.status, StatusCode::OK, "{}", file.body);
    assert_eq!(file.headers[header::CACHE_CONTROL], "no-store");
    let config = file.json();
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
    assert!(server.ends_with(":6443"), "{server}");
    let encoded = config["users"][0]["user"]["client-certificate-data"]
        .as_str()
        .unwrap();
    let pem = {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD
            .decode(encoded)
            .unwrap()
    };
    let (_, lasts) = read(&bed, &String::from_utf8(pem).unwrap());
    let may_live = environment.lifetime.hard_end.duration_since(bed.app.now());
    assert_eq!(lasts, may_live.as_secs());
}

#[tokio::test]
async fn a_cluster_that_does_not_run_gives_none() {
    let (mut bed, id) = cluster("nodes: 1").await;
    let path = format!("/environments/{id}/credential");
    let at = format!("/environments/{id}");
    let paused = bed.api(Method::POST, &format!("{at}/suspend"), None).await;
    assert!(paused.status.is_success(), "{}", paused.body);
    bed.until(&id, |e| matches!(e.state, State::Suspended { .. }))
        .await;
    let refused = bed.api(Method::POST, &path, None).await;
    assert_eq!(status(&refused), (409, "not-running".into()));
    let refused = bed.api(Method::GET, &format!("{at}/cluster"), None).await;
    assert_eq!(status(&refused), (409, "not-running".into()));
    let page = bed.get(&format!("{at}/kubeconfig")).await;
    assert_eq!(page.status, StatusCode::CONFLICT);
    assert!(
        page.body.contains("There is no running cluster"),
        "{}",
        page.body
    );
}

#[tokio::test]
async fn a_plain_machine_and_somebody_elses_cluster_give_none() {
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
