//! `faultline login` and `logout`: use a server on another machine with `env`, `ssh` and `kubeconfig` on this one.
//!
//! The URL and token are stored in the file that `faultline up` writes for the CLI on its own machine.

use std::{
    fs::{self, DirBuilder},
    io::{self, IsTerminal},
    net::IpAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;
use faultline_gateway::PublicKey;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde::Deserialize;
use serde_json::json;
use ureq::http::{Uri, uri::PathAndQuery};

use crate::{
    Output,
    api::{Api, Gateway},
    config::{data_dir, files},
    env::Where,
    up::write_private,
};

/// The options of `faultline login`.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// The server's URL, as the browser shows it
    url: String,
    /// A file that contains the API token [default: prompt on a terminal, otherwise read standard input]
    #[arg(long)]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    place: Where,
}

/// The options of `faultline logout`.
#[derive(Debug, Args)]
pub struct LogoutArgs {
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, Deserialize)]
struct Me {
    person: String,
}

/// Asks for a token, verifies it with the server, and stores it with the URL.
pub fn login(args: &LoginArgs, output: Output) -> anyhow::Result<()> {
    let server = server(&args.url)?;
    let url = server.to_string().trim_end_matches('/').to_owned();
    let data = args.place.data();
    not_a_servers(&data)?;
    if server.scheme_str() == Some("http") && !is_loopback(&server) {
        eprintln!(
            "{url} is not encrypted: anybody between this machine and the server can read the token. Ask the operator for an https \
             address."
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
    api.ssh = api.get_if_there("/gateway")?.map(checked).transpose()?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&data)
        .with_context(|| format!("cannot make {}", data.display()))?;
    write_private(&data.join(files::CLI), &serde_json::to_vec_pretty(&api)?)?;
    match output {
        Output::Json => println!("{}", json!({ "server": api.url, "person": me.person })),
        Output::Text => println!(
            "Logged in to {}. `faultline env`, `ssh` and `kubeconfig` talk to it from here{}; `faultline logout` forgets it.",
            api.url,
            if data == data_dir() {
                ""
            } else {
                ", with the same --data"
            }
        ),
    }
    Ok(())
}

/// Removes what `login`, and later `ssh`, stored here and on the server.
pub fn logout(args: &LogoutArgs, output: Output) -> anyhow::Result<()> {
    let data = args.place.data();
    not_a_servers(&data)?;
    let was_known = data.join(files::CLI).exists();
    let api = Api::load(&data).ok();
    // The local files are removed even if the server doesn't answer.
    let key_is_gone = match (&api, fs::read_to_string(data.join(files::SSH_PUBLIC_KEY))) {
        (Some(api), Ok(key)) => api.remove_key(&key).is_ok(),
        (None, Ok(_)) => false,
        (_, Err(_)) => true,
    };
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
    let rest = if key_is_gone {
        "The token works until you remove it"
    } else {
        "The token and this machine's key work until you remove them"
    };
    match (output, api) {
        (Output::Json, api) => println!(
            "{}",
            json!({ "server": api.map(|api| api.url), "key_removed": key_is_gone })
        ),
        (Output::Text, Some(api)) => {
            println!("Logged out of {}. {rest} on {0}/keys.", api.url);
        }
        (Output::Text, None) if was_known => {
            println!(
                "What was remembered was damaged, and is gone. {rest} on the server's page of keys."
            );
        }
        (Output::Text, None) => println!("You were not logged in."),
    }
    Ok(())
}

/// Fails if the folder belongs to a server: `login` must not replace that server's own file.
fn not_a_servers(data: &Path) -> anyhow::Result<()> {
    let kept = [files::DATABASE, files::PID].map(|name| data.join(name).exists());
    anyhow::ensure!(
        kept == [false, false],
        "a server keeps its data in {}, and `faultline env`, `ssh` and `kubeconfig` talk to that one; name another folder with \
         --data, and give the same to them",
        data.display()
    );
    Ok(())
}

/// Returns the scheme and host of a URL, without the path.
fn server(url: &str) -> anyhow::Result<Uri> {
    let whole = url.trim().parse::<Uri>().ok().map(Uri::into_parts);
    if let Some(mut parts) = whole
        && let Some("http" | "https") = parts.scheme.as_ref().map(|scheme| scheme.as_str())
        && let Some(authority) = &parts.authority
        && !authority.as_str().contains('@')
    {
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
        return Ok(Uri::from_parts(parts)?);
    }
    anyhow::bail!(
        "{url} is not a server's address; it begins with https:// (or http://), such as https://labs.example.org"
    )
}

/// Returns true if requests to the server don't leave this machine.
fn is_loopback(server: &Uri) -> bool {
    let host = server.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Checks that a gateway's fields are safe in a known-hosts file and on a command line.
fn checked(gateway: Gateway) -> anyhow::Result<Gateway> {
    let is_a_host = |c: char| c.is_ascii_alphanumeric() || "-.:_".contains(c);
    anyhow::ensure!(
        !gateway.host.is_empty() && gateway.host.chars().all(is_a_host),
        "the server names a host for SSH that is none: {:?}",
        gateway.host
    );
    let host_key = PublicKey::parse(&gateway.host_key).context("the server's SSH host key")?;
    Ok(Gateway {
        host_key: host_key.as_openssh().to_owned(),
        ..gateway
    })
}

/// Reads a token from standard input, without echo on a terminal.
fn ask(url: &str) -> anyhow::Result<String> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return io::read_to_string(stdin).context("cannot read the token from standard input");
    }
    eprint!("Token ({url}/keys makes one; it is not shown here): ");
    let before = tcgetattr(&stdin).context("cannot ask")?;
    let mut silent = before.clone();
    // Without ISIG, Ctrl-C is a part of the line. As a signal it would end the process and leave the terminal without echo.
    silent
        .local_modes
        .remove(LocalModes::ECHO | LocalModes::ISIG);
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
            ("https://labs.example.org", "https://labs.example.org/"),
            (
                " http://127.0.0.1:7890/sign-in?token=flt_x\n",
                "http://127.0.0.1:7890/",
            ),
            (
                "https://[2001:db8::1]:8443/labs/",
                "https://[2001:db8::1]:8443/",
            ),
        ] {
            assert_eq!(server(said).unwrap(), meant);
        }
        for said in [
            "labs.example.org",
            "ftp://labs.example.org",
            "https://you@labs.example.org",
            "https://",
            "",
        ] {
            let error = server(said).unwrap_err().to_string();
            assert!(error.contains("https://labs.example.org"), "{error}");
        }
    }

    #[test]
    fn only_this_machine_is_this_machine() {
        for own in [
            "http://localhost:1",
            "http://127.0.0.1:7890",
            "http://[::1]",
        ] {
            assert!(is_loopback(&server(own).unwrap()), "{own}");
        }
        for other in [
            "http://labs.example.org",
            "http://localhost.example.org",
            "http://127.example.org",
        ] {
            assert!(!is_loopback(&server(other).unwrap()), "{other}");
        }
    }

    #[test]
    fn a_gateway_is_a_host_and_a_key() {
        let key =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEgOEz/GqkTO4M8ZMsb8dImXQJCDYaZJOJwySRNE4JUH";
        let gateway = |host: &str, host_key: &str| Gateway {
            host: host.to_owned(),
            port: 2222,
            host_key: host_key.to_owned(),
        };
        assert!(checked(gateway("ssh.example.org", key)).is_ok());
        assert!(checked(gateway("::1", key)).is_ok());
        for host in ["", "a b", "h\nother ssh-rsa", "-oProxyCommand=x"] {
            assert!(checked(gateway(host, key)).is_err(), "{host}");
        }
        assert!(checked(gateway("ssh.example.org", "nonsense")).is_err());
    }

    #[test]
    fn a_servers_own_folder_is_left_alone() {
        for name in [files::DATABASE, files::PID] {
            let data = tempfile::tempdir().unwrap();
            assert!(not_a_servers(data.path()).is_ok());
            fs::write(data.path().join(name), "").unwrap();
            let error = not_a_servers(data.path()).unwrap_err().to_string();
            assert!(error.contains("--data"), "{error}");
        }
    }
}
