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
    let ended = || {
        Problem::conflict(
            "ended",
            "This machine has ended",
            "Start the lab again for a fresh one.",
        )
    };
    if !environment.is_open() {
        return Err(ended());
    }
    if possible(app, environment).is_zero() {
        return Err(Problem::conflict(
            "hard-end",
            "It is at the longest life that a machine may have here",
            "Reset gives a fresh one.",
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
