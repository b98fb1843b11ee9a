//! Tests of accounts: invitations, passwords, and what operators change.

use faultline_domain::{PersonId, authz::Role};

use super::*;

const PASSWORD: &str = "correct horse battery";

/// A browser without a session of its own until it signs in.
struct Browser<'a> {
    bed: &'a Bed,
    cookie: String,
}

impl<'a> Browser<'a> {
    fn new(bed: &'a Bed) -> Self {
        Self {
            bed,
            cookie: String::new(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        let request = Request::get(path).header(header::COOKIE, &self.cookie);
        self.bed.send(request.body(Body::empty()).unwrap()).await
    }

    /// Sends a form, and keeps the session that it may create.
    async fn post(&mut self, path: &str, form: &str) -> Answer {
        let csrf = self
            .cookie
            .split_once('=')
            .map_or_else(String::new, |(_, session)| {
                let session = faultline_store::Secret::presented(session).unwrap();
                format!("csrf={}&", crate::auth::csrf::token(&session))
            });
        let request = Request::post(path)
            .header(header::COOKIE, &self.cookie)
            .header("sec-fetch-site", "same-origin")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let request = request.body(Body::from(format!("{csrf}{form}"))).unwrap();
        let answer = self.bed.send(request).await;
        if let Some(cookie) = answer.headers.get(header::SET_COOKIE) {
            let cookie = cookie.to_str().unwrap().split(';').next().unwrap();
            self.cookie = cookie.to_owned();
        }
        answer
    }

    async fn sign_in(&mut self, login: &str, password: &str) -> Answer {
        let password = password.replace(' ', "+");
        self.post("/sign-in", &format!("login={login}&password={password}"))
            .await
    }

    async fn is_signed_in(&self) -> bool {
        self.get("/progress").await.status == StatusCode::OK
    }
}

/// Returns the secret in the link that a page shows.
fn secret(page: &str) -> String {
    let (_, rest) = page.split_once("token=").expect("the page shows a link");
    rest.split(['<', '"', '&']).next().unwrap().to_owned()
}

/// Returns the secret of a new invitation for this number of students.
async fn invitation(bed: &Bed, uses: u32) -> String {
    let form = format!("note=Class&role=student&uses={uses}&expires=7d");
    let made = bed.post("/people/invite", &form).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.body);
    secret(&made.body)
}

fn joining(token: &str, login: &str) -> String {
    let password = PASSWORD.replace(' ', "+");
    format!("token={token}&name=Ann+Example&login={login}&password={password}")
}

/// Returns a browser in which a new student is signed in, and the student's id.
async fn joined<'a>(bed: &'a Bed, login: &str) -> (Browser<'a>, PersonId) {
    let token = invitation(bed, 1).await;
    let mut browser = Browser::new(bed);
    let answer = browser.post("/invitation", &joining(&token, login)).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.body);
    let people = bed.app.store.people().await.unwrap();
    let is_new = |p: &&faultline_domain::person::Person| {
        p.login.as_ref().is_some_and(|l| l.as_str() == login)
    };
    let id = people.iter().find(is_new).unwrap().id.clone();
    (browser, id)
}

#[tokio::test]
async fn an_invitation_is_for_as_many_people_as_it_says() {
    let bed = bed().await;
    let token = invitation(&bed, 2).await;
    let mut first = Browser::new(&bed);
    let link = format!("/invitation?token={token}");
    let form = first.get(&link).await;
    assert!(form.body.contains("Join Faultline"), "{}", form.body);
    let again = first.get(&link).await;
    assert!(
        again.body.contains("Join Faultline"),
        "looking uses nothing"
    );

    let answer = first.post("/invitation", &joining(&token, "Ann")).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.body);
    assert!(first.is_signed_in().await);
    assert_eq!(first.get("/people").await.status, StatusCode::NOT_FOUND);

    let mut second = Browser::new(&bed);
    let taken = second.post("/invitation", &joining(&token, "ann")).await;
    assert_eq!(taken.status, StatusCode::CONFLICT);
    assert!(taken.body.contains("login name is taken"), "{}", taken.body);
    assert!(taken.body.contains("Ann Example"), "what was typed is kept");
    let answer = second.post("/invitation", &joining(&token, "ben")).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.body);

    let mut third = Browser::new(&bed);
    let late = third.post("/invitation", &joining(&token, "cid")).await;
    assert_eq!(late.status, StatusCode::UNAUTHORIZED);
    assert!(late.body.contains("no longer valid"), "{}", late.body);
    let page = bed.get("/people").await.body;
    assert!(page.contains("Joined: Ann Example, Ann Example"), "{page}");
    assert!(page.contains("used up"), "{page}");
}

#[tokio::test]
async fn invitations_expire_and_are_withdrawn() {
    let bed = bed().await;
    let token = invitation(&bed, 1).await;
    let shown = bed.app.store.invitations(9).await.unwrap();
    let path = format!("/invitations/{}/withdraw", shown[0].id);
    assert_eq!(bed.post(&path, "").await.status, StatusCode::SEE_OTHER);
    assert_eq!(bed.post(&path, "").await.status, StatusCode::NOT_FOUND);
    let mut browser = Browser::new(&bed);
    let answer = browser.post("/invitation", &joining(&token, "ann")).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);

    let token = invitation(&bed, 1).await;
    bed.clock.advance(jiff::SignedDuration::from_hours(8 * 24));
    let answer = browser.post("/invitation", &joining(&token, "ann")).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(!browser.is_signed_in().await);
}

#[tokio::test]
async fn invalid_forms_create_nothing_and_say_why() {
    let bed = bed().await;
    for (form, why) in [
        ("role=student&uses=0&expires=7d", "1 to 500 people"),
        ("role=student&uses=1&expires=91d", "at most 90 days"),
        ("role=student&uses=x&expires=7d", "whole number"),
        ("role=student&uses=1&expires=7", "such as 3h or 2d"),
        ("role=student&uses=1", "such as 3h or 2d"),
        ("role=king&uses=1&expires=7d", "Choose one of the roles"),
    ] {
        let answer = bed.post("/people/invite", form).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{form}");
        assert!(answer.body.contains(why), "{form}: {}", answer.body);
    }
    assert_eq!(bed.app.store.invitations(9).await.unwrap(), []);
    let token = invitation(&bed, 1).await;
    let mut browser = Browser::new(&bed);
    for (form, why) in [
        (
            "name=Ann&login=1nn&password=long+enough+one",
            "A login name begins",
        ),
        (
            "name=+&login=ann&password=long+enough+one",
            "Enter your name",
        ),
        ("name=Ann&login=ann&password=short", "at least 10"),
        (
            "name=Ann&login=ann-example&password=Ann-Example",
            "harder to guess",
        ),
    ] {
        let form = format!("token={token}&{form}");
        let answer = browser.post("/invitation", &form).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{form}");
        assert!(answer.body.contains(why), "{form}: {}", answer.body);
    }
    assert_eq!(bed.app.store.people().await.unwrap().len(), 1);
}

#[tokio::test]
async fn passwords_sign_in_and_wrong_ones_are_limited() {
    let bed = bed().await;
    joined(&bed, "ann").await;
    let mut browser = Browser::new(&bed);
    let wrong = browser.sign_in("ann", "wrong horse battery").await;
    let unknown = browser.sign_in("nobody", PASSWORD).await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    assert_eq!(unknown.status, StatusCode::UNAUTHORIZED);
    let same = |page: &str| page.replace("nobody", "ann");
    assert_eq!(
        same(&wrong.body),
        same(&unknown.body),
        "nobody learns which exist"
    );
    assert!(!browser.is_signed_in().await);
    let right = browser.sign_in("ANN", PASSWORD).await;
    assert_eq!(right.status, StatusCode::SEE_OTHER, "{}", right.body);
    assert!(browser.is_signed_in().await);

    let mut attacker = Browser::new(&bed);
    let mut refused = 0;
    for _ in 0..15 {
        let answer = attacker.sign_in("ann", "guess guess guess").await;
        refused += u32::from(answer.status == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(refused >= 4, "{refused}");
    assert!(browser.is_signed_in().await, "who is signed in goes on");
}

#[tokio::test]
async fn a_new_password_needs_the_current_one_and_signs_out_the_others() {
    let bed = bed().await;
    let (mut first, _) = joined(&bed, "ann").await;
    let mut second = Browser::new(&bed);
    second.sign_in("ann", PASSWORD).await;
    let page = first.get("/account").await.body;
    assert_eq!(page.matches("/account/sessions/").count(), 1, "{page}");
    let change = |current: &str| {
        format!(
            "login=ann&current={}&password=another+long+one",
            current.replace(' ', "+")
        )
    };
    let answer = first.post("/account/password", &change("wrong")).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.body.contains("current password is wrong"));
    assert!(second.is_signed_in().await);
    let answer = first.post("/account/password", &change(PASSWORD)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert!(first.is_signed_in().await && !second.is_signed_in().await);
    let old = second.sign_in("ann", PASSWORD).await;
    assert_eq!(old.status, StatusCode::UNAUTHORIZED);
    let new = second.sign_in("ann", "another long one").await;
    assert_eq!(new.status, StatusCode::SEE_OTHER);
    let answer = second.post("/account/sign-out-others", "").await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    assert!(second.is_signed_in().await && !first.is_signed_in().await);
}

#[tokio::test]
async fn the_owner_can_choose_a_password() {
    let bed = bed().await;
    joined(&bed, "ann").await;
    let taken = bed
        .post("/account/password", "login=ann&password=owners+long+one")
        .await;
    assert_eq!(taken.status, StatusCode::CONFLICT);
    let set = bed
        .post("/account/password", "login=owner&password=owners+long+one")
        .await;
    assert_eq!(set.status, StatusCode::OK, "{}", set.body);
    let mut browser = Browser::new(&bed);
    browser.sign_in("owner", "owners long one").await;
    assert_eq!(browser.get("/people").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_disabled_person_has_no_access() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let owner = PersonId::local();
    let key = bed.key().await;
    let (store, now) = (bed.app.store.clone(), bed.app.now());
    let cluster = bed.app.secret();
    let (asked, ends) = (bed.app.secret(), None);
    store
        .add_cluster_token(&cluster, &id, &owner, &asked, ends, now)
        .await
        .unwrap();
    let holder = async || store.key_holder_of(&id, key.as_openssh()).await.unwrap();
    assert_eq!(holder().await, Some(owner.clone()));
    assert!(store.cluster_token(&cluster).await.unwrap().is_some());

    let change = async |person: &PersonId, form: &str| {
        bed.post(&format!("/people/{person}/change"), form).await
    };
    let last = change(&owner, "change=disable").await;
    assert_eq!(last.status, StatusCode::CONFLICT);
    assert!(last.body.contains("your own access"), "{}", last.body);
    assert_eq!(bed.get("/people").await.status, StatusCode::OK);
    let last = change(&owner, "change=student").await;
    assert_eq!(last.status, StatusCode::CONFLICT);

    let (mut other, person) = joined(&bed, "ann").await;
    assert_eq!(other.get("/people").await.status, StatusCode::NOT_FOUND);
    let answer = change(&person, "change=operator").await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    assert_eq!(other.get("/people").await.status, StatusCode::OK);
    let answer = other
        .post(&format!("/people/{owner}/change"), "change=disable")
        .await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.body);

    assert_eq!(bed.get("/progress").await.status, StatusCode::UNAUTHORIZED);
    let api = bed.api(Method::GET, "/me", None).await;
    assert_eq!(api.status, StatusCode::UNAUTHORIZED);
    assert_eq!(holder().await, None, "SSH");
    assert_eq!(store.cluster_token(&cluster).await.unwrap(), None);

    other
        .post(&format!("/people/{owner}/change"), "change=enable")
        .await;
    assert_eq!(
        bed.api(Method::GET, "/me", None).await.status,
        StatusCode::OK
    );
    assert_eq!(holder().await, Some(owner));
    assert_eq!(
        bed.get("/progress").await.status,
        StatusCode::UNAUTHORIZED,
        "sessions stay ended"
    );
}

#[tokio::test]
async fn a_reset_password_is_replaced_through_a_link() {
    let bed = bed().await;
    let (first, person) = joined(&bed, "ann").await;
    let reset = bed
        .post(&format!("/people/{person}/reset-password"), "")
        .await;
    assert_eq!(reset.status, StatusCode::OK, "{}", reset.body);
    assert!(!first.is_signed_in().await);
    let mut browser = Browser::new(&bed);
    let old = browser.sign_in("ann", PASSWORD).await;
    assert_eq!(old.status, StatusCode::UNAUTHORIZED);
    let form = format!("token={}", secret(&reset.body));
    let answer = browser.post("/sign-in", &form).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    let answer = browser
        .post("/account/password", "login=ann&password=another+long+one")
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let again = Browser::new(&bed).post("/sign-in", &form).await;
    assert_eq!(again.status, StatusCode::UNAUTHORIZED, "the link was used");
}

#[tokio::test]
async fn the_audit_log_names_who_did_what() {
    let bed = bed().await;
    let (_, person) = joined(&bed, "ann").await;
    bed.post(&format!("/people/{person}/change"), "change=disable")
        .await;
    let lines = bed.app.store.audit(20).await.unwrap();
    let of = |action: &str| {
        let line = lines.iter().find(|l| l.action == action);
        line.map(|l| (l.person.clone().unwrap_or_default(), l.subject.clone()))
    };
    let (local, id) = ("local".to_owned(), person.to_string());
    assert_eq!(of("person-disable"), Some((local.clone(), id.clone())));
    assert_eq!(of("join"), Some((id.clone(), id)));
    assert_eq!(of("invite").map(|(who, _)| who), Some(local));
    assert_eq!(
        Role::ALL.map(Role::as_str),
        ["student", "author", "instructor", "operator"]
    );
}

#[tokio::test]
async fn the_api_manages_people_and_invitations() {
    let bed = bed().await;
    let (student, person) = joined(&bed, "ann").await;
    let all = bed.api(Method::GET, "/people", None).await.json();
    let all = all.as_array().unwrap();
    let ann = all.iter().find(|p| p["login"] == "ann").unwrap();
    assert_eq!((all.len(), &ann["role"]), (2, &"student".into()));
    let made = bed.api(Method::POST, "/invitations", Some("{}")).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let made = made.json();
    assert!(made["url"].as_str().unwrap().contains("/invitation?token="));
    let listed = bed.api(Method::GET, "/invitations", None).await;
    assert!(!listed.body.contains("token"), "{}", listed.body);
    let listed = listed.json();
    let listed = listed.as_array().unwrap();
    let open = listed.iter().find(|i| i["id"] == made["id"]).unwrap();
    assert_eq!(open["uses_left"], 1);
    let path = format!("/invitations/{}", made["id"].as_str().unwrap());
    for status in [StatusCode::NO_CONTENT, StatusCode::NOT_FOUND] {
        assert_eq!(bed.api(Method::DELETE, &path, None).await.status, status);
    }
    for bad in [
        r#"{"role":"king"}"#,
        r#"{"uses":0}"#,
        r#"{"days":1000}"#,
        r#"{"x":1}"#,
    ] {
        let answer = bed.api(Method::POST, "/invitations", Some(bad)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{bad}");
    }

    let path = format!("/people/{person}");
    let update = async |json: &str| bed.api(Method::PATCH, &path, Some(json)).await;
    let changed = update(r#"{"role":"operator"}"#).await;
    assert_eq!(changed.json()["role"], "operator");
    assert_eq!(student.get("/people").await.status, StatusCode::OK);
    let changed = update(r#"{"role":"student","disabled":true}"#).await.json();
    assert_eq!(changed["role"], "student");
    assert!(changed["disabled_at"].is_string());
    assert!(!student.is_signed_in().await);
    assert!(update(r#"{"disabled":false}"#).await.json()["disabled_at"].is_null());
    assert_eq!(
        update(r#"{"role":"king"}"#).await.status,
        StatusCode::BAD_REQUEST
    );
    let nobody = bed.api(
        Method::PATCH,
        "/people/nobody",
        Some(r#"{"disabled":true}"#),
    );
    assert_eq!(nobody.await.status, StatusCode::NOT_FOUND);
    let link = bed
        .api(Method::POST, &format!("{path}/reset-password"), None)
        .await;
    assert_eq!(link.status, StatusCode::CREATED);
    assert!(
        link.json()["url"]
            .as_str()
            .unwrap()
            .contains("/sign-in?token=")
    );
}

#[tokio::test]
async fn operators_end_environments_of_others_and_see_whose_they_are() {
    let mut bed = bed().await;
    let mut ids = Vec::new();
    for login in ["ann", "ben"] {
        let (mut student, _) = joined(&bed, login).await;
        let started = student.post("/labs/stale-flag/start", "").await;
        assert_eq!(started.status, StatusCode::SEE_OTHER, "{}", started.body);
        let place = started.location().to_owned();
        let id: EnvironmentId = place.rsplit('/').next().unwrap().parse().unwrap();
        assert_eq!(student.get(&place).await.status, StatusCode::OK);
        ids.push(id);
    }
    for id in &ids {
        bed.until(id, is_active).await;
    }
    let page = bed.get("/operator").await.body;
    assert!(page.matches("<td>Ann Example</td>").count() >= 2, "{page}");
    let (mut ben, _) = joined(&bed, "mallory").await;
    let refused = ben.post(&format!("/environments/{}/end", ids[0]), "").await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND);
    let ended = bed.post(&format!("/environments/{}/end", ids[0]), "").await;
    assert_eq!(ended.status, StatusCode::SEE_OTHER);
    assert_eq!(ended.location(), "/operator");
    let path = format!("/environments/{}", ids[1]);
    let ended = bed.api(Method::DELETE, &path, None).await;
    assert_eq!(ended.status, StatusCode::ACCEPTED);
    for id in &ids {
        bed.until(id, is_final).await;
    }
    let lines = bed.app.store.audit(50).await.unwrap();
    let ends = lines.iter().filter(|l| l.action == "end");
    assert_eq!(
        ends.filter(|l| l.person.as_deref() == Some("local"))
            .count(),
        2
    );
}

/// Returns a token of the person who is signed in with this browser, for the API.
async fn api_token(browser: &mut Browser<'_>) -> String {
    let page = browser.post("/tokens", "name=laptop").await.body;
    let (_, rest) = page
        .split_once("<code>flt_")
        .expect("the page shows the token");
    format!("flt_{}", rest.split('<').next().unwrap())
}

async fn accepts(bed: &Bed, token: &str) -> bool {
    let request =
        Request::get("/api/v1/me").header(header::AUTHORIZATION, format!("Bearer {token}"));
    bed.send(request.body(Body::empty()).unwrap()).await.status == StatusCode::OK
}

#[tokio::test]
async fn a_password_reset_locks_a_thief_out() {
    let bed = bed().await;
    let (mut thief, person) = joined(&bed, "ann").await;
    let token = api_token(&mut thief).await;
    assert!(accepts(&bed, &token).await);
    let path = format!("/people/{person}/reset-password");
    let link = bed.api(Method::POST, &path, None).await;
    assert_eq!(link.status, StatusCode::CREATED);
    assert!(!accepts(&bed, &token).await && !thief.is_signed_in().await);

    // A change of the password that was under way must not undo the reset.
    let (store, now) = (&bed.app.store, bed.app.now());
    let (session, login) = (bed.app.secret(), "ann".parse().unwrap());
    let new = new_session(&bed.app, &session, 1);
    let set = async |before: Option<&str>| {
        let set = store.set_password(&person, &login, before, "theirs", &session, now);
        set.await.unwrap()
    };
    use faultline_store::people::Chosen;
    assert_eq!(set(None).await, Chosen::Outdated, "without a session");
    store.add_session(&new, &person, now).await.unwrap();
    assert_eq!(set(Some("stolen")).await, Chosen::Outdated);
    assert_eq!(set(None).await, Chosen::Done);
}

#[tokio::test]
async fn invitations_and_links_end_with_the_role_of_their_operator() {
    let bed = bed().await;
    for change in ["disable", "student"] {
        let (mut other, person) = joined(&bed, &format!("op-{change}")).await;
        let (_, student) = joined(&bed, &format!("st-{change}")).await;
        let path = format!("/people/{person}/change");
        bed.post(&path, "change=operator").await;
        let invited = other
            .post("/people/invite", "role=operator&uses=9&expires=9d")
            .await;
        let reset = other
            .post(&format!("/people/{student}/reset-password"), "")
            .await;
        let (invitation, link) = (secret(&invited.body), secret(&reset.body));
        bed.post(&path, &format!("change={change}")).await;
        let mut browser = Browser::new(&bed);
        let login = format!("back-{change}");
        let back = browser
            .post("/invitation", &joining(&invitation, &login))
            .await;
        assert_eq!(back.status, StatusCode::UNAUTHORIZED, "{change}");
        let back = browser.post("/sign-in", &format!("token={link}")).await;
        assert_eq!(back.status, StatusCode::UNAUTHORIZED, "{change}");
    }
}

#[tokio::test]
async fn a_link_of_somebody_else_does_not_replace_a_session_unasked() {
    let bed = bed().await;
    let (mut student, _) = joined(&bed, "ann").await;
    let owner = PersonId::local();
    let link = async || {
        let made = crate::operations::sign_in_link::sign_in_link(&bed.app, &owner).await;
        secret(&made.unwrap().0)
    };
    let token = link().await;
    let before = student.cookie.clone();
    let asked = student.post("/sign-in", &format!("token={token}")).await;
    assert_eq!(asked.status, StatusCode::OK);
    assert!(asked.body.contains("Switch to Operator?"), "{}", asked.body);
    assert!(!asked.body.contains("data-submit"), "no script submits it");
    assert_eq!(student.cookie, before);
    let form = format!("token={token}&switch=yes");
    let switched = student.post("/sign-in", &form).await;
    assert_eq!(switched.status, StatusCode::SEE_OTHER);
    assert_ne!(student.cookie, before);
    // One's own link needs no question.
    let form = format!("token={}", link().await);
    let again = student.post("/sign-in", &form).await;
    assert_eq!(again.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn parallel_guesses_are_limited_too() {
    let bed = bed().await;
    let guesses = (0..60).map(|n| {
        let bed = &bed;
        async move {
            let login = format!("person-{n}");
            let mut browser = Browser::new(bed);
            browser.sign_in(&login, "guess guess guess").await.status
        }
    });
    let statuses = futures::future::join_all(guesses).await;
    let verified = statuses.iter().filter(|s| **s == StatusCode::UNAUTHORIZED);
    let verified = verified.count();
    assert!(
        (5..=12).contains(&verified),
        "{verified} of {}",
        statuses.len()
    );
    let lines = bed.app.store.audit(100).await.unwrap();
    assert!(lines.iter().any(|l| l.action == "sign-in-failed"));
}

#[tokio::test]
async fn names_that_mislead_are_refused() {
    let bed = bed().await;
    let token = invitation(&bed, 1).await;
    let mut browser = Browser::new(&bed);
    for form in [
        "name=%E2%80%8B%E2%80%8B&login=ann&password=long+enough+one",
        "name=Ann&login=local&password=long+enough+one",
        "name=Ann&login=Operator&password=long+enough+one",
    ] {
        let form = format!("token={token}&{form}");
        let answer = browser.post("/invitation", &form).await;
        assert!(answer.status.is_client_error(), "{form}: {}", answer.status);
    }
    assert_eq!(bed.app.store.people().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_deleted_person_leaves_only_the_audit_log() {
    let mut bed = bed().await;
    let own = (bed.cookie.clone(), bed.csrf.clone(), bed.token.clone());
    bed.become_another("stu").await;
    let key = bed.key().await;
    let id = bed.active("stale-flag").await;
    let theirs = (bed.cookie.clone(), bed.token.clone());
    (bed.cookie, bed.csrf, bed.token) = own;

    let local = bed.api(Method::DELETE, "/people/local", None).await;
    assert_eq!(local.status, StatusCode::CONFLICT);
    let deleted = bed.api(Method::DELETE, "/people/stu", None).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT, "{}", deleted.body);
    bed.until(&id, is_final).await;
    assert!(
        faultline_provider::Provider::list(&bed.provider)
            .await
            .unwrap()
            .is_empty(),
        "everything is freed"
    );
    for (method, path, json) in [
        (Method::DELETE, "/people/stu", None),
        (Method::PATCH, "/people/stu", Some(r#"{"disabled": false}"#)),
        (
            Method::PATCH,
            "/people/stu",
            Some(r#"{"role": "operator"}"#),
        ),
        (Method::POST, "/people/stu/reset-password", None),
    ] {
        let answer = bed.api(method.clone(), path, json).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {path}");
    }
    let page = bed.get("/people").await.body;
    assert!(!page.contains("stu<"), "{page}");
    let audit = bed.app.store.audit(50).await.unwrap();
    assert!(
        audit
            .iter()
            .any(|line| line.action == "person-delete" && line.subject == "stu")
    );
    assert!(
        audit
            .iter()
            .any(|line| line.person.as_deref() == Some("stu"))
    );

    // No credential works any more.
    (bed.cookie, bed.token) = theirs;
    assert_eq!(bed.get("/").await.status, StatusCode::UNAUTHORIZED);
    let api = bed.api(Method::GET, "/me", None).await;
    assert_eq!(api.status, StatusCode::UNAUTHORIZED);
    let people = bed
        .app
        .store
        .ssh_keys(&"stu".parse().unwrap())
        .await
        .unwrap();
    assert!(people.is_empty(), "{key:?}");
}

#[tokio::test]
async fn people_download_what_is_known_about_them_and_nothing_else() {
    let mut bed = bed().await;
    bed.active("stale-flag").await;
    bed.become_another("stu").await;
    bed.key().await;
    bed.active("two-nodes").await;
    let answer = bed.get("/account/data").await;
    assert_eq!(answer.status, StatusCode::OK);
    let disposition = answer.headers[header::CONTENT_DISPOSITION]
        .to_str()
        .unwrap();
    assert!(disposition.starts_with("attachment"));
    let data = answer.json();
    assert_eq!(data["person"]["id"], "stu");
    assert_eq!(data["attempts"].as_array().unwrap().len(), 1);
    assert_eq!(data["environments"][0]["lab"], "two-nodes");
    assert_eq!(data["ssh_keys"].as_array().unwrap().len(), 1);
    assert!(
        !answer.body.contains("stale-flag") && !answer.body.contains("flt_"),
        "{}",
        answer.body
    );
    let api = bed.api(Method::GET, "/me/export", None).await;
    assert_eq!(api.json()["person"]["id"], "stu");
}

#[tokio::test]
async fn sessions_are_listed_and_signed_out() {
    let bed = bed().await;
    let (first, person) = joined(&bed, "ann").await;
    let mut second = Browser::new(&bed);
    second.sign_in("ann", PASSWORD).await;
    let (mut other, _) = joined(&bed, "ben").await;
    bed.clock.advance(jiff::SignedDuration::from_mins(5));
    assert!(second.is_signed_in().await);
    let now = bed.app.now();
    let all = async || bed.app.store.sessions(&person, None, now).await.unwrap();
    let before = all().await;
    assert_eq!(before.len(), 2);
    let used = before.iter().find(|s| s.last_used == Some(now)).unwrap();
    assert_eq!(used.browser, "An unknown browser");

    let page = second.get("/account").await.body;
    assert_eq!(page.matches(">this browser<").count(), 1, "{page}");
    assert!(page.contains("last used: just now"), "{page}");
    let id = before.iter().find(|s| s.id != used.id).unwrap().id.clone();
    let path = format!("/account/sessions/{id}/end");
    let stranger = other.post(&path, "").await;
    assert_eq!(stranger.status, StatusCode::NOT_FOUND);
    assert!(first.is_signed_in().await);
    let ended = second.post(&path, "").await;
    assert_eq!(ended.status, StatusCode::SEE_OTHER);
    assert!(!first.is_signed_in().await && second.is_signed_in().await);
    assert_eq!(second.post(&path, "").await.status, StatusCode::NOT_FOUND);
    let lines = bed.app.store.audit_of(&person, 9).await.unwrap();
    let line = lines.iter().find(|l| l.action == "sign-out").unwrap();
    assert_eq!(line.subject, id);

    second.post("/sign-out", "").await;
    assert_eq!(all().await, []);
    let lines = bed.app.store.audit_of(&person, 9).await.unwrap();
    assert_eq!(lines.iter().filter(|l| l.action == "sign-out").count(), 2);
}

#[tokio::test]
async fn the_api_lists_and_ends_sessions() {
    let bed = bed().await;
    let (mut ann, _) = joined(&bed, "ann").await;
    let listed = bed.api(Method::GET, "/sessions", None).await.json();
    assert_eq!(listed.as_array().unwrap().len(), 1, "only one's own");
    assert_eq!(listed[0]["browser"], "Firefox on Linux");
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(bed.get("/progress").await.status, StatusCode::OK);
    let path = format!("/sessions/{id}");
    for status in [StatusCode::NO_CONTENT, StatusCode::NOT_FOUND] {
        assert_eq!(bed.api(Method::DELETE, &path, None).await.status, status);
    }
    assert_eq!(bed.get("/progress").await.status, StatusCode::UNAUTHORIZED);
    let token = api_token(&mut ann).await;
    let request = Request::delete("/api/v1/sessions")
        .header(header::AUTHORIZATION, format!("Bearer {token}"));
    let ended = bed.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(ended.status, StatusCode::NO_CONTENT);
    assert!(!ann.is_signed_in().await);
    assert!(accepts(&bed, &token).await, "tokens stay");
}

#[tokio::test]
async fn signing_in_again_replaces_the_session_of_the_browser() {
    let bed = bed().await;
    let (mut browser, person) = joined(&bed, "ann").await;
    let before = browser.cookie.clone();
    let again = browser.sign_in("ann", PASSWORD).await;
    assert_eq!(again.status, StatusCode::SEE_OTHER);
    assert_ne!(browser.cookie, before, "the session's ID changes");
    let now = bed.app.now();
    let all = bed.app.store.sessions(&person, None, now).await.unwrap();
    assert_eq!(all.len(), 1);
    let old = Browser {
        bed: &bed,
        cookie: before,
    };
    assert!(!old.is_signed_in().await);
}

#[tokio::test]
async fn the_api_removes_all_tokens_but_its_own() {
    let bed = bed().await;
    let mut browser = joined(&bed, "ann").await.0;
    api_token(&mut browser).await;
    for name in ["laptop", "old"] {
        let json = format!("{{\"name\": \"{name}\"}}");
        let made = bed.api(Method::POST, "/tokens", Some(&json)).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    }
    let list = async || bed.api(Method::GET, "/tokens", None).await.json();
    let before = list().await;
    let current = |t: &&serde_json::Value| t["is_current"] == true;
    let all = before.as_array().unwrap();
    assert_eq!((all.len(), all.iter().filter(current).count()), (3, 1));
    let removed = bed.api(Method::DELETE, "/tokens", None).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    let after = list().await;
    assert_eq!(after.as_array().unwrap().len(), 1);
    assert_eq!(after[0]["name"], "test");
    let ann = bed.app.store.people().await.unwrap();
    let ann = ann.into_iter().find(|p| p.name == "Ann Example").unwrap();
    let others = bed.app.store.api_tokens(&ann.id).await.unwrap();
    assert_eq!(others.len(), 1, "only those of the caller");
    let audit = bed.app.store.audit(3).await.unwrap();
    assert_eq!(
        (&*audit[0].action, &*audit[0].detail),
        ("token-remove-others", "2")
    );
}
