//! `faultline bench`: what this machine does, measured. Ratios come from one run.

mod door;
mod machines;
mod merging;
mod pages;
mod report;
mod served;

use clap::{Args, Subcommand};
use faultline_domain::template::Form;
use tempfile::TempDir;

use crate::{
    Output,
    places::{ImagesArg, LabsArg},
    sources::SourceArgs,
};

pub use report::Report;

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Cold boot to a usable shell against clone to a usable shell; 1, 4 and 8 clones at once
    ///
    ///   faultline bench clone --image kubernetes-1.36 --shape 1+2
    #[command(verbatim_doc_comment)]
    Clone(Machines),
    /// Memory private to each clone against the template's memory, and what merging of identical pages would give back
    ///
    ///   faultline bench density --image kubernetes-1.36 --shape 1+2 --rest 600
    #[command(verbatim_doc_comment)]
    Density(Machines),
    /// CPU that an idle clone uses
    ///
    ///   faultline bench idle --image kubernetes-1.36 --against 1+0-stock --rest 300
    #[command(verbatim_doc_comment)]
    Idle(Machines),
    /// Requests per second and latency of the pages, with 100 idle terminals open
    Pages {
        /// Seconds to measure each page
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        #[command(flatten)]
        labs: LabsArg,
        #[command(flatten)]
        images: ImagesArg,
        #[command(flatten)]
        sources: SourceArgs,
    },
    /// A cluster's API server asked through the server's door against directly; memory of the server with 100 watches
    Door {
        /// How often each way is asked
        #[arg(long, default_value_t = 30)]
        rounds: u32,
        #[command(flatten)]
        labs: LabsArg,
        #[command(flatten)]
        images: ImagesArg,
    },
}

/// What machines are measured.
#[derive(Debug, Args)]
pub struct Machines {
    /// The image
    #[arg(long, default_value = "debian-12")]
    image: String,
    /// The nodes: control planes + workers
    #[arg(long, default_value_t = Form::default())]
    shape: Form,
    /// Seconds of rest before memory and CPU are looked at; 30, and 120 for a cluster, unless said
    #[arg(long)]
    rest: Option<u64>,
    /// How many clones `density` makes; 8 machines or one cluster unless said
    #[arg(long)]
    clones: Option<usize>,
    /// A second shape that `idle` looks at before the first, such as 1+0-stock
    #[arg(long, value_name = "SHAPE")]
    against: Option<Form>,
    /// How often a single start, or ten idle seconds, are measured
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    #[command(flatten)]
    images: ImagesArg,
    #[command(flatten)]
    sources: SourceArgs,
}

/// Makes a folder for the data of a measurement. It is removed when the value is dropped.
fn scratch() -> std::io::Result<TempDir> {
    tempfile::Builder::new()
        .prefix("faultline-bench-")
        .tempdir()
}

/// Measures and prints.
pub async fn run(command: BenchCommand, output: Output) -> anyhow::Result<()> {
    let report = match command {
        BenchCommand::Clone(args) => machines::clone(&args).await?,
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
