//! `faultline env`: environments of the running server.

mod nodes;
mod stages;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::{Args, Subcommand};
use faultline_domain::{EnvironmentId, LabSlug, NodeName};
use serde::Deserialize;
use serde_json::Value;

use self::stages::Stage;
use crate::{Output, api::Api, config::data_dir};

/// Where the server's data folder is.
#[derive(Debug, Args)]
pub struct Where {
    /// The data folder [default: ~/.local/share/faultline]
    #[arg(long, env = "FAULTLINE_DATA", global = true)]
    data: Option<PathBuf>,
}

impl Where {
    pub(crate) fn data(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(data_dir)
    }
}

/// What can be done with environments.
#[derive(Debug, Subcommand)]
pub enum EnvCommand {
    /// List your environments that run or are being made
    List {
        /// Those that failed or ended too, the latest hundred in all
        #[arg(long, short)]
        all: bool,
    },
    /// Start a lab's environment and wait until it can be used
    ///
    ///   faultline env start disk-full
    Start {
        /// The lab
        lab: LabSlug,
    },
    /// Begin the lab again on a fresh machine, and wait until it can be used; also the retry of a start that failed
    ///
    /// What was done in the old environment is lost, progress is kept.
    #[command(verbatim_doc_comment)]
    Reset {
        /// The environment
        id: EnvironmentId,
    },
    /// Say how one environment is, an ended one too
    Show {
        /// The environment
        id: EnvironmentId,
    },
    /// Run a lab's checks in an environment; exits with 1 when something does not hold
    Check {
        /// The environment
        id: EnvironmentId,
    },
    /// Give it more time
    Extend {
        /// The environment
        id: EnvironmentId,
    },
    /// Pause it: everything stays as it is, nothing runs; its time goes on
    Suspend {
        /// The environment
        id: EnvironmentId,
    },
    /// Let a paused one go on where it stood
    Resume {
        /// The environment
        id: EnvironmentId,
    },
    /// Give it a node more, a worker, and wait until it can be used
    ///
    /// It takes the next free number, at most five nodes in all. In a cluster it joins and becomes Ready, which takes
    /// minutes. Operators may do it to anybody's environment.
    ///
    ///   faultline env add-node wmx9d4k2ta
    #[command(verbatim_doc_comment)]
    AddNode {
        /// The environment
        id: EnvironmentId,
    },
    /// Remove a node that was added, and wait until it is gone
    ///
    /// In a cluster its pods are moved away first. The nodes that the lab has stay.
    ///
    ///   faultline env remove-node wmx9d4k2ta node2
    #[command(verbatim_doc_comment)]
    RemoveNode {
        /// The environment
        id: EnvironmentId,
        /// The node, such as `node2`
        node: NodeName,
    },
    /// End it
    End {
        /// The environment
        id: EnvironmentId,
    },
}

/// `faultline env` with where the server is.
#[derive(Debug, Args)]
pub struct EnvArgs {
    #[command(subcommand)]
    command: EnvCommand,
    #[command(flatten)]
    place: Where,
}

/// An environment, as the API shows it.
#[derive(Debug, Deserialize)]
pub(crate) struct Environment {
    pub(crate) id: String,
    lab: String,
    pub(crate) phase: String,
    nodes: Vec<String>,
    seconds_left: i64,
    ends_idle: bool,
    failed_stage: Option<String>,
    failed_reason: Option<String>,
    #[serde(default)]
    stages: Vec<Stage>,
    progress: Option<Try>,
}

/// The try at the lab that it belongs to.
#[derive(Debug, Deserialize)]
struct Try {
    solved: bool,
}

impl Environment {
    /// True until it can be used for the first time.
    pub(crate) fn is_starting(&self) -> bool {
        matches!(
            self.phase.as_str(),
            "requested" | "provisioning" | "preparing"
        )
    }

    /// True when nobody can use it any more.
    fn is_over(&self) -> bool {
        matches!(
            self.phase.as_str(),
            "failed" | "expired" | "releasing" | "gone"
        )
    }

    /// How long it lives, for people.
    fn left(&self) -> String {
        if self.is_over() {
            return "-".to_owned();
        }
        let idle = if self.ends_idle {
            ", or longer while it is used"
        } else {
            ""
        };
        format!("{} min{idle}", self.seconds_left / 60)
    }
}

/// Runs an environment command.
pub fn run(args: &EnvArgs, output: Output) -> anyhow::Result<()> {
    let api = Api::load(&args.place.data())?;
    match &args.command {
        EnvCommand::List { all } => list(&api, *all, output),
        EnvCommand::Start { lab } => start(&api, &format!("/labs/{lab}/environments"), output),
        EnvCommand::Reset { id } => start(&api, &format!("/environments/{id}/reset"), output),
        EnvCommand::Show { id } => show(&api, id, output),
        EnvCommand::Check { id } => check(&api, id, output),
        EnvCommand::Extend { id } => {
            let answer = api.post(&format!("/environments/{id}/extend"), None)?;
            let e: Environment = serde_json::from_value(answer.clone())?;
            let text = format!("It has more time: {}.", e.left());
            say(&answer, output, &text)
        }
        EnvCommand::Suspend { id } => turn(&api, id, "suspend", "suspended", output),
        EnvCommand::Resume { id } => turn(&api, id, "resume", "active", output),
        EnvCommand::AddNode { id } => nodes::add(&api, id, output),
        EnvCommand::RemoveNode { id, node } => nodes::remove(&api, id, node, output),
        EnvCommand::End { id } => say(
            &api.delete(&format!("/environments/{id}"))?,
            output,
            "It ends; your progress is kept.",
        ),
    }
}

fn say(answer: &Value, output: Output, text: &str) -> anyhow::Result<()> {
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(answer)?),
        Output::Text => println!("{text}"),
    }
    Ok(())
}

fn list(api: &Api, all: bool, output: Output) -> anyhow::Result<()> {
    let query = if all { "?all=true" } else { "" };
    let all: Value = api.get(&format!("/environments{query}"))?;
    if output == Output::Json {
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    let all: Vec<Environment> = serde_json::from_value(all)?;
    if all.is_empty() {
        println!("You have no environment open. `faultline env start <lab>` starts one.");
        return Ok(());
    }
    let mut table = comfy_table::Table::new();
    table
        .load_preset(comfy_table::presets::NOTHING)
        .set_header(["ENVIRONMENT", "LAB", "STATE", "NODES", "TIME LEFT"]);
    for e in all {
        let left = e.left();
        table.add_row([e.id, e.lab, e.phase, e.nodes.join(" "), left]);
    }
    println!("{table}");
    Ok(())
}

fn show(api: &Api, id: &EnvironmentId, output: Output) -> anyhow::Result<()> {
    let answer: Value = api.get(&format!("/environments/{id}"))?;
    if output == Output::Json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    let e: Environment = serde_json::from_value(answer)?;
    println!(
        "{}: {} is {}, nodes {}; time left: {}",
        e.id,
        e.lab,
        e.phase,
        e.nodes.join(" "),
        e.left()
    );
    if let (Some(stage), Some(reason)) = (&e.failed_stage, &e.failed_reason) {
        println!("it failed at {stage}: {reason}");
    }
    if let (true, Some(at)) = (e.is_starting(), stages::current(&e.stages)) {
        println!("it is at: {at}");
    }
    if e.is_over() {
        let open: Vec<Environment> = api.get("/environments")?;
        if let Some(next) = open.into_iter().find(|o| o.lab == e.lab) {
            println!("the lab goes on in {}", next.id);
        }
    }
    if e.progress.is_some_and(|p| p.solved) {
        println!("the lab is solved");
    }
    Ok(())
}

/// Has an environment made, and waits until it can be used.
fn start(api: &Api, path: &str, output: Output) -> anyhow::Result<()> {
    let mut answer = api.post(path, None)?;
    let began = Instant::now();
    let (progress, mut shown) = (stages::progress(output), Vec::new());
    let mut waited = false;
    loop {
        let environment: Environment = serde_json::from_value(answer.clone())?;
        for event in stages::news(&environment.stages, |name| Some(name), &mut shown) {
            progress.report(event);
        }
        match environment.phase.as_str() {
            "active" => {
                if output == Output::Json {
                    println!("{}", serde_json::to_string_pretty(&answer)?);
                } else {
                    let ready = if waited {
                        format!("is ready after {:.1} s", began.elapsed().as_secs_f64())
                    } else {
                        "is running".to_owned()
                    };
                    println!("{0} {ready}.\n\n  faultline ssh {0}", environment.id);
                }
                return Ok(());
            }
            _ if environment.is_starting() => waited = true,
            "failed" => anyhow::bail!(
                "the start of {0} failed in stage {1}: {2}\nto try again: faultline env reset {0}",
                environment.id,
                environment.failed_stage.unwrap_or_default(),
                environment.failed_reason.unwrap_or_default()
            ),
            other => anyhow::bail!("{} is {other} now", environment.id),
        }
        // The server ends a start that takes too long; this is for one that has forgotten it.
        anyhow::ensure!(
            began.elapsed() < Duration::from_secs(3600),
            "it did not become active within an hour"
        );
        std::thread::sleep(Duration::from_millis(300));
        answer = api.get(&format!("/environments/{}", environment.id))?;
    }
}

/// Asks for another state and waits until it is so.
fn turn(
    api: &Api,
    id: &EnvironmentId,
    verb: &str,
    phase: &str,
    output: Output,
) -> anyhow::Result<()> {
    api.post(&format!("/environments/{id}/{verb}"), None)?;
    let began = Instant::now();
    loop {
        let answer: Value = api.get(&format!("/environments/{id}"))?;
        let e: Environment = serde_json::from_value(answer.clone())?;
        if e.phase == phase {
            let left = e.seconds_left / 60;
            let text = match phase {
                "suspended" => format!(
                    "It is paused and ends in {left} min unless you resume it:\n\n  faultline env resume {id}"
                ),
                _ => format!("It runs again, with {left} min left."),
            };
            return say(&answer, output, &text);
        }
        anyhow::ensure!(
            matches!(e.phase.as_str(), "active" | "suspended"),
            "it is {} now",
            e.phase
        );
        anyhow::ensure!(
            began.elapsed() < Duration::from_secs(120),
            "it is still {} after two minutes",
            e.phase
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// An environment's latest run of checks.
#[derive(Debug, Deserialize)]
struct Checked {
    checks: Value,
}

#[derive(Debug, Deserialize)]
struct Run {
    finished_at: Option<String>,
    passed: Option<bool>,
    failure: Option<String>,
    results: Vec<RunResult>,
}

#[derive(Debug, Deserialize)]
struct RunResult {
    title: String,
    passed: bool,
    message: String,
    seen: String,
}

/// Runs the checks and prints each result as it is known: the server answers with what there is when they take long.
fn check(api: &Api, id: &EnvironmentId, output: Output) -> anyhow::Result<()> {
    let mut answer = api.post(&format!("/environments/{id}/checks"), None)?;
    let mut printed = 0;
    let run = loop {
        let run: Run = serde_json::from_value(answer.clone()).context("no checks were begun")?;
        if output == Output::Text {
            run.results.iter().skip(printed).for_each(print_result);
            printed = run.results.len();
        }
        if run.finished_at.is_some() {
            break run;
        }
        std::thread::sleep(Duration::from_millis(500));
        answer = api.get::<Checked>(&format!("/environments/{id}"))?.checks;
    };
    if output == Output::Json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    }
    anyhow::ensure!(
        run.passed == Some(true),
        "{}",
        run.failure.unwrap_or_else(|| {
            let failed = run.results.iter().filter(|r| !r.passed).count();
            format!(
                "not repaired yet: {failed} of {} do not hold",
                run.results.len()
            )
        })
    );
    if output == Output::Text {
        println!(
            "\nRepaired. Its page explains the solution now; `faultline env end {id}` ends it."
        );
    }
    Ok(())
}

fn print_result(result: &RunResult) {
    println!("{} {}", if result.passed { "✓" } else { "✗" }, result.title);
    if !result.passed {
        println!("    {}", result.message);
        for line in result.seen.lines() {
            println!("    seen: {line}");
        }
    }
}
