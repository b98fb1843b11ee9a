//! `faultline maintenance`: stop new starts, and drain the server before the host is rebooted; for operators.

use clap::{Args, Subcommand};
use faultline_domain::maintenance::MAX_MESSAGE;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Output,
    answer::{local, print, say},
    api::Api,
    env::Where,
    time::moment,
};

/// The options and the subcommand of `faultline maintenance`.
#[derive(Debug, Args)]
pub struct MaintenanceArgs {
    #[command(subcommand)]
    command: MaintenanceCommand,
    #[command(flatten)]
    place: Where,
}

/// The subcommands of `faultline maintenance`.
#[derive(Debug, Subcommand)]
enum MaintenanceCommand {
    /// Stop new starts; with --end-environments-at, also drain the server until then
    ///
    ///   faultline maintenance on --message "The network is being repaired"
    ///   faultline maintenance on --until "2026-12-01 18:00" --end-environments-at "2026-12-01 17:00"
    ///   faultline maintenance on --end-environments-at 30m
    ///
    /// In maintenance, nothing can be started, reset or restored, no node can be added, and pools
    /// are not refilled. What runs goes on. Everybody sees a banner.
    ///
    /// To drain the server means that it also empties its pools, and announces in pages and
    /// terminals when environments are suspended to disk. They are at this time, rounded up to the
    /// minute, and never before; one that can't be ends. Then the host can be rebooted, and people
    /// resume theirs.
    ///
    /// If the server is already in maintenance, this replaces the message and the times.
    #[command(verbatim_doc_comment)]
    On {
        /// A message for everybody, at most 200 characters
        #[arg(long, default_value = "", hide_default_value = true, value_parser = message)]
        message: String,
        /// When maintenance is expected to end: a local date and time, an RFC 3339 time, or a duration from now such as 30m or 2h. It doesn't end by itself
        #[arg(long, value_name = "TIME", value_parser = moment)]
        until: Option<Timestamp>,
        /// When running environments end, at least two minutes from now. Without it, they go on
        #[arg(long, value_name = "TIME", value_parser = moment)]
        end_environments_at: Option<Timestamp>,
    },
    /// End maintenance
    Off,
    /// Show whether the server is in maintenance, and what still runs
    Status,
}

fn message(text: &str) -> Result<String, String> {
    match text.chars().count() {
        n if n > MAX_MESSAGE => Err(format!(
            "it has {n} characters; at most {MAX_MESSAGE} are allowed"
        )),
        _ => Ok(text.to_owned()),
    }
}

#[derive(Debug, Deserialize)]
struct Maintenance {
    in_maintenance: bool,
    since: Option<String>,
    message: String,
    until: Option<String>,
    end_environments_at: Option<String>,
    environments: usize,
    pool_tenants: usize,
}

/// The API's path.
const PATH: &str = "/operator/maintenance";

/// Runs a subcommand.
pub fn run(args: &MaintenanceArgs, output: Output) -> anyhow::Result<()> {
    let api = Api::load(&args.place.data())?;
    let answer: Value = match &args.command {
        MaintenanceCommand::On {
            message,
            until,
            end_environments_at,
        } => {
            let time = |at: &Option<Timestamp>| at.map(|at| at.to_string());
            let wanted = json!({
                "message": message,
                "until": time(until),
                "end_environments_at": time(end_environments_at),
            });
            api.put(PATH, wanted)?
        }
        MaintenanceCommand::Off => {
            api.delete(PATH)?;
            return say(
                &json!({}),
                output,
                "Maintenance is over: environments can be started.",
            );
        }
        MaintenanceCommand::Status => api.get(PATH)?,
    };
    print(&answer, output, |answer| {
        Ok(text(&Maintenance::deserialize(answer)?))
    })
}

fn plural(n: usize, one: &str, many: &str) -> String {
    match n {
        1 => format!("1 {one}"),
        n => format!("{n} {many}"),
    }
}

fn text(of: &Maintenance) -> String {
    let running = format!(
        "{}, {}",
        plural(of.environments, "environment", "environments"),
        plural(of.pool_tenants, "tenant of a pool", "tenants of pools")
    );
    if !of.in_maintenance {
        return format!("The server is not in maintenance.\nRunning: {running}.");
    }
    let since = of.since.as_deref().map(local).unwrap_or_default();
    let mut lines = vec![format!(
        "The server is in maintenance since {since}: nothing can be started."
    )];
    if !of.message.is_empty() {
        lines.push(format!("Message: {}", of.message));
    }
    if let Some(until) = &of.until {
        lines.push(format!("Expected end: {}", local(until)));
    }
    lines.push(match &of.end_environments_at {
        Some(at) => format!("Environments are suspended at {}.", local(at)),
        None => "What runs goes on.".to_owned(),
    });
    lines.push(if of.environments + of.pool_tenants == 0 {
        "Nothing runs: the host can be rebooted.".to_owned()
    } else {
        format!("Running: {running}.")
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_says_what_still_runs() {
        let mut of = Maintenance {
            in_maintenance: false,
            since: None,
            message: String::new(),
            until: None,
            end_environments_at: None,
            environments: 1,
            pool_tenants: 0,
        };
        assert_eq!(
            text(&of),
            "The server is not in maintenance.\nRunning: 1 environment, 0 tenants of pools."
        );
        of.in_maintenance = true;
        of.since = Some("today".to_owned());
        of.message = "New disks".to_owned();
        assert_eq!(
            text(&of),
            "The server is in maintenance since today: nothing can be started.\nMessage: New disks\n\
             What runs goes on.\nRunning: 1 environment, 0 tenants of pools."
        );
        of.environments = 0;
        of.end_environments_at = Some("then".to_owned());
        let drained = text(&of);
        assert!(
            drained.contains("Environments are suspended at then.")
                && drained.ends_with("the host can be rebooted.")
        );
    }

    #[test]
    fn long_messages_are_refused() {
        assert!(message(&"x".repeat(200)).is_ok());
        assert!(message(&"x".repeat(201)).is_err());
    }
}
