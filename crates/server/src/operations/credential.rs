//! Issues credentials for the cluster of an environment: a token for the kubectl gateway, valid only for this person
//! and this environment. The cluster's own credentials stay with the gateway.

use faultline_cluster::kubeconfig;
use faultline_domain::{authz::MayUse, environment::Environment};
use faultline_store::Secret;
use jiff::{SignedDuration, Timestamp};

use crate::{app::App, auth::Caller, problem::Problem};

/// The lifetime of a token that kubectl renews by itself.
const RENEWED: SignedDuration = SignedDuration::from_mins(30);

/// Issues a short-lived token, and returns it with the time when it expires.
pub(crate) async fn credential(
    app: &App,
    caller: &Caller,
    proof: &MayUse,
) -> Result<(Secret, Timestamp), Problem> {
    let environment = proof.environment();
    has_cluster(environment)?;
    let ends = app.now().saturating_add(RENEWED).unwrap_or(Timestamp::MAX);
    Ok((issue(app, caller, proof, Some(ends)).await?, ends))
}

/// Returns a kubeconfig with a token that is valid as long as the environment exists.
pub(crate) async fn file(app: &App, caller: &Caller, proof: &MayUse) -> Result<String, Problem> {
    let environment = proof.environment();
    let (server, authority) = place(app, environment)?;
    let token = issue(app, caller, proof, None).await?;
    let user = kubeconfig::User::Token(token.expose());
    let id = environment.id.as_str();
    Ok(kubeconfig::kubeconfig(
        id,
        &server,
        authority.as_deref(),
        &user,
    ))
}

/// Returns the URL of the environment's API server on the gateway, and the gateway's CA certificate.
pub(crate) fn place(
    app: &App,
    environment: &Environment,
) -> Result<(String, Option<String>), Problem> {
    has_cluster(environment)?;
    let server = app.config.kube_server(&environment.id);
    let server = server.ok_or_else(Problem::not_found)?;
    Ok((server, app.config.kube_authority.clone()))
}

fn has_cluster(environment: &Environment) -> Result<(), Problem> {
    if !environment.is_open() {
        return Err(Problem::conflict(
            "not-running",
            "There is no running cluster",
            "This environment has ended. Start the lab again, then retry.",
        ));
    }
    if !environment.spec.is_cluster() {
        return Err(Problem::conflict(
            "no-cluster",
            "This lab has no cluster",
            "It only has plain machines; use the terminal or SSH.",
        ));
    }
    Ok(())
}

async fn issue(
    app: &App,
    caller: &Caller,
    proof: &MayUse,
    ends: Option<Timestamp>,
) -> Result<Secret, Problem> {
    let (secret, now) = (app.secret(), app.now());
    let (id, person) = (&proof.environment().id, proof.person());
    app.store
        .add_cluster_token(&secret, id, person, &caller.secret, ends, now)
        .await?;
    Ok(secret)
}
