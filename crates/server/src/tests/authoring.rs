//! Tests of what only authors and operators read.

use faultline_domain::authz::Role;
use faultline_store::people::PersonChange;

use super::*;

async fn give(bed: &Bed, person: &str, role: Role) {
    let (me, now) = (faultline_domain::PersonId::local(), bed.app.now());
    let (person, change) = (person.parse().unwrap(), PersonChange::Role(role));
    let store = &bed.app.store;
    store
        .change_person(&me, &person, change, now)
        .await
        .unwrap();
}

#[tokio::test]
async fn authors_read_hints_and_solutions_without_an_attempt() {
    let mut bed = bed().await;
    bed.become_another("stu").await;
    let solution = bed.app.lab(&"stale-flag".parse().unwrap()).unwrap();
    let script = String::from_utf8_lossy(&solution.solution_script).into_owned();
    let line = script.lines().last().unwrap().to_owned();
    for (role, may) in Role::ALL.map(|role| (role, matches!(role, Role::Author | Role::Operator))) {
        give(&bed, "stu", role).await;
        let lab = bed.get("/labs/stale-flag").await.body;
        assert_eq!(lab.contains("/labs/stale-flag/author"), may, "{role:?}");
        let page = bed.get("/labs/stale-flag/author").await;
        let api = bed.api(Method::GET, "/labs/stale-flag/author", None).await;
        let picture = bed.get("/labs/stale-flag/solution/died.svg").await;
        assert_eq!(picture.status == StatusCode::OK, may, "{role:?}");
        for other in ["solution/..%2Fsolution.sh", "solution/nothing.svg"] {
            let answer = bed.get(&format!("/labs/stale-flag/{other}")).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{other}");
        }
        if may {
            assert_eq!(page.status, StatusCode::OK);
            let script = page.body.split("solution.sh</h2>").nth(1).unwrap();
            assert!(
                script.contains(line.split('/').next().unwrap()),
                "{}",
                page.body
            );
            let api = api.json();
            assert!(!api["hints"].as_array().unwrap().is_empty(), "{api}");
            assert!(!api["solution"].as_str().unwrap().is_empty());
        } else {
            assert_eq!(page.status, StatusCode::NOT_FOUND, "{role:?}");
            assert_eq!(api.status, StatusCode::NOT_FOUND, "{role:?}");
        }
    }
    // It isn't an attempt, and an unknown lab isn't found.
    let attempts = bed.api(Method::GET, "/progress", None).await.json();
    assert_eq!(attempts, serde_json::json!([]));
    let unknown = bed.get("/labs/unknown/author").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn authors_see_why_a_lab_cannot_be_loaded_and_nothing_of_people() {
    let bed = bed().await;
    let folder = tempfile::tempdir().unwrap();
    copy(&labs(), folder.path());
    std::fs::write(folder.path().join("stale-flag/lab.yaml"), "title: 7\n").unwrap();
    let mut bed = bed.restart_with(folder.path()).await;
    bed.become_another("stu").await;
    assert!(!bed.get("/").await.body.contains("can't be loaded"));
    give(&bed, "stu", Role::Author).await;
    let page = bed.get("/").await.body;
    assert!(
        page.contains("1 lab can't be loaded") && page.contains("stale-flag/lab.yaml"),
        "{page}"
    );
    for path in ["/people", "/groups", "/operator"] {
        assert_eq!(bed.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn authors_join_by_an_invitation_and_do_not_instruct() {
    let mut bed = bed().await;
    let json = Some("{\"role\": \"author\"}");
    let made = bed.api(Method::POST, "/invitations", json).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let own = (bed.cookie.clone(), bed.csrf.clone(), bed.token.clone());
    bed.become_another("aut").await;
    (bed.cookie, bed.csrf, bed.token) = own;
    give(&bed, "aut", Role::Author).await;
    let group = bed
        .api(Method::POST, "/groups", Some("{\"name\": \"x\"}"))
        .await;
    let path = format!(
        "/groups/{}/members/aut",
        group.json()["id"].as_str().unwrap()
    );
    let put = bed
        .api(Method::PUT, &path, Some("{\"instructs\": true}"))
        .await;
    assert_eq!(put.status, StatusCode::BAD_REQUEST, "{}", put.body);
    assert!(put.body.contains("change the role first"), "{}", put.body);
}
