//! `faultline login` and `logout`: a server that runs on another machine, for `env`, `ssh` and `kubeconfig` on this one.
//!
//! What is remembered is what `faultline up` leaves for the CLI on its own machine, in the same file.

use std::{
    fs,
    io::{self, IsTerminal},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde::Deserialize;
use serde_json::json;
use ureq::http::Uri;

use crate::{
    Output,
    api::{Api, Gateway},
    config::files,
    env::Where,
    up::write_private,
};

/// `faultline login`.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// The server's address, as the browser shows it
    url: String,
    /// A file that holds the API token; it is asked for unless said, or read from standard input
    #[arg(long)]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    place: Where,
}

/// `faultline logout`.
#[derive(Debug, Args)]
pub struct LogoutArgs {
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, Deserialize)]
struct Me {
    person: String,
}

/// Asks for a token, looks whether the server knows it, and remembers both.
pub fn login(args: &LoginArgs, output: Output) -> anyhow::Result<()> {
    let url = origin(&args.url)?;
    let data = args.place.data();
    ours(&data)?;
    if is_open(&url) {
        eprintln!(
            "{url} is not encrypted: who is on the way can read the token. Ask the operator for an https address."
        );
    }
    let token = match &args.token_file {
        Some(file) => fs::read_to_string(file)
            .with_context(|| format!("cannot read the token from {}", file.display()))?,
        None => ask(&url)?,
    };
    let token = token.trim().to_owned();
    anyhow::ensure!(
        !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic()),
        "that is not a token; {url}/keys makes one, under API tokens"
    );
    let mut api = Api {
        url,
        token,
        ssh: None,
    };
    let me: Me = api
        .get("/me")
        .with_context(|| format!("cannot log in to {}", api.url))?;
    // A server without a gateway says so once somebody wants it.
    api.ssh = api.get::<Gateway>("/gateway").ok();
    fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
    write_private(&data.join(files::CLI), &serde_json::to_vec_pretty(&api)?)?;
    match output {
        Output::Json => println!("{}", json!({ "server": api.url, "person": me.person })),
        Output::Text => println!(
            "Logged in to {}. `faultline env list`, `ssh` and `kubeconfig` talk to it from here; `faultline logout` forgets it.",
            api.url
        ),
    }
    Ok(())
}

/// Removes what `login`, and `ssh` after it, have left here.
pub fn logout(args: &LogoutArgs, output: Output) -> anyhow::Result<()> {
    let data = args.place.data();
    ours(&data)?;
    let known = Api::load(&data).ok();
    for name in [
        files::CLI,
        files::SSH_KEY,
        files::SSH_PUBLIC_KEY,
        files::KNOWN_HOSTS,
    ] {
        match fs::remove_file(data.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot remove {name}"));
            }
            _ => {}
        }
    }
    let server = known.map(|api| api.url);
    match (output, server) {
        (Output::Json, server) => println!("{}", json!({ "server": server })),
        (Output::Text, Some(url)) => println!(
            "Logged out of {url}. The token and this machine's key work until you remove them on {url}/keys."
        ),
        (Output::Text, None) => println!("You were not logged in."),
    }
    Ok(())
}

/// What a server keeps for the CLI on its own machine is not a login's to replace.
fn ours(data: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        !data.join(files::DATABASE).exists(),
        "a server keeps its data in {}, and `faultline env`, `ssh` and `kubeconfig` talk to that one; name another folder with \
         --data, and give the same to them",
        data.display()
    );
    Ok(())
}

/// Scheme and host of an address; whatever page it leads to.
fn origin(url: &str) -> anyhow::Result<String> {
    let parsed = url.trim().parse::<Uri>().ok();
    let parts = parsed
        .as_ref()
        .and_then(|uri| Some((uri.scheme_str()?, uri.authority()?)));
    match parts {
        Some((scheme @ ("http" | "https"), authority)) => Ok(format!("{scheme}://{authority}")),
        _ => anyhow::bail!(
            "{url} is not a server's address; it begins with https:// (or http://), such as https://labs.example.org"
        ),
    }
}

/// Whether what is sent there can be read on the way.
fn is_open(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else {
        return false;
    };
    !["127.", "localhost", "[::1]"]
        .iter()
        .any(|own| rest.starts_with(own))
}

/// A token from standard input; without showing it where that is a terminal.
fn ask(url: &str) -> anyhow::Result<String> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return io::read_to_string(stdin).context("cannot read the token from standard input");
    }
    eprint!("Token ({url}/keys makes one; it is not shown here): ");
    let before = tcgetattr(&stdin).context("cannot ask")?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Now, &silent).context("cannot ask")?;
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    let restored = tcsetattr(&stdin, OptionalActions::Now, &before);
    eprintln!();
    read.context("cannot read the token")?;
    restored.context("cannot show what is typed again")?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_from_any_page_of_it() {
        for (said, meant) in [
            ("https://labs.example.org", "https://labs.example.org"),
            (
                " http://127.0.0.1:7890/sign-in?token=flt_x\n",
                "http://127.0.0.1:7890",
            ),
            (
                "https://[2001:db8::1]:8443/labs/",
                "https://[2001:db8::1]:8443",
            ),
        ] {
            assert_eq!(origin(said).unwrap(), meant);
        }
        for said in ["labs.example.org", "ftp://labs.example.org", "https://", ""] {
            let error = origin(said).unwrap_err().to_string();
            assert!(error.contains("https://labs.example.org"), "{error}");
        }
        assert!(is_open("http://labs.example.org"));
        assert!(!is_open("http://127.0.0.1:7890"));
        assert!(!is_open("https://labs.example.org"));
    }

    #[test]
    fn a_servers_own_folder_is_left_alone() {
        let data = tempfile::tempdir().unwrap();
        assert!(ours(data.path()).is_ok());
        fs::write(data.path().join(files::DATABASE), "").unwrap();
        assert!(
            ours(data.path())
                .unwrap_err()
                .to_string()
                .contains("--data")
        );
    }
}
