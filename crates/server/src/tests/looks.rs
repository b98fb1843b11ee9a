//! Tests of looks into a member's terminals.

use faultline_domain::authz::Role;
use faultline_store::people::PersonChange;
use serde_json::json;
use tokio_tungstenite::tungstenite::Error;

use super::{
    groups::school_with,
    terminals::{Page, Serving, close_code, serving},
    *,
};

/// The credentials of a person.
type Person = (String, String, String);

fn as_person(bed: &mut Bed, person: &Person) {
    (bed.cookie, bed.csrf, bed.token) = person.clone();
}

async fn sign_in(bed: &mut Bed, name: &str) -> Person {
    bed.become_another(name).await;
    (bed.cookie.clone(), bed.csrf.clone(), bed.token.clone())
}

/// Returns a server with short intervals, on which `stu`, a member of the returned group that `ida` instructs, has a
/// running environment.
async fn class() -> (Bed, String, EnvironmentId) {
    let (mut bed, group, _) = school_with(Config {
        recheck_seconds: 1,
        ..Config::default()
    })
    .await;
    sign_in(&mut bed, "stu").await;
    let id = bed.active("stale-flag").await;
    (bed, group, id)
}

async fn look(bed: &Bed, s: &Serving, id: &EnvironmentId) -> Result<Page, Error> {
    Page::at(bed, s, &format!("/environments/{id}/look/socket")).await
}

async fn used(bed: &Bed, id: &EnvironmentId) -> Timestamp {
    let e = bed.app.store.environment(id).await.unwrap().unwrap();
    e.lifetime.last_used
}

/// Returns the audit lines about looks: who, what, and where.
async fn audit(bed: &Bed) -> Vec<(String, String, String)> {
    let all = bed.app.store.audit(100).await.unwrap().into_iter();
    all.rev()
        .filter(|entry| entry.action.starts_with("look"))
        .map(|entry| {
            (
                entry.person.unwrap_or_default(),
                entry.action,
                entry.subject,
            )
        })
        .collect()
}

async fn set_typing(bed: &Bed, id: &EnvironmentId, types: bool) -> StatusCode {
    let types = if types { "yes" } else { "no" };
    let path = format!("/environments/{id}/look/type");
    bed.post(&path, &format!("types={types}")).await.status
}

#[tokio::test]
async fn an_instructor_sees_the_terminals_and_changes_nothing() {
    let (mut bed, group, id) = class().await;
    let s = serving(&bed).await;
    let mut owner = Page::with_terminal(&bed, &s, &id).await;
    owner.until(1, "~# ").await;
    owner.until_part("looks", str::is_empty).await;
    sign_in(&mut bed, "ida").await;
    let list = bed.get(&format!("/groups/{group}")).await.body;
    assert!(
        list.contains(&format!("href=\"/environments/{id}/look\"")),
        "{list}"
    );
    let page = bed.get(&format!("/environments/{id}/look")).await;
    assert_eq!(page.status, StatusCode::OK);
    for text in [
        "stu works on",
        "orders-api stays in maintenance since Friday",
        "0 of 3 hints opened",
        "stu sees that you do",
        &group,
    ] {
        assert!(page.body.contains(text), "{text}: {}", page.body);
    }
    assert_eq!(audit(&bed).await, [], "opening the page shows no terminal");

    bed.clock.advance(jiff::SignedDuration::from_mins(5));
    let before = used(&bed, &id).await;
    let mut looking = look(&bed, &s, &id).await.unwrap();
    looking
        .until_part("terminals", |all| all == r#"{"node1":[1]}"#)
        .await;
    looking.until_part("typing", |typing| typing == "no").await;
    looking.open(1, "node1", 1).await;
    let shown = looking.until(1, "~# ").await;
    let size = r#"{"type":"size","rows":30,"cols":100,"channel":1}"#;
    assert!(
        shown.contains(size) && shown.contains(r#""new":false"#),
        "{shown}"
    );
    owner
        .until_part("looks", |looks| {
            looks.contains("ida looks at your terminals.")
        })
        .await;
    owner.until(1, "*** ida looks at your terminals.").await;

    // What the viewer sends is dropped, and no terminal is created.
    looking.keys(1, "touch /root/typed\r").await;
    looking
        .send(json!({"type": "resize", "channel": 1, "rows": 5, "cols": 20}))
        .await;
    looking.send(json!({"type": "close", "channel": 1})).await;
    looking.open(2, "node1", 2).await;
    assert_eq!(looking.closed(2).await, 4000);
    assert_eq!(used(&bed, &id).await, before, "a look isn't use");
    owner.keys(1, "hostname\r").await;
    let shown = looking.until(1, "\r\nnode1\r\n").await;
    assert!(
        !shown.contains("touch") && !shown.contains(r#""type":"size""#),
        "{shown}"
    );
    let tenant = bed.tenant(&id).await;
    assert!(bed.provider.file(&tenant, &node(), "/root/typed").is_none());

    // The next terminal that the owner opens appears.
    owner.open(2, "node1", 2).await;
    looking
        .until_part("terminals", |all| all == r#"{"node1":[1,2]}"#)
        .await;
    drop(looking);
    owner.until_part("looks", str::is_empty).await;
    assert_eq!(
        audit(&bed).await,
        [("ida".into(), "look".into(), id.to_string())]
    );
}

#[tokio::test]
async fn typing_together_is_switched_on_and_off() {
    let (mut bed, _, id) = class().await;
    let s = serving(&bed).await;
    let mut owner = Page::with_terminal(&bed, &s, &id).await;
    owner.until(1, "~# ").await;
    let stu = (bed.cookie.clone(), bed.csrf.clone(), bed.token.clone());
    let ida = sign_in(&mut bed, "ida").await;
    assert_eq!(set_typing(&bed, &id, true).await, StatusCode::CONFLICT);
    let mut looking = look(&bed, &s, &id).await.unwrap();
    looking.until_part("typing", |typing| typing == "no").await;
    looking.open(1, "node1", 1).await;
    looking.until(1, "~# ").await;

    as_person(&mut bed, &stu);
    assert_eq!(set_typing(&bed, &id, true).await, StatusCode::NOT_FOUND);
    as_person(&mut bed, &ida);
    for _ in 0..2 {
        assert_eq!(set_typing(&bed, &id, true).await, StatusCode::SEE_OTHER);
    }
    looking.until_part("typing", |typing| typing == "yes").await;
    owner
        .until_part("looks", |looks| looks.contains("ida types with you."))
        .await;
    bed.clock.advance(jiff::SignedDuration::from_mins(5));
    let before = used(&bed, &id).await;
    looking
        .send(json!({"type": "resize", "channel": 1, "rows": 5, "cols": 20}))
        .await;
    looking.keys(1, "touch /root/typed\r").await;
    looking.keys(1, "hostname\r").await;
    let shown = owner.until(1, "\r\nnode1\r\n").await;
    assert!(shown.contains("touch /root/typed"), "{shown}");
    let tenant = bed.tenant(&id).await;
    assert!(bed.provider.file(&tenant, &node(), "/root/typed").is_some());
    assert!(used(&bed, &id).await > before, "typing is use");

    assert_eq!(set_typing(&bed, &id, false).await, StatusCode::SEE_OTHER);
    looking.until_part("typing", |typing| typing == "no").await;
    owner
        .until_part("looks", |looks| looks.contains("looks at"))
        .await;
    looking.keys(1, "touch /root/late\r").await;
    owner.keys(1, "echo after\r").await;
    let shown = looking.until(1, "\r\nafter\r\n").await;
    assert!(
        !shown.contains("late") && !shown.contains(r#""type":"size""#),
        "{shown}"
    );
    let line = |action: &str| ("ida".to_owned(), action.to_owned(), id.to_string());
    assert_eq!(audit(&bed).await, [line("look"), line("look-type")]);

    // A look that begins again only looks, even if the one before typed.
    assert_eq!(set_typing(&bed, &id, true).await, StatusCode::SEE_OTHER);
    drop(looking);
    owner.until_part("looks", str::is_empty).await;
    let mut again = look(&bed, &s, &id).await.unwrap();
    again.until_part("typing", |typing| typing == "no").await;
    as_person(&mut bed, &stu);
    let page = bed.get(&format!("/environments/{id}")).await.body;
    assert!(
        page.contains("ida looks at your terminals."),
        "a reload shows it too"
    );
}

#[tokio::test]
async fn a_look_ends_when_it_is_no_longer_allowed_or_the_machine_stops() {
    let (mut bed, group, id) = class().await;
    let s = serving(&bed).await;
    let stu = (bed.cookie.clone(), bed.csrf.clone(), bed.token.clone());
    let (me, now) = (faultline_domain::PersonId::local(), bed.app.now());
    let [ida, member] = ["ida", "stu"].map(|name| name.parse().unwrap());
    let looking = async |bed: &mut Bed| {
        sign_in(bed, "ida").await;
        let mut page = look(bed, &s, &id).await.unwrap();
        page.until_part("typing", |typing| typing == "no").await;
        page
    };
    let store = bed.app.store.clone();

    let mut page = looking(&mut bed).await;
    store.remove_member(&group, &ida, &me, now).await.unwrap();
    assert_eq!(close_code(&mut page.socket).await, 4003);
    assert!(bed.app.looks.of(&id).is_empty());
    store
        .add_member(&group, &ida, true, &me, now)
        .await
        .unwrap();

    let mut page = looking(&mut bed).await;
    store
        .remove_member(&group, &member, &me, now)
        .await
        .unwrap();
    assert_eq!(close_code(&mut page.socket).await, 4003);
    store
        .add_member(&group, &member, false, &me, now)
        .await
        .unwrap();

    let mut page = looking(&mut bed).await;
    let role = |role| store.change_person(&me, &ida, PersonChange::Role(role), now);
    role(Role::Student).await.unwrap();
    assert_eq!(close_code(&mut page.socket).await, 4003);
    role(Role::Instructor).await.unwrap();

    let mut page = looking(&mut bed).await;
    bed.post("/sign-out", "").await;
    assert_eq!(close_code(&mut page.socket).await, 4001);

    let mut page = looking(&mut bed).await;
    as_person(&mut bed, &stu);
    bed.post(&format!("/environments/{id}/suspend"), "").await;
    bed.until(&id, |e| matches!(e.state, State::Suspended { .. }))
        .await;
    assert_eq!(close_code(&mut page.socket).await, 4006);
    sign_in(&mut bed, "ida").await;
    match look(&bed, &s, &id).await {
        Err(Error::Http(answer)) => assert_eq!(answer.status(), 409),
        _ => panic!("a paused machine has no terminals"),
    }
    let paused = bed.get(&format!("/environments/{id}/look")).await.body;
    assert!(paused.contains("The machine is paused"), "{paused}");
    as_person(&mut bed, &stu);
    bed.post(&format!("/environments/{id}/resume"), "").await;
    bed.until(&id, is_active).await;

    let mut page = looking(&mut bed).await;
    as_person(&mut bed, &stu);
    bed.post(&format!("/environments/{id}/end"), "").await;
    assert_eq!(close_code(&mut page.socket).await, 4004);
}

#[tokio::test]
async fn others_cannot_look_and_operators_can() {
    let (mut bed, _, id) = class().await;
    let s = serving(&bed).await;
    for name in ["stu", "eve"] {
        sign_in(&mut bed, name).await;
        for id in [id.as_str(), "unknown"] {
            let path = format!("/environments/{id}/look/socket");
            match Page::at(&bed, &s, &path).await {
                Err(Error::Http(answer)) => assert_eq!(answer.status(), 404, "{name}"),
                _ => panic!("{name} looks"),
            }
        }
    }
    // An instructor can't look at who is in another group.
    let theirs = bed.active("stale-flag").await;
    sign_in(&mut bed, "ida").await;
    let page = bed.get(&format!("/environments/{theirs}/look")).await;
    assert_eq!(page.status, StatusCode::NOT_FOUND);

    let (me, now) = (faultline_domain::PersonId::local(), bed.app.now());
    let change = PersonChange::Role(Role::Operator);
    let ida = "ida".parse().unwrap();
    bed.app
        .store
        .change_person(&me, &ida, change, now)
        .await
        .unwrap();
    let mut looking = look(&bed, &s, &theirs).await.unwrap();
    looking
        .until_part("terminals", |all| all == r#"{"node1":[]}"#)
        .await;
    let overview = bed.get("/operator").await.body;
    let link = format!("href=\"/environments/{theirs}/look\"");
    assert!(overview.contains(&link), "{overview}");
    // Another site's page can't open it.
    let request = Request::get(format!("/environments/{theirs}/look/socket"))
        .header(header::COOKIE, &bed.cookie)
        .header("origin", "http://evil.example");
    let refused = bed.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
}
