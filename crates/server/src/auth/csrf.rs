//! Protection against cross-site request forgery.
//!
//! Every page request that may change something must come from the same origin according to the browser
//! (`Sec-Fetch-Site`, else `Origin`). With a session, it must also carry a token that only our pages know, in the form
//! field `csrf` or in the header `x-csrf-token`. One layer checks both, so no handler can forget it. In addition, the
//! session cookie is `SameSite=Strict`.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::Response,
};
use faultline_store::Secret;
use http_body_util::{BodyExt, Limited};

use super::Caller;
use crate::problem::Problem;

/// The forms by which people sign in. They use nothing of a session that the browser may already have, and the page can't
/// know its token: the cookie isn't sent when a link from elsewhere is followed. What comes back from the identity
/// provider or from an authenticator has a secret of its own.
pub(crate) const SIGN_IN: [&str; 7] = [
    "/sign-in",
    "/invitation",
    "/join",
    "/sign-in/oidc",
    "/sign-in/oidc/callback",
    "/sign-in/passkey",
    "/sign-in/passkey/begin",
];
/// The maximum size of a form, in bytes.
pub(crate) const MAX_FORM: usize = 64 * 1024;

pub(crate) fn token(session: &Secret) -> String {
    session.derive("csrf")
}

/// The middleware that rejects forged requests.
pub(crate) async fn guard(request: Request, next: Next) -> Result<Response, Problem> {
    if matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    ) {
        return Ok(next.run(request).await);
    }
    if !same_origin(request.headers()) {
        return Err(Problem::forged());
    }
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, MAX_FORM)
        .collect()
        .await
        .map_err(|_| Problem::too_large(MAX_FORM))?
        .to_bytes();
    if let Some(caller) = parts.extensions.get::<Caller>()
        && !SIGN_IN.contains(&parts.uri.path())
    {
        let sent = match parts.headers.get("x-csrf-token") {
            Some(value) => value.to_str().unwrap_or_default().to_owned(),
            None => field(&body).unwrap_or_default(),
        };
        if !equal(sent.as_bytes(), caller.csrf.as_bytes()) {
            return Err(Problem::forged());
        }
    }
    Ok(next.run(Request::from_parts(parts, Body::from(body))).await)
}

/// Returns true if the browser sent the request from one of our pages.
pub(crate) fn same_origin(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return site == "same-origin";
    }
    match (text("origin"), text(header::HOST.as_str())) {
        (Some(origin), Some(host)) => origin
            .split_once("://")
            .is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host)),
        _ => false,
    }
}

fn field(form: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(form).ok()?;
    // The token is hexadecimal, so it needs no decoding.
    text.split('&')
        .find_map(|pair| pair.strip_prefix("csrf="))
        .map(str::to_owned)
}

/// Compares in constant time.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && !b.is_empty() && a.iter().zip(b).fold(0, |d, (a, b)| d | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()))
            .collect()
    }

    #[test]
    fn only_requests_from_our_own_pages_are_same_origin() {
        for (pairs, ours) in [
            (&[("sec-fetch-site", "same-origin")][..], true),
            (
                &[
                    ("sec-fetch-site", "cross-site"),
                    ("origin", "http://h:1"),
                    ("host", "h:1"),
                ],
                false,
            ),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("origin", "http://h:1"), ("host", "h:1")], true),
            (&[("origin", "http://evil:1"), ("host", "h:1")], false),
            (&[("origin", "null"), ("host", "h:1")], false),
            (&[("host", "h:1")], false),
        ] {
            assert_eq!(same_origin(&headers(pairs)), ours, "{pairs:?}");
        }
    }

    #[test]
    fn only_equal_non_empty_tokens_match() {
        assert!(equal(b"abc", b"abc"));
        assert!(!equal(b"abc", b"abd") && !equal(b"ab", b"abc") && !equal(b"", b""));
        assert_eq!(field(b"a=1&csrf=77&b=2").as_deref(), Some("77"));
    }
}
