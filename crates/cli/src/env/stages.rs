//! Shows the server's stages, as the API returns them, while they change.

use faultline_domain::progress::{Event, Progress};
use serde::Deserialize;

use crate::{Output, progress};

/// A stage as it was at one time.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Stage {
    stage: String,
    text: String,
    fraction: Option<f64>,
    started_at: String,
    millis: Option<u64>,
}

impl Stage {
    /// Returns true if `other` is an earlier observation of the same stage.
    fn is(&self, other: &Self) -> bool {
        (&self.stage, &self.started_at) == (&other.stage, &other.started_at)
    }
}

/// Returns the text of the stage in progress.
pub(super) fn current(stages: &[Stage]) -> Option<&str> {
    let running = stages.iter().rev().find(|s| s.millis.is_none())?;
    Some(&running.text)
}

/// Returns the progress printer for an output format.
pub(super) fn progress(output: Output) -> Progress {
    match output {
        Output::Json => Progress::ignored(),
        Output::Text => progress::shown(),
    }
}

/// Reports what has changed since the last observation. `of` returns the name of a stage to show.
pub(super) fn news(
    stages: &[Stage],
    of: impl Fn(&str) -> Option<&str>,
    shown: &mut Vec<Stage>,
) -> Vec<Event> {
    let mut events = Vec::new();
    for stage in stages {
        let Some(name) = of(&stage.stage).map(str::to_owned) else {
            continue;
        };
        let before = shown.iter().find(|s| s.is(stage));
        if before == Some(stage) {
            continue;
        }
        let text = stage.text.clone();
        match (before, stage.millis) {
            (None, _) => events.push(Event::Started {
                stage: name.clone().into(),
                text,
            }),
            (Some(_), None) => events.push(Event::Update {
                stage: name.clone().into(),
                fraction: stage.fraction,
                text,
            }),
            (Some(_), Some(_)) => {}
        }
        if let Some(millis) = stage.millis {
            events.push(Event::Done {
                stage: name.into(),
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
        let mut shown = vec![stage("node2 leave", "earlier", Some(3))];
        let mut tell = |stages: &[Stage]| -> Vec<&'static str> {
            news(stages, |name| name.strip_prefix("node2 "), &mut shown)
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
