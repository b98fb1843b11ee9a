//! What an environment exposes, on the workspace and on the page of a look: the list, opening, and links to share.

use askama::Template;
use axum::{
    Form,
    extract::{FromRequestParts, Query, State},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Redirect, Response},
};
use faultline_domain::{
    EnvironmentId, ExposureName,
    environment::{Environment, State as Life},
    exposure::Answer,
};
use serde::Deserialize;

use super::{
    layout::{Frame, Layout},
    page, text,
};
use crate::{
    app::{App, Shared},
    auth::{Mine, Row, Visiting, param},
    operations::exposures,
    problem::Problem,
};

/// The lifetimes of links that can be chosen, in minutes. The first is the default.
const LIFETIMES: [(u32, &str); 4] = [
    (60, "for 1 hour"),
    (8 * 60, "for 8 hours"),
    (24 * 60, "for 1 day"),
    (7 * 24 * 60, "for 7 days"),
];

struct ExposureRow {
    name: String,
    url: String,
    source: String,
    /// What answers now, and whether that is good; none if it isn't known.
    answer: Option<(String, bool)>,
}

/// The list of what an environment exposes.
#[derive(Template)]
#[template(path = "part-exposed.html")]
pub(super) struct Exposed {
    id: String,
    cluster: bool,
    /// True for the owner, who may share.
    shares: bool,
    rows: Vec<ExposureRow>,
    left_out: u32,
    /// Why the cluster can't be observed.
    trouble: Option<String>,
}

/// Returns what a running environment exposes; none if nothing can be: it doesn't run, the server
/// exposes nothing, or it has no cluster and its lab declares nothing.
pub(super) async fn exposed(
    app: &App,
    e: &Environment,
    shares: bool,
) -> Result<Option<Exposed>, Problem> {
    let runs = e.is_open() && matches!(e.state, Life::Active { .. });
    let Some(tenant) = e.tenant_id().filter(|_| runs) else {
        return Ok(None);
    };
    if app.config.exposure_domain().is_none() {
        return Ok(None);
    }
    let cluster = e.spec.is_cluster();
    let lab = app.lab_of(e).await;
    if !cluster && lab.is_none_or(|lab| lab.lab.exposes.is_empty()) {
        return Ok(None);
    }
    let report = exposures::report(app, e).await?;
    let answers = app.probes.want(tenant);
    let (selection, trouble) = report.map_or_else(Default::default, |report| {
        (report.selection, report.trouble)
    });
    let rows = selection.exposures.into_iter().filter_map(|exposure| {
        Some(ExposureRow {
            url: app.config.exposure_url(&exposure.place(e))?,
            source: format!("{}, port {}", exposure.source, exposure.port),
            answer: answers.get(&exposure.name).map(|answer| said(*answer)),
            name: exposure.name.to_string(),
        })
    });
    Ok(Some(Exposed {
        id: e.id.to_string(),
        cluster,
        shares,
        rows: rows.collect(),
        left_out: selection.left_out,
        trouble: trouble.map(|trouble| trouble.reason),
    }))
}

/// Renders the list; empty if there is none.
pub(super) async fn render(app: &App, e: &Environment, shares: bool) -> Result<String, Problem> {
    match exposed(app, e, shares).await? {
        Some(exposed) => Ok(exposed.render()?),
        None => Ok(String::new()),
    }
}

/// Returns what answers, in words, and whether that is good.
fn said(answer: Answer) -> (String, bool) {
    match answer {
        Answer::Status(status) => {
            let name = StatusCode::from_u16(status).ok();
            let name = name.and_then(|name| name.canonical_reason());
            let line = name.map_or_else(|| status.to_string(), |name| format!("{status} {name}"));
            (line, status < 400)
        }
        Answer::NotHttp => ("no HTTP".to_owned(), false),
        Answer::Nothing => ("nothing listens".to_owned(), false),
    }
}

/// Extractor: the name `{name}` of an exposure in the path.
pub(super) struct Name(ExposureName);

impl FromRequestParts<Shared> for Name {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        param(parts, "name").await.map(Self)
    }
}

/// Redirects to the exposure, with a code that its origin exchanges for a cookie.
pub(super) async fn open(
    State(app): State<Shared>,
    visiting: Visiting,
    Name(name): Name,
) -> Result<Response, Problem> {
    let session = visiting.caller.session().ok_or_else(Problem::signed_out)?;
    let url = exposures::open(&app, session, &visiting.proof, &name).await?;
    let mut response = Redirect::to(&url).into_response();
    // Not even the path of the workspace is the student's pages' business.
    let policy = HeaderValue::from_static("no-referrer");
    response
        .headers_mut()
        .insert(header::REFERRER_POLICY, policy);
    Ok(response)
}

struct ShareRow {
    id: String,
    name: String,
    expires: String,
}

#[derive(Template)]
#[template(path = "shares.html")]
struct Shares {
    layout: Layout,
    id: String,
    title: String,
    names: Vec<String>,
    /// The name that is chosen in the form.
    chosen: String,
    lifetimes: [(u32, &'static str); 4],
    rows: Vec<ShareRow>,
    /// A link that was just made, and what it opens.
    made: Option<(String, String)>,
    problem: Option<Problem>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Chosen {
    #[serde(default)]
    name: String,
}

async fn shares_page(
    app: &App,
    mine: &Mine,
    frame: &Frame,
    chosen: String,
    made: Option<(String, String)>,
    problem: Option<Problem>,
) -> Result<Response, Problem> {
    let (e, now) = (mine.environment(), app.now());
    let report = exposures::report(app, e).await?;
    let all = report.map_or_else(Vec::new, |report| report.selection.exposures);
    let rows = app.store.shares(&e.id, now).await?.into_iter();
    page(&Shares {
        layout: frame.layout("Shared links", &mine.caller),
        id: e.id.to_string(),
        title: app.title_of(e).await,
        names: all.into_iter().map(|e| e.name.to_string()).collect(),
        chosen,
        lifetimes: LIFETIMES,
        rows: rows
            .map(|share| ShareRow {
                id: share.id,
                name: share.place.name.to_string(),
                expires: text::left(share.expires_at.duration_since(now).as_secs()),
            })
            .collect(),
        made,
        problem,
    })
}

pub(super) async fn shares(
    State(app): State<Shared>,
    mine: Mine,
    frame: Frame,
    Query(chosen): Query<Chosen>,
) -> Result<Response, Problem> {
    shares_page(&app, &mine, &frame, chosen.name, None, None).await
}

#[derive(Debug, Deserialize)]
pub(super) struct NewShare {
    #[serde(default)]
    name: String,
    #[serde(default)]
    minutes: u32,
}

pub(super) async fn share(
    State(app): State<Shared>,
    mine: Mine,
    frame: Frame,
    Form(new): Form<NewShare>,
) -> Result<Response, Problem> {
    let name = new.name.parse().map_err(|_| Problem::not_found())?;
    match exposures::share(&app, &mine.proof, &name, new.minutes).await {
        Ok((_, link)) => {
            let made = Some((new.name.clone(), link));
            shares_page(&app, &mine, &frame, new.name, made, None).await
        }
        Err(problem) if problem.status == 409 => {
            let status = problem.status_code();
            let html = shares_page(&app, &mine, &frame, new.name, None, Some(problem)).await?;
            Ok((status, html).into_response())
        }
        Err(problem) => Err(problem),
    }
}

fn page_of(environment: &EnvironmentId) -> String {
    format!("/environments/{environment}/shares")
}

pub(super) async fn withdraw(
    State(app): State<Shared>,
    mine: Mine,
    Row(row): Row,
) -> Result<Response, Problem> {
    exposures::withdraw(&app, &mine.proof, &row).await?;
    Ok(Redirect::to(&page_of(&mine.environment().id)).into_response())
}
