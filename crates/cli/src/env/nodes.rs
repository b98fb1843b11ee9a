//! `faultline env add-node` and `remove-node`: asks, and shows the stages until it is so.

use std::{
    borrow::Cow,
    collections::HashMap,
    time::{Duration, Instant},
};

use faultline_domain::{
    EnvironmentId, NodeName,
    progress::{Event, Progress},
};
use serde::Deserialize;
use serde_json::Value;

use super::say;
use crate::{Output, api::Api, progress};

/// Longer than the server itself waits.
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

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Stage {
    stage: String,
    text: String,
    fraction: Option<f64>,
    millis: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct New {
    name: NodeName,
}

pub(super) fn add(api: &Api, id: &EnvironmentId, output: Output) -> anyhow::Result<()> {
    let New { name } =
        serde_json::from_value(api.post(&format!("/environments/{id}/nodes"), None)?)?;
    let there = |seen: &Seen| seen.nodes.iter().any(|n| n == name.as_str());
    let Some((answer, took)) = follow(api, id, &name, output, there)? else {
        return say(&Value::Null, output, &format!("{name} is asked for."));
    };
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
    api.delete(&format!("/environments/{id}/nodes/{name}"))?;
    let gone = |seen: &Seen| {
        let mut known = seen.changing.iter().map(|c| &c.name).chain(&seen.nodes);
        !known.any(|n| n == name.as_str())
    };
    let Some((answer, _)) = follow(api, id, name, output, gone)? else {
        return say(&Value::Null, output, &format!("{name} is asked to go."));
    };
    say(&answer, output, &format!("{name} is gone."))
}

/// Shows a node's stages until `done`. Nothing, when the environment is somebody else's: an operator changes it, but
/// doesn't see into it.
fn follow(
    api: &Api,
    id: &EnvironmentId,
    node: &NodeName,
    output: Output,
    done: impl Fn(&Seen) -> bool,
) -> anyhow::Result<Option<(Value, Duration)>> {
    let began = Instant::now();
    let progress = match output {
        Output::Json => Progress::ignored(),
        Output::Text => progress::shown(),
    };
    let mut shown = HashMap::new();
    let mine: Vec<Value> = api.get("/environments")?;
    if !mine
        .iter()
        .any(|e| e.get("id").and_then(Value::as_str) == Some(id.as_str()))
    {
        return Ok(None);
    }
    loop {
        let answer: Value = api.get(&format!("/environments/{id}"))?;
        let seen: Seen = serde_json::from_value(answer.clone())?;
        for event in news(&seen.stages, node, &mut shown) {
            progress.report(event);
        }
        if done(&seen) {
            return Ok(Some((answer, began.elapsed())));
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

/// What is new about a node's stages since the last look.
fn news(stages: &[Stage], node: &NodeName, shown: &mut HashMap<String, Stage>) -> Vec<Event> {
    let mut events = Vec::new();
    for stage in stages {
        let Some(name) = stage
            .stage
            .split_once(' ')
            .filter(|(of, _)| *of == node.as_str())
            .map(|(_, name)| name.to_owned())
        else {
            continue;
        };
        let before = shown.insert(name.clone(), stage.clone());
        if before.as_ref() == Some(stage) {
            continue;
        }
        let name: Cow<'static, str> = Cow::Owned(name);
        let text = stage.text.clone();
        match (before, stage.millis) {
            (None, _) => events.push(Event::Started {
                stage: name.clone(),
                text,
            }),
            (Some(_), None) => events.push(Event::Update {
                stage: name.clone(),
                fraction: stage.fraction,
                text,
            }),
            (Some(_), Some(_)) => {}
        }
        if let Some(millis) = stage.millis {
            events.push(Event::Done {
                stage: name,
                millis,
                cached: false,
            });
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(name: &str, text: &str, millis: Option<u64>) -> Stage {
        Stage {
            stage: name.to_owned(),
            text: text.to_owned(),
            fraction: None,
            millis,
        }
    }

    #[test]
    fn a_stage_is_told_once_when_it_begins_changes_and_ends() {
        let node: NodeName = "node2".parse().unwrap();
        let mut shown = HashMap::new();
        let mut tell = |stages: &[Stage]| -> Vec<&'static str> {
            news(stages, &node, &mut shown)
                .iter()
                .map(|event| match event {
                    Event::Started { .. } => "started",
                    Event::Update { .. } => "update",
                    Event::Done { .. } => "done",
                })
                .collect()
        };
        let clone = stage("clone", "of its start", Some(9));
        let other = stage("node3 boot", "of another node", None);
        let boot = |text, millis| {
            [
                clone.clone(),
                other.clone(),
                stage("node2 boot", text, millis),
            ]
        };
        assert_eq!(tell(&boot("a", None)), ["started"]);
        assert!(tell(&boot("a", None)).is_empty());
        assert_eq!(tell(&boot("b", None)), ["update"]);
        assert_eq!(tell(&boot("b", Some(5))), ["done"]);
        assert!(tell(&boot("b", Some(5))).is_empty());
        let both = [stage("node2 join", "c", Some(1))];
        assert_eq!(tell(&both), ["started", "done"], "seen only at its end");
    }
}
