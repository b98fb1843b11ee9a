//! What an environment exposes, and the links by which it is shared.

use axum::{Json, extract::State, http::StatusCode};
use faultline_domain::exposure::{Answer, Exposure, Place, Share, Source};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::Body;
use crate::{
    app::{App, Shared},
    auth::{Mine, Row},
    operations::exposures,
    probes::probe,
    problem::Problem,
};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_exposures))
        .routes(routes!(list_shares, create_share))
        .routes(routes!(withdraw_share))
}

/// What an environment exposes.
#[derive(Debug, Serialize, ToSchema)]
struct ExposuresView {
    exposures: Vec<ExposureView>,
    /// The number of ports that are not exposed, because there are too many or their names are invalid.
    left_out: u32,
    /// Why the cluster can't be observed. Then `exposures` has what it exposed last.
    trouble: Option<String>,
}

/// A port that can be reached from outside.
#[derive(Debug, Serialize, ToSchema)]
struct ExposureView {
    /// Its name, unique within the environment.
    name: String,
    /// `lab`, `node-port`, `load-balancer` or `ingress`.
    kind: &'static str,
    /// Where it comes from, for people.
    source: String,
    /// The TCP port of the nodes.
    port: u16,
    /// Its address. Only visitors whom it was opened to get an answer.
    url: Option<String>,
    /// The page that opens it in the browser of a person who is signed in.
    open: String,
    /// The status of the response to `GET /` now; none if there was none.
    status: Option<u16>,
    /// True if something accepts connections now.
    listens: bool,
}

impl ExposureView {
    fn new(app: &App, place: &Place, exposure: &Exposure, answer: Option<Answer>) -> Self {
        let Place { environment, name } = place;
        Self {
            name: name.to_string(),
            kind: match exposure.source {
                Source::Lab => "lab",
                Source::NodePort { .. } => "node-port",
                Source::LoadBalancer { .. } => "load-balancer",
                Source::Ingress { .. } => "ingress",
            },
            source: exposure.source.to_string(),
            port: exposure.port,
            url: app.config.exposure_url(place),
            open: app
                .config
                .url(&format!("/environments/{environment}/exposed/{name}/open")),
            status: match answer {
                Some(Answer::Status(status)) => Some(status),
                _ => None,
            },
            listens: matches!(answer, Some(Answer::Status(_) | Answer::NotHttp)),
        }
    }
}

/// Lists what an environment exposes, and asks what answers there.
#[utoipa::path(get, path = "/api/v1/environments/{id}/exposures", tag = "environments", params(("id" = String, Path)),
    responses((status = 200, body = ExposuresView), (status = 404, body = Problem)))]
async fn list_exposures(
    State(app): State<Shared>,
    mine: Mine,
) -> Result<Json<ExposuresView>, Problem> {
    let e = mine.environment();
    let report = exposures::report(&app, e).await?;
    let Some(report) = report else {
        return Ok(Json(ExposuresView {
            exposures: Vec::new(),
            left_out: 0,
            trouble: None,
        }));
    };
    let answers = probe(&app, e, &report).await;
    let all = report.selection.exposures.iter().map(|exposure| {
        let answer = answers.get(&exposure.name).copied();
        ExposureView::new(&app, &exposure.place(e), exposure, answer)
    });
    Ok(Json(ExposuresView {
        exposures: all.collect(),
        left_out: report.selection.left_out,
        trouble: report.trouble.map(|trouble| trouble.reason),
    }))
}

/// A link by which anybody can open an exposure.
#[derive(Debug, Serialize, ToSchema)]
struct SharedLinkView {
    id: String,
    /// The name of the exposure.
    name: String,
    created_at: String,
    expires_at: String,
    /// The link, only in the response that makes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
}

impl SharedLinkView {
    fn new(share: Share, link: Option<String>) -> Self {
        Self {
            id: share.id,
            name: share.place.name.to_string(),
            created_at: share.created_at.to_string(),
            expires_at: share.expires_at.to_string(),
            link,
        }
    }
}

/// Lists the links by which an environment's exposures are shared, oldest first.
#[utoipa::path(get, path = "/api/v1/environments/{id}/shares", tag = "environments", params(("id" = String, Path)),
    responses((status = 200, body = [SharedLinkView]), (status = 404, body = Problem)))]
async fn list_shares(
    State(app): State<Shared>,
    mine: Mine,
) -> Result<Json<Vec<SharedLinkView>>, Problem> {
    let all = app.store.shares(&mine.environment().id, app.now()).await?;
    let views = all
        .into_iter()
        .map(|share| SharedLinkView::new(share, None));
    Ok(Json(views.collect()))
}

/// What to share.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSharedLink {
    /// The name of the exposure.
    name: String,
    /// The lifetime of the link, 1 to 10080 minutes. Default: 60.
    #[serde(default = "an_hour")]
    minutes: u32,
}

const fn an_hour() -> u32 {
    60
}

/// Makes a link by which anybody can open an exposure until the link expires.
#[utoipa::path(post, path = "/api/v1/environments/{id}/shares", tag = "environments", params(("id" = String, Path)),
    request_body = NewSharedLink,
    responses((status = 201, body = SharedLinkView), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
async fn create_share(
    State(app): State<Shared>,
    mine: Mine,
    Body(new): Body<NewSharedLink>,
) -> Result<(StatusCode, Json<SharedLinkView>), Problem> {
    let name = new.name.parse().map_err(|_| Problem::not_found())?;
    let (share, link) = exposures::share(&app, &mine.proof, &name, new.minutes).await?;
    let view = SharedLinkView::new(share, Some(link));
    Ok((StatusCode::CREATED, Json(view)))
}

/// Withdraws a link. What was opened with it ends.
#[utoipa::path(delete, path = "/api/v1/environments/{id}/shares/{row}", tag = "environments",
    params(("id" = String, Path), ("row" = String, Path)),
    responses((status = 204, description = "it is withdrawn"), (status = 404, body = Problem)))]
async fn withdraw_share(
    State(app): State<Shared>,
    mine: Mine,
    Row(row): Row,
) -> Result<StatusCode, Problem> {
    exposures::withdraw(&app, &mine.proof, &row).await?;
    Ok(StatusCode::NO_CONTENT)
}
