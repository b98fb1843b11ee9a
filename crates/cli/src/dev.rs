//! `faultline dev`: tools for whoever develops Faultline or writes labs.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use faultline_host_cluster::{
    self as host_cluster, Error, Name, Options, Place,
    process::ServiceState,
    status::{Condition, Status},
};
use serde_json::json;

use crate::{Output, answer, places::ImagesArg, progress};

/// The subcommands of `faultline dev`.
#[derive(Debug, Subcommand)]
pub enum DevCommand {
    /// Run a Kubernetes cluster of two nodes on this machine, to test with
    ///
    ///   faultline dev host-cluster up
    ///   export KUBECONFIG=$(mktemp); faultline dev host-cluster kubeconfig >"$KUBECONFIG"
    ///   kubectl get nodes
    ///   faultline dev host-cluster down
    ///
    /// The cluster is not for students. Its programs are processes of this machine, in namespaces of
    /// their own, and its API server is reachable at this machine's loopback only. Pods can't reach
    /// this machine or any other network.
    #[command(subcommand, verbatim_doc_comment)]
    HostCluster(HostClusterCommand),
}

impl DevCommand {
    /// Returns true if the command starts or ends processes of others.
    pub const fn needs_root(&self) -> bool {
        let Self::HostCluster(command) = self;
        matches!(
            command,
            HostClusterCommand::Up { .. } | HostClusterCommand::Down { .. }
        )
    }
}

/// The subcommands of `faultline dev host-cluster`.
#[derive(Debug, Subcommand)]
pub enum HostClusterCommand {
    /// Start the cluster and wait until it is usable; in a running one, start what has ended
    ///
    ///   faultline dev host-cluster up
    ///   faultline dev host-cluster up --name review --port 16443
    ///
    /// The first time, programs and container images are built, unless
    /// `faultline image build kubernetes-1.36` has built them. If a start is interrupted, `up` begins
    /// anew, and `down` removes what it has left.
    #[command(verbatim_doc_comment)]
    Up {
        #[command(flatten)]
        place: PlaceArgs,
        /// The port on 127.0.0.1 for the API server [default: any free port]
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
        port: Option<u16>,
        /// The minor version of Kubernetes
        #[arg(long, value_name = "VERSION", default_value = "1.36")]
        kubernetes: String,
        #[command(flatten)]
        images: ImagesArg,
    },
    /// End all processes of the cluster and remove its files
    Down {
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Print a kubeconfig for the cluster's administrator
    ///
    ///   faultline dev host-cluster kubeconfig >host.kubeconfig
    ///   kubectl --kubeconfig host.kubeconfig get pods -A
    #[command(verbatim_doc_comment)]
    Kubeconfig {
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Show which programs of the cluster run
    Status {
        #[command(flatten)]
        place: PlaceArgs,
    },
}

/// The options that select a cluster.
#[derive(Debug, Clone, Args)]
pub struct PlaceArgs {
    /// The cluster's name, if there are several
    #[arg(long, default_value_t = Name::default())]
    name: Name,
    /// The folder for clusters; each has a folder of its own in it [default: ~/.local/state/faultline/host-clusters]
    #[arg(long)]
    folder: Option<PathBuf>,
}

impl PlaceArgs {
    fn place(&self) -> anyhow::Result<Place> {
        let parent = self.folder.clone().unwrap_or_else(Place::default_parent);
        // Its processes have other current folders, and its control group's name contains a hash of it.
        let parent = std::path::absolute(&parent)
            .with_context(|| format!("{} is not a path", parent.display()))?;
        Ok(Place::new(parent, self.name.clone()))
    }
}

/// Runs a subcommand.
pub fn run(command: DevCommand, output: Output) -> anyhow::Result<()> {
    let DevCommand::HostCluster(command) = command;
    match command {
        HostClusterCommand::Up {
            place,
            port,
            kubernetes,
            images,
        } => {
            let recipes = images.folder(None)?;
            let options = Options {
                place: place.place()?,
                program: std::env::current_exe().context("cannot find the path of this program")?,
                recipes: std::path::absolute(recipes)?,
                kubernetes,
                port,
            };
            up(&options, output)
        }
        HostClusterCommand::Down { place } => {
            let place = place.place()?;
            let down = host_cluster::down(&place)?;
            let name = place.name();
            let text = if down.existed {
                format!(
                    "host cluster {name} is removed: {} processes ended",
                    down.processes
                )
            } else {
                format!("there is no host cluster {name}; nothing to remove")
            };
            answer::say(
                &json!({"name": name, "existed": down.existed, "processes": down.processes}),
                output,
                &text,
            )
        }
        HostClusterCommand::Kubeconfig { place } => {
            let place = place.place()?;
            let status = host_cluster::status(&place)?;
            let path = place.kubeconfig();
            let text = std::fs::read_to_string(&path).with_context(|| {
                format!(
                    "{} can't be read; is the cluster still starting?",
                    path.display()
                )
            })?;
            answer::say(
                &json!({"kubeconfig": text, "path": path, "server": status.server}),
                output,
                text.trim_end(),
            )
        }
        HostClusterCommand::Status { place } => {
            let status = host_cluster::status(&place.place()?)?;
            answer::print(&serde_json::to_value(&status)?, output, |_| {
                Ok(describe(&status))
            })
        }
    }
}

fn up(options: &Options, output: Output) -> anyhow::Result<()> {
    let done = match host_cluster::up(options, &progress::shown()) {
        Err(e @ (Error::Step { .. } | Error::Io { .. })) => {
            return Err(anyhow::Error::from(e).context(format!(
                "the host cluster {} was not started; its logs are in {}, and `{}` removes what was started",
                options.place.name(),
                options.place.folder().display(),
                options.place.command("down"),
            )));
        }
        done => done?,
    };
    let status = &done.status;
    let mut value = serde_json::to_value(status)?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("already".to_owned(), done.already.into());
        fields.insert("restarted".to_owned(), done.restarted.clone().into());
        fields.insert("kubeconfig".to_owned(), json!(options.place.kubeconfig()));
    }
    let what = match (done.already, done.restarted.as_slice()) {
        (false, _) => format!(
            "host cluster {} is ready: Kubernetes {}, two nodes, {}",
            status.name, status.kubernetes, status.server
        ),
        (true, []) => format!(
            "host cluster {} runs already, {}",
            status.name, status.server
        ),
        (true, again) => format!(
            "host cluster {} runs again, {}; started: {}",
            status.name,
            status.server,
            again.join(", ")
        ),
    };
    let kubeconfig = options.place.kubeconfig();
    answer::say(
        &value,
        output,
        &format!("{what}\nexport KUBECONFIG={}", kubeconfig.display()),
    )
}

fn describe(status: &Status) -> String {
    let condition = match status.condition {
        Condition::Starting => "is starting, or its start was interrupted",
        Condition::Running => "runs",
        Condition::Degraded => "runs in part; `up` starts what has ended",
        Condition::Incomplete => "has lost a member; remove it with `down` and start it again",
    };
    let mut table = answer::table(["MEMBER", "PROGRAM", "STATE"]);
    for (member, services) in &status.members {
        for (name, state) in services {
            let state = match state {
                ServiceState::Running { .. } => "runs".to_owned(),
                ServiceState::Ended { status } => format!("ended with status {status}"),
                ServiceState::Waiting => "not started".to_owned(),
            };
            table.add_row([member.as_str(), name, &state]);
        }
    }
    let memory: u64 = status.memory_mib.values().sum();
    format!(
        "host cluster {} {condition}\nKubernetes {}, {}, {memory} MiB of memory, {}\n{table}",
        status.name,
        status.kubernetes,
        status.server,
        status.folder.display()
    )
}
