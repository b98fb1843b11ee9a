//! Give a person what opens the cluster of one of their environments: a token for the door, theirs and the environment's
//! alone. The door knows the cluster's own credentials; nobody else is given any.

use faultline_cluster::kubeconfig;
use faultline_domain::{authz::MayUse, environment::Environment};
use faultline_store::Secret;
use jiff::{SignedDuration, Timestamp};

use crate::{app::App, auth::Caller, problem::Problem};

/// What kubectl renews by itself lasts so long.
const RENEWED: SignedDuration = SignedDuration::from_mins(30);

/// A token that is to be renewed, and its end.
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

/// A kubeconfig with a token that lasts as long as the environment.
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

/// Where the door leads to it, and the authority by which clients know the door.
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
            "This environment has ended. Start the lab, then ask again.",
        ));
    }
    if !environment.spec.is_cluster() {
        return Err(Problem::conflict(
            "no-cluster",
            "This lab has no cluster",
            "Its machines are plain ones; use the terminal or SSH.",
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
