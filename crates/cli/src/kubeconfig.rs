//! `faultline kubeconfig` and `faultline credential`: access to an environment's cluster for the user's own `kubectl`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use faultline_cluster::kubeconfig::{User, kubeconfig};
use faultline_domain::EnvironmentId;
use serde::Deserialize;

use crate::{api::Api, env::Where, up::write_private};

/// The options of `faultline kubeconfig`.
#[derive(Debug, Args)]
pub struct KubeconfigArgs {
    /// The environment [default: your only one]
    environment: Option<EnvironmentId>,
    /// The file to write [default: standard output]
    #[arg(long, short)]
    file: Option<PathBuf>,
    #[command(flatten)]
    place: Where,
}

/// The options of `faultline credential`.
#[derive(Debug, Args)]
pub struct CredentialArgs {
    /// The environment
    environment: EnvironmentId,
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, Deserialize)]
struct Cluster {
    server: String,
    authority: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Token {
    token: String,
    expires_at: String,
}

/// Writes a kubeconfig that runs this program to get credentials.
pub fn run(args: &KubeconfigArgs) -> anyhow::Result<()> {
    let data = args.place.data();
    let api = Api::load(&data)?;
    let id = match &args.environment {
        Some(id) => id.to_string(),
        None => crate::ssh::only_environment(&api)?.to_string(),
    };
    let cluster: Cluster = serde_json::from_value(api.get(&format!("/environments/{id}/cluster"))?)
        .context("the server's answer")?;
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let user = User::Program {
        command: &program.to_string_lossy(),
        args: vec![
            "credential".to_owned(),
            "--data".to_owned(),
            data.to_string_lossy().into_owned(),
            id.clone(),
        ],
    };
    let text = kubeconfig(&id, &cluster.server, cluster.authority.as_deref(), &user);
    match &args.file {
        Some(file) => {
            write_private(file, text.as_bytes())?;
            eprintln!("kubectl --kubeconfig {} get nodes", file.display());
        }
        None => print!("{text}"),
    }
    Ok(())
}

/// Prints the `ExecCredential` that kubectl asks for.
pub fn credential(args: &CredentialArgs) -> anyhow::Result<()> {
    let api = Api::load(&args.place.data())?;
    let answer = api.post(
        &format!("/environments/{}/credential", args.environment),
        None,
    )?;
    let made: Token = serde_json::from_value(answer).context("the server's answer")?;
    let credential = serde_json::json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {
            "token": made.token,
            "expirationTimestamp": made.expires_at,
        },
    });
    println!("{credential}");
    Ok(())
}
