//! Starts a lab.
//!
//! The image must be ready, and the host must have room. A person has at most one environment of a lab; starting the
//! lab again returns that one.

use axum::http::StatusCode;
use faultline_domain::{
    AttemptId, EnvironmentId, LabSlug,
    authz::SignedIn,
    environment::{Environment, Lifetime, Spec},
    lab::Lab,
    limits::{Denial, Need, admit},
    tenant::{self, Allowance},
};
use faultline_lab::LabFolder;
use faultline_provider::Readiness;
use faultline_store::{environments::Counts, lab_contents::LabContent};
use jiff::{SignedDuration, Timestamp};

use crate::{
    app::App,
    capacity::{Free, capacity, need},
    pools,
    problem::Problem,
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
    let admit = admission(app, &lab).await?;
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

/// Returns the function that decides whether there is room for an environment of a lab. A warm tenant of a pool already
/// has its memory, and pools give back theirs to environments.
pub(super) async fn admission(
    app: &App,
    lab: &LabFolder,
) -> Result<impl Fn(Counts) -> Result<(), Denial> + use<>, Problem> {
    let config = app.config.clone();
    let (needs, nodes) = (&lab.lab.needs, lab.lab.node_names().len() as u64);
    let pooled = app.store.pool_tenants(app.now()).await?;
    let is_pooled = pools::can_serve(&pooled, lab);
    let need = match need(&config, needs.kubernetes.is_some(), nodes) {
        _ if is_pooled => Need {
            memory_mib: 0,
            disk_mib: 0,
        },
        need => need,
    };
    let reclaimable = pools::reclaimable_mib(&pooled);
    Ok(move |counts| {
        let mut free = Free::now(&config.data_dir);
        free.memory_mib = free.memory_mib.saturating_add(reclaimable);
        admit(&capacity(&config, free, &counts), need)
    })
}

pub(super) fn spec(app: &App, lab: &Lab) -> Spec {
    Spec {
        tenant: tenant::Spec {
            template: lab.needs.template(),
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
        idle_seconds: i64::from(app.config.idle_minutes) * 60,
    }
}
