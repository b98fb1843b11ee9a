//! What the API shows.

use std::collections::BTreeMap;

use faultline_domain::{
    NodeName,
    attempt::Attempt,
    check::CheckRun,
    environment::{EndReason, Environment, Intent, State},
    nodes::NodeState,
};
use faultline_lab::LabFolder;
use faultline_store::{stages::Stage, start_log::Line};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{app::App, operations::check, problem::Problem};

/// A lab in the catalogue.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LabView {
    /// Its name.
    slug: String,
    title: String,
    summary: String,
    /// `beginner`, `intermediate`, `hard`.
    level: &'static str,
    topics: Vec<String>,
    /// How long it takes somebody of its level.
    minutes: u32,
    nodes: u32,
    image: String,
    points: u32,
    hints: usize,
    checks: usize,
    /// True when the caller has solved it.
    solved: bool,
}

impl LabView {
    pub(crate) fn new(folder: &LabFolder, solved: bool) -> Self {
        let lab = &folder.lab;
        Self {
            slug: folder.slug.to_string(),
            title: lab.title.clone(),
            summary: lab.summary.clone(),
            level: lab.level.as_str(),
            topics: lab.topics.clone(),
            minutes: lab.minutes,
            nodes: lab.needs.nodes,
            image: lab.needs.template().image,
            points: lab.points(),
            hints: lab.hints.len(),
            checks: lab.checks.len(),
            solved,
        }
    }
}

/// A lab with what the student reads.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LabDetail {
    #[serde(flatten)]
    pub lab: LabView,
    /// The incident, as Markdown.
    pub readme: String,
    /// The caller's tries, the newest first.
    pub attempts: Vec<AttemptView>,
}

/// One try at one lab.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AttemptView {
    id: String,
    lab: String,
    started_at: String,
    /// When it was solved or given up.
    finished_at: Option<String>,
    solved: bool,
    gave_up: bool,
    /// True when the solution had been shown in an earlier attempt: a repair earns no points and is not `solved`.
    practice: bool,
    points: Option<u32>,
    hints_opened: usize,
    checks_run: u32,
}

impl From<&Attempt> for AttemptView {
    fn from(a: &Attempt) -> Self {
        Self {
            id: a.id.to_string(),
            lab: a.lab.to_string(),
            started_at: a.started_at.to_string(),
            finished_at: a.finished_at.map(|at| at.to_string()),
            solved: a.is_solved(),
            gave_up: a.gave_up,
            practice: a.practice,
            points: a.points,
            hints_opened: a.hints.len(),
            checks_run: a.checks,
        }
    }
}

/// A stage of a start.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StageView {
    /// A stable word.
    stage: String,
    /// What happens, for people.
    text: String,
    /// Part that is done, from 0 to 1, where it can be told.
    fraction: Option<f64>,
    started_at: String,
    /// How long it took, once it ended.
    millis: Option<u64>,
    /// How long it typically takes.
    typical_millis: Option<u64>,
}

/// A line of a start's log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LogLineView {
    at: String,
    /// The stage, a stable word.
    stage: String,
    /// What happened, for people.
    text: String,
}

/// What one check found.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CheckView {
    name: String,
    title: String,
    passed: bool,
    /// What is wrong, when it does not hold.
    message: String,
    /// What was seen.
    seen: String,
    /// False when it could not be found out.
    evaluated: bool,
    /// The hint that it points to.
    hint: Option<u32>,
    millis: u64,
}

/// A run of a lab's checks.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CheckRunView {
    id: String,
    started_at: String,
    finished_at: Option<String>,
    /// Whether everything held, once it has ended.
    passed: Option<bool>,
    /// Why it could not be run to its end.
    failure: Option<String>,
    results: Vec<CheckView>,
}

impl From<&CheckRun> for CheckRunView {
    fn from(run: &CheckRun) -> Self {
        Self {
            id: run.id.clone(),
            started_at: run.started_at.to_string(),
            finished_at: run.finished_at.map(|at| at.to_string()),
            passed: run.passed,
            failure: run.failure.clone(),
            results: run
                .results
                .iter()
                .map(|r| CheckView {
                    name: r.name.clone(),
                    title: r.title.clone(),
                    passed: r.passed,
                    message: r.message.clone(),
                    seen: r.seen.clone(),
                    evaluated: r.evaluated,
                    hint: r.hint,
                    millis: r.millis,
                })
                .collect(),
        }
    }
}

/// An environment.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EnvironmentView {
    id: String,
    lab: String,
    attempt: String,
    /// What it runs on, or did last: another after a reset.
    tenant: Option<String>,
    /// `requested`, `preparing`, `active`, `suspended`, `expired`, `gone`, `failed`.
    phase: &'static str,
    /// False once its end was asked for.
    wanted: bool,
    /// The stage that failed.
    failed_stage: Option<String>,
    /// Why it failed and what to do.
    failed_reason: Option<String>,
    /// Those that may be entered.
    nodes: Vec<String>,
    /// Those that come or go, or could not come.
    changing: Vec<ChangingNode>,
    created_at: String,
    /// When it ends if nothing happens.
    ends_at: String,
    /// Seconds until then.
    seconds_left: i64,
    /// True when it would end then for want of use: working in it puts that off.
    ends_idle: bool,
    /// When it ends however much it is used, unless it is extended.
    expires_at: String,
    /// Seconds until then.
    expires_seconds_left: i64,
    /// It ends after so many seconds without use.
    idle_seconds: i64,
    /// The user name for the SSH gateway; `<node>.<this>` reaches a node.
    ssh_user: String,
}

impl EnvironmentView {
    pub(crate) fn new(app: &App, e: &Environment) -> Self {
        let (failed_stage, failed_reason) = match &e.state {
            State::Failed { stage, reason, .. } => (Some(stage.clone()), Some(reason.clone())),
            _ => (None, None),
        };
        Self {
            id: e.id.to_string(),
            lab: e.lab.to_string(),
            attempt: e.attempt.to_string(),
            tenant: e.tenant_id().map(ToString::to_string),
            phase: e.state.phase().as_str(),
            wanted: !matches!(e.intent, Intent::Gone(_)),
            failed_stage,
            failed_reason,
            nodes: e.nodes().iter().map(ToString::to_string).collect(),
            changing: changing(e),
            created_at: e.created_at.to_string(),
            ends_at: e.lifetime.end().0.to_string(),
            seconds_left: e.lifetime.remaining(app.now()).max(0),
            ends_idle: e.lifetime.end().1 == EndReason::Idle,
            expires_at: e.lifetime.expires_at.to_string(),
            expires_seconds_left: e
                .lifetime
                .expires_at
                .duration_since(app.now())
                .as_secs()
                .max(0),
            idle_seconds: e.lifetime.idle_seconds,
            ssh_user: e.id.to_string(),
        }
    }
}

/// A node that was asked for.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NewNode {
    pub name: String,
}

/// A node that comes or goes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChangingNode {
    pub name: String,
    /// `requested`, `adding`, `removing`, `failed`.
    pub state: &'static str,
    /// Why it could not come.
    pub reason: Option<String>,
}

/// The nodes of an environment that are not simply there.
pub(crate) fn changing(e: &Environment) -> Vec<ChangingNode> {
    let known = |name: &NodeName| e.added.iter().any(|n| n.name == *name);
    let asked = e.wanted.iter().filter(|name| !known(name));
    let asked = asked.map(|name| (name, "requested", None));
    let on_the_way = e.added.iter().filter_map(|n| match &n.state {
        NodeState::Ready { .. } if e.wanted.contains(&n.name) => None,
        NodeState::Ready { .. } => Some((&n.name, "removing", None)),
        NodeState::Failed { reason, .. } => Some((&n.name, n.state.as_str(), Some(reason.clone()))),
        NodeState::Adding { .. } | NodeState::Removing { .. } => {
            Some((&n.name, n.state.as_str(), None))
        }
    });
    asked
        .chain(on_the_way)
        .map(|(name, state, reason)| ChangingNode {
            name: name.to_string(),
            state,
            reason,
        })
        .collect()
}

/// An environment with all that belongs to it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EnvironmentDetail {
    #[serde(flatten)]
    environment: EnvironmentView,
    stages: Vec<StageView>,
    /// What happened during its start, the oldest line first; the last 200.
    log: Vec<LogLineView>,
    /// True while checks run.
    checking: bool,
    checks: Option<CheckRunView>,
    progress: Option<AttemptView>,
}

pub(crate) async fn detail(app: &App, e: &Environment) -> Result<EnvironmentDetail, Problem> {
    let typical = app.typical_stages(&e.lab).await?;
    let stages = app.store.stages(&e.id).await?;
    let view = |s: Stage| StageView {
        typical_millis: typical.iter().find(|t| t.name == s.name).map(|t| t.millis),
        stage: s.name,
        text: s.text,
        fraction: s.fraction,
        started_at: s.started_at.to_string(),
        millis: s.millis,
    };
    let line = |l: Line| LogLineView {
        at: l.at.to_string(),
        stage: l.stage,
        text: l.text,
    };
    let log = app.store.start_log(&e.id).await?;
    let attempt = app.store.attempt(&e.attempt).await?;
    let checks = app.store.latest_checks(&e.id).await?;
    Ok(EnvironmentDetail {
        environment: EnvironmentView::new(app, e),
        stages: stages.into_iter().map(view).collect(),
        log: log.into_iter().map(line).collect(),
        checking: check::is_running(app, &e.id),
        checks: checks.as_ref().map(CheckRunView::from),
        progress: attempt.as_ref().map(AttemptView::from),
    })
}

/// A hint, opened.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HintView {
    /// From 1.
    pub number: u32,
    /// As Markdown.
    pub text: String,
}

/// The explained solution.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SolutionView {
    /// As Markdown.
    pub text: String,
}

/// Who the caller is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MeView {
    pub person: String,
    /// `student` or `operator`.
    pub role: &'static str,
}

/// The SSH gateway, for the caller's client.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GatewayView {
    /// Its host as people write it.
    pub host: String,
    pub port: u16,
    /// Its public host key, in OpenSSH's form.
    pub host_key: String,
}

/// A public key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyView {
    pub id: String,
    pub name: String,
    /// `SHA256:…`
    pub fingerprint: String,
    /// In OpenSSH's form.
    pub public_key: String,
    pub created_at: String,
}

/// A public key to add.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NewKey {
    /// What to call it; the key's comment unless said.
    #[serde(default)]
    pub name: String,
    /// In OpenSSH's form, such as `ssh-ed25519 AAAA… you@host`.
    pub public_key: String,
}

/// An API token, without the token.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenView {
    pub id: String,
    pub name: String,
    pub created_at: String,
    pub last_used: Option<String>,
}

/// An API token to make.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NewToken {
    /// What to call it.
    pub name: String,
}

/// A new API token, shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MadeToken {
    pub id: String,
    /// Send it as `Authorization: Bearer …`.
    pub token: String,
}

/// A link that signs in, once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignInLink {
    pub url: String,
    /// Until when it works.
    pub expires_at: String,
}

/// How the installation is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OperatorView {
    pub provider: &'static str,
    pub environments: Vec<EnvironmentView>,
    pub max_environments: u32,
    pub free_memory_mib: u64,
    pub free_disk_mib: u64,
    pub reconcilers: Vec<ReconcilerView>,
    /// Labs whose folders can't be used, and why.
    pub broken_labs: Vec<String>,
}

/// How a reconciler's last run went.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReconcilerView {
    pub name: &'static str,
    pub last: String,
    pub millis: u64,
    pub runs: u64,
    /// What it looked at and what it began, by name. Empty when it failed.
    pub counts: BTreeMap<&'static str, u64>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// A line of the audit.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditView {
    pub at: String,
    /// Nobody when Faultline did it by itself.
    pub person: Option<String>,
    pub action: String,
    pub subject: String,
    pub detail: String,
}

/// Where the API server of a cluster is reached.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClusterView {
    /// The address of its API server, path and all.
    pub server: String,
    /// The authority that its certificate is verified with, PEM; nothing where it is one that everybody knows.
    pub authority: Option<String>,
}

/// What opens a cluster.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClusterTokenView {
    /// The token: `Authorization: Bearer` at the API server's address.
    pub token: String,
    /// When it ends, RFC 3339.
    pub expires_at: String,
}
