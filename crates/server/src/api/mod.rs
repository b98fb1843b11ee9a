//! `/api/v1`: everything that the pages can do, for programs. Callers authenticate with an API token. Errors are
//! problem JSON.
//!
//! `docs/openapi.json` is generated from these handlers; a test fails if it is out of date.

mod account;
mod environments;
mod exposures;
mod groups;
mod labs;
mod limits;
mod mail;
mod maintenance;
mod operator;
mod people;
mod pools;
mod save_points;
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
        description = "Labs, environments, checks and progress of Faultline, where people repair real broken machines.",
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

/// Adds the problem response to every operation, because any of them may fail, with the content type of problems.
fn with_problems(mut doc: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    const JSON: &str = "application/json";
    const PROBLEM: &str = "application/problem+json";
    let schema = Ref::from_schema_name("Problem");
    let any = ResponseBuilder::new()
        .description("The request failed: not authenticated (401), too many requests (429), or as `code` says")
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

/// Returns the operations of a path.
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
        .merge(exposures::routes())
        .merge(account::routes())
        .merge(people::routes())
        .merge(groups::routes())
        .merge(limits::routes())
        .merge(pools::routes())
        .merge(save_points::routes())
        .merge(mail::routes())
        .merge(operator::routes())
        .merge(maintenance::routes())
}

pub(crate) fn routes() -> axum::Router<Shared> {
    let (routes, _) = documented().split_for_parts();
    // Unknown paths get a problem too.
    routes
        .route("/api/v1/{*rest}", any(async || Problem::not_found()))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
}

/// Returns the API's OpenAPI description, as committed in `docs/openapi.json`.
#[must_use]
pub fn openapi() -> String {
    let (_, doc) = documented().split_for_parts();
    // The types consist of strings, numbers and lists, so serialisation can't fail.
    with_problems(doc).to_pretty_json().unwrap_or_default() + "\n"
}

/// Extractor: a JSON body, or none.
pub(crate) struct MaybeBody<T>(pub Option<T>);

impl<T: DeserializeOwned> FromRequest<Shared> for MaybeBody<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &Shared) -> Result<Self, Problem> {
        use axum::body::HttpBody;
        if request.body().size_hint().exact() == Some(0) {
            return Ok(Self(None));
        }
        let Body(value) = Body::from_request(request, app).await?;
        Ok(Self(Some(value)))
    }
}

/// Extractor: a JSON body. If it is invalid, the response is a problem that says why.
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
