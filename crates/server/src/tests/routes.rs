//! Tests of every route without credentials, with invalid ones, and with somebody else's.

use faultline_domain::authz::Role;

use super::*;
use crate::config::Rates;

/// Returns the routes of pages. Read from the source, so that no new route can be forgotten.
fn pages() -> Vec<(Method, String)> {
    let mut found = Vec::new();
    let sources = [include_str!("../web/mod.rs"), include_str!("../router.rs")];
    for part in sources.iter().flat_map(|s| s.split(".route(").skip(1)) {
        let path = part.split('"').nth(1).unwrap().to_owned();
        // A long route has its path and its handlers on separate lines.
        let handlers: String = part.lines().take(3).collect();
        if handlers.contains("get(") {
            found.push((Method::GET, path.clone()));
        }
        if handlers.contains("post(") {
            found.push((Method::POST, path));
        }
    }
    found
}

/// Returns the routes of the API. Read from the OpenAPI document.
fn api() -> Vec<(Method, String)> {
    let doc: serde_json::Value = serde_json::from_str(&crate::openapi()).unwrap();
    let mut found = Vec::new();
    for (path, operations) in doc["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let method = method.to_uppercase().parse().unwrap();
            found.push((method, path.clone()));
        }
    }
    found
}

/// Returns all routes.
pub(super) fn all() -> Vec<(Method, String)> {
    pages().into_iter().chain(api()).collect()
}

/// Returns the routes with an environment's ID.
pub(super) fn with_environments() -> Vec<(Method, String)> {
    let all = pages().into_iter().chain(api());
    all.filter(|(_, path)| path.contains("{id}")).collect()
}

/// The routes that intentionally need no credentials.
const OPEN: [&str; 12] = [
    "/assets/{name}",
    "/healthz",
    "/readyz",
    "/metrics",
    "/sign-in",
    "/sign-in/oidc",
    "/sign-in/oidc/callback",
    "/sign-in/passkey",
    "/sign-in/passkey/begin",
    "/invitation",
    "/join",
    "/theme",
];

pub(super) fn filled(path: &str, id: &str) -> String {
    path.replace("{id}", id)
        .replace("{slug}", "stale-flag")
        .replace("{number}", "1")
        .replace("{node}", "node1")
        .replace("{n}", "1")
        .replace("{row}", "x")
        .replace("{save}", "x")
        .replace("{person}", "local")
        .replace("{group}", "x")
        .replace("{name}", "x")
}

#[tokio::test]
async fn without_credentials_every_route_returns_unauthorized() {
    let mut bed = bed_with(Config {
        rates: Rates::unlimited(),
        ..Config::default()
    })
    .await;
    let id = bed.active("stale-flag").await.to_string();
    let (pages, api) = (pages(), api());
    assert!(pages.len() > 20 && api.len() > 20, "{pages:?} {api:?}");
    for (method, path) in pages.iter().chain(&api) {
        if OPEN.contains(&path.as_str()) {
            continue;
        }
        for id in [id.as_str(), "unknown", "NOT%20AN%20ID"] {
            let request = Request::builder()
                .method(method)
                .uri(filled(path, id))
                .header("sec-fetch-site", "same-origin");
            let answer = bed.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!(
                answer.status,
                StatusCode::UNAUTHORIZED,
                "{method} {path} {id}"
            );
        }
    }
}

#[tokio::test]
async fn forged_forms_are_refused() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await.to_string();
    for (method, path) in pages() {
        if method != Method::POST || crate::auth::csrf::SIGN_IN.contains(&path.as_str()) {
            continue;
        }
        let uri = filled(&path, &id);
        let token = format!("csrf={}", bed.csrf);
        for (site, body) in [("cross-site", token.as_str()), ("same-origin", "csrf=00")] {
            let request = Request::post(&uri)
                .header(header::COOKIE, &bed.cookie)
                .header("sec-fetch-site", site)
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
            let answer = bed.send(request.body(Body::from(body.to_owned())).unwrap());
            let status = answer.await.status;
            assert_eq!(status, StatusCode::FORBIDDEN, "{path} from {site}");
        }
    }
    let e = bed.app.store.environment(&id.parse().unwrap()).await;
    assert!(e.unwrap().unwrap().is_open(), "nothing was changed");
}

#[tokio::test]
async fn somebody_elses_environment_looks_like_a_nonexistent_one() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await.to_string();
    bed.become_another("mallory").await;
    for (method, path) in pages() {
        let for_operators = ["/operator", "/people", "/invitations"];
        if !path.contains("{id}") && !for_operators.iter().any(|p| path.starts_with(p)) {
            continue;
        }
        let mut bodies = Vec::new();
        for id in [id.as_str(), "unknown"] {
            let uri = filled(&path, id);
            let answer = match method {
                Method::GET => bed.get(&uri).await,
                _ => bed.post(&uri, "").await,
            };
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {uri}");
            bodies.push(answer.body.replace(id, "ID"));
        }
        assert!(bodies.windows(2).all(|w| w[0] == w[1]), "{path}");
    }
    for (method, path) in api() {
        let for_operators = ["/operator/", "/people", "/invitations"];
        if path.contains("{id}") || for_operators.iter().any(|p| path.contains(p)) {
            let uri = filled(&path, &id).replace("/api/v1", "");
            let answer = bed.api(method, &uri, None).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{uri}");
            assert_eq!(answer.json()["code"], "not-found");
        }
    }
}

/// Of all routes to a member's environment, instructors of their group have those of a look and of copies, and operators also those
/// that end it and change its nodes. Nobody else has any.
#[tokio::test]
async fn by_role_only_some_routes_lead_to_somebody_elses_environment() {
    let (mut bed, ..) = super::groups::school().await;
    let own = (bed.cookie.clone(), bed.csrf.clone(), bed.token.clone());
    bed.become_another("stu").await;
    let id = bed.active("stale-flag").await.to_string();
    let role = async |bed: &Bed, person: &str, role: Role| {
        let change = faultline_store::people::PersonChange::Role(role);
        let (me, now) = (faultline_domain::PersonId::local(), bed.app.now());
        let person = person.parse().unwrap();
        let changed = bed.app.store.change_person(&me, &person, change, now);
        changed.await.unwrap();
    };
    let look = ["/look", "/look/type", "/look/socket", "/copies"];
    let manage = ["/end", "/nodes", "/remove/{node}"];
    for (person, as_role, opens) in [
        ("mallory", Some(Role::Student), &[][..]),
        ("mallory", Some(Role::Author), &[]),
        ("mallory", Some(Role::Instructor), &[]),
        // A former instructor who is still a member that instructs.
        ("ida", Some(Role::Student), &[]),
        ("ida", Some(Role::Instructor), &look),
        ("local", None, &[&look[..], &manage].concat()),
    ] {
        match as_role {
            Some(as_role) => {
                bed.become_another(person).await;
                role(&bed, person, as_role).await;
            }
            None => (bed.cookie, bed.csrf, bed.token) = own.clone(),
        }
        for (method, path) in pages() {
            let Some(rest) = path.strip_prefix("/environments/{id}") else {
                continue;
            };
            // It would end what the next ones need.
            if opens.contains(&rest) && rest == "/end" {
                continue;
            }
            let uri = filled(&path, &id);
            let status = match method {
                Method::GET => bed.get(&uri).await.status,
                _ => bed.post(&uri, "").await.status,
            };
            let found = status != StatusCode::NOT_FOUND;
            assert_eq!(
                found,
                opens.contains(&rest),
                "{person} {as_role:?} {uri}: {status}"
            );
        }
    }
}

#[test]
fn every_api_route_is_documented() {
    let undescribed: Vec<_> = pages()
        .into_iter()
        .filter(|(_, path)| path.starts_with("/api"))
        .collect();
    assert_eq!(undescribed, [], "add a utoipa entry");
}

#[tokio::test]
async fn responses_have_security_headers() {
    let bed = bed().await;
    for path in ["/", "/nowhere", "/healthz", "/sign-in", "/api/v1/labs"] {
        let answer = bed.get(path).await;
        let policy = answer.headers[header::CONTENT_SECURITY_POLICY]
            .to_str()
            .unwrap();
        assert!(policy.contains("script-src 'self';"), "{path}");
        assert!(!policy.contains("unsafe"), "{path}");
        for name in [
            "x-content-type-options",
            "x-frame-options",
            "referrer-policy",
        ] {
            assert!(answer.headers.contains_key(name), "{path} {name}");
        }
    }
}

/// Returns inline scripts and styles of a page, which the content security policy would block.
fn inline(page: &str) -> Vec<&str> {
    let start = |at: usize| page[at..].get(..60).unwrap_or(&page[at..]);
    let mut found: Vec<_> = [" style=", "<style", "javascript:"]
        .iter()
        .flat_map(|bad| page.match_indices(bad))
        .map(|(at, _)| start(at))
        .collect();
    found.extend(
        page.match_indices(" on")
            .map(|(at, _)| start(at))
            .filter(|text| {
                let name = text[3..].trim_start_matches(|c: char| c.is_ascii_lowercase());
                name.starts_with("=")
            }),
    );
    found.extend(
        page.match_indices("<script")
            .map(|(at, _)| start(at))
            .filter(|text| !text.starts_with("<script src=\"/assets/")),
    );
    let filled = page.match_indices("<script").filter(|(at, _)| {
        let rest = &page[*at..];
        !rest[rest.find('>').unwrap_or(0)..].starts_with("></script>")
    });
    found.extend(filled.map(|(at, _)| start(at)));
    found
}

#[test]
fn inline_scripts_and_styles_are_found() {
    for bad in [
        "<p style=\"color:red\">",
        "<style>p{}</style>",
        "<a href=\"javascript:alert(1)\">",
        "<b onclick=\"x()\">",
        "<script>x()</script>",
        "<script src=\"https://elsewhere.example/x.js\"></script>",
        "<script src=\"/assets/x.js\">x()</script>",
    ] {
        assert!(!inline(bad).is_empty(), "{bad}");
    }
    let good = "<p>It is on = off</p><script src=\"/assets/app.js\" defer></script>";
    assert_eq!(inline(good), [""; 0]);
}

#[tokio::test]
async fn no_page_has_inline_code_and_only_pages_with_terminals_may_create_styles() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await.to_string();
    let workspace = format!("/environments/{id}");
    let look = format!("{workspace}/look");
    let mut seen = Vec::new();
    for (method, path) in pages() {
        if method != Method::GET {
            continue;
        }
        let uri = filled(&path, &id);
        let answer = bed.get(&uri).await;
        let kind = answer.headers.get(header::CONTENT_TYPE);
        if !kind.is_some_and(|kind| kind.to_str().unwrap().starts_with("text/html")) {
            continue;
        }
        assert_eq!(inline(&answer.body), [""; 0], "{uri}");
        let policy = answer.headers[header::CONTENT_SECURITY_POLICY]
            .to_str()
            .unwrap();
        assert!(policy.contains("script-src 'self';"), "{uri}: {policy}");
        assert!(!policy.contains("unsafe"), "{uri}: {policy}");
        let own = policy.contains("style-src 'self';");
        let terminals = uri == workspace || uri == look;
        assert_eq!(own, !terminals, "{uri}: {policy}");
        seen.push(uri);
    }
    for page in ["/", "/labs/stale-flag", &workspace, &look, "/keys"] {
        assert!(seen.iter().any(|uri| uri == page), "{page} of {seen:?}");
    }
}

#[tokio::test]
async fn each_response_of_the_workspace_has_a_new_nonce_for_styles() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let mut nonces = Vec::new();
    for _ in 0..2 {
        let answer = bed.get(&format!("/environments/{id}")).await;
        let policy = answer.headers[header::CONTENT_SECURITY_POLICY]
            .to_str()
            .unwrap();
        let nonce = policy.split("'nonce-").nth(1).unwrap();
        let nonce = nonce.split('\'').next().unwrap().to_owned();
        let allowed = format!("style-src 'self' 'nonce-{nonce}';");
        assert!(policy.contains(&allowed), "{policy}");
        assert_eq!(policy.matches("nonce-").count(), 1, "only for styles");
        assert!(nonce.len() >= 22 && answer.body.contains(&format!("nonce=\"{nonce}\"")));
        nonces.push(nonce);
    }
    assert_ne!(nonces[0], nonces[1]);
}

#[tokio::test]
async fn oversized_and_malformed_requests_are_refused() {
    let bed = bed().await;
    let large = "x".repeat(70 * 1024);
    let answer = bed.post("/keys", &format!("public_key={large}")).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    let json = format!("{{\"public_key\":\"{large}\"}}");
    let answer = bed.api(Method::POST, "/keys", Some(&json)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    for bad in ["", "{", "[]", "{\"public_key\":7}", "null"] {
        let answer = bed.api(Method::POST, "/keys", Some(bad)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{bad}");
        assert_eq!(answer.json()["code"], "bad-request");
    }
    for path in [
        "/labs/..%2f..%2fetc",
        "/labs/A",
        "/environments/%00",
        "/%ff",
    ] {
        let answer = bed.get(path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
    }
    for token in ["", "x", "Bearer", "flt_zz", &"f".repeat(9000)] {
        let request =
            Request::get("/api/v1/me").header(header::AUTHORIZATION, format!("Bearer {token}"));
        let answer = bed.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
    let answer = bed.api(Method::PATCH, "/me", None).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
}
