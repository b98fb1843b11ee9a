//! Give an environment more time, up to its hard end. It counts as use.

use faultline_domain::{authz::MayUse, environment::Lifetime};
use faultline_store::environments::Environment;
use jiff::SignedDuration;

use crate::{app::App, problem::Problem};

pub(crate) async fn extend(
    app: &App,
    proof: &MayUse,
    environment: &Environment,
) -> Result<Lifetime, Problem> {
    if !environment.is_open() {
        return Err(Problem::conflict(
            "ended",
            "This machine has ended",
            "Start the lab again for a fresh one.",
        ));
    }
    let now = app.now();
    let by = SignedDuration::from_mins(app.config.extend_minutes.into());
    let lifetime = Lifetime {
        last_used: now,
        ..environment.lifetime.extended(by)
    };
    if lifetime.expires_at == environment.lifetime.expires_at {
        return Err(Problem::conflict(
            "hard-end",
            "It can't be extended further",
            "It is at the longest life that a machine may have here. Reset gives a fresh one.",
        ));
    }
    app.store
        .extend_environment(proof.environment(), &lifetime, proof.person(), now)
        .await?;
    app.changed(proof.environment());
    Ok(lifetime)
}
