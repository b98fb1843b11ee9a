//! `faultline queue`: the environments that wait for room on the server, for operators.

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Output,
    answer::{local, print, table},
    api::Api,
    env::Where,
};

/// The options of `faultline queue`.
#[derive(Debug, Args)]
pub struct QueueArgs {
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, Deserialize)]
struct Waiting {
    position: u32,
    environment: String,
    lab: String,
    person: String,
    since: String,
    seconds: Option<i64>,
}

/// Lists the queue.
pub fn run(args: &QueueArgs, output: Output) -> anyhow::Result<()> {
    let api = Api::load(&args.place.data())?;
    let answer: Value = api.get("/queue")?;
    print(&answer, output, |answer| {
        let all: Vec<Waiting> = Vec::deserialize(answer)?;
        if all.is_empty() {
            return Ok("Nobody waits for a place.".to_owned());
        }
        let mut table = table(["", "ENVIRONMENT", "LAB", "PERSON", "SINCE", "EXPECTED WAIT"]);
        for w in all {
            let wait = w.seconds.map(|seconds| format!("{} min", seconds / 60 + 1));
            table.add_row([
                w.position.to_string(),
                w.environment,
                w.lab,
                w.person,
                local(&w.since),
                wait.unwrap_or_else(|| "unknown".to_owned()),
            ]);
        }
        Ok(table.to_string())
    })
}
