//! Proves a lab: it is broken at its start, its checks can be evaluated, its solution repairs it, and each of its wrong
//! repairs fails a check.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use faultline_domain::{
    TenantId,
    check::{CheckResult, Outcome},
    limits::Limits,
    progress::Progress,
};
use faultline_provider::{Allowance, Provider, Spec, make};
use serde::{Deserialize, Serialize};

use crate::{
    LabFolder,
    check::{chain, check},
    script::{self, Run},
    set_up, text,
};

/// The maximum time of the solution, on a plain machine and on a cluster.
const SOLUTION: [Duration; 2] = [Duration::from_secs(300), Duration::from_secs(900)];
/// The maximum time after the solution until the checks hold: services start, kernels reclaim memory, a control plane
/// reconciles.
const SETTLE: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(180)];
/// The pause between two rounds of checks.
const PAUSE: Duration = Duration::from_secs(3);

/// A step of a proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// `start`, `setup`, `broken`, `solution`, `repaired`, `destroy`; of a wrong repair `start`, `setup`, `repair`,
    /// `caught`, `destroy`.
    pub name: String,
    /// The duration, in milliseconds.
    pub millis: u64,
    /// The reason of the failure; `None` if the step succeeded.
    pub failure: Option<String>,
}

/// The proof of a lab, or the failed attempt at one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The lab.
    pub lab: String,
    /// The hash of its folder without its wrong repairs.
    pub hash: String,
    /// The steps, in order. The first failure ends the proof; the tenant is destroyed in any case.
    pub steps: Vec<Step>,
    /// The results of the checks before the repair.
    pub before: Outcome,
    /// The results of the checks after the solution.
    pub after: Outcome,
    /// Remarks that don't disprove the lab.
    pub notes: Vec<String>,
}

impl Proof {
    /// Returns true if every step succeeded.
    #[must_use]
    pub fn proven(&self) -> bool {
        !self.steps.is_empty() && self.steps.iter().all(|s| s.failure.is_none())
    }

    /// Returns the first failed step and its reason.
    #[must_use]
    pub fn failure(&self) -> Option<(&str, &str)> {
        failure(&self.steps)
    }

    /// Returns the total duration, in milliseconds.
    #[must_use]
    pub fn millis(&self) -> u64 {
        self.steps.iter().map(|s| s.millis).sum()
    }
}

/// The result of one wrong repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrongRepair {
    /// The file, `wrong/NAME.sh`.
    pub name: String,
    /// The first comment of the file, which says what is wrong with it.
    pub about: String,
    /// The steps, in order. The first failure ends the attempt; the tenant is destroyed in any case.
    pub steps: Vec<Step>,
    /// The results of the checks after the repair.
    pub after: Outcome,
}

impl WrongRepair {
    /// Returns the checks that fail. A check that could not be evaluated doesn't count as failed.
    pub fn caught_by(&self) -> impl Iterator<Item = &str> {
        let failed = |r: &&CheckResult| r.evaluated && !r.passed;
        self.after
            .results
            .iter()
            .filter(failed)
            .map(|r| r.name.as_str())
    }

    /// Returns why the repair was not caught: no check fails, or the repair could not be tried.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        let (step, why) = failure(&self.steps)?;
        Some(match step {
            "caught" => format!("{} {why}", self.name),
            _ => format!("{}: {step}: {why}", self.name),
        })
    }
}

/// Returns the checks that pass before any repair and that no wrong repair fails.
#[must_use]
pub fn idle_checks(before: &Outcome, wrong: &[&WrongRepair]) -> Vec<String> {
    let caught: BTreeSet<&str> = wrong.iter().flat_map(|w| w.caught_by()).collect();
    before
        .results
        .iter()
        .filter(|r| r.passed && !caught.contains(r.name.as_str()))
        .map(|r| r.name.clone())
        .collect()
}

fn failure(steps: &[Step]) -> Option<(&str, &str)> {
    steps
        .iter()
        .find_map(|s| Some((s.name.as_str(), s.failure.as_deref()?)))
}

/// Makes a tenant `id`, proves the lab in it, and destroys it in any case. If the future is dropped, the caller must
/// destroy the tenant.
pub async fn prove(
    provider: &dyn Provider,
    id: &TenantId,
    folder: &LabFolder,
    limits: Limits,
    progress: &Progress,
) -> Proof {
    let mut proof = Proof {
        lab: folder.slug.to_string(),
        hash: folder.proof_hash.clone(),
        steps: Vec::new(),
        before: Outcome::default(),
        after: Outcome::default(),
        notes: Vec::new(),
    };
    let folder = &*folder.of(id.as_str());
    sequence(provider, id, folder, limits, progress, &mut proof).await;
    destroy(provider, id, &mut proof.steps).await;
    proof
}

/// Makes a tenant `id`, tries a wrong repair of the lab in it, and destroys it in any case. If the future is dropped,
/// the caller must destroy the tenant.
pub async fn try_wrong(
    provider: &dyn Provider,
    id: &TenantId,
    folder: &LabFolder,
    name: &str,
    limits: Limits,
    progress: &Progress,
) -> WrongRepair {
    let folder = &*folder.of(id.as_str());
    let content = folder.wrong.get(name).map_or(&[][..], Vec::as_slice);
    let mut wrong = WrongRepair {
        name: name.to_owned(),
        about: script::first_comment(content).unwrap_or_default(),
        steps: Vec::new(),
        after: Outcome::default(),
    };
    if start(provider, id, folder, limits, progress, &mut wrong.steps).await {
        wrong_sequence(provider, id, folder, content, progress, &mut wrong).await;
    }
    destroy(provider, id, &mut wrong.steps).await;
    wrong
}

/// Records a step and returns true if it succeeded.
fn record(steps: &mut Vec<Step>, name: &str, began: Instant, went: Result<(), String>) -> bool {
    let good = went.is_ok();
    steps.push(Step {
        name: name.to_owned(),
        millis: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        failure: went.err(),
    });
    good
}

/// Makes the tenant and runs the lab's setup. Returns true if both succeeded.
async fn start(
    provider: &dyn Provider,
    id: &TenantId,
    folder: &LabFolder,
    limits: Limits,
    progress: &Progress,
    steps: &mut Vec<Step>,
) -> bool {
    let spec = Spec {
        template: folder.lab.needs.template(),
        save_point: None,
        allowance: Allowance {
            limits,
            egress: folder.lab.needs.egress.clone(),
        },
    };
    let began = Instant::now();
    let made = make(provider, id, &spec, progress)
        .await
        .map_err(|e| chain(&e));
    if !record(steps, "start", began, made) {
        return false;
    }

    let began = Instant::now();
    let broken = set_up(provider, id, folder, progress)
        .await
        .map_err(|e| chain(&e));
    record(steps, "setup", began, broken)
}

async fn destroy(provider: &dyn Provider, id: &TenantId, steps: &mut Vec<Step>) {
    let began = Instant::now();
    let ended = provider.destroy(id).await.map_err(|e| chain(&e));
    record(steps, "destroy", began, ended);
}

async fn sequence(
    provider: &dyn Provider,
    id: &TenantId,
    folder: &LabFolder,
    limits: Limits,
    progress: &Progress,
    proof: &mut Proof,
) {
    if !start(provider, id, folder, limits, progress, &mut proof.steps).await {
        return;
    }

    let began = Instant::now();
    let stage = progress.stage("broken", "checks on the untouched machine");
    proof.before = check(provider, id, folder, |r| {
        stage.update(None, r.title);
    })
    .await;
    let judged = judge_before(proof);
    if !record(&mut proof.steps, "broken", began, judged) {
        return;
    }
    stage.done();

    let began = Instant::now();
    let stage = progress.stage("solution", "running solution.sh");
    let solved = solve(provider, id, folder).await;
    if !record(&mut proof.steps, "solution", began, solved) {
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
    if record(&mut proof.steps, "repaired", began, judged) {
        stage.done();
    }
}

/// Runs the wrong repair, then the checks until two rounds in a row agree: what the repair starts or stops takes a
/// moment.
async fn wrong_sequence(
    provider: &dyn Provider,
    id: &TenantId,
    folder: &LabFolder,
    content: &[u8],
    progress: &Progress,
    wrong: &mut WrongRepair,
) {
    let began = Instant::now();
    let stage = progress.stage("repair", format!("running {}", wrong.name));
    let repaired = repair(provider, id, folder, &wrong.name, content).await;
    if !record(&mut wrong.steps, "repair", began, repaired) {
        return;
    }
    stage.done();

    let began = Instant::now();
    let stage = progress.stage("caught", "checks after the wrong repair");
    let mut said_before = None;
    loop {
        wrong.after = check(provider, id, folder, |r| {
            stage.update(None, r.title);
        })
        .await;
        let said: Vec<_> = wrong
            .after
            .results
            .iter()
            .map(|r| (r.passed, r.evaluated))
            .collect();
        let settled = said_before.as_ref() == Some(&said) || began.elapsed() > of(folder, SETTLE);
        // A single passing round is enough: a student who presses *Check* at that moment has solved the lab.
        if settled || wrong.after.passed() {
            break;
        }
        said_before = Some(said);
        tokio::time::sleep(PAUSE).await;
    }
    let judged = judge_wrong(wrong);
    if record(&mut wrong.steps, "caught", began, judged) {
        stage.done();
    }
}

fn judge_wrong(wrong: &WrongRepair) -> Result<(), String> {
    if wrong.caught_by().next().is_some() {
        return Ok(());
    }
    if wrong.after.passed() {
        return Err(format!("passes all checks: {}", wrong.about));
    }
    Err(format!(
        "fails no check that could be carried out: {}",
        not_evaluated(&wrong.after)
    ))
}

fn not_evaluated(outcome: &Outcome) -> String {
    let errors: Vec<String> = outcome
        .results
        .iter()
        .filter(|r| !r.evaluated)
        .map(|r| format!("{}: {}", r.name, r.message))
        .collect();
    errors.join("; ")
}

fn judge_before(proof: &Proof) -> Result<(), String> {
    let errors = not_evaluated(&proof.before);
    if !errors.is_empty() {
        return Err(format!(
            "not every check could be evaluated on the untouched machine: {errors}"
        ));
    }
    if proof.before.passed() {
        return Err(
            "every check passes on the untouched machine: the setup breaks nothing that a check covers"
                .to_owned(),
        );
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

/// Selects the limit for plain machines or for clusters.
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
    repair(provider, id, folder, "solution.sh", &folder.solution_script).await
}

async fn repair(
    provider: &dyn Provider,
    id: &TenantId,
    folder: &LabFolder,
    name: &str,
    content: &[u8],
) -> Result<(), String> {
    let nodes = folder.lab.needs.node_names();
    let node = nodes.first().ok_or("the lab has no node")?;
    let how = Run {
        trusted: false,
        timeout: of(folder, SOLUTION),
    };
    let ran = script::run(provider, id, node, content, &how)
        .await
        .map_err(|e| chain(&e))?;
    if ran.code == 0 {
        Ok(())
    } else {
        Err(format!(
            "{name} ended with exit code {}; its last words: {}",
            ran.code,
            text::clean_tail(&ran.tail, 1500)
        ))
    }
}
