//! Breaks a machine before the student enters.

use std::time::{Duration, Instant};

use faultline_domain::{
    NodeName, TenantId,
    lab::{ObjectTest, SetupStep},
    progress::Progress,
};
use faultline_provider::Provider;

use crate::{
    LabFolder,
    check::{chain, cluster::connect, object},
    events, manifests,
    script::{self, Run},
    text,
};

/// The stage that students see. A script's name would give the incident away to whoever watches the start.
const PREPARING: &str = "Preparing the incident";
/// The maximum time for adding a node.
const ADD: Duration = Duration::from_secs(1200);
/// The maximum time for reading the cluster's warnings.
const EVENTS: Duration = Duration::from_secs(15);

/// An error of a lab's setup. Its text is for students and authors: the script, the node, and its output.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The folder lacks a script that `lab.yaml` names. Linting prevents this.
    #[error("{script} is missing in the lab's folder")]
    Missing {
        /// The script.
        script: String,
    },
    /// The cluster could not be reached.
    #[error("the cluster can't be reached: {0}")]
    Cluster(String),
    /// Manifests could not be applied.
    #[error("{file} was not applied")]
    Apply {
        /// The file.
        file: String,
        /// The cause.
        source: manifests::Error,
    },
    /// One of the lab's own container images could not be built or loaded into a node.
    #[error("{file}: {why}")]
    Load {
        /// The file.
        file: String,
        /// The cause.
        why: String,
    },
    /// The condition that the step waits for was not met in time.
    #[error(
        "the lab's setup waited {seconds} s in vain; last seen: {seen}{}",
        also(warnings)
    )]
    Symptom {
        /// The time waited.
        seconds: u32,
        /// The last observation.
        seen: String,
        /// The cluster's last warnings, if the step waited for the cluster.
        warnings: Vec<String>,
    },
    /// A further node could not be added.
    #[error("{node} was not added")]
    Node {
        /// The node.
        node: NodeName,
        /// The cause.
        source: faultline_provider::Error,
    },
    /// The script could not be run to its end.
    #[error("{script} could not be run on {node}")]
    Run {
        /// The script.
        script: String,
        /// The node.
        node: NodeName,
        /// The cause.
        source: script::Error,
    },
    /// The script ran into its time limit.
    #[error("{script} took more than {seconds} s on {node}; its last words: {tail}")]
    Slow {
        /// The script.
        script: String,
        /// The node.
        node: NodeName,
        /// The time limit.
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
    /// Returns the error without the script's name and output: they would give the fault away to the student.
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
            Self::Load { why, .. } => format!("an image of the lab's could not be loaded: {why}"),
            Self::Cluster(why) => format!("the cluster can't be reached: {why}"),
            Self::Node { node, source } => format!("{node} was not added: {source}"),
            Self::Apply { .. } => {
                "the lab's objects could not be applied to the cluster".to_owned()
            }
            Self::Symptom { seconds, .. } => {
                format!("the incident did not show within {seconds} s")
            }
        }
    }
}

/// Runs the setup steps of a lab in order. The lab's variables must be filled in. Not idempotent: after a failure,
/// destroy the environment. Reports one stage, `setup`, and the stages of each node that it adds.
pub async fn set_up(
    provider: &dyn Provider,
    env: &TenantId,
    folder: &LabFolder,
    progress: &Progress,
) -> Result<(), SetupError> {
    let stage = progress.stage("setup", PREPARING);
    let steps = &folder.lab.setup;
    let mut nodes = folder.lab.needs.node_names();
    let mut further = folder.lab.setup_nodes().into_iter().peekable();
    for (done, step) in steps.iter().enumerate() {
        let text = format!("{PREPARING}, step {} of {}", done + 1, steps.len());
        stage.part(done, steps.len(), text);
        if let Some(script) = &step.script {
            run_script(provider, env, folder, step, script, &nodes).await?;
        } else if let Some(file) = &step.apply {
            apply(provider, env, folder, step, file).await?;
        } else if let Some(image) = &step.load {
            let of = if step.nodes.is_empty() {
                &nodes
            } else {
                &step.nodes
            };
            let within = Duration::from_secs(step.timeout_seconds.into());
            load(provider, env, folder, image, of, within)
                .await
                .map_err(|why| SetupError::Load {
                    file: image.clone(),
                    why,
                })?;
        } else if let Some(test) = &step.wait {
            wait(provider, env, step, test).await?;
        } else if let Some(node) = further.next_if(|_| step.add_node) {
            add(provider, env, &node, progress).await?;
            nodes.push(node);
        }
    }
    stage.done();
    Ok(())
}

/// Builds one of the lab's own container images and loads it into the nodes that run it.
async fn load(
    provider: &dyn Provider,
    env: &TenantId,
    folder: &LabFolder,
    file: &str,
    nodes: &[NodeName],
    within: Duration,
) -> Result<(), String> {
    let image = folder.image(file)?;
    tokio::time::timeout(within, provider.load_image(env, nodes, &image))
        .await
        .map_err(|_| format!("it did not come to its nodes within {} s", within.as_secs()))?
        .map_err(|e| chain(&e))
}

/// Runs a script on its nodes, concurrently.
async fn run_script(
    provider: &dyn Provider,
    env: &TenantId,
    folder: &LabFolder,
    step: &SetupStep,
    name: &str,
    all: &[NodeName],
) -> Result<(), SetupError> {
    let content = folder.script(name).ok_or_else(|| missing(name))?;
    let nodes = if step.nodes.is_empty() {
        all
    } else {
        step.nodes.as_slice()
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
                    script: name.to_owned(),
                    node: node.clone(),
                    source,
                })?;
            let tail = || text::clean_tail(&ran.tail, 1500);
            match ran.code {
                0 => Ok(()),
                124 => Err(SetupError::Slow {
                    script: name.to_owned(),
                    node: node.clone(),
                    seconds: step.timeout_seconds,
                    tail: tail(),
                }),
                code => Err(SetupError::Failed {
                    script: name.to_owned(),
                    node: node.clone(),
                    code,
                    tail: tail(),
                }),
            }
        }
    });
    futures::future::try_join_all(each).await.map(drop)
}

fn missing(name: &str) -> SetupError {
    SetupError::Missing {
        script: name.to_owned(),
    }
}

/// Applies manifests as the cluster's administrator.
async fn apply(
    provider: &dyn Provider,
    env: &TenantId,
    folder: &LabFolder,
    step: &SetupStep,
    name: &str,
) -> Result<(), SetupError> {
    let content = folder.script(name).ok_or_else(|| missing(name))?;
    let client = connect(provider, env).await.map_err(SetupError::Cluster)?;
    let within = Duration::from_secs(step.timeout_seconds.into());
    manifests::apply(&client, &String::from_utf8_lossy(content), within)
        .await
        .map_err(|source| SetupError::Apply {
            file: name.to_owned(),
            source,
        })
}

/// Adds a node.
async fn add(
    provider: &dyn Provider,
    env: &TenantId,
    node: &NodeName,
    progress: &Progress,
) -> Result<(), SetupError> {
    let failed = |source| SetupError::Node {
        node: node.clone(),
        source,
    };
    let slow = || faultline_provider::Error::failed("node", "it took more than 20 minutes");
    let fresh = async {
        // The node exists if an author runs the setup again on the same machine.
        provider
            .remove_node(env, node, &Progress::ignored())
            .await?;
        provider.add_node(env, node, progress).await
    };
    tokio::time::timeout(ADD, fresh)
        .await
        .map_err(|_| failed(slow()))?
        .map_err(failed)
}

/// Waits until the cluster meets the step's condition.
async fn wait(
    provider: &dyn Provider,
    env: &TenantId,
    step: &SetupStep,
    test: &ObjectTest,
) -> Result<(), SetupError> {
    let until = Instant::now() + Duration::from_secs(step.timeout_seconds.into());
    let mut seen = String::new();
    let mut last = None;
    while Instant::now() < until {
        match connect(provider, env).await {
            Ok(client) => {
                match object::evaluate(&client, test).await {
                    Ok(found) if found.holds => return Ok(()),
                    Ok(found) => seen = found.seen,
                    Err(e) => seen = chain(&e),
                }
                last = Some(client);
            }
            Err(why) => seen = why,
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let warnings = match last {
        Some(client) => {
            let asked = events::warnings(&client, test.namespace.as_deref());
            let answered = tokio::time::timeout(EVENTS, asked).await;
            answered.ok().and_then(Result::ok).unwrap_or_default()
        }
        None => Vec::new(),
    };
    Err(SetupError::Symptom {
        seconds: step.timeout_seconds,
        seen,
        warnings,
    })
}

/// Formats warnings, one per line.
fn also(warnings: &[String]) -> String {
    let lines = warnings.iter().map(|line| format!("\n  {line}"));
    match warnings {
        [] => String::new(),
        _ => format!(
            "\nthe cluster's last warnings:{}",
            lines.collect::<String>()
        ),
    }
}
