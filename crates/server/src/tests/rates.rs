//! Tests of rate limits.

use std::net::SocketAddr;

use axum::extract::ConnectInfo;

use faultline_store::credentials::NewApiToken;

use super::*;
use crate::config::Rates;

async fn strict(person: u32, stranger: u32, wrong: u32) -> Bed {
    bed_with(Config {
        rates: Rates {
            person_per_minute: person,
            stranger_per_minute: stranger,
            wrong_per_minute: wrong,
            password_per_minute: 10,
            code_per_minute: 20,
        },
        ..Config::default()
    })
    .await
}

fn from(address: &str, mut request: Request<Body>) -> Request<Body> {
    let peer: SocketAddr = format!("{address}:4000").parse().unwrap();
    request
        .extensions_mut()
        .insert(ConnectInfo(crate::listener::Peer(peer)));
    request
}

fn with_token(token: &str) -> Request<Body> {
    Request::get("/api/v1/me")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(Body::empty())
        .unwrap()
}

#[tokio::test]
async fn a_session_and_a_token_have_separate_budgets() {
    let bed = strict(3, 300, 10).await;
    for _ in 0..3 {
        assert_eq!(bed.get("/").await.status, StatusCode::OK);
        let me = bed.api(Method::GET, "/me", None).await;
        assert_eq!(me.status, StatusCode::OK);
    }
    let page = bed.get("/").await;
    assert_eq!(page.status, StatusCode::TOO_MANY_REQUESTS);
    let seconds: u64 = page.headers[header::RETRY_AFTER]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=20).contains(&seconds));
    assert!(page.body.contains("Too many requests") && page.body.contains("Try again"));
    let api = bed.api(Method::GET, "/me", None).await;
    assert_eq!(api.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(api.headers.contains_key(header::RETRY_AFTER));
    assert_eq!(api.json()["code"], "too-many");
    // Requests without personal data aren't counted.
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(bed.get(path).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn an_address_without_credentials_has_one_budget() {
    let bed = strict(300, 3, 10).await;
    let ask = async |address: &str| {
        let request = Request::get("/sign-in").body(Body::empty()).unwrap();
        bed.send(from(address, request)).await.status
    };
    for _ in 0..3 {
        assert_eq!(ask("203.0.113.1").await, StatusCode::OK);
    }
    assert_eq!(ask("203.0.113.1").await, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(ask("203.0.113.2").await, StatusCode::OK);
}

#[tokio::test]
async fn guessing_tokens_and_links_is_limited_without_locking_out_others() {
    let bed = strict(300, 300, 3).await;
    let guess = |n: u64| format!("flt_{n:064x}");
    let known = with_token(&bed.token);
    assert_eq!(
        bed.send(from("203.0.113.1", known)).await.status,
        StatusCode::OK
    );
    let sign_in = |token: &str| {
        Request::post("/sign-in")
            .header("sec-fetch-site", "same-origin")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(format!("token={token}")))
            .unwrap()
    };
    for n in 0..3 {
        let request = if n == 1 {
            sign_in(&guess(n))
        } else {
            with_token(&guess(n))
        };
        let answer = bed.send(from("203.0.113.1", request)).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
    let (link, _) = crate::operations::sign_in_link::sign_in_link(
        &bed.app,
        &faultline_domain::PersonId::local(),
    )
    .await
    .unwrap();
    let right = link.split_once("token=").unwrap().1;
    let (unseen, owner) = (bed.app.secret(), faultline_domain::PersonId::local());
    let store = &bed.app.store;
    store
        .add_api_token(&unseen, &NewApiToken::full("x", &owner, "x"), bed.app.now())
        .await
        .unwrap();
    for request in [with_token(&guess(9)), sign_in(&guess(9))] {
        let answer = bed.send(from("203.0.113.1", request)).await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    }
    // Valid credentials aren't affected, not even those that this server has never seen.
    for request in [with_token(&bed.token), with_token(unseen.expose())] {
        let answer = bed.send(from("203.0.113.1", request)).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    let answer = bed.send(from("203.0.113.1", sign_in(right))).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
}
