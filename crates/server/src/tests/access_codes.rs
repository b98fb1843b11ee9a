//! Tests of access codes: who makes them, who joins by them, and how guesses are limited.

use std::net::SocketAddr;

use axum::extract::ConnectInfo;
use jiff::SignedDuration;

use super::{groups::school, *};

/// Sends a form without a session, from this address.
async fn stranger(bed: &Bed, address: &str, path: &str, form: &str) -> Answer {
    let mut request = Request::post(path)
        .header("sec-fetch-site", "same-origin")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(form.to_owned()))
        .unwrap();
    let peer: SocketAddr = format!("{address}:4000").parse().unwrap();
    let peer = ConnectInfo(crate::listener::Peer(peer));
    request.extensions_mut().insert(peer);
    bed.send(request).await
}

async fn enter(bed: &Bed, address: &str, code: &str) -> Answer {
    stranger(bed, address, "/join", &format!("code={code}")).await
}

async fn join(bed: &Bed, code: &str, login: &str) -> Answer {
    let form = format!("token={code}&name={login}&login={login}&password=a-long-password");
    stranger(bed, "192.0.2.1", "/invitation", &form).await
}

/// Makes a code for this number of people, valid for a day.
async fn code(bed: &Bed, uses: u32) -> String {
    let json = format!("{{\"by_code\": true, \"uses\": {uses}, \"days\": 1}}");
    let made = bed.api(Method::POST, "/invitations", Some(&json)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let made = made.json();
    let code = made["code"].as_str().unwrap().to_owned();
    let link = made["url"].as_str().unwrap();
    assert!(link.ends_with(&format!("/join?code={code}")), "{link}");
    code
}

#[tokio::test]
async fn students_join_by_a_code_as_often_as_it_says() {
    let bed = bed().await;
    let code = code(&bed, 2).await;
    let page = bed.get(&format!("/join?code={code}")).await;
    assert!(page.body.contains(&code), "{}", page.body);
    // However it is typed.
    let typed = code.to_lowercase().replace('-', "+");
    let form = enter(&bed, "192.0.2.1", &typed).await;
    assert_eq!(form.status, StatusCode::OK);
    assert!(form.body.contains("Join Faultline"), "{}", form.body);
    let joined = join(&bed, &typed, "ann").await;
    assert_eq!(joined.status, StatusCode::SEE_OTHER, "{}", joined.body);
    let taken = join(&bed, &code, "ann").await;
    assert_eq!(taken.status, StatusCode::CONFLICT, "{}", taken.body);
    let joined = join(&bed, &code, "ben").await;
    assert_eq!(joined.status, StatusCode::SEE_OTHER, "{}", joined.body);
    for late in [
        join(&bed, &code, "cid").await,
        enter(&bed, "192.0.2.1", &code).await,
    ] {
        assert_eq!(late.status, StatusCode::UNAUTHORIZED);
    }
    let listed = bed.api(Method::GET, "/invitations", None).await.json();
    assert_eq!(listed[0]["state"], "used up");
    assert_eq!(listed[0]["accepted_by"], serde_json::json!(["ann", "ben"]));
    let people = bed.api(Method::GET, "/people", None).await.json();
    let ann = people
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["login"] == "ann");
    assert_eq!(ann.unwrap()["role"], "student");
}

#[tokio::test]
async fn codes_end_and_are_withdrawn() {
    let bed = bed().await;
    let ended = code(&bed, 5).await;
    bed.clock.advance(SignedDuration::from_hours(25));
    let withdrawn = code(&bed, 5).await;
    let page = bed.get("/people").await.body;
    assert!(
        page.contains(&withdrawn) && !page.contains(&ended),
        "{page}"
    );
    let listed = bed.api(Method::GET, "/invitations", None).await.json();
    let path = format!(
        "/invitations/{}/withdraw",
        listed[0]["id"].as_str().unwrap()
    );
    assert_eq!(bed.post(&path, "").await.status, StatusCode::SEE_OTHER);
    for code in [&ended, &withdrawn] {
        let refused = enter(&bed, "192.0.2.1", code).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        assert!(
            refused.body.contains("wrong, has ended"),
            "{}",
            refused.body
        );
        let refused = join(&bed, code, "ann").await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    }
    let listed = bed.api(Method::GET, "/invitations", None).await.json();
    assert_eq!(listed[0]["state"], "withdrawn");
    assert_eq!(listed[1]["state"], "expired");
    let page = bed.get("/people").await.body;
    assert!(
        page.contains("withdrawn ·") && page.contains("expired ·"),
        "{page}"
    );
}

#[tokio::test]
async fn guesses_are_limited_wherever_they_are_sent() {
    let bed = bed().await;
    let code = code(&bed, 5).await;
    let mut refused = 0;
    for n in 0..40 {
        let answer = if n % 2 == 0 {
            enter(&bed, "192.0.2.7", "K7F-3Q9-XWM").await
        } else {
            let form = "token=k7f3q9xwn&name=x&login=xx&password=a-long-password";
            stranger(&bed, "192.0.2.7", "/invitation", form).await
        };
        match answer.status {
            StatusCode::UNAUTHORIZED => assert_eq!(refused, 0, "one is evaluated after the limit"),
            StatusCode::TOO_MANY_REQUESTS => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(refused, 20);
    // Not even a right one from there, or the limit would not limit guesses.
    let right = enter(&bed, "192.0.2.7", &code).await;
    assert_eq!(right.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(right.headers.contains_key(header::RETRY_AFTER));
    // Elsewhere, nobody notices, and signing in from there isn't held up.
    assert_eq!(enter(&bed, "192.0.2.8", &code).await.status, StatusCode::OK);
    let password = stranger(&bed, "192.0.2.7", "/sign-in", "login=x&password=y").await;
    assert_eq!(password.status, StatusCode::UNAUTHORIZED);
    // The page that a link opens tells nothing about codes.
    for guess in [&code, "K7F-3Q9-XWM"] {
        let page = bed.get(&format!("/invitation?token={guess}")).await;
        assert!(page.body.contains("no longer valid"), "{}", page.body);
    }
}

#[tokio::test]
async fn wrong_codes_are_explained() {
    let bed = bed().await;
    for bad in ["", "x", "K7F-3Q9", "O00-111-ILU", &"K".repeat(4000), "%00"] {
        let answer = enter(&bed, "192.0.2.1", bad).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{bad}");
        assert!(answer.body.contains("This code is wrong"), "{bad}");
    }
    let json = "{\"by_code\": true, \"role\": \"operator\"}";
    let answer = bed.api(Method::POST, "/invitations", Some(json)).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.body.contains("for students"), "{}", answer.body);
    let answer = bed
        .post(
            "/people/invite",
            "role=instructor&uses=1&expires=1d&by=code",
        )
        .await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn instructors_make_and_withdraw_codes_of_their_groups_alone() {
    let (mut bed, mine, other) = school().await;
    let own = (bed.cookie.clone(), bed.csrf.clone(), bed.token.clone());
    let elsewhere = format!("/groups/{other}/invitations");
    let made = bed.api(Method::POST, &elsewhere, Some("{}")).await.json();
    let foreign = made["id"].as_str().unwrap().to_owned();
    bed.become_another("ida").await;
    let invite = format!("/groups/{mine}/invite");
    let page = bed.post(&invite, "uses=3&expires=1d&by=code").await.body;
    let path = format!("/groups/{mine}/invitations");
    let listed = bed.api(Method::GET, &path, None).await.json();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    let code = listed[0]["code"].as_str().unwrap().to_owned();
    assert!(page.contains(&code), "{page}");
    let joined = join(&bed, &code, "nia").await;
    assert_eq!(joined.status, StatusCode::SEE_OTHER, "{}", joined.body);
    let group = bed.app.store.group(&mine).await.unwrap().unwrap();
    assert!(
        group
            .members
            .iter()
            .any(|m| m.name == "nia" && !m.instructs)
    );
    let page = bed.get(&format!("/groups/{mine}")).await.body;
    assert!(
        page.contains("Joined: nia") && page.contains(&code),
        "{page}"
    );

    // Neither another group's invitations nor those of the server are theirs.
    let hidden = bed.api(Method::GET, &elsewhere, None).await;
    assert_eq!(hidden.status, StatusCode::NOT_FOUND);
    let gone = bed
        .api(Method::DELETE, &format!("{path}/{foreign}"), None)
        .await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
    let id = listed[0]["id"].as_str().unwrap();
    let gone = bed.post(&format!("/groups/{mine}/withdraw/{id}"), "").await;
    assert_eq!(gone.status, StatusCode::SEE_OTHER);
    let late = join(&bed, &code, "max").await;
    assert_eq!(late.status, StatusCode::UNAUTHORIZED);
    (bed.cookie, bed.csrf, bed.token) = own;
    let open = bed.api(Method::GET, &elsewhere, None).await.json();
    assert_eq!(open[0]["state"], "open");
}
