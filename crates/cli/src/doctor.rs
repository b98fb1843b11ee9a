//! `faultline doctor`: examines this machine. Each finding has its consequence and its remedy. `readings.rs` reads the
//! machine's state, `findings.rs` judges it.

mod findings;
mod readings;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use faultline_image::{bake, cache::Cache, sources::Sources};
use faultline_launcher::accel;
use serde::Serialize;

use self::readings::Readings;
use crate::{Output, config, places::ImagesArg, sources::SourceArgs};

/// The options of the command.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    images: ImagesArg,
    #[command(flatten)]
    sources: SourceArgs,
    /// The folder for the database and the environments [default: ~/.local/share/faultline]
    #[arg(long, env = "FAULTLINE_DATA")]
    data: Option<PathBuf>,
    /// The web page's port
    #[arg(long, default_value_t = config::HTTP_PORT)]
    http_port: u16,
    /// The SSH gateway's port
    #[arg(long, default_value_t = config::SSH_PORT)]
    ssh_port: u16,
    /// The port of the gateway of API servers
    #[arg(long, default_value_t = config::KUBE_PORT)]
    kube_port: u16,
    /// The configuration file of `faultline up`, to ask its mail server whether it answers
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Forget the verdict on KVM on this machine, and try KVM again
    #[arg(long)]
    try_kvm_again: bool,
}

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// No problem.
    Good,
    /// Faultline works, with restrictions.
    Warning,
    /// Nothing can start until this is repaired.
    Fatal,
}

/// One finding.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The subject.
    pub what: &'static str,
    pub grade: Grade,
    /// The observation.
    pub seen: String,
    /// The consequence.
    pub consequence: String,
    /// The remedy; empty if there is no problem.
    pub cure: String,
}

/// Examines the machine and prints the findings. Fails if one of them is fatal.
pub async fn run(args: &DoctorArgs, output: Output) -> anyhow::Result<()> {
    if args.try_kvm_again {
        accel::forget(&bake::accelerator(&Cache::of_user()))
            .context("cannot remove the verdict on KVM from the cache")?;
    }
    let mut findings = examine(
        &args.images.folder(None)?,
        &args.sources.sources(),
        &args.data.clone().unwrap_or_else(config::data_dir),
        &ports(args.http_port, args.ssh_port, args.kube_port),
    );
    if let Some(path) = &args.config
        && let Some(mail) = config::Config::load(path)?.server.mail
    {
        let probed = faultline_server::mail::probe(&mail).await;
        findings.push(findings::mail(&mail.host, mail.port(), probed));
    }
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&findings)?),
        Output::Text => print_all(&findings),
    }
    let fatal = findings.iter().filter(|f| f.grade == Grade::Fatal).count();
    anyhow::ensure!(
        fatal == 0,
        "{fatal} finding(s) keep Faultline from starting on this machine"
    );
    Ok(())
}

/// Returns the server's ports, each with its purpose.
pub const fn ports(http: u16, ssh: u16, kube: u16) -> [(&'static str, u16); 3] {
    [
        ("web page", http),
        ("SSH gateway", ssh),
        ("gateway of API servers", kube),
    ]
}

/// Prints findings for people.
pub fn print_all(findings: &[Finding]) {
    for finding in findings {
        let mark = match finding.grade {
            Grade::Good => "✓",
            Grade::Warning => "!",
            Grade::Fatal => "✗",
        };
        println!("{mark} {}: {}", finding.what, finding.seen);
        println!("    {}", finding.consequence);
        if !finding.cure.is_empty() {
            println!("    → {}", finding.cure);
        }
    }
}

/// Returns all findings. Ports are tried by binding them on loopback.
pub fn examine(
    recipes: &Path,
    sources: &Sources,
    data: &Path,
    ports: &[(&'static str, u16)],
) -> Vec<Finding> {
    findings::judge(&Readings::take(recipes, sources, data, ports))
}
