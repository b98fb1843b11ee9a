//! The `faultline` command: parses, chooses, prints. What it does lies in the crates.

mod api;
mod backup;
mod bench;
mod builds;
mod completions;
mod config;
mod console;
mod doctor;
mod down;
mod env;
mod image;
mod kubeconfig;
mod lab;
mod login;
mod places;
mod prepare;
mod progress;
mod shipped;
mod signals;
mod sources;
mod ssh;
mod up;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};

/// Learn to repair machines by repairing them.
///
/// Start with `faultline up`: it prepares what is missing, serves the labs on this machine and prints a link.
#[derive(Debug, Parser)]
#[command(
    name = "faultline",
    version,
    propagate_version = true,
    max_term_width = 100
)]
struct Cli {
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON document, for programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prepare this machine, serve the labs, print a link that opens them
    ///
    ///   faultline up
    ///   faultline up --config faultline.toml
    #[command(verbatim_doc_comment)]
    Up(up::UpArgs),
    /// Stop the server; environments go on. With --purge leave nothing behind
    Down(down::DownArgs),
    /// Say what this machine can do, and what to do about what it can't
    Doctor(doctor::DoctorArgs),
    /// List, start, check and end environments of the running server
    Env(env::EnvArgs),
    /// Let this machine's `env`, `ssh` and `kubeconfig` talk to a server that runs elsewhere
    ///
    ///   faultline login https://labs.example.org
    ///
    /// It asks for an API token, which the page *Keys and tokens* makes, and remembers it.
    #[command(verbatim_doc_comment)]
    Login(login::LoginArgs),
    /// Forget what `login` remembers, and the key that `ssh` made here
    Logout(login::LogoutArgs),
    /// Enter an environment, without setting anything up
    ///
    ///   faultline ssh                      your only environment
    ///   faultline ssh node2.k7f3q9xw2m     one of its nodes
    ///   faultline ssh -- uptime            one command
    #[command(verbatim_doc_comment)]
    Ssh(ssh::SshArgs),
    /// Write a kubeconfig for an environment's cluster; its credential renews itself
    ///
    ///   faultline kubeconfig -f lab.kubeconfig && kubectl --kubeconfig lab.kubeconfig get nodes
    #[command(verbatim_doc_comment)]
    Kubeconfig(kubeconfig::KubeconfigArgs),
    /// Print a short-lived credential for an environment's cluster (run by kubectl, not by people)
    #[command(hide = true)]
    Credential(kubeconfig::CredentialArgs),
    /// Write, lint, run and prove labs
    #[command(subcommand)]
    Lab(lab::LabCommand),
    /// Measure this machine; ratios come from one run
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Write a consistent copy of the database, while the server runs
    Backup(backup::BackupArgs),
    /// Put a copy in the database's place; the server must be stopped
    Restore(backup::BackupArgs),
    /// Build images and list them
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Print the completions of a shell
    ///
    ///   faultline completions bash >/usr/share/bash-completion/completions/faultline
    ///   faultline completions zsh >/usr/local/share/zsh/site-functions/_faultline
    ///   faultline completions fish >/etc/fish/completions/faultline.fish
    #[command(verbatim_doc_comment)]
    Completions(completions::CompletionsArgs),
    /// Run one environment's machines (started by the server, not by people)
    #[command(hide = true)]
    Launch {
        /// The environment's folder.
        dir: PathBuf,
    },
}

impl Command {
    /// Whether it makes or ends machines.
    const fn needs_root(&self) -> bool {
        use image::ImageCommand;
        use lab::LabCommand;
        matches!(
            self,
            Self::Up(_)
                | Self::Down(_)
                | Self::Bench(_)
                | Self::Launch { .. }
                | Self::Lab(
                    LabCommand::Run { .. } | LabCommand::Shell { .. } | LabCommand::Test { .. }
                )
                | Self::Image(ImageCommand::Build { .. })
        )
    }
}

/// Whoever reads the output may have enough of it (`| head`): then this ends, as other programs do.
fn end_when_nobody_reads() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to stdout") && text.contains("Broken pipe") {
            std::process::exit(141);
        }
        usual(panic);
    }));
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    end_when_nobody_reads();
    if cli.command.needs_root() && !rustix::process::geteuid().is_root() {
        eprintln!(
            "error: only root can make the namespaces, control groups and users that machines run in; try the same with sudo"
        );
        return ExitCode::FAILURE;
    }
    // Streams are descriptors, and the usual soft limit of 1024 is soon reached.
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: files.maximum,
        ..files
    };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
    // The launcher moves into a network namespace of its own, which only a process with one thread can do.
    if let Command::Launch { dir } = &cli.command {
        log("info");
        return finish(faultline_launcher::run::main(dir).map_err(Into::into));
    }
    log("warn");
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("error: {e}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run(cli));
    // A thread that reads standard input does so until its next line; nobody has to press Enter for this to end.
    runtime.shutdown_background();
    finish(ended)
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Up(args) => up::run(&args, cli.output).await,
        Command::Down(args) => down::run(&args, cli.output).await,
        Command::Doctor(args) => doctor::run(&args, cli.output),
        Command::Env(args) => env::run(&args, cli.output),
        Command::Login(args) => login::login(&args, cli.output),
        Command::Logout(args) => login::logout(&args, cli.output),
        Command::Ssh(args) => ssh::ssh(&args),
        Command::Kubeconfig(args) => kubeconfig::run(&args),
        Command::Credential(args) => kubeconfig::credential(&args),
        Command::Lab(command) => lab::run(command, cli.output).await,
        Command::Bench(command) => bench::run(command, cli.output).await,
        Command::Backup(args) => backup::backup(&args, cli.output).await,
        Command::Restore(args) => backup::restore(&args, cli.output).await,
        Command::Image(command) => image::run(command, cli.output).await,
        Command::Completions(args) => completions::run::<Cli>(&args),
        Command::Launch { .. } => Ok(()),
    }
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn log(level: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("FAULTLINE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    // The multiplexer of the guest link writes a line for each malformed frame, and those are a guest's to send.
    let filter = match "yamux=off".parse() {
        Ok(quiet) => filter.add_directive(quiet),
        Err(_) => filter,
    };
    // A line that can't be written is lost. To say so where the line was to go would end what it was about: the log of a
    // launcher lies on the disk whose being full it tells.
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .with_ansi(false);
    if std::env::var("FAULTLINE_LOG_FORMAT").is_ok_and(|format| format == "json") {
        lines.json().init();
    } else {
        lines.init();
    }
}
