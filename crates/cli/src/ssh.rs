//! `faultline ssh` and `faultline forward`: run the stock ssh client without any setup.

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

/// The error if there is no ssh client.
const MISSING: &str = "cannot run ssh; install openssh-client";

/// The options of the command.
#[derive(Debug, Args)]
pub struct SshArgs {
    /// The environment, or node.environment [default: your only environment]
    target: Option<String>,
    /// A command to run instead of a shell
    #[arg(last = true)]
    command: Vec<String>,
    #[command(flatten)]
    place: Where,
}

/// The options of `faultline forward`.
#[derive(Debug, Args)]
pub struct ForwardArgs {
    /// The environment or node.environment (optional if you have only one environment), and the port there; with another
    /// port after a colon, that port here: `8080:9090`
    #[arg(required = true, num_args = 1..=2, value_names = ["TARGET", "PORT"])]
    words: Vec<String>,
    #[command(flatten)]
    place: Where,
}

/// Forwards a TCP port of this machine's loopback to a node, until it is interrupted.
pub fn forward(args: &ForwardArgs) -> anyhow::Result<()> {
    let (target, ports) = match args.words.as_slice() {
        [target, ports] => (Some(target), ports),
        [ports] => (None, ports),
        _ => anyhow::bail!("name the port, such as 8080"),
    };
    let (there, here) = ports_of(ports)?;
    let (mut client, destination) = client(&args.place, target.map(String::as_str))?;
    eprintln!("127.0.0.1:{here} leads to port {there}; Ctrl-C ends it");
    let failed = client
        .args(["-N", "-o", "ExitOnForwardFailure=yes", "-L"])
        .arg(format!("127.0.0.1:{here}:localhost:{there}"))
        .arg("--")
        .arg(destination)
        .exec();
    Err(failed).context(MISSING)
}

/// Returns the port there, and the port here.
fn ports_of(text: &str) -> anyhow::Result<(u16, u16)> {
    let (there, here) = text.split_once(':').unwrap_or((text, text));
    let port = |text: &str| match text.parse() {
        Ok(port @ 1..) => Ok(port),
        _ => anyhow::bail!("{text:?} is not a port; ports are 1 to 65535"),
    };
    Ok((port(there)?, port(here)?))
}

/// Opens a shell, or runs a command, by the stock ssh client.
pub fn ssh(args: &SshArgs) -> anyhow::Result<()> {
    let (mut client, destination) = client(&args.place, args.target.as_deref())?;
    let failed = client
        // The host comes from the server; it must not be taken for an option.
        .arg("--")
        .arg(destination)
        .args(&args.command)
        .exec();
    Err(failed).context(MISSING)
}

/// Registers a key of its own. Returns the stock ssh client with its options, which is to replace this process, and the
/// destination.
fn client(place: &Where, target: Option<&str>) -> anyhow::Result<(Command, String)> {
    let data = place.data();
    let api = Api::load(&data)?;
    let user = match target {
        Some(target) => {
            let id = check_target(target)?;
            // The gateway tells nothing to clients that can't prove who they are, so ask the API, which may.
            let e: Environment = api.get(&format!("/environments/{id}"))?;
            match e.phase.as_str() {
                "active" => {}
                "suspended" => anyhow::bail!(paused(&e.id)),
                phase => anyhow::bail!(
                    "{id} can't be entered, because it is {phase}; `faultline env show {id}` says more"
                ),
            }
            target.to_owned()
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
    // In a known-hosts file, the default port is omitted.
    let name = if port == 22 {
        host.clone()
    } else {
        format!("[{host}]:{port}")
    };
    write_private(
        &known,
        format!("{name} {}\n", gateway.host_key.trim()).as_bytes(),
    )?;
    let mut client = Command::new("ssh");
    client
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
        .arg(port.to_string());
    Ok((client, format!("{user}@{host}")))
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
    format!("{id} is paused; `faultline env resume {id}` resumes it")
}

/// Returns the caller's only environment. Fails with advice if there are none or several.
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
        _ => anyhow::bail!(
            "you have several environments; name one (`faultline env list` shows them)"
        ),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_the_same_on_both_sides_unless_two_are_given() {
        assert_eq!(ports_of("8080").unwrap(), (8080, 8080));
        assert_eq!(ports_of("80:8080").unwrap(), (80, 8080));
        for bad in ["", "0", "x", "80:", ":80", "80:0", "65536", "1:2:3"] {
            assert!(ports_of(bad).is_err(), "{bad}");
        }
    }
}
