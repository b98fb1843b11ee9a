//! `faultline ssh`: the stock ssh client, with nothing to set up.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;
use clap::Args;
use faultline_domain::{EnvironmentId, NodeName};

use crate::{
    api::Api,
    config::files,
    env::{Environment, Where},
    up::write_private,
};

/// `faultline ssh`.
#[derive(Debug, Args)]
pub struct SshArgs {
    /// The environment, or node.environment; your only one unless said
    target: Option<String>,
    /// A command to run instead of a shell
    #[arg(last = true)]
    command: Vec<String>,
    #[command(flatten)]
    place: Where,
}

/// Becomes the stock ssh client, with a key of its own that it registers first.
pub fn ssh(args: &SshArgs) -> anyhow::Result<()> {
    let data = args.place.data();
    let api = Api::load(&data)?;
    let user = match &args.target {
        Some(target) => {
            let id = check_target(target)?;
            // The gateway must not say more than "no" to who can't prove who they are; the API may.
            let e: Environment = api.get(&format!("/environments/{id}"))?;
            match e.phase.as_str() {
                "active" => {}
                "suspended" => anyhow::bail!(paused(&e.id)),
                phase => anyhow::bail!(
                    "{id} is {phase}; `faultline env show {id}` says more, and an active one can be entered"
                ),
            }
            target.clone()
        }
        None => only_environment(&api)?.to_string(),
    };
    let key = own_key(&data)?;
    let public =
        std::fs::read_to_string(key.with_extension("pub")).context("cannot read the public key")?;
    api.add_key("faultline ssh", public.trim())?;
    let known = data.join(files::KNOWN_HOSTS);
    let gateway = api
        .ssh
        .context("the server named no SSH gateway; once it has one, `faultline login` again")?;
    let (host, port) = (gateway.host, gateway.port);
    // The usual port is not written there.
    let name = if port == 22 {
        host.clone()
    } else {
        format!("[{host}]:{port}")
    };
    write_private(
        &known,
        format!("{name} {}\n", gateway.host_key.trim()).as_bytes(),
    )?;
    let failed = Command::new("ssh")
        .arg("-i")
        .arg(&key)
        .args([
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            "LogLevel=ERROR",
        ])
        .arg("-o")
        .arg(format!("UserKnownHostsFile={}", known.display()))
        .arg("-p")
        .arg(port.to_string())
        // Whatever the server said, this is no option.
        .arg("--")
        .arg(format!("{user}@{host}"))
        .args(&args.command)
        .exec();
    Err(failed).context("cannot run ssh; install openssh-client")
}

fn check_target(target: &str) -> anyhow::Result<EnvironmentId> {
    let (node, id) = target
        .split_once('.')
        .map_or((None, target), |(node, id)| (Some(node), id));
    if let Some(node) = node {
        node.parse::<NodeName>()?;
    }
    Ok(id.parse()?)
}

fn paused(id: &str) -> String {
    format!("{id} is paused; `faultline env resume {id}` lets it go on")
}

/// The only environment that the caller has; an error that says what to do where there are none or several.
pub fn only_environment(api: &Api) -> anyhow::Result<EnvironmentId> {
    let all: Vec<Environment> = api.get("/environments")?;
    let (mut active, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|e| e.phase == "active");
    let paused_one = rest.iter().find(|e| e.phase == "suspended");
    let starting = rest.iter().find(|e| e.is_starting());
    match (active.pop(), active.pop()) {
        (Some(one), None) => Ok(one.id.parse()?),
        (None, _) => match (paused_one, starting) {
            (Some(e), _) => anyhow::bail!(paused(&e.id)),
            (None, Some(e)) => anyhow::bail!(
                "{0} is still starting; `faultline env show {0}` says how far it is",
                e.id
            ),
            (None, None) => anyhow::bail!(
                "you have no active environment; `faultline env start <lab>` starts one"
            ),
        },
        _ => anyhow::bail!("you have more than one; `faultline env list` shows them, name one"),
    }
}

fn own_key(data: &Path) -> anyhow::Result<PathBuf> {
    let key = data.join(files::SSH_KEY);
    if !key.exists() {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "faultline", "-f"])
            .arg(&key)
            .status();
        anyhow::ensure!(
            made.context("cannot run ssh-keygen; install openssh-client")?
                .success(),
            "ssh-keygen failed"
        );
    }
    Ok(key)
}
