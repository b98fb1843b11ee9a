//! Tests of groups: who sees whom, who joins how, and who may change what.

use faultline_domain::authz::Role;
use faultline_store::people::PersonChange;

use super::*;

/// Creates a group and returns its ID.
async fn create(bed: &Bed, name: &str) -> String {
    let json = serde_json::json!({ "name": name }).to_string();
    let made = bed.api(Method::POST, "/groups", Some(&json)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    made.json()["id"].as_str().unwrap().to_owned()
}

async fn put(bed: &Bed, group: &str, person: &str, instructs: bool) -> StatusCode {
    let json = serde_json::json!({ "instructs": instructs }).to_string();
    let path = format!("/groups/{group}/members/{person}");
    bed.api(Method::PUT, &path, Some(&json)).await.status
}

async fn make_instructor(bed: &Bed, name: &str) {
    let (me, now) = (faultline_domain::PersonId::local(), bed.app.now());
    let change = PersonChange::Role(Role::Instructor);
    let person = name.parse().unwrap();
    bed.app
        .store
        .change_person(&me, &person, change, now)
        .await
        .unwrap();
}

/// Returns a server with a group whose instructor is `ida` and whose member is `stu`, another group, and its member `eve`.
/// The owner makes requests.
pub(super) async fn school() -> (Bed, String, String) {
    school_with(Config::default()).await
}

/// The same with this configuration.
pub(super) async fn school_with(config: Config) -> (Bed, String, String) {
    let mut bed = bed_with(config).await;
    let own = (bed.cookie.clone(), bed.csrf.clone(), bed.token.clone());
    for name in ["ida", "stu", "eve"] {
        bed.become_another(name).await;
    }
    (bed.cookie, bed.csrf, bed.token) = own;
    make_instructor(&bed, "ida").await;
    let (mine, other) = (create(&bed, "Monday").await, create(&bed, "Tuesday").await);
    assert_eq!(put(&bed, &mine, "ida", true).await, StatusCode::NO_CONTENT);
    assert_eq!(put(&bed, &mine, "stu", false).await, StatusCode::NO_CONTENT);
    assert_eq!(
        put(&bed, &other, "eve", false).await,
        StatusCode::NO_CONTENT
    );
    (bed, mine, other)
}

#[tokio::test]
async fn instructors_see_their_members_and_nobody_else() {
    let (mut bed, mine, other) = school().await;
    bed.become_another("stu").await;
    let id = bed.active("stale-flag").await;
    bed.post(&format!("/environments/{id}/check"), "").await;
    checked(&bed.app, &id).await;
    bed.post(&format!("/environments/{id}/hints/1"), "").await;
    // The member sees no group.
    assert_eq!(bed.get("/groups").await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        bed.get(&format!("/groups/{mine}")).await.status,
        StatusCode::NOT_FOUND
    );
    let none = bed.api(Method::GET, "/groups", None).await;
    assert_eq!(none.json(), serde_json::json!([]));

    bed.become_another("ida").await;
    let list = bed.get("/groups").await.body;
    assert!(
        list.contains("Monday") && !list.contains("Tuesday"),
        "{list}"
    );
    let page = bed.get(&format!("/groups/{mine}")).await.body;
    assert!(
        page.contains("<td>stu") && page.contains("0 of 2 checks pass"),
        "{page}"
    );
    assert!(
        !page.contains("<td>eve") && !page.contains("Add a person"),
        "{page}"
    );
    let seen = bed
        .api(Method::GET, &format!("/groups/{mine}"), None)
        .await
        .json();
    let stu = seen["progress"]
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["name"] == "stu");
    let open = &stu.unwrap()["open"][0];
    assert_eq!(
        (&open["lab"], &open["hints"]),
        (&"stale-flag".into(), &1.into())
    );
    // Neither the other group nor the member's environment is theirs.
    assert_eq!(
        bed.get(&format!("/groups/{other}")).await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        bed.get(&format!("/environments/{id}")).await.status,
        StatusCode::NOT_FOUND
    );
    let end = bed.post(&format!("/environments/{id}/end"), "").await;
    assert_eq!(end.status, StatusCode::NOT_FOUND);
    assert_eq!(bed.get("/operator").await.status, StatusCode::NOT_FOUND);
    assert_eq!(bed.get("/people").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn only_operators_change_groups() {
    let (mut bed, mine, _) = school().await;
    bed.become_another("ida").await;
    let new = bed
        .api(Method::POST, "/groups", Some("{\"name\": \"x\"}"))
        .await;
    assert_eq!(new.status, StatusCode::NOT_FOUND);
    assert_eq!(put(&bed, &mine, "eve", false).await, StatusCode::NOT_FOUND);
    let gone = bed
        .api(Method::DELETE, &format!("/groups/{mine}"), None)
        .await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
    for (path, form) in [
        ("add", "person=eve&part=member"),
        ("remove/stu", ""),
        ("delete", ""),
    ] {
        let answer = bed.post(&format!("/groups/{mine}/{path}"), form).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(
        bed.app
            .store
            .group(&mine)
            .await
            .unwrap()
            .unwrap()
            .members
            .len(),
        2
    );
}

#[tokio::test]
async fn students_join_a_group_by_its_invitation() {
    let (mut bed, mine, _) = school().await;
    bed.become_another("ida").await;
    let json = Some("{\"uses\": 2, \"days\": 1}");
    let made = bed
        .api(Method::POST, &format!("/groups/{mine}/invitations"), json)
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let url = made.json()["url"].as_str().unwrap().to_owned();
    let token = url.split("token=").nth(1).unwrap().to_owned();
    let form = format!("token={token}&name=Nia&login=nia&password=a-long-password");
    let joined = bed.post("/invitation", &form).await;
    assert_eq!(joined.status, StatusCode::SEE_OTHER, "{}", joined.body);
    let group = bed.app.store.group(&mine).await.unwrap().unwrap();
    let nia = group.members.iter().find(|m| m.name == "Nia").unwrap();
    assert!(!nia.instructs);
    let person = bed.app.store.person(&nia.person).await.unwrap().unwrap();
    assert_eq!(person.role, Role::Student);

    // An instructor who is removed takes their invitations along.
    let (store, now) = (&bed.app.store, bed.app.now());
    let (ida, me) = ("ida".parse().unwrap(), faultline_domain::PersonId::local());
    store.remove_member(&mine, &ida, &me, now).await.unwrap();
    let form = format!("token={token}&name=Max&login=max&password=a-long-password");
    let late = bed.post("/invitation", &form).await;
    assert_ne!(late.status, StatusCode::SEE_OTHER);
    let again = bed.get(&format!("/groups/{mine}")).await;
    assert_eq!(again.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn invalid_changes_are_explained() {
    let (bed, mine, _) = school().await;
    let twice = bed
        .api(Method::POST, "/groups", Some("{\"name\": \"Monday\"}"))
        .await;
    assert_eq!(twice.status, StatusCode::BAD_REQUEST);
    assert!(twice.body.contains("has this name"), "{}", twice.body);
    let empty = bed.post("/groups", "name=++").await;
    assert_eq!(empty.status, StatusCode::BAD_REQUEST);
    assert!(empty.body.contains("Enter a name"), "{}", empty.body);
    let student = bed
        .post(&format!("/groups/{mine}/add"), "person=eve&part=instructor")
        .await;
    assert_eq!(student.status, StatusCode::BAD_REQUEST);
    assert!(
        student.body.contains("change the role first"),
        "{}",
        student.body
    );
    assert_eq!(
        put(&bed, "nothing", "eve", false).await,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        put(&bed, &mine, "nobody", false).await,
        StatusCode::NOT_FOUND
    );
    let much = bed
        .post(&format!("/groups/{mine}/invite"), "uses=x&expires=1d")
        .await;
    assert!(much.body.contains("whole number"), "{}", much.body);
    let added = bed
        .post(&format!("/groups/{mine}/add"), "person=eve&part=member")
        .await;
    assert_eq!(added.status, StatusCode::SEE_OTHER, "{}", added.body);
    let gone = bed.post(&format!("/groups/{mine}/delete"), "").await;
    assert_eq!(gone.location(), "/groups");
    assert!(
        bed.app
            .store
            .person(&"eve".parse().unwrap())
            .await
            .unwrap()
            .is_some()
    );
}

/// An instructor's links stay when nothing changes.
#[tokio::test]
async fn a_role_that_stays_the_same_withdraws_nothing() {
    let (mut bed, mine, _) = school().await;
    let own = (bed.cookie.clone(), bed.csrf.clone(), bed.token.clone());
    bed.become_another("ida").await;
    let path = format!("/groups/{mine}/invitations");
    let made = bed.api(Method::POST, &path, Some("{}")).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    (bed.cookie, bed.csrf, bed.token) = own;
    make_instructor(&bed, "ida").await;
    let open = bed.app.store.invitations(5).await.unwrap();
    assert_eq!(open[0].uses_left, 1);
}

/// A demoted instructor sees nothing any more, even as a member who instructs.
#[tokio::test]
async fn the_role_is_needed_too() {
    let (mut bed, mine, _) = school().await;
    let (me, now) = (faultline_domain::PersonId::local(), bed.app.now());
    let change = PersonChange::Role(Role::Student);
    let ida = "ida".parse().unwrap();
    bed.app
        .store
        .change_person(&me, &ida, change, now)
        .await
        .unwrap();
    bed.become_another("ida").await;
    assert_eq!(
        bed.get(&format!("/groups/{mine}")).await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn names_and_notes_that_are_too_long_are_refused() {
    let bed = bed().await;
    let (name, note) = ("n".repeat(61), "n".repeat(81));
    let json = serde_json::json!({ "name": name }).to_string();
    let group = bed.api(Method::POST, "/groups", Some(&json)).await;
    let form = bed.post("/groups", &format!("name={name}")).await;
    let json = serde_json::json!({ "note": note }).to_string();
    let invitation = bed.api(Method::POST, "/invitations", Some(&json)).await;
    for (answer, text) in [
        (group, "61 characters; at most 60"),
        (form, "61 characters; at most 60"),
        (invitation, "81 characters; at most 80"),
    ] {
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(answer.body.contains(text), "{}", answer.body);
    }
    create(&bed, &"n".repeat(60)).await;
}
