//! Starts a lab.
//!
//! The image must be ready. If the host has no room now, the environment waits in the queue. A person has at most one
//! environment of a lab; starting the lab again returns that one.

use axum::http::StatusCode;
use faultline_domain::{
    AttemptId, EnvironmentId, LabSlug,
    authz::SignedIn,
    environment::{Environment, Lifetime, Spec},
    lab::Lab,
    limits::Denial,
    quota::Request,
    tenant::{self, Allowance},
};
use faultline_provider::Readiness;
use faultline_store::{environments::Counts, lab_contents::LabContent};
use jiff::{SignedDuration, Timestamp};

use crate::{
    app::App,
    capacity::{Free, can_ever_fit, need},
    problem::Problem,
    quotas,
};

pub(crate) async fn start(
    app: &App,
    who: &SignedIn,
    slug: &LabSlug,
) -> Result<Environment, Problem> {
    let lab = app.lab(slug).ok_or_else(Problem::not_found)?;
    ready(app, &lab.lab).await?;
    let now = app.now();
    let (id, attempt) = app.random(|rng| (EnvironmentId::generate(rng), AttemptId::generate(rng)));
    let admit = admission(app, &lab.lab)?;
    let made = app
        .store
        .start_environment(
            id,
            attempt,
            who.person(),
            slug,
            LabContent {
                hash: &lab.hash,
                text: &lab.content(),
            },
            spec(app, &lab.lab),
            lifetime(app, &lab.lab, now),
            &admit,
            now,
        )
        .await?;
    crash_point!(app, EnvironmentRequested);
    app.changed(&made.id);
    Ok(made)
}

/// Checks that the image can be cloned now.
pub(super) async fn ready(app: &App, lab: &Lab) -> Result<(), Problem> {
    let (title, detail) = match app.provider.readiness(&lab.needs.template()).await {
        Readiness::Ready { .. } => return Ok(()),
        Readiness::Preparing { fraction, text } => (
            "The machine's image is still being built",
            format!("{:.0} % done: {text}. Try again later.", fraction * 100.0),
        ),
        Readiness::Unavailable { reason } => ("The machine's image can't be used", reason),
    };
    Err(Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "image-not-ready",
        title,
        detail,
    ))
}

/// Returns the number of nodes of an environment of this lab.
pub(crate) fn nodes(lab: &Lab) -> u32 {
    u32::try_from(lab.node_names().len()).unwrap_or(u32::MAX)
}

/// Returns the function that decides whether a person may have another environment. Whether there is room for it now is
/// decided in the queue; here, only what can never fit is refused.
pub(super) fn admission(
    app: &App,
    lab: &Lab,
) -> Result<impl Fn(Counts) -> Result<(), Denial>, Denial> {
    admission_of(app, lab.needs.kubernetes.is_some(), nodes(lab))
}

/// The same for an environment with this number of nodes.
pub(super) fn admission_of(
    app: &App,
    is_cluster: bool,
    nodes: u32,
) -> Result<impl Fn(Counts) -> Result<(), Denial>, Denial> {
    let config = &app.config;
    let need = need(config, is_cluster, nodes);
    can_ever_fit(config, Free::now(app), need)?;
    Ok(move |counts: Counts| {
        not_in_maintenance(app)?;
        quotas::check(app, counts.uses, Request::start(nodes))
    })
}

/// Refuses everything that makes a machine while the server is in maintenance.
pub(super) fn not_in_maintenance(app: &App) -> Result<(), Denial> {
    match app.maintenance() {
        Some(maintenance) => Err(Denial::Maintenance {
            explanation: maintenance.explanation(app.now()),
        }),
        None => Ok(()),
    }
}

pub(super) fn spec(app: &App, lab: &Lab) -> Spec {
    Spec {
        tenant: tenant::Spec {
            template: lab.needs.template(),
            save_point: None,
            allowance: Allowance {
                limits: app.config.limits(&lab.needs),
                egress: lab.needs.egress.clone(),
            },
        },
        setup_nodes: lab.setup_nodes(),
        groups: lab.needs.groups.clone(),
    }
}

pub(super) fn lifetime(app: &App, lab: &Lab, now: Timestamp) -> Lifetime {
    let after = |minutes: u32| {
        now.saturating_add(SignedDuration::from_mins(minutes.into()))
            .unwrap_or(Timestamp::MAX)
    };
    let hard_end = after(app.config.hard_minutes.max(lab.needs.lifetime_minutes));
    Lifetime {
        expires_at: after(lab.needs.lifetime_minutes).min(hard_end),
        hard_end,
        last_used: now,
        idle_seconds: idle_seconds(app),
    }
}

/// Returns the time without use after which an environment is suspended or ends, in seconds.
pub(crate) fn idle_seconds(app: &App) -> i64 {
    i64::from(app.config.idle_minutes) * 60
}
