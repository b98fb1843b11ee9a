//! `/api/v1`: everything that the pages do, for programs. Callers show an API token; errors are problem JSON.
//!
//! `docs/openapi.json` is generated from these handlers; a test fails when it is not what they say.

mod account;
mod environments;
mod labs;
mod operator;
pub(crate) mod views;

use axum::{
    Json,
    extract::{FromRequest, Request, rejection::JsonRejection},
    routing::any,
};
use serde::de::DeserializeOwned;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::router::OpenApiRouter;

use crate::{app::Shared, problem::Problem};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Faultline",
        description = "Repair real broken machines: labs, environments, checks, progress.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    modifiers(&Bearer),
    security(("token" = []))
)]
struct Doc;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, doc: &mut utoipa::openapi::OpenApi) {
        doc.components.get_or_insert_default().add_security_scheme(
            "token",
            SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)),
        );
    }
}

fn documented() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Doc::openapi())
        .merge(labs::routes())
        .merge(environments::routes())
        .merge(account::routes())
        .merge(operator::routes())
}

pub(crate) fn routes() -> axum::Router<Shared> {
    let (routes, _) = documented().split_for_parts();
    // What is not there is said as everything else is.
    routes
        .route("/api/v1/{*rest}", any(async || Problem::not_found()))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
}

/// The API's description, as it is committed in `docs/openapi.json`.
#[must_use]
pub fn openapi() -> String {
    let (_, doc) = documented().split_for_parts();
    // Types that are all strings, numbers and lists become JSON always.
    doc.to_pretty_json().unwrap_or_default() + "\n"
}

/// A JSON body, or a problem that says what is wrong with it.
pub(crate) struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Shared> for Body<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &Shared) -> Result<Self, Problem> {
        match Json::<T>::from_request(request, app).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(JsonRejection::BytesRejection(_)) => Err(Problem::too_large(64 * 1024)),
            Err(e) => Err(Problem::bad_request(e.body_text())),
        }
    }
}
