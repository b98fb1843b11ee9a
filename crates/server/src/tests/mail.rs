//! Tests of mail: who gets which, what becomes of it when the mail server misbehaves or this server crashes, and that
//! nothing of it is there without a mail server.

use faultline_domain::{PersonId, authz::Role};
use faultline_store::people::PersonChange;
use jiff::SignedDuration;

use super::{
    smtp::{Fault, MailServer, Received},
    *,
};

/// Returns a server that sends mail by a mail server on loopback.
async fn bed() -> (Bed, MailServer) {
    bed_and_places(40).await
}

async fn bed_and_places(places: u32) -> (Bed, MailServer) {
    let mail = MailServer::begin().await;
    let bed = bed_with(Config {
        mail: Some(mail.settings()),
        max_environments: places,
        ..Config::default()
    })
    .await;
    (bed, mail)
}

/// Returns the secret of the link in a mail.
fn secret(mail: &Received) -> String {
    let text = mail.text();
    let (_, rest) = text.split_once("token=").expect("the mail has a link");
    rest.split_whitespace().next().unwrap().to_owned()
}

async fn waiting(bed: &Bed) -> u64 {
    bed.app.store.outbox_status(0).await.unwrap().waiting
}

async fn person(bed: &Bed, id: &str) -> faultline_domain::person::Person {
    let id: PersonId = id.parse().unwrap();
    bed.app.store.person(&id).await.unwrap().unwrap()
}

/// Has the signed-in person enter and confirm an address.
async fn confirm(bed: &Bed, mail: &MailServer, address: &str) {
    let form = format!("address={}", address.replace('@', "%40"));
    let entered = bed.post("/account/mail", &form).await;
    assert_eq!(entered.status, StatusCode::SEE_OTHER, "{}", entered.body);
    bed.reconcile().await;
    let sent = mail.only();
    assert_eq!(sent.to, [address]);
    let text = sent.text();
    let code = text.lines().find(|line| line.matches('-').count() == 2);
    let form = format!("code={}", code.expect("the mail has a code"));
    let confirmed = bed.post("/account/mail/confirm", &form).await;
    assert_eq!(
        confirmed.status,
        StatusCode::SEE_OTHER,
        "{}",
        confirmed.body
    );
}

#[tokio::test]
async fn without_a_mail_server_there_is_nothing_of_it() {
    let bed = super::bed().await;
    let made = bed.post("/groups", "name=Monday").await;
    for page in ["/people", "/account", "/operator", made.location()] {
        let body = bed.get(page).await.body;
        for word in ["mail_to", "id=\"mail\"", "by mail", "/account/mail"] {
            assert!(!body.contains(word), "{word} on {page}");
        }
    }
    let form = "note=&role=student&uses=1&expires=7d&mail_to=ann%40example.org";
    for (path, form) in [
        ("/people/invite", form),
        ("/account/mail", "address=ann%40example.org"),
        ("/operator/mail/test", "to=ann%40example.org"),
    ] {
        let answer = bed.post(path, form).await;
        assert_eq!(answer.status, StatusCode::CONFLICT, "{path}");
        assert!(answer.body.contains("This server sends no mail"), "{path}");
    }
    for (method, path, json) in [
        (Method::GET, "/operator/mail", None),
        (
            Method::PUT,
            "/me/mail",
            Some(r#"{"address":"ann@example.org"}"#),
        ),
        (
            Method::POST,
            "/invitations",
            Some(r#"{"mail_to":"ann@example.org"}"#),
        ),
    ] {
        let answer = bed.api(method, path, json).await;
        assert_eq!(answer.status, StatusCode::CONFLICT, "{path}");
        assert_eq!(answer.json()["code"], "no-mail");
    }
    assert_eq!(bed.app.store.invitations(9).await.unwrap(), []);
}

#[tokio::test]
async fn an_invitation_is_mailed_and_only_the_mail_has_its_link() {
    let (bed, mail) = bed().await;
    let form = "note=&role=student&uses=1&expires=7d&mail_to=+ann%40example.org";
    let made = bed.post("/people/invite", form).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.body);
    assert!(made.body.contains("is sent to ann@example.org"));
    assert!(!made.body.contains("token="), "{}", made.body);
    assert_eq!(waiting(&bed).await, 1);

    bed.reconcile().await;
    let sent = mail.only();
    assert_eq!(sent.to, ["ann@example.org"]);
    let text = sent.text();
    assert!(
        text.starts_with("An operator invites you to Faultline"),
        "{text}"
    );
    assert!(
        text.contains("for 1 person, until Fri 22 Jan, 08:00 UTC"),
        "{text}"
    );
    let link = format!("http://127.0.0.1:7890/invitation?token={}", secret(&sent));
    assert!(text.lines().any(|line| line == link), "{text}");
    assert_eq!(waiting(&bed).await, 0, "erased once it was sent");
    bed.reconcile().await;
    assert_eq!(mail.take().len(), 0, "sent once");

    let form = bed
        .get(&format!("/invitation?token={}", secret(&sent)))
        .await;
    assert!(form.body.contains("Join Faultline"), "{}", form.body);
    let audit = bed.app.store.audit(9).await.unwrap();
    assert!(
        audit
            .iter()
            .any(|l| l.action == "mail-sent" && l.detail == "invitation")
    );
    assert!(
        audit.iter().all(|l| !l.detail.contains("ann@")),
        "{audit:?}"
    );
}

#[tokio::test]
async fn a_withdrawn_invitation_is_not_sent_any_more() {
    let (bed, mail) = bed().await;
    for to in ["ann", "ben"] {
        let form = format!("note={to}&role=student&uses=1&expires=7d&mail_to={to}%40example.org");
        bed.post("/people/invite", &form).await;
    }
    let all = bed.app.store.invitations(9).await.unwrap();
    let ann = all.iter().find(|i| i.note == "ann").unwrap();
    let path = format!("/invitations/{}/withdraw", ann.id);
    assert_eq!(bed.post(&path, "").await.status, StatusCode::SEE_OTHER);
    bed.reconcile().await;
    assert_eq!(mail.only().to, ["ben@example.org"]);
}

#[tokio::test]
async fn instructors_mail_invitations_to_their_groups() {
    let (mut bed, mail) = bed().await;
    let made = bed.post("/groups", "name=Montags%C3%BCbung").await;
    let group = made.location().to_owned();
    let operator = (bed.cookie.clone(), bed.csrf.clone());
    bed.become_another("ida").await;
    let instructor = (bed.cookie.clone(), bed.csrf.clone(), bed.token.clone());
    (bed.cookie, bed.csrf) = operator;
    let answer = bed.post("/people/ida/change", "change=instructor").await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    bed.post(&format!("{group}/add"), "person=ida&part=instructor")
        .await;
    (bed.cookie, bed.csrf, bed.token) = instructor;
    let page = bed.get(&group).await.body;
    assert!(page.contains("mail_to"), "{page}");
    let form = "uses=20&expires=1d&by=code&mail_to=class%40example.org";
    let made = bed.post(&format!("{group}/invite"), form).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.body);
    bed.reconcile().await;
    let sent = mail.only();
    let text = sent.text();
    assert!(text.starts_with("ida invites you"), "{text}");
    assert!(
        text.contains("be a member of the group Montagsübung"),
        "{text}"
    );
    let invitation = bed.app.store.invitations(1).await.unwrap().remove(0);
    let code = invitation.code.unwrap().to_string();
    assert!(
        text.contains(&format!("The access code is {code}.")),
        "{text}"
    );
    assert!(made.body.contains(&code), "the code can be shown again");

    let json = r#"{"uses":1,"days":1,"mail_to":"ben@example.org"}"#;
    let made = bed
        .api(Method::POST, &format!("{group}/invitations"), Some(json))
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    assert_eq!(made.json()["url"], serde_json::Value::Null);
    assert_eq!(made.json()["mailed_to"], "ben@example.org");
    bed.reconcile().await;
    assert_eq!(mail.only().to, ["ben@example.org"]);
}

#[tokio::test]
async fn wrong_addresses_are_refused_with_the_reason() {
    let (bed, mail) = bed().await;
    for (address, why) in [
        ("ann", "looks like ann@example.org"),
        ("ann%40example.org%0d%0aBcc:ben%40example.org", "looks like"),
        ("ann%40example.org,ben%40example.org", "looks like"),
        ("%C3%A4nn%40example.org", "only ASCII"),
    ] {
        for (path, form) in [
            (
                "/people/invite",
                format!("note=&role=student&uses=1&expires=7d&mail_to={address}"),
            ),
            ("/account/mail", format!("address={address}")),
            ("/operator/mail/test", format!("to={address}")),
        ] {
            let answer = bed.post(path, &form).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path} {address}");
            assert!(answer.body.contains(why), "{path}: {}", answer.body);
        }
    }
    assert_eq!(bed.app.store.invitations(9).await.unwrap(), []);
    bed.reconcile().await;
    assert_eq!(mail.take().len(), 0);
}

#[tokio::test]
async fn an_address_is_a_persons_once_they_have_entered_its_code() {
    let (mut bed, mail) = bed().await;
    bed.become_another("ann").await;
    bed.post("/account/mail", "address=ann%40example.org").await;
    bed.reconcile().await;
    let sent = mail.only();
    assert_eq!(person(&bed, "ann").await.mail, None);
    let page = bed.get("/account").await.body;
    assert!(
        page.contains("Code in the mail to ann@example.org"),
        "{page}"
    );
    let wrong = bed.post("/account/mail/confirm", "code=AAA-AAA-AAA").await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert!(wrong.body.contains("not the code"), "{}", wrong.body);
    let soon = bed.post("/account/mail", "address=ben%40example.org").await;
    assert_eq!(soon.status, StatusCode::TOO_MANY_REQUESTS, "{}", soon.body);
    let notices = bed.post("/account/mail/notices", "wanted=yes").await;
    assert_eq!(notices.status, StatusCode::CONFLICT);

    // Somebody else's code is worth nothing.
    let text = sent.text();
    let code = text.lines().find(|line| line.matches('-').count() == 2);
    let form = format!("code={}", code.unwrap());
    let ann = (bed.cookie.clone(), bed.csrf.clone(), bed.token.clone());
    bed.become_another("mallory").await;
    let stolen = bed.post("/account/mail/confirm", &form).await;
    assert_eq!(stolen.status, StatusCode::BAD_REQUEST);
    (bed.cookie, bed.csrf, bed.token) = ann;
    let confirmed = bed.post("/account/mail/confirm", &form).await;
    assert_eq!(
        confirmed.status,
        StatusCode::SEE_OTHER,
        "{}",
        confirmed.body
    );
    let address = person(&bed, "ann").await.mail.unwrap();
    assert_eq!(address.as_str(), "ann@example.org");
    let again = bed.post("/account/mail/confirm", &form).await;
    assert_eq!(again.status, StatusCode::BAD_REQUEST);

    let mine = bed.api(Method::GET, "/me/mail", None).await.json();
    assert_eq!(mine["address"], "ann@example.org");
    assert_eq!(mine["notices"], false);
    let json = Some(r#"{"wanted":true}"#);
    let set = bed.api(Method::PUT, "/me/mail/notices", json).await;
    assert_eq!(set.status, StatusCode::NO_CONTENT, "{}", set.body);
    assert!(
        bed.get("/account")
            .await
            .body
            .contains("value=\"yes\" checked")
    );
    let data = bed.get("/account/data").await.json();
    assert_eq!(data["mail"]["address"], "ann@example.org");
    assert_eq!(data["mail"]["wants_notices"], true);
    bed.post("/account/mail/remove", "").await;
    assert_eq!(person(&bed, "ann").await.mail, None);
}

#[tokio::test]
async fn a_deleted_person_leaves_no_address() {
    let (mut bed, mail) = bed().await;
    let operator = (bed.cookie.clone(), bed.csrf.clone());
    bed.become_another("ann").await;
    confirm(&bed, &mail, "ann@example.org").await;
    (bed.cookie, bed.csrf) = operator;
    bed.post("/people/ann/reset-password", "by=mail").await;
    bed.clock.advance(SignedDuration::from_hours(1));
    mail.fault(Fault::Recipient(550));
    bed.reconcile().await;
    let failed = bed.app.store.outbox_status(9).await.unwrap().failures;
    assert_eq!(failed.len(), 1);
    bed.post("/people/ann/reset-password", "by=mail").await;
    assert_eq!(waiting(&bed).await, 1);
    let gone = bed.post("/people/ann/delete", "").await;
    assert_eq!(gone.status, StatusCode::SEE_OTHER, "{}", gone.body);
    let status = bed.app.store.outbox_status(9).await.unwrap();
    assert_eq!((status.waiting, status.failures.len()), (0, 0));
    let ann: PersonId = "ann".parse().unwrap();
    let settings = bed.app.store.mail_settings(&ann, bed.app.now());
    assert_eq!(settings.await.unwrap(), Default::default());
}

#[tokio::test]
async fn a_password_reset_is_mailed_to_whoever_has_an_address() {
    let (mut bed, mail) = bed().await;
    let operator = (bed.cookie.clone(), bed.csrf.clone(), bed.token.clone());
    bed.become_another("ann").await;
    let ann = (bed.cookie.clone(), bed.csrf.clone());
    (bed.cookie, bed.csrf, bed.token) = operator.clone();
    let page = bed.get("/people").await.body;
    assert!(!page.contains("by mail"), "ann has no address yet");
    let refused = bed.post("/people/ann/reset-password", "by=mail").await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.body);
    assert!(refused.body.contains("has no mail address"));
    (bed.cookie, bed.csrf) = ann;
    assert_eq!(
        bed.get("/account").await.status,
        StatusCode::OK,
        "nothing was changed"
    );
    confirm(&bed, &mail, "ann@example.org").await;

    (bed.cookie, bed.csrf, bed.token) = operator;
    assert!(
        bed.get("/people")
            .await
            .body
            .contains("link to ann@example.org")
    );
    let json = Some(r#"{"mail":true}"#);
    let reset = bed
        .api(Method::POST, "/people/ann/reset-password", json)
        .await;
    assert_eq!(reset.status, StatusCode::CREATED, "{}", reset.body);
    assert_eq!(reset.json()["url"], serde_json::Value::Null);
    assert_eq!(reset.json()["mailed_to"], "ann@example.org");
    // A second reset replaces the link of the first.
    let reset = bed.post("/people/ann/reset-password", "by=mail").await;
    assert_eq!(reset.status, StatusCode::OK, "{}", reset.body);
    assert!(!reset.body.contains("token="), "{}", reset.body);
    bed.reconcile().await;
    let sent = mail.only();
    assert!(sent.text().starts_with("Hello ann,"), "{}", sent.text());
    let request = Request::post("/sign-in")
        .header("sec-fetch-site", "same-origin")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let form = format!("token={}", secret(&sent));
    let signed_in = bed.send(request.body(Body::from(form)).unwrap()).await;
    assert_eq!(
        signed_in.status,
        StatusCode::SEE_OTHER,
        "{}",
        signed_in.body
    );
    let url = bed
        .api(Method::POST, "/people/ann/reset-password", None)
        .await;
    assert!(url.json()["url"].as_str().unwrap().contains("token="));
}

#[tokio::test]
async fn notices_are_mailed_to_those_who_want_them() {
    let (mut bed, mail) = bed().await;
    bed.become_another("ann").await;
    confirm(&bed, &mail, "ann@example.org").await;
    for wanted in [false, true] {
        let form = if wanted { "wanted=yes" } else { "" };
        bed.post("/account/mail/notices", form).await;
        let id = bed.active("stale-flag").await;
        bed.reconcile().await;
        assert_eq!(mail.take().len(), 0, "nobody waited");
        let e = bed.app.store.environment(&id).await.unwrap().unwrap();
        let left = bed.app.seconds_left(&e) - 590;
        bed.clock.advance(SignedDuration::from_secs(left));
        bed.reconcile().await;
        bed.reconcile().await;
        let sent = mail.take();
        assert_eq!(sent.len(), usize::from(wanted), "{sent:#?}");
        if let Some(sent) = sent.first() {
            let text = sent.text();
            assert!(text.contains("Your environment of the lab “"), "{text}");
            assert!(text.contains(" UTC, in 9 min, unless you "), "{text}");
            assert!(text.contains(&format!("/environments/{id}\n")), "{text}");
            assert!(text.contains("/account"), "{text}");
        }
        if !wanted {
            bed.post(&format!("/environments/{id}/end"), "").await;
            bed.until(&id, is_final).await;
        }
    }
}

#[tokio::test]
async fn who_waited_in_the_queue_is_told_that_it_is_their_turn() {
    let (mut bed, mail) = bed_and_places(1).await;
    let first = bed.active("stale-flag").await;
    let operator = (bed.cookie.clone(), bed.csrf.clone());
    bed.become_another("ann").await;
    confirm(&bed, &mail, "ann@example.org").await;
    bed.post("/account/mail/notices", "wanted=yes").await;
    let id = bed.start("stale-flag").await;
    bed.reconcile().await;
    bed.clock.advance(SignedDuration::from_mins(3));
    bed.app.touch(&id).await;
    (bed.cookie, bed.csrf) = operator;
    bed.post(&format!("/environments/{first}/end"), "").await;
    bed.until(&id, is_active).await;
    bed.reconcile().await;
    let sent = mail.only();
    assert_eq!(sent.to, ["ann@example.org"]);
    let text = sent.text();
    assert!(text.contains("has left the queue and is ready"), "{text}");
    assert!(text.contains(&format!("/environments/{id}\n")), "{text}");
}

#[tokio::test]
async fn what_can_not_be_sent_is_tried_for_a_day_and_then_reported() {
    let (bed, mail) = bed().await;
    let form = "note=&role=student&uses=1&expires=7d&mail_to=ann%40example.org";
    bed.post("/people/invite", form).await;
    mail.fault(Fault::HangUp);
    mail.fault(Fault::Recipient(450));
    bed.reconcile().await;
    assert_eq!((waiting(&bed).await, mail.take().len()), (1, 0));
    assert!(bed.get("/operator").await.body.contains("1 mail waits"));
    let page = bed.get("/metrics").await.body;
    assert!(page.contains("faultline_mail_waiting 1"), "{page}");
    bed.clock.advance(SignedDuration::from_secs(31));
    bed.reconcile().await;
    assert_eq!((waiting(&bed).await, mail.take().len()), (1, 0));
    // The delay grows.
    bed.clock.advance(SignedDuration::from_secs(31));
    bed.reconcile().await;
    assert_eq!((waiting(&bed).await, mail.take().len()), (1, 0));
    bed.clock.advance(SignedDuration::from_secs(31));
    bed.reconcile().await;
    assert_eq!((waiting(&bed).await, mail.take().len()), (0, 1));

    bed.post("/people/invite", form).await;
    for _ in 0..200 {
        mail.fault(Fault::Recipient(450));
        bed.reconcile().await;
        bed.clock.advance(SignedDuration::from_mins(10));
    }
    assert_eq!((waiting(&bed).await, mail.take().len()), (0, 0));
    let status = bed.api(Method::GET, "/operator/mail", None).await.json();
    assert_eq!(status["failures"][0]["to"], "ann@example.org");
    assert_eq!(status["failures"][0]["purpose"], "invitation");
    let attempts = status["failures"][0]["attempts"].as_u64().unwrap();
    assert!((20..40).contains(&attempts), "{attempts}");
    let page = bed.get("/operator").await.body;
    assert!(page.contains("no such mailbox"), "{page}");
    let page = bed.get("/metrics").await.body;
    assert!(
        page.contains("faultline_mails_total{outcome=\"failed\"} 1"),
        "{page}"
    );
    assert!(
        page.contains("faultline_mails_total{outcome=\"sent\"} 1"),
        "{page}"
    );
}

#[tokio::test]
async fn a_mail_that_is_refused_for_good_is_not_tried_again() {
    let (bed, mail) = bed().await;
    for to in ["ann", "ben"] {
        let form = format!("note=&role=student&uses=1&expires=7d&mail_to={to}%40example.org");
        bed.post("/people/invite", &form).await;
    }
    mail.fault(Fault::Recipient(550));
    bed.reconcile().await;
    assert_eq!(waiting(&bed).await, 0);
    assert_eq!(mail.take().len(), 1, "the other one is sent");
    assert_eq!(
        bed.app.store.outbox_status(9).await.unwrap().failures.len(),
        1
    );
}

#[tokio::test]
async fn a_crash_loses_no_mail_and_what_is_sent_twice_has_the_same_id() {
    let (bed, mail) = bed().await;
    let form = "note=&role=student&uses=1&expires=7d&mail_to=ann%40example.org";
    bed.post("/people/invite", form).await;
    let bed = bed.restart().await;
    // The mail server accepts the mail, and this server doesn't learn it.
    mail.fault(Fault::Vanish);
    bed.reconcile().await;
    let first = mail.only();
    let bed = bed.restart().await;
    bed.clock.advance(SignedDuration::from_secs(31));
    bed.reconcile().await;
    let second = mail.only();
    assert_eq!(secret(&first), secret(&second));
    assert_eq!(first.header("Message-ID"), second.header("Message-ID"));
    let bed = bed.restart().await;
    bed.clock.advance(SignedDuration::from_hours(2));
    bed.reconcile().await;
    assert_eq!(mail.take().len(), 0);
}

#[tokio::test]
async fn without_a_mail_server_what_was_written_is_erased_after_a_day() {
    let (bed, _mail) = bed().await;
    let form = "note=&role=student&uses=1&expires=7d&mail_to=ann%40example.org";
    bed.post("/people/invite", form).await;
    let (folder, clock, provider) = (bed.folder.clone(), bed.clock.clone(), bed.provider.clone());
    bed.app.store.close().await;
    drop(bed);
    let bed = open(folder, clock, provider, Config::default(), 7).await;
    bed.reconcile().await;
    assert_eq!(waiting(&bed).await, 1);
    bed.clock.advance(SignedDuration::from_hours(25));
    bed.reconcile().await;
    assert_eq!(waiting(&bed).await, 0);
}

#[tokio::test]
async fn operators_see_whether_the_mail_server_answers_and_send_a_test() {
    let (mut bed, mail) = bed().await;
    bed.reconcile().await;
    let page = bed.get("/operator").await.body;
    assert!(
        page.contains("<span class=\"badge good\">answers</span>"),
        "{page}"
    );
    let sent = bed
        .post("/operator/mail/test", "to=ann%40example.org")
        .await;
    assert_eq!(sent.status, StatusCode::OK, "{}", sent.body);
    assert!(
        sent.body
            .contains("has accepted the test for ann@example.org")
    );
    assert_eq!(mail.only().to, ["ann@example.org"]);
    mail.fault(Fault::Recipient(550));
    let json = Some(r#"{"to":"ann@example.org"}"#);
    let refused = bed.api(Method::POST, "/operator/mail/test", json).await;
    assert_eq!(refused.status, StatusCode::BAD_GATEWAY);
    assert_eq!(refused.json()["code"], "mail-not-sent");
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("no such mailbox"), "{detail}");
    mail.fault(Fault::HangUp);
    let down = bed
        .post("/operator/mail/test", "to=ann%40example.org")
        .await;
    assert_eq!(down.status, StatusCode::BAD_GATEWAY);
    assert!(down.body.contains("The mail was not sent"), "{}", down.body);
    assert!(
        down.body
            .contains("The mail server doesn't answer as it should")
    );
    bed.become_another("mallory").await;
    let answer = bed
        .post("/operator/mail/test", "to=ann%40example.org")
        .await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let role = PersonChange::Role(Role::Instructor);
    let (me, other) = (PersonId::local(), "mallory".parse().unwrap());
    let changed = bed
        .app
        .store
        .change_person(&me, &other, role, bed.app.now());
    changed.await.unwrap();
    let answer = bed.api(Method::POST, "/operator/mail/test", json).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}
