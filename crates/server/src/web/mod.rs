//! The pages. A handler parses the request, calls an operation, and renders. Without JavaScript, everything but the
//! terminal works, with forms.
//!
//! | module | page |
//! |---|---|
//! | [`catalogue`] | `/` |
//! | [`lab`] | `/labs/{slug}` |
//! | [`authoring`] | `/labs/{slug}/author` |
//! | [`files`] | `/labs/{slug}/files/{name}`, and the same below an environment |
//! | [`workspace`] | `/environments/{id}`, with live updates ([`live`]) and the progress of its start ([`starting`]) |
//! | [`look`] | `/environments/{id}/look` |
//! | [`exposures`] | what an environment exposes, and `/environments/{id}/shares` |
//! | [`actions`] | the forms of the workspace |
//! | [`progress`] | `/progress` |
//! | [`keys`] | `/keys` |
//! | [`account`] | `/account` |
//! | [`people`] | `/people` |
//! | [`limits`] | `/people/{person}/limits` |
//! | [`groups`] | `/groups` |
//! | [`pools`] | `/operator/pools` |
//! | [`operator`] | `/operator`, with the forms of [`maintenance`], the state of [`mail`] and the charts of [`history`] |
//! | [`invitation`] | `/invitation` |
//! | [`join`] | `/join` |
//! | [`sign_in`] | `/sign-in`, `/sign-out`, `/theme` |
//! | [`passkeys`] | `/sign-in/passkey`, `/account/passkeys` |
//! | [`oidc`] | `/sign-in/oidc`, `/account/oidc` |

mod account;
mod actions;
mod authoring;
mod catalogue;
mod chart;
mod exposures;
mod files;
mod groups;
mod history;
mod invitation;
mod join;
mod keys;
mod lab;
mod layout;
mod limits;
pub(crate) mod live;
mod look;
mod mail;
mod maintenance;
mod oidc;
mod operator;
mod parts;
mod passkeys;
mod people;
mod pools;
mod progress;
mod saves;
mod search;
mod sign_in;
mod starting;
pub(crate) mod text;
mod workspace;

use askama::Template;
use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};

use faultline_domain::PersonId;

use self::layout::{Layout, Theme, banner};
use crate::{app::Shared, problem::Problem};

pub(crate) fn routes() -> Router<Shared> {
    Router::new()
        .route("/", get(catalogue::show))
        .route("/labs/{slug}", get(lab::show))
        .route("/labs/{slug}/author", get(authoring::show))
        .route("/labs/{slug}/solution/{name}", get(authoring::file))
        .route("/labs/{slug}/start", post(lab::start))
        .route("/labs/{slug}/files/{name}", get(files::of_lab))
        .route("/environments/{id}", get(workspace::show))
        .route("/environments/{id}/side", get(workspace::side))
        .route("/environments/{id}/look", get(look::show))
        .route("/environments/{id}/look/type", post(look::set_typing))
        .route(
            "/environments/{id}/copies",
            get(saves::show_copies).post(saves::copy),
        )
        .route("/environments/{id}/kubeconfig", get(actions::kubeconfig))
        .route(
            "/environments/{id}/files/{name}",
            get(files::of_environment),
        )
        .route(
            "/environments/{id}/solution/{name}",
            get(files::of_solution),
        )
        .route("/environments/{id}/check", post(actions::check))
        .route("/environments/{id}/hints/{number}", post(actions::hint))
        .route("/environments/{id}/extend", post(actions::extend))
        .route("/environments/{id}/suspend", post(actions::suspend))
        .route("/environments/{id}/resume", post(actions::resume))
        .route("/environments/{id}/nodes", post(actions::add_node))
        .route(
            "/environments/{id}/remove/{node}",
            post(actions::remove_node),
        )
        .route("/environments/{id}/save", post(saves::make))
        .route("/environments/{id}/saves", get(saves::show))
        .route(
            "/environments/{id}/saves/{save}/restore",
            post(saves::go_back),
        )
        .route("/save-points/{save}/fork", post(saves::fork))
        .route("/save-points/{save}/delete", post(saves::delete))
        .route(
            "/environments/{id}/exposed/{name}/open",
            get(exposures::open),
        )
        .route(
            "/environments/{id}/shares",
            get(exposures::shares).post(exposures::share),
        )
        .route(
            "/environments/{id}/shares/{row}/withdraw",
            post(exposures::withdraw),
        )
        .route("/environments/{id}/reset", post(actions::reset))
        .route("/environments/{id}/end", post(actions::end))
        .route("/environments/{id}/give-up", post(actions::give_up))
        .route("/progress", get(progress::show))
        .route("/keys", get(keys::show).post(keys::add))
        .route("/keys/{row}/remove", post(keys::remove))
        .route("/tokens", post(keys::add_token))
        .route("/tokens/{row}/remove", post(keys::remove_token))
        .route("/account", get(account::show))
        .route("/account/password", post(account::set_password))
        .route("/account/sign-out-others", post(account::sign_out_others))
        .route("/account/sessions/{row}/end", post(account::end_session))
        .route("/account/oidc", post(oidc::link))
        .route("/account/oidc/{row}/unlink", post(oidc::unlink))
        .route("/account/passkeys", post(passkeys::finish_registration))
        .route(
            "/account/passkeys/begin",
            post(passkeys::begin_registration),
        )
        .route("/account/passkeys/{row}/remove", post(passkeys::remove))
        .route("/account/mail", post(account::enter_address))
        .route("/account/mail/confirm", post(account::confirm_address))
        .route("/account/mail/remove", post(account::remove_address))
        .route("/account/mail/notices", post(account::set_notices))
        .route("/account/data", get(account::data))
        .route("/people", get(people::show))
        .route("/people/{person}/delete", post(people::delete))
        .route(
            "/people/{person}/limits",
            get(limits::show).post(limits::set),
        )
        .route("/people/invite", post(people::invite))
        .route("/people/{person}/change", post(people::change))
        .route(
            "/people/{person}/reset-password",
            post(people::reset_password),
        )
        .route("/invitations/{row}/withdraw", post(people::withdraw))
        .route("/groups", get(groups::list).post(groups::create))
        .route("/groups/{group}", get(groups::show))
        .route("/groups/{group}/invite", post(groups::invite))
        .route("/groups/{group}/limits", post(groups::set_limits))
        .route("/groups/{group}/withdraw/{row}", post(groups::withdraw))
        .route("/groups/{group}/add", post(groups::add))
        .route("/groups/{group}/remove/{person}", post(groups::remove))
        .route("/groups/{group}/delete", post(groups::delete))
        .route("/operator", get(operator::show))
        .route("/operator/maintenance", post(maintenance::begin))
        .route("/operator/maintenance/end", post(maintenance::end))
        .route("/operator/mail/test", post(mail::test))
        .route("/operator/pools", get(pools::show))
        .route("/operator/pools/bounds", post(pools::set_bounds))
        .route("/operator/events", post(pools::announce))
        .route("/operator/events/{row}/cancel", post(pools::cancel))
        .route(
            "/invitation",
            get(invitation::show).post(invitation::accept),
        )
        .route("/join", get(join::show).post(join::enter))
        .route("/sign-in", get(sign_in::show).post(sign_in::confirm))
        .route("/sign-in/passkey", post(passkeys::finish_sign_in))
        .route("/sign-in/passkey/begin", post(passkeys::begin_sign_in))
        .route("/sign-in/oidc", post(oidc::begin))
        .route(
            "/sign-in/oidc/callback",
            get(oidc::callback).post(oidc::finish),
        )
        .route("/sign-out", post(sign_in::out))
        .route("/theme", post(sign_in::theme))
        .fallback(async || Problem::not_found())
}

/// Redirects after a form. If the form is at fault, renders its page again with the problem.
async fn after_form<T>(
    done: Result<T, Problem>,
    to: &str,
    render: impl AsyncFnOnce(Problem) -> Result<Response, Problem>,
) -> Result<Response, Problem> {
    match done {
        Ok(_) => Ok(Redirect::to(to).into_response()),
        Err(problem) if problem.status >= 500 || problem.status == 404 => Err(problem),
        Err(problem) => {
            let status = problem.status_code();
            let html = render(problem).await?;
            Ok((status, html).into_response())
        }
    }
}

/// Answers a form whose effect the page shows by itself: without content if a script has sent it, else with a redirect.
fn after_quiet_form(frame: &layout::Frame, to: &str) -> Response {
    if frame.partial {
        return StatusCode::NO_CONTENT.into_response();
    }
    Redirect::to(to).into_response()
}

/// Renders a template as a page.
fn page(template: &impl Template) -> Result<Response, Problem> {
    Ok(Html(template.render()?).into_response())
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    layout: Layout,
    problem: &'a Problem,
    signed_out: bool,
    retry: bool,
    /// If there is no room or a limit is reached: the environments that the person could end, with the titles of their labs.
    open: Vec<(String, String)>,
}

/// Returns a person's open environments, with the titles of their labs.
async fn could_end(app: &Shared, person: &PersonId) -> Vec<(String, String)> {
    let all = app.store.unfinished_of(person).await.unwrap_or_default();
    let mut open = Vec::new();
    for e in all.iter().filter(|e| e.is_open()) {
        open.push((e.id.to_string(), app.title_of(e).await));
    }
    open
}

/// Returns whether a link on another site has led the browser to an environment. Then it has sent no session, because the
/// cookie is strict, and has to request the page again by itself.
fn is_led_here(request: &Request) -> bool {
    let text = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok());
    let other = matches!(text("sec-fetch-site"), Some("cross-site" | "same-site"));
    let path = request.uri().path();
    other && text("sec-fetch-mode") == Some("navigate") && path.starts_with("/environments/")
}

/// Renders problems as pages, for people.
pub(crate) async fn problems(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let theme = Theme::of(request.headers());
    let path = request.uri().path().to_owned();
    let retry = request.method() == axum::http::Method::GET;
    let led_here = is_led_here(&request);
    // The session layer lies inside this one, so the session is looked up again for the layout.
    let caller = crate::auth::cookie(request.headers(), crate::auth::SESSION)
        .and_then(faultline_store::Secret::presented);
    let mut response = next.run(request).await;
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response = Problem::not_found().into_response();
    }
    let Some(problem) = response.extensions().get::<Problem>().cloned() else {
        return response;
    };
    let mut open = Vec::new();
    let layout = match caller {
        Some(secret) => match app.store.session(&secret, app.now()).await {
            Ok(Some(principal)) => {
                if [Problem::NO_ROOM, Problem::LIMIT].contains(&problem.code) {
                    open = could_end(&app, &principal.person).await;
                }
                Layout::signed_in(
                    &problem.title,
                    &path,
                    theme,
                    &crate::auth::csrf::token(&secret),
                    principal.role,
                    banner(&app),
                )
            }
            _ => Layout::signed_out(&problem.title, theme, banner(&app)),
        },
        None => Layout::signed_out(&problem.title, theme, banner(&app)),
    };
    let html = ProblemPage {
        layout,
        problem: &problem,
        signed_out: problem.code == Problem::SIGNED_OUT,
        retry: retry && (problem.status >= 500 || problem.retry_after.is_some()),
        open,
    }
    .render();
    match html {
        Ok(html) => {
            let mut page = (response.status(), Html(html)).into_response();
            for name in [header::RETRY_AFTER, header::SET_COOKIE] {
                if let Some(value) = response.headers().get(&name) {
                    page.headers_mut().insert(name, value.clone());
                }
            }
            if problem.code == Problem::SIGNED_OUT
                && led_here
                && let Ok(again) = format!("0; url={path}").parse()
            {
                page.headers_mut().insert(header::REFRESH, again);
            }
            page
        }
        Err(_) => response,
    }
}
