//! Give a person a short-lived client certificate for the cluster of one of their environments.
//!
//! It is signed with the cluster's own authority, in the person's own name and the groups that the lab grants, and it
//! is of no use in any other environment's cluster once that was given keys of its own, and unreachable there anyway.

use faultline_cluster::{credentials, kubeconfig};
use faultline_domain::{authz::MayUse, environment::State};
use faultline_provider::{ClusterKeys, Error as ProviderError};
use faultline_store::environments::Environment;
use jiff::SignedDuration;

use crate::{app::App, problem::Problem};

/// What kubectl renews by itself lasts so long.
const RENEWED: SignedDuration = SignedDuration::from_mins(30);
/// Where the lab grants no other, a person is an administrator, as on a cluster of one's own.
const ADMINISTRATORS: &str = "kubeadm:cluster-admins";

/// A certificate that is to be renewed.
pub(crate) async fn credential(
    app: &App,
    proof: &MayUse,
    environment: &Environment,
) -> Result<credentials::ClientCertificate, Problem> {
    let keys = keys(app, environment).await?;
    mint(app, proof, environment, &keys, RENEWED)
}

/// A kubeconfig that holds a certificate for as long as the environment may live.
pub(crate) async fn file(
    app: &App,
    proof: &MayUse,
    environment: &Environment,
) -> Result<String, Problem> {
    let keys = keys(app, environment).await?;
    let lasts = environment.lifetime.hard_end.duration_since(app.now());
    let made = mint(app, proof, environment, &keys, lasts)?;
    let user = kubeconfig::User::Certificate(&made);
    Ok(kubeconfig::kubeconfig(
        environment.id.as_str(),
        &server(app, environment)?,
        &keys.authority,
        &user,
    ))
}

/// The certificate of the cluster's authority, and where the gateway is.
pub(crate) async fn place(
    app: &App,
    environment: &Environment,
) -> Result<(String, String), Problem> {
    Ok((
        server(app, environment)?,
        keys(app, environment).await?.authority,
    ))
}

/// Where its API server is reached.
fn server(app: &App, environment: &Environment) -> Result<String, Problem> {
    app.config
        .kube_server(&environment.id)
        .ok_or_else(Problem::not_found)
}

async fn keys(app: &App, environment: &Environment) -> Result<ClusterKeys, Problem> {
    if !matches!(environment.state, State::Active { .. }) || !environment.is_open() {
        return Err(Problem::conflict(
            "not-running",
            "There is no running cluster",
            "Start the lab, or wait until it has started, then ask again.",
        ));
    }
    match app.provider.cluster(&environment.id).await {
        Ok(keys) => Ok(keys),
        Err(ProviderError::NotFound) => Err(Problem::conflict(
            "no-cluster",
            "This lab has no cluster",
            "Its machines are plain ones; use the terminal or SSH.",
        )),
        Err(e) => Err(e.into()),
    }
}

fn mint(
    app: &App,
    proof: &MayUse,
    environment: &Environment,
    keys: &ClusterKeys,
    lasts: SignedDuration,
) -> Result<credentials::ClientCertificate, Problem> {
    let administrators = [ADMINISTRATORS.to_owned()];
    let groups = match &*environment.spec.groups {
        [] => &administrators,
        granted => granted,
    };
    let user = format!("person:{}", proof.person());
    credentials::mint(keys, &user, groups, app.now(), lasts).map_err(|e| {
        tracing::error!(environment = %environment.id, error = &e as &dyn std::error::Error, "no certificate");
        Problem::conflict(
            "no-credential",
            "No credential could be made",
            "The cluster's authority is not one that can sign. Reset gives a fresh cluster.",
        )
    })
}
