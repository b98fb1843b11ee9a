//! `faultline env`: environments of the running server.

mod exposures;
mod nodes;
mod saves;
mod stages;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::{Args, Subcommand};
use faultline_domain::{EnvironmentId, LabSlug, check::CheckResult};
use faultline_lab::suggest;
use serde::Deserialize;
use serde_json::Value;

use self::stages::Stage;
use crate::{
    Output,
    answer::{say, table},
    api::Api,
    config::data_dir,
    limit,
};

/// The options of all subcommands.
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

/// The environment that a command acts on.
#[derive(Debug, Args)]
pub struct Of {
    /// The environment [default: your only one]
    id: Option<EnvironmentId>,
}

impl Of {
    fn get(&self, api: &Api) -> anyhow::Result<EnvironmentId> {
        only(api, self.id.as_ref())
    }
}

/// Returns the named environment, or the caller's only one.
fn only(api: &Api, named: Option<&EnvironmentId>) -> anyhow::Result<EnvironmentId> {
    if let Some(id) = named {
        return Ok(id.clone());
    }
    let mut open: Vec<Environment> = api.get("/environments")?;
    match (open.pop(), open.is_empty()) {
        (Some(one), true) => Ok(one.id.parse()?),
        (None, _) => anyhow::bail!(
            "you have no environment open; `faultline env start <lab>` starts one, `faultline env list --all` shows those that ended"
        ),
        (Some(last), false) => {
            open.push(last);
            let names = open.iter().map(|e| format!("{} ({})", e.id, e.lab));
            anyhow::bail!(
                "you have more than one environment, name one: {}",
                names.collect::<Vec<_>>().join(", ")
            )
        }
    }
}

/// The subcommands of `faultline env`.
#[derive(Debug, Subcommand)]
pub enum EnvCommand {
    /// List your environments
    List {
        /// Include those that failed or ended, up to a hundred in all
        #[arg(long, short)]
        all: bool,
    },
    /// Start an environment for a lab, and wait until it is ready
    ///
    ///   faultline env start disk-full
    Start {
        /// The lab
        lab: LabSlug,
    },
    /// Start the lab again on a fresh machine, and wait until it is ready; also retries a failed start
    ///
    /// Your progress is kept. The old machine is saved first: for an hour, unless the operator has chosen another time,
    /// `faultline env restore "Before the reset"` brings it back.
    #[command(verbatim_doc_comment)]
    Reset {
        #[command(flatten)]
        of: Of,
    },
    /// Show an environment, even an ended one
    Show {
        #[command(flatten)]
        of: Of,
    },
    /// Show your limits, and how much of each you use
    Limits,
    /// Run the lab's checks in an environment; exits with 1 if one of them fails
    Check {
        #[command(flatten)]
        of: Of,
    },
    /// Extend the lifetime of an environment
    Extend {
        #[command(flatten)]
        of: Of,
    },
    /// Pause an environment: everything in it stands still, and it is written to disk
    ///
    /// It takes no memory and no CPU then, and its lifetime stands still. It is kept for days, also if the host is
    /// rebooted. Idle environments are paused alike.
    Suspend {
        #[command(flatten)]
        of: Of,
    },
    /// Resume a paused environment, and wait until it runs
    Resume {
        #[command(flatten)]
        of: Of,
    },
    /// List the web pages that an environment exposes, with what answers there now
    Exposed {
        #[command(flatten)]
        of: Of,
    },
    /// Make a link that opens one of them to everybody who has it, until it expires
    ///
    ///   faultline env share web --minutes 30
    #[command(verbatim_doc_comment)]
    Share {
        /// The name, as `faultline env exposed` lists it
        name: String,
        /// The environment [default: your only one]
        #[arg(long = "in", value_name = "ENVIRONMENT")]
        environment: Option<EnvironmentId>,
        /// The lifetime of the link, in minutes
        #[arg(long, default_value_t = 60)]
        minutes: u32,
    },
    /// Save an environment: memory, disks and everything that runs, on all its nodes at one instant
    ///
    /// It goes on meanwhile. Restore it to bring it back to that instant, or fork it to try two ideas side by side.
    ///
    ///   faultline env save --name "before the upgrade"
    #[command(verbatim_doc_comment)]
    Save {
        #[command(flatten)]
        of: Of,
        /// The name of the save point [default: "Save point" and a number]
        #[arg(long, short, default_value = "", hide_default_value = true)]
        name: String,
    },
    /// List your save points
    Saves,
    /// Restore an environment to a save point, and wait until it runs
    ///
    /// Everything since then is undone. The present state is saved first, so that you can undo this.
    ///
    ///   faultline env restore "before the upgrade"
    #[command(verbatim_doc_comment)]
    Restore {
        /// The save point's name or id
        save_point: String,
    },
    /// Start another environment that continues from a save point, and wait until it runs
    ///
    ///   faultline env fork "before the upgrade"
    #[command(verbatim_doc_comment)]
    Fork {
        /// The save point's name or id
        save_point: String,
    },
    /// Copy a group member's environment, start one of your own from it, and wait until it runs; for instructors and
    /// operators
    ///
    /// The member's environment goes on unchanged, and the member is notified. `faultline group show` lists the environments.
    ///
    ///   faultline env copy calm-otter
    #[command(verbatim_doc_comment)]
    Copy {
        /// The member's environment
        environment: EnvironmentId,
    },
    /// Delete a save point
    DeleteSave {
        /// The save point's name or id
        save_point: String,
    },
    /// Add a worker node, and wait until it is ready
    ///
    /// The node gets the next free number; there can be at most five nodes. In a cluster it joins and becomes Ready,
    /// which takes minutes. Operators may add nodes to anybody's environment.
    ///
    ///   faultline env add-node
    #[command(verbatim_doc_comment)]
    AddNode {
        #[command(flatten)]
        of: Of,
    },
    /// Remove an added node, and wait until it is gone
    ///
    /// In a cluster the node is drained first. The lab's own nodes can't be removed.
    ///
    ///   faultline env remove-node node2
    #[command(verbatim_doc_comment)]
    RemoveNode {
        /// The environment (optional if you have only one) and the node, such as `node2`
        #[arg(required = true, num_args = 1..=2, value_names = ["ENVIRONMENT", "NODE"])]
        words: Vec<String>,
    },
    /// End an environment
    End {
        #[command(flatten)]
        of: Of,
    },
}

/// The options and the subcommand of `faultline env`.
#[derive(Debug, Args)]
pub struct EnvArgs {
    #[command(subcommand)]
    command: EnvCommand,
    #[command(flatten)]
    place: Where,
}

/// An environment, as the API returns it.
#[derive(Debug, Deserialize)]
pub(crate) struct Environment {
    pub(crate) id: String,
    lab: String,
    pub(crate) phase: String,
    nodes: Vec<String>,
    seconds_left: i64,
    ends_idle: bool,
    expires_seconds_left: i64,
    failed_stage: Option<String>,
    failed_reason: Option<String>,
    queue: Option<Place>,
    on_disk: bool,
    idle_suspends: bool,
    resume_problem: Option<String>,
    #[serde(default)]
    stages: Vec<Stage>,
    progress: Option<Try>,
}

/// A place in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Place {
    position: u32,
    of: u32,
    reason: String,
    seconds: Option<i64>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (reason, position, of) = (&self.reason, self.position, self.of);
        write!(f, "{reason} Number {position} of {of} in the queue")?;
        match self.seconds {
            Some(seconds) => write!(f, ", about {} min", seconds / 60 + 1)?,
            None => write!(f, ", time unknown")?,
        }
        write!(f, ".")
    }
}

/// The attempt at the lab that an environment belongs to.
#[derive(Debug, Deserialize)]
struct Try {
    solved: bool,
}

impl Environment {
    /// Returns true until the environment can be used for the first time.
    pub(crate) fn is_starting(&self) -> bool {
        matches!(self.phase.as_str(), "requested" | "preparing")
    }

    /// Returns true if the environment can't be used any more.
    fn is_over(&self) -> bool {
        matches!(self.phase.as_str(), "failed" | "expired" | "gone")
    }

    /// Formats the remaining lifetime: the hard limit, and the limit without use.
    fn left(&self) -> String {
        if self.is_over() {
            return "-".to_owned();
        }
        let minutes = |seconds: i64| format!("{} min", seconds / 60);
        if self.on_disk {
            return match self.expires_seconds_left {
                left @ ..172_800 => format!("{} h on disk", left / 3600),
                left => format!("{} days on disk", (left + 43_200) / 86_400),
            };
        }
        let most = minutes(self.expires_seconds_left);
        if self.ends_idle {
            format!("{most}, or {} idle", minutes(self.seconds_left))
        } else {
            most
        }
    }
}

/// Runs a subcommand.
pub fn run(args: &EnvArgs, output: Output) -> anyhow::Result<()> {
    let api = Api::load(&args.place.data())?;
    match &args.command {
        EnvCommand::List { all } => list(&api, *all, output),
        EnvCommand::Start { lab } => begin(&api, lab, output),
        EnvCommand::Reset { of } => {
            let id = of.get(&api)?;
            start(&api, &format!("/environments/{id}/reset"), None, output)
        }
        EnvCommand::Show { of } => show(&api, &of.get(&api)?, output),
        EnvCommand::Limits => limit::mine(&api, output),
        EnvCommand::Check { of } => check(&api, &of.get(&api)?, output),
        EnvCommand::Extend { of } => {
            let id = of.get(&api)?;
            let answer = api.post(&format!("/environments/{id}/extend"), None)?;
            let e: Environment = serde_json::from_value(answer.clone())?;
            let text = format!("{id} is extended: {}.", e.left());
            say(&answer, output, &text)
        }
        EnvCommand::Suspend { of } => turn(&api, &of.get(&api)?, "suspend", "suspended", output),
        EnvCommand::Resume { of } => resume(&api, &of.get(&api)?, output),
        EnvCommand::Exposed { of } => exposures::list(&api, &of.get(&api)?, output),
        EnvCommand::Share {
            name,
            environment,
            minutes,
        } => {
            let id = only(&api, environment.as_ref())?;
            exposures::share(&api, &id, name, *minutes, output)
        }
        EnvCommand::Save { of, name } => saves::save(&api, &of.get(&api)?, name, output),
        EnvCommand::Saves => saves::list(&api, output),
        EnvCommand::Restore { save_point } => saves::restore(&api, save_point, output),
        EnvCommand::Fork { save_point } => saves::fork(&api, save_point, output),
        EnvCommand::Copy { environment } => saves::copy(&api, environment, output),
        EnvCommand::DeleteSave { save_point } => saves::delete(&api, save_point, output),
        EnvCommand::AddNode { of } => nodes::add(&api, &of.get(&api)?, output),
        EnvCommand::RemoveNode { words } => {
            let (id, node) = match words.as_slice() {
                [id, node] => (Some(id.parse()?), node),
                [node] => (None, node),
                _ => anyhow::bail!("name the node, such as node2"),
            };
            let node = node.parse()?;
            nodes::remove(&api, &only(&api, id.as_ref())?, &node, output)
        }
        EnvCommand::End { of } => {
            let id = of.get(&api)?;
            let answer = api.delete(&format!("/environments/{id}"))?;
            say(
                &answer,
                output,
                &format!("{id} ends; your progress is kept."),
            )
        }
    }
}

/// Starts a lab. If there is no such lab, suggests a similar name.
fn begin(api: &Api, lab: &LabSlug, output: Output) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Named {
        slug: String,
    }
    let started = start(api, &format!("/labs/{lab}/environments"), None, output);
    started.map_err(|e| {
        if !crate::api::is_missing(&e) {
            return e;
        }
        let labs: Vec<Named> = api.get("/labs").unwrap_or_default();
        let meant = suggest::question(lab.as_str(), labs.iter().map(|l| l.slug.as_str()));
        anyhow::anyhow!(
            "there is no lab {lab}{meant}\n`faultline lab list` shows the labs that exist"
        )
    })
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
    let mut table = table(["ENVIRONMENT", "LAB", "STATE", "NODES", "TIME LEFT"]);
    for e in all {
        let left = e.left();
        let state = match &e.queue {
            Some(place) => format!("waiting, {} of {}", place.position, place.of),
            None => e.phase,
        };
        table.add_row([e.id, e.lab, state, e.nodes.join(" "), left]);
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

/// Requests an environment and waits until it is ready.
fn start(api: &Api, path: &str, body: Option<Value>, output: Output) -> anyhow::Result<()> {
    let answer = api.post(path, body)?;
    follow(api, answer, output)
}

/// Waits until an environment is ready, and shows how far it is.
fn follow(api: &Api, mut answer: Value, output: Output) -> anyhow::Result<()> {
    let mut began = Instant::now();
    let (progress, mut shown) = (stages::progress(output), Vec::new());
    let (mut place, mut shown_place): (Option<Place>, _) = (None, None);
    let mut waited = false;
    loop {
        let environment: Environment = serde_json::from_value(answer.clone())?;
        for event in stages::news(&environment.stages, |name| Some(name), &mut shown) {
            progress.report(event);
        }
        if environment.queue != place {
            let is_new = |place: &Place| Some((place.position, place.of)) != shown_place;
            if let (Some(place), Output::Text) = (&environment.queue, output)
                && is_new(place)
            {
                eprintln!("{place}");
                if shown_place.is_none() {
                    let id = &environment.id;
                    eprintln!(
                        "Ctrl-C stops waiting, and keeps your place for 10 min; `faultline env end {id}` gives it up."
                    );
                }
                shown_place = Some((place.position, place.of));
            }
            place = environment.queue.clone();
        }
        if place.is_some() {
            began = Instant::now();
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
            "suspended" if environment.resume_problem.is_some() => anyhow::bail!(
                "{0} could not be resumed, and is still paused: {1}\nto try again: faultline env resume {0}",
                environment.id,
                environment.resume_problem.unwrap_or_default()
            ),
            other => anyhow::bail!("{} is {other} now", environment.id),
        }
        // The server itself ends a start that takes too long; this timeout is a backstop.
        anyhow::ensure!(
            began.elapsed() < Duration::from_secs(3600),
            "it did not become active within an hour"
        );
        std::thread::sleep(Duration::from_millis(300));
        answer = api.get(&format!("/environments/{}", environment.id))?;
    }
}

/// Resumes an environment, in memory or from disk, and waits until it runs.
fn resume(api: &Api, id: &EnvironmentId, output: Output) -> anyhow::Result<()> {
    api.post(&format!("/environments/{id}/resume"), None)?;
    let answer: Value = api.get(&format!("/environments/{id}"))?;
    let e: Environment = serde_json::from_value(answer.clone())?;
    if e.is_starting() {
        return follow(api, answer, output);
    }
    wait(api, id, "active", output)
}

/// Requests a state and waits until it is reached.
fn turn(
    api: &Api,
    id: &EnvironmentId,
    verb: &str,
    phase: &str,
    output: Output,
) -> anyhow::Result<()> {
    api.post(&format!("/environments/{id}/{verb}"), None)?;
    wait(api, id, phase, output)
}

/// Waits until an environment is in a phase.
fn wait(api: &Api, id: &EnvironmentId, phase: &str, output: Output) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let answer: Value = api.get(&format!("/environments/{id}"))?;
        let e: Environment = serde_json::from_value(answer.clone())?;
        if e.phase == phase {
            let left = e.seconds_left / 60;
            let text = match phase {
                "suspended" if e.idle_suspends => {
                    format!(
                        "It is paused and is being written to disk. To resume it:\n\n  faultline env resume {id}"
                    )
                }
                "suspended" => format!(
                    "It is paused and ends in {left} min unless you resume it:\n\n  faultline env resume {id}"
                ),
                _ => format!("It is running again; time left: {}.", e.left()),
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

/// The latest check run of an environment.
#[derive(Debug, Deserialize)]
struct Checked {
    checks: Value,
}

#[derive(Debug, Deserialize)]
struct Run {
    finished_at: Option<String>,
    passed: Option<bool>,
    failure: Option<String>,
    results: Vec<CheckResult>,
}

/// Runs the checks and prints each result as soon as it is known.
fn check(api: &Api, id: &EnvironmentId, output: Output) -> anyhow::Result<()> {
    eprintln!("… checking");
    let mut answer = api.post(&format!("/environments/{id}/checks?wait=0"), None)?;
    let mut printed = 0;
    let run = loop {
        let run: Run =
            serde_json::from_value(answer.clone()).context("the server started no check run")?;
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
                "not repaired yet: {failed} of {} checks failed",
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

fn print_result(result: &CheckResult) {
    println!("{} {}", if result.passed { "✓" } else { "✗" }, result.title);
    if !result.passed {
        println!("    {}", result.message);
        for line in result.seen.lines() {
            println!("    seen: {line}");
        }
    }
}
