//! All routes and their layers.

use std::time::Duration;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use tower_http::{
    catch_panic::CatchPanicLayer, compression::CompressionLayer, timeout::TimeoutLayer,
};

use crate::{
    api, app::Shared, assets, auth, exposures::Entry, headers, problem::Problem, terminal, web,
};

/// Timeout of a request. Streams are exempt once they have begun.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The maximum size of a request body, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// Returns the routes of the platform. Requests for what tenants expose never reach them.
pub(crate) fn router(app: Shared) -> Router {
    let entry = Entry::new(&app);
    let platform = platform(app);
    let Some(entry) = entry else {
        return platform;
    };
    Router::new().fallback(move |request: Request| entry.answer(platform, request))
}

fn platform(app: Shared) -> Router {
    let pages = web::routes()
        .route("/environments/{id}/socket", get(terminal::of_page))
        .route("/environments/{id}/look/socket", get(terminal::of_look))
        .layer(middleware::from_fn(auth::csrf::guard))
        .layer(middleware::from_fn_with_state(
            app.clone(),
            auth::by_session,
        ))
        .layer(middleware::from_fn_with_state(app.clone(), web::problems));
    let api = api::routes().layer(middleware::from_fn_with_state(app.clone(), auth::by_token));
    let open = Router::new()
        .route("/assets/{name}", get(assets::serve))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics));
    Router::new()
        .merge(pages)
        .merge(api)
        .merge(open)
        .layer(CompressionLayer::new().gzip(true))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            REQUEST_TIMEOUT,
        ))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(headers::secure))
        .route_layer(middleware::from_fn_with_state(app.clone(), headers::count))
        .with_state(app)
}

fn panicked(_: Box<dyn std::any::Any + Send + 'static>) -> Response {
    // The panic hook has already logged it.
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

/// Reports ready if the store responds and the server isn't stopping.
async fn ready(State(app): State<Shared>) -> Result<&'static str, Problem> {
    if app.stopping.is_cancelled() {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "stopping",
            "The server is stopping",
            "Try again in a moment.",
        ));
    }
    app.store.ping().await?;
    Ok("ready\n")
}

async fn metrics(State(app): State<Shared>) -> impl IntoResponse {
    let kind =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], app.metrics.text())
}
