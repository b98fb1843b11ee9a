//! The `faultline` command: parses arguments, selects, prints. The work is done in the other crates.

mod answer;
mod api;
mod backup;
mod bench;
mod builds;
mod capacity;
mod completions;
mod config;
mod console;
mod dev;
mod doctor;
mod down;
mod env;
mod group;
mod image;
mod kubeconfig;
mod lab;
mod limit;
mod login;
mod mail;
mod maintenance;
mod person;
mod places;
mod pool;
mod prepare;
mod progress;
mod queue;
mod session;
mod shipped;
mod signals;
mod sources;
mod ssh;
mod time;
mod up;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};

/// Learn Kubernetes by repairing it.
///
/// Begin with `faultline up`: it builds what is missing, serves the labs on this machine, and prints a link.
#[derive(Debug, Parser)]
#[command(
    name = "faultline",
    version,
    propagate_version = true,
    max_term_width = 100
)]
struct Cli {
    /// The output format.
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON document, for programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prepare this machine, serve the labs, and print a sign-in link
    ///
    ///   faultline up
    ///   faultline up --config faultline.toml
    #[command(verbatim_doc_comment)]
    Up(up::UpArgs),
    /// Stop the server; environments keep running. With --purge, remove everything
    Down(down::DownArgs),
    /// Examine this machine, with a remedy for each problem
    Doctor(doctor::DoctorArgs),
    /// List, start, check and end environments on the server
    Env(env::EnvArgs),
    /// Invite people to the server, list and disable them; for operators
    Person(person::PersonArgs),
    /// Show groups and their members' work, and invite students to them; for instructors and operators
    Group(group::GroupArgs),
    /// List the browsers in which you are signed in, and sign them out
    Session(session::SessionArgs),
    /// List, create and remove your API tokens
    Token(session::TokenArgs),
    /// Show the warm pools, set their bounds, and announce events; for operators
    Pool(pool::PoolArgs),
    /// List the environments that wait for room; for operators
    Queue(queue::QueueArgs),
    /// Show what uses this server's memory, processors and disk, and how many more environments fit; for operators
    Capacity(capacity::CapacityArgs),
    /// Stop new starts, and drain the server before the host is rebooted; for operators
    Maintenance(maintenance::MaintenanceArgs),
    /// Show whether mail can be sent, and send a test; for operators
    Mail(mail::MailArgs),
    /// Connect `env`, `ssh` and `kubeconfig` on this machine to a server that runs elsewhere
    ///
    ///   faultline login https://labs.example.org
    ///
    /// Prompts for an API token from the page *Keys and tokens*, and stores it.
    #[command(verbatim_doc_comment)]
    Login(login::LoginArgs),
    /// Remove what `login` stored, and the key that `ssh` created here
    Logout(login::LogoutArgs),
    /// Open a shell in an environment; no setup needed
    ///
    ///   faultline ssh                      your only environment
    ///   faultline ssh node2.k7f3q9xw2m     one of its nodes
    ///   faultline ssh -- uptime            one command
    #[command(verbatim_doc_comment)]
    Ssh(ssh::SshArgs),
    /// Forward a TCP port of this machine to an environment, until it is interrupted
    ///
    ///   faultline forward 5432                      of your only environment
    ///   faultline forward node2.k7f3q9xw2m 80:8080  port 80 there, port 8080 here
    #[command(verbatim_doc_comment)]
    Forward(ssh::ForwardArgs),
    /// Write a kubeconfig for an environment's cluster, whose credential is renewed automatically
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
    /// Measure this machine; each ratio comes from a single run
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Write a consistent copy of the database while the server runs
    Backup(backup::BackupArgs),
    /// Replace the database with a copy; the server must be stopped
    Restore(backup::BackupArgs),
    /// Build, list, verify and prune images
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Tools for developing Faultline and for trying it out
    #[command(subcommand)]
    Dev(dev::DevCommand),
    /// Print a shell's completion script
    ///
    ///   faultline completions bash >/usr/share/bash-completion/completions/faultline
    ///   faultline completions zsh >/usr/local/share/zsh/site-functions/_faultline
    ///   faultline completions fish >/etc/fish/completions/faultline.fish
    #[command(verbatim_doc_comment)]
    Completions(completions::CompletionsArgs),
    /// Run a process of a host cluster (started by `dev host-cluster up`, not by people)
    #[command(name = faultline_host_cluster::process::SUBCOMMAND, hide = true)]
    HostClusterProcess {
        /// What the process does.
        job: String,
        /// The cluster's folder.
        folder: PathBuf,
        /// The member that the process is for.
        member: Option<faultline_host_cluster::Member>,
    },
    /// Run the machines of one tenant (started by the server, not by people)
    #[command(hide = true)]
    Launch {
        /// The tenant's folder.
        dir: PathBuf,
    },
}

impl Command {
    /// Returns true if the command makes or ends machines.
    const fn needs_root(&self) -> bool {
        use image::ImageCommand;
        use lab::LabCommand;
        if let Self::Dev(command) = self {
            return command.needs_root();
        }
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

/// Ends the process without a message if the reader of its output has ended, as in `faultline … | head`.
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
    // Every stream is a file descriptor; the usual soft limit of 1024 is soon reached.
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: files.maximum,
        ..files
    };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
    // The launcher enters a network namespace of its own, which only a single-threaded process can do.
    if let Command::Launch { dir } = &cli.command {
        log("info");
        return finish(faultline_launcher::run::main(dir).map_err(Into::into));
    }
    // The same holds for these, which make or enter namespaces.
    if let Command::HostClusterProcess {
        job,
        folder,
        member,
    } = &cli.command
    {
        let ended = faultline_host_cluster::run_process(job, folder, *member);
        return finish(ended.map_err(Into::into));
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
    // A thread that is blocked on standard input ends only with the next line; don't wait for it.
    runtime.shutdown_background();
    finish(ended)
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Up(args) => up::run(&args, cli.output).await,
        Command::Down(args) => down::run(&args, cli.output).await,
        Command::Doctor(args) => doctor::run(&args, cli.output).await,
        Command::Env(args) => env::run(&args, cli.output),
        Command::Person(args) => person::run(&args, cli.output),
        Command::Group(args) => group::run(&args, cli.output),
        Command::Session(args) => session::sessions(&args, cli.output),
        Command::Token(args) => session::tokens(&args, cli.output),
        Command::Pool(args) => pool::run(&args, cli.output),
        Command::Queue(args) => queue::run(&args, cli.output),
        Command::Capacity(args) => capacity::run(&args, cli.output),
        Command::Mail(args) => mail::run(&args, cli.output),
        Command::Maintenance(args) => maintenance::run(&args, cli.output),
        Command::Login(args) => login::login(&args, cli.output),
        Command::Logout(args) => login::logout(&args, cli.output),
        Command::Ssh(args) => ssh::ssh(&args),
        Command::Forward(args) => ssh::forward(&args),
        Command::Kubeconfig(args) => kubeconfig::run(&args),
        Command::Credential(args) => kubeconfig::credential(&args),
        Command::Lab(command) => lab::run(command, cli.output).await,
        Command::Bench(command) => bench::run(command, cli.output).await,
        Command::Backup(args) => backup::backup(&args, cli.output).await,
        Command::Restore(args) => backup::restore(&args, cli.output).await,
        Command::Image(command) => image::run(command, cli.output).await,
        Command::Dev(command) => dev::run(command, cli.output),
        Command::Completions(args) => completions::run::<Cli>(&args),
        Command::HostClusterProcess { .. } | Command::Launch { .. } => Ok(()),
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
    // The guest link's multiplexer logs a line for each malformed frame, and a guest can send as many as it likes.
    let filter = match "yamux=off".parse() {
        Ok(quiet) => filter.add_directive(quiet),
        Err(_) => filter,
    };
    // A log line that can't be written is dropped. Reporting the failure to the same place would end the process: the
    // launcher's log is on the disk that may be full.
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
