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
    openapi::{
        Content, PathItem, Ref, RefOr, ResponseBuilder,
        path::Operation,
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
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
    components(schemas(Problem)),
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

/// Says of every operation how it refuses: any of them may answer with a problem, of its own content type.
fn with_problems(mut doc: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    const JSON: &str = "application/json";
    const PROBLEM: &str = "application/problem+json";
    let schema = Ref::from_schema_name("Problem");
    let any = ResponseBuilder::new()
        .description("It was not done: who asks is not known (401), asks too much at once (429), or as `code` says")
        .content(PROBLEM, Content::new(Some(schema.clone())))
        .build();
    for operation in doc.paths.paths.values_mut().flat_map(operations) {
        for response in operation.responses.responses.values_mut() {
            let RefOr::T(response) = response else {
                continue;
            };
            let json = response.content.get(JSON);
            let is_problem =
                matches!(json, Some(RefOr::T(c)) if c.schema == Some(schema.clone().into()));
            if is_problem && let Some(content) = response.content.shift_remove(JSON) {
                response.content.insert(PROBLEM.to_owned(), content);
            }
        }
        let all = &mut operation.responses.responses;
        all.insert("default".to_owned(), any.clone().into());
    }
    doc
}

/// The operations of a path.
fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem {
        get,
        put,
        post,
        delete,
        patch,
        ..
    } = path;
    [get, put, post, delete, patch].into_iter().flatten()
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
    with_problems(doc).to_pretty_json().unwrap_or_default() + "\n"
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
