//! Runs a recipe's bake steps in running machines: while baking, when a clone is probed, and when a node is added or
//! removed.

use std::{collections::BTreeMap, fmt, io::Write, path::Path, time::Instant};

use faultline_domain::{NodeName, TemplateRef};
use faultline_guest::{client, wire::Exec};
use faultline_launcher::{client as launcher, protocol::Channel};

use crate::recipe::{BakeStep, On};

/// The maximum size of a step's output that is kept.
const MAX_OUTPUT: usize = 4 << 20;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub struct Failed {
    node: NodeName,
    text: String,
    why: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.node, self.text, self.why)
    }
}

/// Where steps run.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The environment's folder, which contains the launcher's socket.
    pub dir: &'a Path,
    /// The template of the machines, or the one they are to become.
    pub template: &'a TemplateRef,
    /// The node that is added or removed, if any. If set, `all` and `workers` mean this node.
    pub node: Option<&'a NodeName>,
    /// The log to append the steps' output to, if any.
    pub log: Option<&'a Path>,
}

impl Place<'_> {
    /// Runs the steps in order. `tell` is called before each step begins, with its index.
    pub async fn carry_out(
        self,
        steps: &[BakeStep],
        tell: impl Fn(usize, &BakeStep, &str),
    ) -> Result<(), Failed> {
        let mut kept = self.variables();
        let names = self.template.shape.node_names();
        let planes = usize::try_from(self.template.shape.control_planes()).unwrap_or(1);
        let (all, workers) = match self.node {
            Some(node) => (std::slice::from_ref(node), std::slice::from_ref(node)),
            None => (names.as_slice(), names.get(planes..).unwrap_or_default()),
        };
        for (index, step) in steps.iter().enumerate() {
            let printed = match step.on {
                On::All => {
                    tell(index, step, "");
                    let all = all.iter().map(|node| self.run(node, step, &kept));
                    futures::future::try_join_all(all).await?
                }
                On::First | On::OtherControlPlanes | On::Workers => {
                    let range = match step.on {
                        On::First => names.get(..1),
                        On::OtherControlPlanes => names.get(1..planes),
                        _ => Some(workers),
                    };
                    let mut printed = Vec::new();
                    for node in range.unwrap_or_default() {
                        tell(index, step, &format!("{node}: "));
                        printed.push(self.run(node, step, &kept).await?);
                    }
                    printed
                }
            };
            if let (Some(name), Some(first)) = (&step.keep, printed.first()) {
                kept.insert(name.clone(), first.trim().to_owned());
            }
        }
        Ok(())
    }

    /// Runs a step on the first node and returns its output, which is not logged.
    pub async fn print(self, step: &BakeStep) -> Result<String, Failed> {
        let silent = Self { log: None, ..self };
        let first = self.template.shape.node_names().swap_remove(0);
        silent.run(&first, step, &self.variables()).await
    }

    /// Returns the environment variables of every step.
    fn variables(self) -> BTreeMap<String, String> {
        let shape = &self.template.shape;
        let stock = if self.template.is_stock() { "yes" } else { "" };
        let mut all = BTreeMap::from([
            (
                "FAULTLINE_CONTROL_PLANES".to_owned(),
                shape.control_planes().to_string(),
            ),
            ("FAULTLINE_WORKERS".to_owned(), shape.workers().to_string()),
            ("FAULTLINE_STOCK".to_owned(), stock.to_owned()),
        ]);
        if let Some(node) = self.node {
            all.insert("FAULTLINE_NODE".to_owned(), node.to_string());
        }
        all
    }

    /// Runs a step on one node and returns its output.
    async fn run(
        self,
        node: &NodeName,
        step: &BakeStep,
        env: &BTreeMap<String, String>,
    ) -> Result<String, Failed> {
        let failed = |why: String| Failed {
            node: node.clone(),
            text: step.text.clone(),
            why,
        };
        let stream = launcher::open(self.dir, node, Channel::Guest)
            .await
            .map_err(|e| failed(e.to_string()))?;
        let exec = Exec {
            argv: ["/bin/bash", "-euo", "pipefail", "-c", &step.run]
                .map(Into::into)
                .to_vec(),
            env: env.clone(),
            timeout_seconds: Some(step.timeout_seconds),
            ..Exec::default()
        };
        let began = Instant::now();
        let done = client::run(stream, exec, MAX_OUTPUT)
            .await
            .map_err(|e| failed(e.to_string()))?;
        let took = began.elapsed().as_secs_f32();
        let (out, err) = (
            String::from_utf8_lossy(&done.stdout).into_owned(),
            String::from_utf8_lossy(&done.stderr).into_owned(),
        );
        if let Some(log) = self.log {
            let file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(log);
            // Output that is kept may be a secret.
            let out = if step.keep.is_some() { "" } else { &out };
            // A failure to write the log doesn't stop the step.
            let _ = file.and_then(|mut f| {
                writeln!(
                    f,
                    "── {node}: {} → {} after {took:.1} s\n{out}{err}",
                    step.text, done.code
                )
            });
        }
        match done.code {
            0 => Ok(out),
            124 => Err(failed(format!(
                "took more than {} s: {}",
                step.timeout_seconds,
                tail(&out, &err)
            ))),
            code => Err(failed(format!(
                "exited with code {code}: {}",
                tail(&out, &err)
            ))),
        }
    }
}

fn tail(out: &str, err: &str) -> String {
    let lines: Vec<&str> = out.lines().chain(err.lines()).collect();
    if lines.is_empty() {
        return "no output".to_owned();
    }
    lines
        .get(lines.len().saturating_sub(12)..)
        .unwrap_or_default()
        .join("\n  ")
}
