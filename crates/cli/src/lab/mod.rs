//! `faultline lab`: the commands for authors.

mod files;
mod named;
pub(crate) mod platform;
mod proofs;
mod run;
mod terminal;
mod test;
mod wrong;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use self::platform::Platform;
use crate::{
    Output,
    places::{ImagesArg, LabsArg},
    sources::SourceArgs,
};

/// The subcommands of `faultline lab`.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Create a new lab: small, and provable as it is
    ///
    ///   faultline lab new cache-is-cold       in the folder of labs, or in a new folder `labs` here
    ///   faultline lab new ./cache-is-cold     in this folder
    #[command(verbatim_doc_comment)]
    New {
        /// The lab's name (lower-case letters, digits and hyphens), or a path that ends with it
        #[arg(value_name = "LAB")]
        name: String,
        #[command(flatten)]
        place: Place,
    },
    /// Find mistakes in labs, with position and advice
    ///
    ///   faultline lab lint                    all labs
    ///   faultline lab lint cache-is-cold      one of the folder of labs
    ///   faultline lab lint ./cache-is-cold    one that lies elsewhere
    #[command(verbatim_doc_comment)]
    Lint {
        /// Labs, by name or by path [default: all]
        #[arg(value_name = "LAB")]
        names: Vec<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Run a lab while writing it: machine, terminals, checks, repeated setup; files are read again when they change
    ///
    ///   faultline lab run cache-is-cold       then: t for a terminal, c to check, ? for the rest
    ///   faultline lab run .                   the lab in the current folder
    #[command(verbatim_doc_comment)]
    Run {
        /// The lab, by name or by path
        #[arg(value_name = "LAB")]
        name: String,
        /// Don't open a terminal at the start
        #[arg(long)]
        no_terminal: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Open another terminal on a lab that `lab run` has started in another window
    ///
    ///   faultline lab shell cache-is-cold
    ///   faultline lab shell cache-is-cold node2
    #[command(verbatim_doc_comment)]
    Shell {
        /// The lab, by name or by path
        #[arg(value_name = "LAB")]
        name: String,
        /// The node
        #[arg(default_value = "node1")]
        node: String,
    },
    /// Prove labs: start, checks must fail, solution, checks must pass, destroy; after each wrong repair, a check must
    /// fail
    ///
    ///   faultline lab test cache-is-cold
    ///   faultline lab test --all --junit labs.xml
    ///   faultline lab test --kubernetes 1.37 claim-pending
    ///
    /// A proof is kept until the lab, the image or this program changes; the output says which proofs were reused.
    #[command(verbatim_doc_comment)]
    Test {
        /// Labs, by name or by path
        #[arg(value_name = "LAB")]
        names: Vec<String>,
        /// All labs
        #[arg(long, conflicts_with = "names")]
        all: bool,
        /// Prove again even what has been proven
        #[arg(long)]
        fresh: bool,
        /// Don't try the wrong repairs
        #[arg(long)]
        without_wrong: bool,
        /// Write a JUnit report into this file
        #[arg(long, value_name = "FILE")]
        junit: Option<PathBuf>,
        /// Start no cluster lab or wrong repair after this many minutes, and no lab whose cluster has to be baked in the
        /// last 25 of them. Changed labs come first and wrong repairs last; the output says what was left out
        #[arg(long, value_name = "MINUTES")]
        within: Option<u64>,
        /// Prove labs with this minor version of Kubernetes in place of their own; plain machines are not affected
        #[arg(long, value_name = "VERSION")]
        kubernetes: Option<String>,
        /// Number of labs that are proven at the same time
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
        jobs: u32,
        #[command(flatten)]
        place: Place,
    },
    /// List the labs
    List {
        #[command(flatten)]
        place: Place,
    },
}

/// The options for the folders of labs and images.
#[derive(Debug, Clone, Args)]
pub struct Place {
    #[command(flatten)]
    labs: LabsArg,
    #[command(flatten)]
    images: ImagesArg,
    #[command(flatten)]
    sources: SourceArgs,
}

impl Place {
    fn labs(&self) -> anyhow::Result<PathBuf> {
        self.labs.folder(None)
    }

    async fn platform(&self) -> anyhow::Result<Platform> {
        Platform::open(&self.images.folder(None)?, self.sources.sources()).await
    }
}

/// Runs a subcommand.
pub async fn run(command: LabCommand, output: Output) -> anyhow::Result<()> {
    match command {
        LabCommand::New { name, place } => files::new(&place, &name, output),
        LabCommand::Lint { names, place } => files::lint(&place, &names, output),
        LabCommand::List { place } => files::list(&place, output),
        LabCommand::Run {
            name,
            no_terminal,
            place,
        } => run::run(&place, &name, !no_terminal).await,
        LabCommand::Shell { name, node } => run::shell(&name, &node).await,
        LabCommand::Test {
            names,
            all,
            fresh,
            without_wrong,
            junit,
            within,
            kubernetes,
            jobs,
            place,
        } => {
            let wanted = test::Wanted {
                names,
                all,
                fresh,
                without_wrong,
                junit,
                within: within.map(|minutes| Duration::from_secs(minutes * 60)),
                kubernetes,
                jobs,
            };
            test::run(&place, wanted, output).await
        }
    }
}
