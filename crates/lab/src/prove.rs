//! Proving a lab: it is broken at its start, it can be evaluated, and its solution repairs it.

use std::time::{Duration, Instant};

use faultline_domain::{TenantId, check::Outcome, limits::Limits, progress::Progress};
use faultline_provider::{Allowance, Provider, Spec, make};
use serde::{Deserialize, Serialize};

use crate::{
    LabFolder,
    check::{chain, check},
    script::{self, Run},
    set_up, text,
};

/// How long the solution may take, on a plain machine and on a cluster.
const SOLUTION: [Duration; 2] = [Duration::from_secs(300), Duration::from_secs(900)];
/// How long after the solution the checks may need until they hold: services start, kernels reclaim, a control plane
/// comes to terms with what has changed.
const SETTLE: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(180)];
/// Between two tries.
const PAUSE: Duration = Duration::from_secs(3);

/// A step of a proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// `start`, `setup`, `broken`, `solution`, `repaired`, `destroy`.
    pub name: String,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// Why it failed; nothing when it went well.
    pub failure: Option<String>,
}

/// Whether a lab is what it claims to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The lab.
    pub lab: String,
    /// The hash of its folder.
    pub hash: String,
    /// What was done, in order; the first that fails ends the proof, except that the environment is destroyed.
    pub steps: Vec<Step>,
    /// The checks on the untouched machine.
    pub before: Outcome,
    /// The checks after the solution.
    pub after: Outcome,
    /// Things to know that don't disprove the lab.
    pub notes: Vec<String>,
}

impl Proof {
    /// True when every step went well.
    #[must_use]
    pub fn proven(&self) -> bool {
        !self.steps.is_empty() && self.steps.iter().all(|s| s.failure.is_none())
    }

    /// The first failure, with its step.
    #[must_use]
    pub fn failure(&self) -> Option<(&str, &str)> {
        self.steps
            .iter()
            .find_map(|s| Some((s.name.as_str(), s.failure.as_deref()?)))
    }

    /// How long everything took, in milliseconds.
    #[must_use]
    pub fn millis(&self) -> u64 {
        self.steps.iter().map(|s| s.millis).sum()
    }
}

/// Makes a tenant `id`, proves the lab in it, and destroys it whatever happens. If the future is dropped,
/// the caller destroys it.
pub async fn prove(
    provider: &dyn Provider,
    id: &TenantId,
    folder: &LabFolder,
    limits: Limits,
    progress: &Progress,
) -> Proof {
    let mut proof = Proof {
        lab: folder.slug.to_string(),
        hash: folder.hash.clone(),
        steps: Vec::new(),
        before: Outcome::default(),
        after: Outcome::default(),
        notes: Vec::new(),
    };
    let folder = &*folder.of(id.as_str());
    sequence(provider, id, folder, limits, progress, &mut proof).await;
    let began = Instant::now();
    let ended = provider.destroy(id).await.map_err(|e| chain(&e));
    record(&mut proof, "destroy", began, ended);
    proof
}

/// Notes a step; true when it went well.
fn record(proof: &mut Proof, name: &str, began: Instant, went: Result<(), String>) -> bool {
    let good = went.is_ok();
    proof.steps.push(Step {
        name: name.to_owned(),
        millis: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        failure: went.err(),
    });
    good
}

async fn sequence(
    provider: &dyn Provider,
    id: &TenantId,
    folder: &LabFolder,
    limits: Limits,
    progress: &Progress,
    proof: &mut Proof,
) {
    let spec = Spec {
        template: folder.lab.needs.template(),
        allowance: Allowance {
            limits,
            egress: folder.lab.needs.egress.clone(),
        },
    };
    let began = Instant::now();
    let made = make(provider, id, &spec, progress)
        .await
        .map_err(|e| chain(&e));
    if !record(proof, "start", began, made) {
        return;
    }

    let began = Instant::now();
    let broken = set_up(provider, id, folder, progress)
        .await
        .map_err(|e| chain(&e));
    if !record(proof, "setup", began, broken) {
        return;
    }

    let began = Instant::now();
    let stage = progress.stage("broken", "checks on the untouched machine");
    proof.before = check(provider, id, folder, |r| {
        stage.update(None, r.title);
    })
    .await;
    let judged = judge_before(proof);
    if !record(proof, "broken", began, judged) {
        return;
    }
    stage.done();

    let began = Instant::now();
    let stage = progress.stage("solution", "running solution.sh");
    let solved = solve(provider, id, folder).await;
    if !record(proof, "solution", began, solved) {
        return;
    }
    stage.done();

    let began = Instant::now();
    let stage = progress.stage("repaired", "checks on the repaired machine");
    let mut tries = 0u32;
    loop {
        tries += 1;
        proof.after = check(provider, id, folder, |r| {
            stage.update(None, r.title);
        })
        .await;
        if proof.after.passed() || began.elapsed() > of(folder, SETTLE) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    if tries > 1 && proof.after.passed() {
        proof.notes.push(format!(
            "the checks held only at try {tries}, {} s after the solution: let solution.sh wait for what it starts",
            began.elapsed().as_secs()
        ));
    }
    let judged = judge_after(proof);
    if record(proof, "repaired", began, judged) {
        stage.done();
    }
}

fn judge_before(proof: &mut Proof) -> Result<(), String> {
    let errors: Vec<String> = proof
        .before
        .results
        .iter()
        .filter(|r| !r.evaluated)
        .map(|r| format!("{}: {}", r.name, r.message))
        .collect();
    if !errors.is_empty() {
        return Err(format!(
            "not every check could be evaluated on the untouched machine: {}",
            errors.join("; ")
        ));
    }
    if proof.before.passed() {
        return Err(
            "every check holds on the untouched machine: the setup breaks nothing that is checked"
                .to_owned(),
        );
    }
    let holding: Vec<&str> = proof
        .before
        .results
        .iter()
        .filter(|r| r.passed)
        .map(|r| r.name.as_str())
        .collect();
    if !holding.is_empty() {
        proof.notes.push(format!(
            "holds already on the untouched machine (it guards against a wrong repair): {}",
            holding.join(", ")
        ));
    }
    Ok(())
}

fn judge_after(proof: &Proof) -> Result<(), String> {
    let wrong: Vec<String> = proof
        .after
        .results
        .iter()
        .filter(|r| !r.passed)
        .map(|r| {
            let how = if r.seen.is_empty() {
                &r.message
            } else {
                &r.seen
            };
            format!("{} fails: {how}", r.name)
        })
        .collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("after solution.sh, {}", wrong.join("; ")))
    }
}

/// Which of two limits is for this lab.
fn of(folder: &LabFolder, [plain, cluster]: [Duration; 2]) -> Duration {
    if folder.lab.needs.kubernetes.is_some() {
        cluster
    } else {
        plain
    }
}

/// Runs `solution.sh` on the first node, with the guest's own tools, as a student would.
pub async fn solve(
    provider: &dyn Provider,
    id: &TenantId,
    folder: &LabFolder,
) -> Result<(), String> {
    let nodes = folder.lab.needs.node_names();
    let node = nodes.first().ok_or("the lab has no node")?;
    let how = Run {
        trusted: false,
        timeout: of(folder, SOLUTION),
    };
    let ran = script::run(provider, id, node, &folder.solution_script, &how)
        .await
        .map_err(|e| chain(&e))?;
    if ran.code == 0 {
        Ok(())
    } else {
        Err(format!(
            "solution.sh ended with exit code {}; its last words: {}",
            ran.code,
            text::clean_tail(&ran.tail, 1500)
        ))
    }
}
