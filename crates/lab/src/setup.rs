//! Breaking a machine, before the student enters.

use std::time::Duration;

use faultline_domain::{EnvironmentId, NodeName, progress::Progress};
use faultline_provider::Provider;

use crate::{
    LabFolder,
    script::{self, Run},
    text,
};

/// Why a machine could not be prepared. The text is for the student and the author: script, node, what it said.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The folder lacks a script that `lab.yaml` names. Linting prevents it.
    #[error("{script} is missing in the lab's folder")]
    Missing {
        /// The script.
        script: String,
    },
    /// The script could not be run to its end.
    #[error("{script} could not be run on {node}")]
    Run {
        /// The script.
        script: String,
        /// The node.
        node: NodeName,
        /// Why.
        source: script::Error,
    },
    /// The script took too long.
    #[error("{script} took more than {seconds} s on {node}; its last words: {tail}")]
    Slow {
        /// The script.
        script: String,
        /// The node.
        node: NodeName,
        /// What it may take.
        seconds: u32,
        /// The end of its output.
        tail: String,
    },
    /// The script failed.
    #[error("{script} failed on {node} with exit code {code}; its last words: {tail}")]
    Failed {
        /// The script.
        script: String,
        /// The node.
        node: NodeName,
        /// Its exit code.
        code: i32,
        /// The end of its output.
        tail: String,
    },
}

impl SetupError {
    /// The same for who is about to look for the fault: a script's name and its words would give it away.
    #[must_use]
    pub fn discreet(&self) -> String {
        match self {
            Self::Missing { .. } => "the lab's folder lacks a file that it names".to_owned(),
            Self::Run { node, source, .. } => {
                format!("preparing the incident could not be run on {node}: {source}")
            }
            Self::Slow { node, seconds, .. } => {
                format!("preparing the incident took more than {seconds} s on {node}")
            }
            Self::Failed { node, code, .. } => {
                format!("preparing the incident failed on {node} with exit code {code}")
            }
        }
    }
}

/// Runs the lab's setup scripts in order, each on its nodes at the same time. Not idempotent in itself: on a
/// failure destroy the environment. Reports one stage, `setup`.
pub async fn set_up(
    provider: &dyn Provider,
    env: &EnvironmentId,
    folder: &LabFolder,
    progress: &Progress,
) -> Result<(), SetupError> {
    let stage = progress.stage("setup", "preparing the incident");
    let steps = &folder.lab.setup;
    for (done, step) in steps.iter().enumerate() {
        let content = folder
            .script(&step.script)
            .ok_or_else(|| SetupError::Missing {
                script: step.script.clone(),
            })?;
        #[expect(clippy::cast_precision_loss, reason = "at most twenty steps")]
        let fraction = done as f64 / steps.len() as f64;
        // The script's name would give the incident away to whoever watches the start.
        stage.update(
            Some(fraction),
            format!("step {} of {}", done + 1, steps.len()),
        );
        let nodes = if step.nodes.is_empty() {
            folder.lab.needs.node_names()
        } else {
            step.nodes.clone()
        };
        let how = Run {
            trusted: false,
            timeout: Duration::from_secs(step.timeout_seconds.into()),
        };
        let each = nodes.iter().map(|node| {
            let how = &how;
            async move {
                let ran = script::run(provider, env, node, content, how)
                    .await
                    .map_err(|source| SetupError::Run {
                        script: step.script.clone(),
                        node: node.clone(),
                        source,
                    })?;
                let tail = || text::clean_tail(&ran.tail, 1500);
                match ran.code {
                    0 => Ok(()),
                    124 => Err(SetupError::Slow {
                        script: step.script.clone(),
                        node: node.clone(),
                        seconds: step.timeout_seconds,
                        tail: tail(),
                    }),
                    code => Err(SetupError::Failed {
                        script: step.script.clone(),
                        node: node.clone(),
                        code,
                        tail: tail(),
                    }),
                }
            }
        });
        futures::future::try_join_all(each).await?;
    }
    stage.done();
    Ok(())
}
