//! `faultline bench`: measures this machine. Each ratio comes from a single run.

mod claim;
mod demand;
mod door;
mod machines;
mod merging;
mod pages;
mod pools;
mod report;
mod save;
mod served;
mod simulation;

use clap::{Args, Subcommand};
use faultline_domain::template::Form;
use tempfile::TempDir;

use crate::{
    Output,
    places::{ImagesArg, LabsArg},
    sources::SourceArgs,
};

pub use report::Report;

/// The measurements.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Cold boot to a usable shell, compared with clone to a usable shell; 1, 4 and 8 clones at once
    ///
    ///   faultline bench clone --image kubernetes-1.36 --shape 1+2
    #[command(verbatim_doc_comment)]
    Clone(Machines),
    /// The wait for a tenant: cold boot, clone, and claim from a pool, until a shell and the API server answer
    ///
    ///   faultline bench claim --image kubernetes-1.36 --shape 1+2 --rounds 5
    #[command(verbatim_doc_comment)]
    Claim(Machines),
    /// Save points: the pause of the machines, the size, and the wait for a tenant that continues from one
    ///
    ///   faultline bench save --image kubernetes-1.36 --shape 1+2 --rounds 3
    #[command(verbatim_doc_comment)]
    Save(Machines),
    /// Warm pools in a simulation: waits and memory, by how their size is determined
    Pools,
    /// A server with thousands of people in a simulation: days of starts within minutes, with crashes of the server and
    /// failures of machines. Fails if an environment is lost or doubled, or if somebody waits for ever
    ///
    ///   faultline bench simulation --people 300 --environments 1000 --days 1 --minutes 2
    #[command(verbatim_doc_comment)]
    Simulation(simulation::Settings),
    /// Memory private to each clone, compared with the template's memory, and what merging of identical pages would
    /// save
    ///
    ///   faultline bench density --image kubernetes-1.36 --shape 1+2 --rest 600
    #[command(verbatim_doc_comment)]
    Density(Machines),
    /// Processor time of an idle clone
    ///
    ///   faultline bench idle --image kubernetes-1.36 --against 1+0-stock --rest 300
    #[command(verbatim_doc_comment)]
    Idle(Machines),
    /// Requests per second and latency of the pages, with 100 idle terminals open
    Pages {
        /// Seconds of measurement for each page
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        #[command(flatten)]
        labs: LabsArg,
        #[command(flatten)]
        images: ImagesArg,
        #[command(flatten)]
        sources: SourceArgs,
    },
    /// Requests to an API server through the server's gateway, compared with direct ones; memory of the server with 100
    /// watches
    Door {
        /// Number of requests on each way
        #[arg(long, default_value_t = 30)]
        rounds: u32,
        #[command(flatten)]
        labs: LabsArg,
        #[command(flatten)]
        images: ImagesArg,
    },
}

/// The options for measurements of machines.
#[derive(Debug, Args)]
pub struct Machines {
    /// The image
    #[arg(long, default_value = "debian-12")]
    image: String,
    /// The nodes, as control planes + workers
    #[arg(long, default_value_t = Form::default())]
    shape: Form,
    /// Seconds of rest before memory and processor time are measured [default: 30, for clusters 120]
    #[arg(long)]
    rest: Option<u64>,
    /// Number of clones that `density` makes [default: 8 machines or 1 cluster], and of tenants that `claim` claims at
    /// once [default: 20 machines or no cluster]
    #[arg(long)]
    clones: Option<usize>,
    /// A second shape that `idle` measures first, such as 1+0-stock
    #[arg(long, value_name = "SHAPE")]
    against: Option<Form>,
    /// Number of measurements of a single start, or of ten idle seconds
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    #[command(flatten)]
    images: ImagesArg,
    #[command(flatten)]
    sources: SourceArgs,
}

/// Creates a folder for a measurement's data. It is removed when the value is dropped.
fn scratch() -> std::io::Result<TempDir> {
    tempfile::Builder::new()
        .prefix("faultline-bench-")
        .tempdir()
}

/// Runs a measurement and prints the result.
pub async fn run(command: BenchCommand, output: Output) -> anyhow::Result<()> {
    let report = match command {
        BenchCommand::Clone(args) => machines::clone(&args).await?,
        BenchCommand::Claim(args) => claim::claim(&args).await?,
        BenchCommand::Save(args) => save::save(&args).await?,
        BenchCommand::Pools => pools::pools(),
        BenchCommand::Simulation(settings) => simulation::run(settings).await?,
        BenchCommand::Density(args) => machines::density(&args).await?,
        BenchCommand::Idle(args) => machines::idle(&args).await?,
        BenchCommand::Pages {
            seconds,
            labs,
            images,
            sources,
        } => {
            let (labs, images) = (labs.folder(None)?, images.folder(None)?);
            pages::pages(seconds, &labs, &images, sources.sources()).await?
        }
        BenchCommand::Door {
            rounds,
            labs,
            images,
        } => door::door(rounds, &labs.folder(None)?, &images.folder(None)?).await?,
    };
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Text => println!("{}", report.table()),
    }
    Ok(())
}
