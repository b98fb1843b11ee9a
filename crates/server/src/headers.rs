//! Security headers for every response, and metrics for every request.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::Response,
};

use crate::{app::Shared, metrics::RequestLabels};

/// Scripts, styles, fonts and connections from this origin only; nothing inline, no frames, no plugins. A page that
/// needs a nonce for styles (the terminal creates its style sheets itself) sets its own policy.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Returns the same policy, but also allows styles with this nonce.
pub(crate) fn policy_with_styles(nonce: &str) -> Option<HeaderValue> {
    let policy = POLICY.replace(
        "style-src 'self'",
        &format!("style-src 'self' 'nonce-{nonce}'"),
    );
    HeaderValue::from_str(&policy).ok()
}

pub(crate) async fn secure(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| {
        headers
            .entry(name)
            .or_insert_with(|| HeaderValue::from_static(value));
    };
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::X_FRAME_OPTIONS, "DENY");
    // Not `no-referrer`: with it, browsers hide the origin of forms, which the CSRF guard needs.
    set(header::REFERRER_POLICY, "same-origin");
    set(
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    );
    set(
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    );
    set(
        HeaderName::from_static("permissions-policy"),
        "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    );
    // Pages and API responses are personal. Handlers whose response may be cached set the header themselves.
    set(header::CACHE_CONTROL, "no-store");
    response
}

/// Returns the name of a method. Unknown ones share a name, because each name is a time series that stays in memory.
fn known(method: &Method) -> &'static str {
    let all = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
    let found = all.into_iter().find(|name| *name == method.as_str());
    found.unwrap_or("other")
}

pub(crate) async fn count(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = known(request.method());
    // The route, not the path, which would create a time series for each ID.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none", MatchedPath::as_str)
        .to_owned();
    let response = next.run(request).await;
    let labels = RequestLabels {
        method,
        route,
        status: response.status().as_u16(),
    };
    app.metrics.requests.get_or_create(&labels).inc();
    app.metrics
        .request_seconds
        .observe(began.elapsed().as_secs_f64());
    response
}
