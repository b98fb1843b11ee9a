//! Tests of the sign-in through an identity provider, against one on loopback that can misbehave. The end-to-end tests use a
//! real provider.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Mutex,
};

use axum::{Form, Json, extract::State as Of, routing};
use faultline_domain::{PersonId, authz::Role};
use openidconnect::{
    Audience, IdToken, IssuerUrl, Nonce, PkceCodeChallenge, PkceCodeVerifier, PrivateSigningKey,
    StandardClaims, SubjectIdentifier,
    core::{
        CoreEdDsaPrivateSigningKey, CoreGenderClaim, CoreJsonWebKeySet,
        CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::*;
use crate::config::oidc::{Join, Oidc};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Extra(Map<String, Value>);
impl openidconnect::AdditionalClaims for Extra {}

/// What the provider's ID token says.
#[derive(Clone)]
struct Says {
    subject: &'static str,
    claims: Value,
    /// The nonce, if it is not the one that was asked for.
    nonce: Option<&'static str>,
    /// The audience, if it is not this server.
    audience: &'static str,
    /// True if the token has expired.
    expired: bool,
    /// True if it is signed with a key that the provider doesn't publish.
    forged: bool,
    /// What the userinfo endpoint says.
    userinfo: Value,
}

/// Says that this is the person with this subject.
fn is(subject: &'static str, claims: Value) -> Says {
    Says {
        subject,
        userinfo: json!({ "sub": subject }),
        claims,
        nonce: None,
        audience: "faultline",
        expired: false,
        forged: false,
    }
}

struct Granted {
    says: Says,
    nonce: String,
    challenge: String,
}

#[derive(Default)]
struct Inner {
    issuer: String,
    keys: Vec<CoreEdDsaPrivateSigningKey>,
    codes: HashMap<String, Granted>,
    userinfo: Value,
    /// The endpoint at which people sign out, if there is one.
    end_session: Option<String>,
    count: usize,
}

/// An identity provider on loopback.
#[derive(Clone)]
struct Idp(Arc<Mutex<Inner>>);

fn key(id: &str) -> CoreEdDsaPrivateSigningKey {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let id = openidconnect::JsonWebKeyId::new(id.to_owned());
    CoreEdDsaPrivateSigningKey::from_ed25519_pem(&pair.serialize_pem(), Some(id)).unwrap()
}

impl Idp {
    async fn begin() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let idp = Self(Arc::new(Mutex::new(Inner {
            issuer,
            keys: vec![key("first")],
            ..Inner::default()
        })));
        let router = Router::new()
            .route("/.well-known/openid-configuration", routing::get(discovery))
            .route("/jwks", routing::get(jwks))
            .route("/token", routing::post(token))
            .route("/userinfo", routing::get(userinfo))
            .with_state(idp.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        idp
    }

    fn issuer(&self) -> String {
        self.0.lock().unwrap().issuer.clone()
    }

    /// Signs a person in, as a page of the provider would. Returns the code.
    fn grant(&self, url: &str, says: Says) -> String {
        let of = query(url);
        assert_eq!(of["response_type"], "code");
        assert_eq!(of["client_id"], "faultline");
        assert_eq!(of["code_challenge_method"], "S256");
        assert!(of["scope"].split(' ').any(|scope| scope == "openid"));
        let mut inner = self.0.lock().unwrap();
        inner.count += 1;
        let code = format!("code-{}", inner.count);
        let granted = Granted {
            nonce: of["nonce"].clone(),
            challenge: of["code_challenge"].clone(),
            says,
        };
        inner.codes.insert(code.clone(), granted);
        code
    }
}

async fn discovery(Of(idp): Of<Idp>) -> Json<Value> {
    let issuer = idp.issuer();
    let mut found = json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "userinfo_endpoint": format!("{issuer}/userinfo"),
        "jwks_uri": format!("{issuer}/jwks"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["EdDSA"],
    });
    let end_session = idp.0.lock().unwrap().end_session.clone();
    if let Some(endpoint) = end_session {
        found["end_session_endpoint"] = json!(endpoint);
    }
    Json(found)
}

async fn jwks(Of(idp): Of<Idp>) -> Json<Value> {
    let inner = idp.0.lock().unwrap();
    let keys = inner.keys.iter().map(|key| key.as_verification_key());
    Json(serde_json::to_value(CoreJsonWebKeySet::new(keys.collect())).unwrap())
}

async fn userinfo(Of(idp): Of<Idp>) -> Json<Value> {
    Json(idp.0.lock().unwrap().userinfo.clone())
}

async fn token(
    Of(idp): Of<Idp>,
    Form(form): Form<HashMap<String, String>>,
) -> (StatusCode, Json<Value>) {
    let mut inner = idp.0.lock().unwrap();
    let refused = |why: &str| {
        let error = json!({ "error": "invalid_grant", "error_description": why });
        (StatusCode::BAD_REQUEST, Json(error))
    };
    let Some(granted) = inner.codes.remove(&form["code"]) else {
        return refused("unknown or used code");
    };
    let verifier = PkceCodeVerifier::new(form["code_verifier"].clone());
    let challenge = PkceCodeChallenge::from_code_verifier_sha256(&verifier);
    if challenge.as_str() != granted.challenge {
        return refused("wrong verifier");
    }
    let says = granted.says;
    let now = chrono::DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    let ends = now + chrono::TimeDelta::minutes(if says.expired { -9 } else { 9 });
    let claims = openidconnect::IdTokenClaims::new(
        IssuerUrl::new(inner.issuer.clone()).unwrap(),
        vec![Audience::new(says.audience.to_owned())],
        ends,
        now,
        StandardClaims::<CoreGenderClaim>::new(SubjectIdentifier::new(says.subject.to_owned())),
        Extra(says.claims.as_object().unwrap().clone()),
    )
    .set_nonce(Some(Nonce::new(
        says.nonce.map_or(granted.nonce, str::to_owned),
    )));
    let forged = key("first");
    let with = if says.forged {
        &forged
    } else {
        inner.keys.last().unwrap()
    };
    let token: IdToken<_, _, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm> =
        IdToken::new(claims, with, CoreJwsSigningAlgorithm::EdDsa, None, None).unwrap();
    inner.userinfo = says.userinfo;
    let answer = json!({ "access_token": "a", "token_type": "Bearer", "id_token": token });
    (StatusCode::OK, Json(answer))
}

/// Returns the parameters of a URL.
fn query(url: &str) -> BTreeMap<String, String> {
    let url = openidconnect::url::Url::parse(url).unwrap();
    let pairs = url.query_pairs();
    pairs
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect()
}

/// A browser with its cookies.
struct Browser<'a> {
    bed: &'a Bed,
    cookies: BTreeMap<String, String>,
}

impl<'a> Browser<'a> {
    fn new(bed: &'a Bed) -> Self {
        let cookies = BTreeMap::new();
        Self { bed, cookies }
    }

    fn owner(bed: &'a Bed) -> Self {
        let (name, value) = bed.cookie.split_once('=').unwrap();
        let cookies = [(name.to_owned(), value.to_owned())].into();
        Self { bed, cookies }
    }

    fn cookie(&self) -> String {
        let all = self.cookies.iter().map(|(n, v)| format!("{n}={v}"));
        all.collect::<Vec<_>>().join("; ")
    }

    async fn get(&self, path: &str) -> Answer {
        let request = Request::get(path).header(header::COOKIE, self.cookie());
        self.bed.send(request.body(Body::empty()).unwrap()).await
    }

    async fn post(&mut self, path: &str, form: &str) -> Answer {
        let session = self.cookies.get(SESSION);
        let session = session.and_then(|text| Secret::presented(text));
        let csrf = session.map_or_else(String::new, |s| crate::auth::csrf::token(&s));
        let request = Request::post(path)
            .header(header::COOKIE, self.cookie())
            .header("sec-fetch-site", "same-origin")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let request = request.body(Body::from(format!("csrf={csrf}&{form}")));
        let answer = self.bed.send(request.unwrap()).await;
        for cookie in answer.headers.get_all(header::SET_COOKIE) {
            let text = cookie.to_str().unwrap();
            let (name, value) = text.split(';').next().unwrap().split_once('=').unwrap();
            assert!(text.contains("HttpOnly") && text.contains("SameSite=Strict"));
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        answer
    }

    /// Begins a sign-in. Returns the provider's URL.
    async fn begin_at(&mut self, path: &str, form: &str) -> String {
        let page = self.post(path, form).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.body);
        let (_, rest) = page.body.split_once("content=\"0;url=").unwrap();
        rest.split('"').next().unwrap().replace("&#38;", "&")
    }

    async fn begin(&mut self) -> String {
        self.begin_at("/sign-in/oidc", "").await
    }

    /// Finishes a sign-in with this code.
    async fn finish(&mut self, url: &str, code: &str) -> Answer {
        let form = format!("state={}&code={code}", query(url)["state"]);
        self.post("/sign-in/oidc/callback", &form).await
    }

    /// Signs in as the provider says.
    async fn sign_in(&mut self, idp: &Idp, says: Says) -> Answer {
        let url = self.begin().await;
        let code = idp.grant(&url, says);
        self.finish(&url, &code).await
    }

    async fn is_signed_in(&self) -> bool {
        self.get("/progress").await.status == StatusCode::OK
    }
}

/// Returns a provider, and a server that uses it with these settings.
async fn with(change: impl FnOnce(&mut Oidc)) -> (Idp, Bed) {
    let idp = Idp::begin().await;
    let mut oidc = Oidc::example(&idp.issuer());
    change(&mut oidc);
    let config = Config {
        oidc: Some(oidc),
        ..Config::default()
    };
    (idp, bed_with(config).await)
}

fn everyone(oidc: &mut Oidc) {
    oidc.join.everyone = true;
}

/// Returns the people besides the owner, with their roles.
async fn people(bed: &Bed) -> Vec<(PersonId, String, Role)> {
    let all = bed.app.store.people().await.unwrap().into_iter();
    all.filter(|p| p.id != PersonId::local())
        .map(|p| (p.id, p.name, p.role))
        .collect()
}

#[tokio::test]
async fn a_person_joins_and_signs_in_again_by_issuer_and_subject() {
    let (idp, bed) = with(everyone).await;
    let mut browser = Browser::new(&bed);
    assert!(
        browser
            .get("/sign-in")
            .await
            .body
            .contains("Continue with Example")
    );
    let url = browser.begin().await;
    let asked = query(&url);
    assert_eq!(
        asked["redirect_uri"],
        "http://127.0.0.1:7890/sign-in/oidc/callback"
    );
    assert_eq!(asked["scope"], "openid profile email");
    let code = idp.grant(&url, is("1", json!({ "name": "Ann", "email": "a@b.test" })));
    let path = format!(
        "/sign-in/oidc/callback?state={}&code={code}",
        asked["state"]
    );
    let back = browser.get(&path).await;
    assert_eq!(back.status, StatusCode::OK);
    assert!(back.body.contains("data-submit") && back.body.contains(&code));
    assert!(!browser.is_signed_in().await, "only the form signs in");
    let done = browser.finish(&url, &code).await;
    assert_eq!((done.status, done.location()), (StatusCode::SEE_OTHER, "/"));
    assert!(browser.is_signed_in().await);
    let joined = people(&bed).await;
    assert_eq!((joined.len(), joined[0].1.as_str()), (1, "Ann"));
    assert_eq!(joined[0].2, Role::Student);

    // Another address and name, the same person; the same address, another person.
    let mut again = Browser::new(&bed);
    let says = is(
        "1",
        json!({ "name": "Eve", "email": "other@b.test", "email_verified": true }),
    );
    again.sign_in(&idp, says).await;
    assert_eq!(people(&bed).await, joined);
    let mut other = Browser::new(&bed);
    let says = is(
        "2",
        json!({ "name": "Ann", "email": "other@b.test", "email_verified": true }),
    );
    other.sign_in(&idp, says).await;
    assert!(other.is_signed_in().await);
    assert_eq!(people(&bed).await.len(), 2);
    let lines = bed.app.store.audit_of(&joined[0].0, 9).await.unwrap();
    assert!(lines.iter().any(|l| l.action == "join"));
    assert!(
        lines
            .iter()
            .any(|l| l.action == "sign-in" && l.detail == "provider")
    );
}

#[tokio::test]
async fn by_default_an_invitation_is_needed() {
    let (idp, bed) = with(|_| {}).await;
    let mut browser = Browser::new(&bed);
    let ann = || {
        is(
            "1",
            json!({ "name": "Ann", "email": "a@b.test", "email_verified": true }),
        )
    };
    let refused = browser.sign_in(&idp, ann()).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(
        refused.body.contains("You need an invitation"),
        "{}",
        refused.body
    );
    assert!(refused.body.contains("a@b.test"), "which account it is");
    assert_eq!(people(&bed).await, []);

    let made = bed
        .post("/people/invite", "role=instructor&uses=1&expires=7d")
        .await;
    let (_, rest) = made.body.split_once("token=").unwrap();
    let token = rest.split(['<', '"', '&']).next().unwrap();
    let form = browser.get(&format!("/invitation?token={token}")).await;
    assert!(form.body.contains("Join with Example"), "{}", form.body);
    let url = browser
        .begin_at("/sign-in/oidc", &format!("token={token}"))
        .await;
    let code = idp.grant(&url, ann());
    let done = browser.finish(&url, &code).await;
    assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.body);
    assert_eq!(people(&bed).await[0].2, Role::Instructor);
    let mut second = Browser::new(&bed);
    let url = second
        .begin_at("/sign-in/oidc", &format!("token={token}"))
        .await;
    let code = idp.grant(&url, is("2", json!({})));
    let late = second.finish(&url, &code).await;
    assert_eq!(late.status, StatusCode::FORBIDDEN, "it was for one person");
    assert_eq!(people(&bed).await.len(), 1);
}

#[tokio::test]
async fn a_code_and_a_state_are_used_once_and_only_in_their_browser() {
    let (idp, bed) = with(everyone).await;
    let mut browser = Browser::new(&bed);
    let url = browser.begin().await;
    let code = idp.grant(&url, is("1", json!({})));
    let begun = browser.cookies.clone();
    // The attacker's answer in somebody else's browser, with and without a sign-in of its own.
    let mut victim = Browser::new(&bed);
    for own in [false, true] {
        if own {
            victim.begin().await;
        }
        let answer = victim.finish(&url, &code).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(
            answer.body.contains("not begun in this browser"),
            "{}",
            answer.body
        );
        assert!(!victim.is_signed_in().await);
    }
    let done = browser.finish(&url, &code).await;
    assert_eq!(done.status, StatusCode::SEE_OTHER);
    // Replayed, with the cookie as it was.
    let mut replay = Browser::new(&bed);
    replay.cookies = begun;
    let again = replay.finish(&url, &code).await;
    assert_eq!(again.status, StatusCode::BAD_REQUEST);
    assert!(!replay.is_signed_in().await);
    // A used code with a new sign-in.
    let url = replay.begin().await;
    let again = replay.finish(&url, &code).await;
    assert_eq!(again.status, StatusCode::UNAUTHORIZED);
    assert!(again.body.contains("was not accepted"), "{}", again.body);
    // A wrong state uses the sign-in up.
    let url = replay.begin().await;
    let code = idp.grant(&url, is("1", json!({})));
    let wrong = format!("state={}&code={code}", bed.app.secret().expose());
    let answer = replay.post("/sign-in/oidc/callback", &wrong).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let answer = replay.finish(&url, &code).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    // Another provider's answer.
    let url = replay.begin().await;
    let code = idp.grant(&url, is("1", json!({})));
    let form = format!(
        "state={}&code={code}&iss=https%3A%2F%2Fevil.test",
        query(&url)["state"]
    );
    let answer = replay.post("/sign-in/oidc/callback", &form).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    // Too late.
    let url = replay.begin().await;
    let code = idp.grant(&url, is("1", json!({})));
    bed.clock.advance(jiff::SignedDuration::from_mins(10));
    let answer = replay.finish(&url, &code).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(!replay.is_signed_in().await);
}

#[tokio::test]
async fn a_code_of_another_sign_in_is_refused() {
    let (idp, bed) = with(everyone).await;
    let (mut attacker, mut victim) = (Browser::new(&bed), Browser::new(&bed));
    let theirs = attacker.begin().await;
    let own = victim.begin().await;
    let code = idp.grant(&theirs, is("1", json!({})));
    let answer = victim.finish(&own, &code).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "PKCE");
    assert!(!victim.is_signed_in().await);
}

#[tokio::test]
async fn invalid_tokens_sign_nobody_in() {
    let (idp, bed) = with(everyone).await;
    let ok = is("1", json!({}));
    for (what, says) in [
        (
            "nonce",
            Says {
                nonce: Some("another"),
                ..ok.clone()
            },
        ),
        (
            "audience",
            Says {
                audience: "somebody",
                ..ok.clone()
            },
        ),
        (
            "expiry",
            Says {
                expired: true,
                ..ok.clone()
            },
        ),
        (
            "signature",
            Says {
                forged: true,
                ..ok.clone()
            },
        ),
        (
            "subject of the userinfo",
            Says {
                userinfo: json!({ "sub": "2" }),
                ..ok.clone()
            },
        ),
    ] {
        let mut browser = Browser::new(&bed);
        let answer = browser.sign_in(&idp, says).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{what}");
        assert!(
            answer.body.contains("Begin again"),
            "{what}: {}",
            answer.body
        );
        assert!(!browser.is_signed_in().await, "{what}");
    }
    assert_eq!(people(&bed).await, []);
    let mut browser = Browser::new(&bed);
    // The provider has changed its key.
    idp.0.lock().unwrap().keys = vec![key("second")];
    assert_eq!(
        browser.sign_in(&idp, ok).await.status,
        StatusCode::SEE_OTHER
    );
}

#[tokio::test]
async fn the_session_changes_and_redirects_stay_here() {
    let (idp, bed) = with(everyone).await;
    let mut browser = Browser::new(&bed);
    browser.sign_in(&idp, is("1", json!({}))).await;
    let first = browser.cookies[SESSION].clone();
    browser.sign_in(&idp, is("1", json!({}))).await;
    assert_ne!(browser.cookies[SESSION], first, "fixation");
    let mut old = Browser::new(&bed);
    old.cookies.insert(SESSION.to_owned(), first);
    assert!(!old.is_signed_in().await);
    // A session that somebody has planted in the browser is not used.
    let mut planted = Browser::new(&bed);
    let secret = bed.app.secret().expose().to_owned();
    planted.cookies.insert(SESSION.to_owned(), secret.clone());
    planted.sign_in(&idp, is("1", json!({}))).await;
    assert_ne!(planted.cookies[SESSION], secret);
    assert!(planted.is_signed_in().await);
    for extra in ["next", "return_to", "redirect_uri", "url"] {
        let evil = format!("{extra}=https%3A%2F%2Fevil.test");
        let url = browser
            .begin_at(&format!("/sign-in/oidc?{evil}"), &evil)
            .await;
        assert!(url.starts_with(&idp.issuer()), "{url}");
        assert!(!url.contains("evil"), "{url}");
        let code = idp.grant(&url, is("1", json!({})));
        let form = format!("state={}&code={code}&{evil}", query(&url)["state"]);
        let done = browser
            .post(&format!("/sign-in/oidc/callback?{evil}"), &form)
            .await;
        assert_eq!(done.location(), "/");
    }
}

fn with_roles(oidc: &mut Oidc) {
    oidc.join = Join {
        claims: [("groups".to_owned(), vec!["class".to_owned()])].into(),
        ..Join::default()
    };
    oidc.roles_claim = Some("groups".to_owned());
    oidc.roles = [
        ("platform".to_owned(), Role::Operator),
        ("teachers".to_owned(), Role::Instructor),
    ]
    .into();
}

#[tokio::test]
async fn claims_decide_the_role_at_each_sign_in() {
    let (idp, bed) = with(with_roles).await;
    let mut browser = Browser::new(&bed);
    let groups = |all: &[&str]| is("1", json!({ "groups": all, "role": "operator" }));
    let refused = browser.sign_in(&idp, groups(&["teachers"])).await;
    assert_eq!(
        refused.status,
        StatusCode::FORBIDDEN,
        "a role is no invitation"
    );
    for (all, role) in [
        (&["class", "operator"][..], Role::Student),
        (&["class", "platform"], Role::Operator),
        (&["class", "teachers"], Role::Instructor),
        (&[], Role::Student),
    ] {
        let done = browser.sign_in(&idp, groups(all)).await;
        assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.body);
        let (person, _, now) = people(&bed).await.remove(0);
        assert_eq!(now, role, "{all:?}");
        let status = browser.get("/people").await.status;
        assert_eq!(status == StatusCode::OK, role == Role::Operator, "{all:?}");
        // An operator's change lasts until the next sign-in.
        let store = &bed.app.store;
        let change = faultline_store::people::PersonChange::Role(Role::Operator);
        let at = bed.app.now();
        store
            .change_person(&PersonId::local(), &person, change, at)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn claims_cannot_lock_the_owner_out() {
    let (idp, bed) = with(with_roles).await;
    let mut owner = Browser::owner(&bed);
    let url = owner.begin_at("/account/oidc", "").await;
    let code = idp.grant(&url, is("1", json!({ "email": "owner@b.test" })));
    let done = owner.finish(&url, &code).await;
    assert_eq!(done.location(), "/account");
    let mut browser = Browser::new(&bed);
    let done = browser.sign_in(&idp, is("1", json!({}))).await;
    assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.body);
    assert_eq!(browser.get("/people").await.status, StatusCode::OK);
}

#[tokio::test]
async fn accounts_are_linked_in_the_session_that_asked() {
    let (idp, bed) = with(everyone).await;
    let mut ann = Browser::new(&bed);
    ann.sign_in(&idp, is("1", json!({ "name": "Ann" }))).await;
    let mut owner = Browser::owner(&bed);
    let link = async |browser: &mut Browser<'_>, subject| {
        let url = browser.begin_at("/account/oidc", "").await;
        let code = idp.grant(&url, is(subject, json!({ "email": "me@b.test" })));
        (url, code)
    };
    // Somebody else's.
    let (url, code) = link(&mut owner, "1").await;
    let taken = owner.finish(&url, &code).await;
    assert_eq!(taken.status, StatusCode::CONFLICT);
    assert!(taken.body.contains("linked to somebody else"));
    // Meanwhile another person has signed in, or nobody is signed in.
    for other in [ann.cookies.get(SESSION).cloned(), None] {
        let (url, code) = link(&mut owner, "2").await;
        let mut changed = Browser::new(&bed);
        changed.cookies = owner.cookies.clone();
        match other {
            Some(session) => changed.cookies.insert(SESSION.to_owned(), session),
            None => changed.cookies.remove(SESSION),
        };
        let answer = changed.finish(&url, &code).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
    let (url, code) = link(&mut owner, "2").await;
    let done = owner.finish(&url, &code).await;
    assert_eq!(done.location(), "/account", "{}", done.body);
    assert!(owner.get("/account").await.body.contains("me@b.test"));
    let mut browser = Browser::new(&bed);
    browser.sign_in(&idp, is("2", json!({}))).await;
    assert_eq!(browser.get("/people").await.status, StatusCode::OK);

    // Removed, unless it is the only way to sign in.
    let id = async |person: &PersonId| {
        let all = bed.app.store.linked_accounts(person).await.unwrap();
        all[0].id.clone()
    };
    let own = id(&PersonId::local()).await;
    let path = format!("/account/oidc/{own}/unlink");
    assert_eq!(ann.post(&path, "").await.status, StatusCode::NOT_FOUND);
    assert_eq!(owner.post(&path, "").await.status, StatusCode::SEE_OTHER);
    let person = people(&bed).await[0].0.clone();
    let path = format!("/account/oidc/{}/unlink", id(&person).await);
    let only = ann.post(&path, "").await;
    assert_eq!(only.status, StatusCode::CONFLICT);
    assert!(
        only.body.contains("Set a password or add a passkey first"),
        "{}",
        only.body
    );
    ann.post(
        "/account/password",
        "login=ann&password=correct+horse+battery",
    )
    .await;
    assert_eq!(ann.post(&path, "").await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn disabled_and_deleted_people_are_refused() {
    let (idp, bed) = with(everyone).await;
    let mut browser = Browser::new(&bed);
    browser.sign_in(&idp, is("1", json!({}))).await;
    let person = people(&bed).await[0].0.clone();
    let path = format!("/people/{person}/change");
    bed.post(&path, "change=disable").await;
    let refused = browser.sign_in(&idp, is("1", json!({}))).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(refused.body.contains("Your access is disabled"));
    assert!(!browser.is_signed_in().await);
    bed.post(&format!("/people/{person}/delete"), "").await;
    browser.sign_in(&idp, is("1", json!({}))).await;
    let now = people(&bed).await;
    assert_eq!(now.len(), 1);
    assert_ne!(now[0].0, person, "somebody new");
}

#[tokio::test]
async fn errors_are_pages_that_say_what_to_do() {
    let (idp, bed) = with(everyone).await;
    let mut browser = Browser::new(&bed);
    for (error, why) in [
        ("access_denied", "begin again and agree"),
        ("temporarily_unavailable", "in a few minutes"),
        ("%3Cscript%3Ex_y", "error: scriptx_y"),
        ("", "error: none"),
    ] {
        let url = browser.begin().await;
        let form = format!("state={}&error={error}", query(&url)["state"]);
        let answer = browser.post("/sign-in/oidc/callback", &form).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{error}");
        assert!(answer.body.contains(why), "{error}: {}", answer.body);
        assert!(answer.body.contains("href=\"/sign-in\""));
    }
    drop(idp);
    let (_, bed) = with(|oidc| oidc.issuer = "http://127.0.0.1:9".to_owned()).await;
    let down = Browser::new(&bed).post("/sign-in/oidc", "").await;
    assert_eq!(down.status, StatusCode::BAD_GATEWAY);
    assert!(
        down.body.contains("Example can&#39;t be used now"),
        "{}",
        down.body
    );
    let none = super::bed().await;
    for answer in [
        none.post("/sign-in/oidc", "").await,
        none.get("/sign-in/oidc/callback?code=x").await,
        none.post("/sign-in/oidc/callback", "code=x").await,
        none.post("/account/oidc", "").await,
    ] {
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
    }
    assert!(!none.get("/sign-in").await.body.contains("Continue with"));
}

#[tokio::test]
async fn who_signed_in_through_the_provider_can_sign_out_there_too() {
    let (idp, bed) = with(everyone).await;
    let endpoint = format!("{}/logout?tenant=1", idp.issuer());
    idp.0.lock().unwrap().end_session = Some(endpoint);
    let mut browser = Browser::new(&bed);
    browser
        .sign_in(&idp, is("1", json!({ "name": "Ann" })))
        .await;
    assert!(browser.is_signed_in().await);
    let out = browser.post("/sign-out", "").await;
    assert_eq!(out.status, StatusCode::OK, "{}", out.body);
    assert!(!browser.is_signed_in().await);
    assert!(out.body.contains("Sign out at Example"), "{}", out.body);
    let (_, rest) = out
        .body
        .split_once("button primary wide\" href=\"")
        .unwrap();
    let url = rest.split('"').next().unwrap().replace("&#38;", "&");
    let asked = query(&url);
    assert!(
        url.starts_with(&format!("{}/logout?", idp.issuer())),
        "{url}"
    );
    assert_eq!(asked["tenant"], "1");
    assert_eq!(asked["client_id"], "faultline");
    assert_eq!(
        asked["post_logout_redirect_uri"],
        "http://127.0.0.1:7890/sign-in"
    );
    assert!(!asked.contains_key("id_token_hint"));

    // Whoever signed in otherwise is not asked.
    let mut owner = Browser::owner(&bed);
    let out = owner.post("/sign-out", "").await;
    assert_eq!(out.status, StatusCode::SEE_OTHER);
    assert_eq!(out.location(), "/sign-in");
}

#[tokio::test]
async fn a_provider_without_a_usable_sign_out_is_not_offered() {
    for endpoint in [
        None,
        Some("javascript:alert(1)"),
        Some("ftp://example.org/"),
    ] {
        let (idp, bed) = with(everyone).await;
        idp.0.lock().unwrap().end_session = endpoint.map(str::to_owned);
        let mut browser = Browser::new(&bed);
        browser
            .sign_in(&idp, is("1", json!({ "name": "Ann" })))
            .await;
        let out = browser.post("/sign-out", "").await;
        assert_eq!(out.status, StatusCode::SEE_OTHER, "{endpoint:?}");
        assert!(!browser.is_signed_in().await);
    }
}
