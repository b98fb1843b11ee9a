//! `faultline backup` and `faultline restore`: copies of the database, made while the server runs.

use std::path::PathBuf;

use clap::Args;

use crate::{
    Output,
    config::{data_dir, files},
};

/// The options of both commands.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The backup's file
    file: PathBuf,
    /// The data folder [default: ~/.local/share/faultline]
    #[arg(long, env = "FAULTLINE_DATA")]
    data: Option<PathBuf>,
}

impl BackupArgs {
    fn database(&self) -> PathBuf {
        self.data
            .clone()
            .unwrap_or_else(data_dir)
            .join(files::DATABASE)
    }
}

/// Writes a consistent copy of the database.
pub async fn backup(args: &BackupArgs, output: Output) -> anyhow::Result<()> {
    faultline_store::backup::backup(&args.database(), &args.file).await?;
    say(args, output, "written")
}

/// Replaces the database with a copy, and keeps the replaced one.
pub async fn restore(args: &BackupArgs, output: Output) -> anyhow::Result<()> {
    faultline_store::backup::restore(&args.database(), &args.file).await?;
    say(args, output, "restored")
}

fn say(args: &BackupArgs, output: Output, verb: &str) -> anyhow::Result<()> {
    match output {
        Output::Json => println!("{}", serde_json::json!({ verb: args.file })),
        Output::Text => println!("{} was {verb}.", args.file.display()),
    }
    Ok(())
}
