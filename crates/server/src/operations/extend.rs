//! Give an environment more time, up to its hard end. It counts as use.

use faultline_domain::{
    authz::MayUse,
    environment::{Environment, Lifetime},
};
use jiff::SignedDuration;

use crate::{app::App, problem::Problem};

fn step(app: &App) -> SignedDuration {
    SignedDuration::from_mins(app.config.extend_minutes.into())
}

/// By how much an environment can be extended now.
pub(crate) fn possible(app: &App, environment: &Environment) -> SignedDuration {
    let life = &environment.lifetime;
    let extended = life.extended(step(app)).expires_at;
    extended.duration_since(life.expires_at)
}

pub(crate) async fn extend(app: &App, proof: &MayUse) -> Result<Lifetime, Problem> {
    let environment = proof.environment();
    if !environment.is_open() {
        return Err(Problem::conflict(
            "ended",
            "This machine has ended",
            "Start the lab again for a fresh one.",
        ));
    }
    let now = app.now();
    if possible(app, environment).is_zero() {
        return Err(Problem::conflict(
            "hard-end",
            "It is at the longest life that a machine may have here",
            "Reset gives a fresh one.",
        ));
    }
    let lifetime = Lifetime {
        last_used: now,
        ..environment.lifetime.extended(step(app))
    };
    app.store
        .extend_environment(&environment.id, &lifetime, proof.person(), now)
        .await?;
    app.changed(&environment.id);
    Ok(lifetime)
}
