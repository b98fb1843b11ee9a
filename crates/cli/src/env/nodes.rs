//! `faultline env add-node` and `remove-node`: asks, and shows the stages until it is so.

use std::{
    borrow::Cow,
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
    started_at: String,
    millis: Option<u64>,
}

impl Stage {
    /// True for an earlier look at the same stage.
    fn is(&self, other: &Self) -> bool {
        (&self.stage, &self.started_at) == (&other.stage, &other.started_at)
    }
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
        return say(&Value::Null, output, &format!("{name} is asked for."));
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
        return say(&Value::Null, output, &format!("{name} is asked to go."));
    };
    let gone = |seen: &Seen| {
        let mut known = seen.changing.iter().map(|c| &c.name).chain(&seen.nodes);
        !known.any(|n| n == name.as_str())
    };
    let (answer, _) = watch.follow(name, gone)?;
    say(&answer, output, &format!("{name} is gone."))
}

/// An environment, and which of its stages were shown.
struct Watch<'a> {
    api: &'a Api,
    id: &'a EnvironmentId,
    progress: Progress,
    shown: Vec<Stage>,
}

impl<'a> Watch<'a> {
    /// From before anything is asked, so that stages of earlier times are not shown. Nothing, when the environment is
    /// somebody else's: an operator changes it, but doesn't see into it.
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
            progress: match output {
                Output::Json => Progress::ignored(),
                Output::Text => progress::shown(),
            },
            shown: seen.stages,
        }))
    }

    /// Shows a node's stages until `done`; gives the environment then, and how long it took.
    fn follow(
        mut self,
        node: &NodeName,
        done: impl Fn(&Seen) -> bool,
    ) -> anyhow::Result<(Value, Duration)> {
        let began = Instant::now();
        loop {
            let answer: Value = self.api.get(&format!("/environments/{}", self.id))?;
            let seen: Seen = serde_json::from_value(answer.clone())?;
            for event in news(&seen.stages, node, &mut self.shown) {
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

/// What is new about a node's stages since the last look.
fn news(stages: &[Stage], node: &NodeName, shown: &mut Vec<Stage>) -> Vec<Event> {
    let mut events = Vec::new();
    for stage in stages {
        let Some((_, name)) = stage
            .stage
            .split_once(' ')
            .filter(|(of, _)| *of == node.as_str())
        else {
            continue;
        };
        let before = shown.iter().find(|s| s.is(stage));
        if before == Some(stage) {
            continue;
        }
        let name: Cow<'static, str> = Cow::Owned(name.to_owned());
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
        shown.retain(|s| !s.is(stage));
        shown.push(stage.clone());
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
            started_at: "then".to_owned(),
            millis,
        }
    }

    #[test]
    fn a_stage_is_told_once_when_it_begins_changes_and_ends() {
        let node: NodeName = "node2".parse().unwrap();
        let mut shown = vec![stage("node2 leave", "earlier", Some(3))];
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
        assert!(tell(&[stage("node2 leave", "earlier", Some(3))]).is_empty());
        let both = [stage("node2 join", "c", Some(1))];
        assert_eq!(tell(&both), ["started", "done"], "seen only at its end");
    }
}
