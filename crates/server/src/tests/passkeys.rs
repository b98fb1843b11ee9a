//! Tests of passkeys without an authenticator. The end-to-end tests use one.

use serde_json::{Value, json};

use super::*;

/// Returns a server at a URL for which browsers offer passkeys.
async fn at_a_domain() -> Bed {
    bed_with(Config {
        public_url: "http://localhost:7890".to_owned(),
        ..Config::default()
    })
    .await
}

/// Sends JSON as our script does. `begun` is the cookie of what has begun.
async fn send(bed: &Bed, path: &str, begun: &str, body: &Value) -> Answer {
    let request = Request::post(path)
        .header(header::COOKIE, format!("{}; {begun}", bed.cookie))
        .header("sec-fetch-site", "same-origin")
        .header("x-csrf-token", &bed.csrf)
        .header(header::CONTENT_TYPE, "application/json");
    let request = request.body(Body::from(body.to_string())).unwrap();
    bed.send(request).await
}

/// Returns the cookie that a response sets.
fn cookie(answer: &Answer) -> String {
    let cookie = answer.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"));
    cookie.split(';').next().unwrap().to_owned()
}

fn made() -> Value {
    json!({ "name": "x", "credential": {
        "id": "AAAA", "rawId": "AAAA", "type": "public-key",
        "response": { "attestationObject": "oA", "clientDataJSON": "e30" },
    } })
}

fn presented(handle: Option<&str>) -> Value {
    json!({
        "id": "AAAA", "rawId": "AAAA", "type": "public-key",
        "response": {
            "authenticatorData": "AAAA", "clientDataJSON": "e30", "signature": "AAAA",
            "userHandle": handle,
        },
    })
}

#[tokio::test]
async fn without_a_domain_there_are_no_passkeys() {
    let bed = bed().await;
    for path in ["/account/passkeys/begin", "/sign-in/passkey/begin"] {
        let answer = send(&bed, path, "", &json!({})).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
    }
    for path in ["/sign-in", "/account"] {
        assert!(!bed.get(path).await.body.contains("passkey"), "{path}");
    }
}

#[tokio::test]
async fn a_registration_is_finished_once_and_by_its_person() {
    let mut bed = at_a_domain().await;
    assert!(bed.get("/account").await.body.contains("Add passkey"));
    let begin = async |bed: &Bed| send(bed, "/account/passkeys/begin", "", &json!({})).await;
    let begun = begin(&bed).await;
    assert_eq!(begun.status, StatusCode::OK, "{}", begun.body);
    let options = &begun.json()["publicKey"];
    assert_eq!(options["rp"]["id"], "localhost");
    let selection = &options["authenticatorSelection"];
    assert_eq!(selection["residentKey"], "required");
    assert_eq!(selection["userVerification"], "required");
    let finish = async |bed: &Bed, begun: &str| {
        let answer = send(bed, "/account/passkeys", begun, &made()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.body);
        answer.body
    };
    assert!(finish(&bed, "").await.contains("not begun in this browser"));
    let cookie_of_owner = cookie(&begun);
    assert!(
        finish(&bed, &cookie_of_owner)
            .await
            .contains("was not accepted")
    );
    assert!(
        finish(&bed, &cookie_of_owner).await.contains("not begun"),
        "once"
    );
    let begun = cookie(&begin(&bed).await);
    bed.become_another("mallory").await;
    assert!(
        finish(&bed, &begun).await.contains("not begun"),
        "of another"
    );
    let begun = cookie(&begin(&bed).await);
    bed.clock.advance(crate::auth::pending::PATIENCE);
    assert!(finish(&bed, &begun).await.contains("not begun"), "too late");
    let odd = send(&bed, "/account/passkeys", "", &json!({ "name": 1 })).await;
    assert_eq!(odd.status, StatusCode::BAD_REQUEST);
    assert!(odd.body.contains("The request is invalid"), "{}", odd.body);
}

#[tokio::test]
async fn unknown_passkeys_are_refused() {
    let bed = at_a_domain().await;
    assert!(
        bed.get("/sign-in")
            .await
            .body
            .contains("Sign in with a passkey")
    );
    for handle in [None, Some("AAAA"), Some("AAAAAAAAAAAAAAAAAAAAAA")] {
        let begun = send(&bed, "/sign-in/passkey/begin", "", &json!({})).await;
        assert_eq!(begun.status, StatusCode::OK, "{}", begun.body);
        assert!(begun.json().get("mediation").is_none());
        let begun = cookie(&begun);
        let answer = send(&bed, "/sign-in/passkey", &begun, &presented(handle)).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{}", answer.body);
        assert!(answer.body.contains("not known here"), "{}", answer.body);
        assert!(!answer.headers.contains_key(header::SET_COOKIE));
        let again = send(&bed, "/sign-in/passkey", &begun, &presented(handle)).await;
        assert_eq!(again.status, StatusCode::BAD_REQUEST, "{}", again.body);
    }
}

#[tokio::test]
async fn a_passkey_can_be_the_only_way_to_sign_in() {
    use faultline_store::passkeys::NewPasskey;
    let mut bed = at_a_domain().await;
    bed.become_another("ann").await;
    let (ann, now) = ("ann".parse().unwrap(), bed.app.now());
    let new = NewPasskey {
        id: "k1",
        credential: "00",
        name: "Laptop",
        passkey: "{}",
    };
    let store = &bed.app.store;
    assert!(store.add_passkey(&ann, &new, now).await.unwrap());
    assert!(!store.add_passkey(&ann, &new, now).await.unwrap());
    let known = async || store.passkey_of_credential("00").await.unwrap();
    assert_eq!(known().await, Some((ann.clone(), "{}".to_owned())));
    assert!(bed.get("/account").await.body.contains("Laptop"));
    let only = bed.post("/account/passkeys/k1/remove", "").await;
    assert_eq!(only.status, StatusCode::CONFLICT, "{}", only.body);
    assert!(known().await.is_some());

    // Used with what was verified, and only once.
    let session = crate::tests::new_session(&bed.app, &bed.app.secret(), 1);
    let used = store.sign_in_with_passkey("00", ("{}", "{1}"), &session, now);
    assert!(used.await.unwrap());
    let session = crate::tests::new_session(&bed.app, &bed.app.secret(), 1);
    let again = store.sign_in_with_passkey("00", ("{}", "{2}"), &session, now);
    assert!(!again.await.unwrap());

    bed.post(
        "/account/password",
        "login=ann&password=correct+horse+battery",
    )
    .await;
    let removed = bed.post("/account/passkeys/k1/remove", "").await;
    assert_eq!(removed.status, StatusCode::SEE_OTHER, "{}", removed.body);
    assert_eq!(known().await, None);
}
