//! `faultline image`: build and list.

use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;
use faultline_domain::NodeName;
use faultline_image::{bake, cache::Cache, recipe::Recipe};

use crate::{Output, progress};

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build an image and freeze its template; resumes after the last finished stage
    ///
    ///   faultline image build debian-12
    Build {
        /// The recipe's name: a file in the recipes' folder, without .yaml
        name: String,
        /// How many nodes are frozen together
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=5))]
        nodes: u32,
        /// The recipes' folder
        #[arg(long, env = "FAULTLINE_IMAGES", default_value = "images")]
        recipes: PathBuf,
    },
    /// List the recipes and whether their templates are in the cache
    List {
        /// The recipes' folder
        #[arg(long, env = "FAULTLINE_IMAGES", default_value = "images")]
        recipes: PathBuf,
    },
}

/// The names of so many nodes.
pub fn node_names(count: u32) -> Vec<NodeName> {
    faultline_domain::lab::Needs {
        nodes: count,
        ..Default::default()
    }
    .node_names()
}

/// Runs an image command.
pub async fn run(command: ImageCommand, output: Output) -> anyhow::Result<()> {
    let cache = Cache::of_user();
    match command {
        ImageCommand::Build {
            name,
            nodes,
            recipes,
        } => {
            let recipe = Recipe::load(&recipes, &name)?;
            let program = std::env::current_exe().context("where is this program?")?;
            let template = bake::bake(
                &recipe,
                &node_names(nodes),
                &cache,
                &program,
                &progress::shown(),
            )
            .await?;
            let manifest = &template.manifest;
            match output {
                Output::Json => println!(
                    "{}",
                    serde_json::to_string_pretty(&serde_json::json!({
                        "image": name, "key": manifest.key, "snapshot": template.snapshot, "manifest": manifest,
                    }))?
                ),
                Output::Text => println!(
                    "{name} is ready: {} node(s), {} MiB each, {}; template {}\ncold boot: first shell after {:.1} s, settled after {:.1} s",
                    manifest.nodes.len(),
                    manifest.machine.memory_mib,
                    manifest.machine.accelerator.as_str(),
                    manifest.key,
                    manifest.cold_shell_millis as f64 / 1000.0,
                    manifest.cold_boot_millis as f64 / 1000.0,
                ),
            }
        }
        ImageCommand::List { recipes } => {
            let mut rows = Vec::new();
            for name in Recipe::names(&recipes) {
                let state = match Recipe::load(&recipes, &name)
                    .and_then(|r| bake::find(&r, &node_names(1), &cache).map(|t| (r, t)))
                {
                    Ok((recipe, Some(template))) => {
                        (recipe.summary, "ready".to_owned(), template.manifest.key)
                    }
                    Ok((recipe, None)) => (recipe.summary, "not built".to_owned(), String::new()),
                    Err(e) => (String::new(), e.to_string(), String::new()),
                };
                rows.push((name, state.1, state.2, state.0));
            }
            match output {
                Output::Json => {
                    let rows: Vec<_> = rows.iter().map(|(name, state, key, summary)| serde_json::json!({"name": name, "state": state, "template": key, "summary": summary})).collect();
                    println!("{}", serde_json::to_string_pretty(&rows)?);
                }
                Output::Text => {
                    let mut table = comfy_table::Table::new();
                    table
                        .load_preset(comfy_table::presets::NOTHING)
                        .set_header(["IMAGE", "STATE", "TEMPLATE", "SUMMARY"]);
                    table.add_rows(rows.into_iter().map(|(n, s, k, t)| [n, s, k, t]));
                    println!("{table}");
                }
            }
        }
    }
    Ok(())
}
