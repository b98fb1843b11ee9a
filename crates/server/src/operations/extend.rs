//! Extends the lifetime of an environment, up to its hard end. Counts as use.

use faultline_domain::{
    authz::MayUse,
    environment::{Environment, Lifetime},
};
use jiff::SignedDuration;

use crate::{app::App, problem::Problem};

fn step(app: &App) -> SignedDuration {
    SignedDuration::from_mins(app.config.extend_minutes.into())
}

/// Returns by how much an environment can be extended now.
pub(crate) fn possible(app: &App, environment: &Environment) -> SignedDuration {
    let life = &environment.lifetime;
    let extended = life.extended(step(app)).expires_at;
    extended.duration_since(life.expires_at)
}

pub(crate) async fn extend(app: &App, proof: &MayUse) -> Result<Lifetime, Problem> {
    let environment = proof.environment();
    let ended = || {
        Problem::conflict(
            "ended",
            "This machine has ended",
            "Start the lab again for a fresh machine.",
        )
    };
    if !environment.is_open() {
        return Err(ended());
    }
    if possible(app, environment).is_zero() {
        return Err(Problem::conflict(
            "hard-end",
            "This machine can't be extended any further",
            "It has reached the maximum lifetime. Reset it for a fresh one.",
        ));
    }
    let lifetime = app
        .store
        .extend_environment(&environment.id, step(app), proof.person(), app.now())
        .await?
        .ok_or_else(ended)?;
    app.changed(&environment.id);
    Ok(lifetime)
}
