//! `faultline env add-node` and `remove-node`: sends the request and shows the stages until it is done.

use std::time::{Duration, Instant};

use faultline_domain::{EnvironmentId, NodeName, progress::Progress};
use serde::Deserialize;
use serde_json::Value;

use super::{
    say,
    stages::{self, Stage},
};
use crate::{Output, api::Api};

/// The timeout, which is longer than the server's own.
const PATIENCE: Duration = Duration::from_secs(2400);

#[derive(Debug, Deserialize)]
struct Seen {
    phase: String,
    nodes: Vec<String>,
    changing: Vec<Changing>,
    stages: Vec<Stage>,
}

#[derive(Debug, Deserialize)]
struct Changing {
    name: String,
    state: String,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct New {
    name: NodeName,
}

pub(super) fn add(api: &Api, id: &EnvironmentId, output: Output) -> anyhow::Result<()> {
    let watch = Watch::begin(api, id, output)?;
    let New { name } =
        serde_json::from_value(api.post(&format!("/environments/{id}/nodes"), None)?)?;
    let Some(watch) = watch else {
        return say(&Value::Null, output, &format!("Requested {name}."));
    };
    let there = |seen: &Seen| seen.nodes.iter().any(|n| n == name.as_str());
    let (answer, took) = watch.follow(&name, there)?;
    let text = format!(
        "{name} is there after {:.0} s.\n\n  faultline ssh {name}.{id}",
        took.as_secs_f64()
    );
    say(&answer, output, &text)
}

pub(super) fn remove(
    api: &Api,
    id: &EnvironmentId,
    name: &NodeName,
    output: Output,
) -> anyhow::Result<()> {
    let watch = Watch::begin(api, id, output)?;
    api.delete(&format!("/environments/{id}/nodes/{name}"))?;
    let Some(watch) = watch else {
        return say(
            &Value::Null,
            output,
            &format!("Requested the removal of {name}."),
        );
    };
    let gone = |seen: &Seen| {
        let mut known = seen.changing.iter().map(|c| &c.name).chain(&seen.nodes);
        !known.any(|n| n == name.as_str())
    };
    let (answer, _) = watch.follow(name, gone)?;
    say(&answer, output, &format!("{name} is gone."))
}

/// An environment, and the stages that were shown.
struct Watch<'a> {
    api: &'a Api,
    id: &'a EnvironmentId,
    progress: Progress,
    shown: Vec<Stage>,
}

impl<'a> Watch<'a> {
    /// Takes note of existing stages before the request, so that they are not shown. Returns `None` for somebody else's
    /// environment: an operator may change its nodes, but not see it.
    fn begin(api: &'a Api, id: &'a EnvironmentId, output: Output) -> anyhow::Result<Option<Self>> {
        let mine: Vec<Value> = api.get("/environments")?;
        let is_it = |e: &Value| e.get("id").and_then(Value::as_str) == Some(id.as_str());
        if !mine.iter().any(is_it) {
            return Ok(None);
        }
        let seen: Seen = api.get(&format!("/environments/{id}"))?;
        Ok(Some(Self {
            api,
            id,
            progress: stages::progress(output),
            shown: seen.stages,
        }))
    }

    /// Shows a node's stages until `done`. Returns the environment and the time taken.
    fn follow(
        mut self,
        node: &NodeName,
        done: impl Fn(&Seen) -> bool,
    ) -> anyhow::Result<(Value, Duration)> {
        let began = Instant::now();
        loop {
            let answer: Value = self.api.get(&format!("/environments/{}", self.id))?;
            let seen: Seen = serde_json::from_value(answer.clone())?;
            for event in stages::news(&seen.stages, |s| of_node(node, s), &mut self.shown) {
                self.progress.report(event);
            }
            if done(&seen) {
                return Ok((answer, began.elapsed()));
            }
            let change = seen.changing.iter().find(|c| c.name == node.as_str());
            if let Some(reason) = change.and_then(|c| c.reason.as_ref()) {
                anyhow::bail!("{node} could not be added: {reason}");
            }
            anyhow::ensure!(
                seen.phase == "active",
                "the environment is {} now",
                seen.phase
            );
            let state = change.map_or("not wanted any more", |c| c.state.as_str());
            anyhow::ensure!(change.is_some(), "{node} is {state}");
            anyhow::ensure!(
                began.elapsed() < PATIENCE,
                "{node} is still {state} after {} minutes",
                PATIENCE.as_secs() / 60
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

/// Returns the name of a node's stage without the node's name.
fn of_node<'a>(node: &NodeName, stage: &'a str) -> Option<&'a str> {
    let (of, name) = stage.split_once(' ')?;
    (of == node.as_str()).then_some(name)
}
