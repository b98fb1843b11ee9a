//! Environments, their nodes, clusters and places in the queue.

use faultline_domain::{
    NodeName,
    environment::{EndReason, Environment, Intent, State},
    nodes::NodeState,
    queue::Place,
};
use faultline_store::{stages::Stage, start_log::Line};
use serde::Serialize;
use utoipa::ToSchema;

use super::labs::{AttemptView, CheckRunView};
use crate::{app::App, lock::lock, operations::check, problem::Problem};

/// An environment.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EnvironmentView {
    id: String,
    lab: String,
    attempt: String,
    /// The tenant that it runs on, or last ran on. Changes with a reset.
    tenant: Option<String>,
    /// `requested`, `preparing`, `active`, `suspended`, `expired`, `gone` or `failed`.
    phase: &'static str,
    /// False once its end was requested.
    wanted: bool,
    /// The stage that failed.
    failed_stage: Option<String>,
    /// Why it failed and what to do.
    failed_reason: Option<String>,
    /// The nodes that can be entered.
    nodes: Vec<String>,
    /// The nodes that are being added or removed, or could not be added.
    changing: Vec<ChangingNode>,
    created_at: String,
    /// When it ends if it is neither used nor extended.
    ends_at: String,
    /// Seconds until `ends_at`.
    seconds_left: i64,
    /// Its place in the queue, while it waits for room on the host.
    queue: Option<QueueView>,
    /// True if it ends at `ends_at` because it is idle; then using it postpones the end.
    ends_idle: bool,
    /// True if it is suspended then instead.
    idle_suspends: bool,
    /// True if it is suspended and was written to disk. Its memory is free, and its clock stands still.
    on_disk: bool,
    /// Why it could not be resumed when that was last tried.
    resume_problem: Option<String>,
    /// When it ends even if it is used, unless it is extended.
    expires_at: String,
    /// Seconds until `expires_at`.
    expires_seconds_left: i64,
    /// Seconds without use after which it ends.
    idle_seconds: i64,
    /// The user name for the SSH gateway. `<node>.<ssh_user>` reaches a specific node.
    ssh_user: String,
}

/// A place in the queue.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueueView {
    /// The position, from 1.
    position: u32,
    /// The number of environments that wait.
    of: u32,
    /// Why the first one waits, for people.
    reason: &'static str,
    /// The expected time until there is room, in seconds; none if that can't be told.
    seconds: Option<i64>,
}

impl From<&Place> for QueueView {
    fn from(place: &Place) -> Self {
        Self {
            position: place.position,
            of: place.of,
            reason: place.lack.as_sentence(),
            seconds: place.seconds,
        }
    }
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
            ends_at: app.end_of(e).0.to_string(),
            seconds_left: app.seconds_left(e).max(0),
            queue: lock(&app.queue).get(&e.id).map(QueueView::from),
            ends_idle: app.end_of(e).1 == EndReason::Idle,
            idle_suspends: app.suspends(),
            on_disk: e.state.is_on_disk(),
            resume_problem: e.state.on_disk().and_then(|d| d.problem.clone()),
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

/// A node that is being added.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NewNode {
    pub name: String,
}

/// A node that is being added or removed, or could not be added.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChangingNode {
    pub name: String,
    /// `requested`, `adding`, `removing` or `failed`.
    pub state: &'static str,
    /// Why it could not be added.
    pub reason: Option<String>,
}

/// Returns the nodes of an environment that are being added or removed, or could not be added.
pub(crate) fn changing(e: &Environment) -> Vec<ChangingNode> {
    let known = |name: &NodeName| e.added.iter().any(|n| n.name == *name);
    let requested = e.wanted.iter().filter(|name| !known(name));
    let requested = requested.map(|name| (name, "requested", None));
    let others = e.added.iter().filter_map(|n| match &n.state {
        NodeState::Ready { .. } if e.wanted.contains(&n.name) => None,
        NodeState::Ready { .. } => Some((&n.name, "removing", None)),
        NodeState::Failed { reason, .. } => Some((&n.name, n.state.as_str(), Some(reason.clone()))),
        NodeState::Adding { .. } | NodeState::Removing { .. } => {
            Some((&n.name, n.state.as_str(), None))
        }
    });
    requested
        .chain(others)
        .map(|(name, state, reason)| ChangingNode {
            name: name.to_string(),
            state,
            reason,
        })
        .collect()
}

/// A stage of a start.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StageView {
    /// A stable name, for programs.
    stage: String,
    /// What is happening, for people.
    text: String,
    /// The progress, from 0 to 1, if known.
    fraction: Option<f64>,
    started_at: String,
    /// The duration in milliseconds, once it has ended.
    millis: Option<u64>,
    /// The typical duration in milliseconds, if known.
    typical_millis: Option<u64>,
}

/// A line of a start's log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LogLineView {
    at: String,
    /// The stable name of the stage.
    stage: String,
    /// What happened, for people.
    text: String,
}

/// An environment with its stages, log, checks and progress.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EnvironmentDetail {
    #[serde(flatten)]
    environment: EnvironmentView,
    stages: Vec<StageView>,
    /// The log of its start: the last 200 lines, oldest first.
    log: Vec<LogLineView>,
    /// True while a check run is in progress.
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

/// The address of a cluster's API server.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClusterView {
    /// The URL of the API server, including the path.
    pub server: String,
    /// The CA certificate to verify the API server with, in PEM; none if it is publicly trusted.
    pub authority: Option<String>,
}

/// A token for a cluster.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClusterTokenView {
    /// The token. Send it to the API server as `Authorization: Bearer …`.
    pub token: String,
    /// When it expires, in RFC 3339.
    pub expires_at: String,
}

/// An environment in the queue.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WaitingView {
    /// The position, from 1.
    pub position: u32,
    pub environment: String,
    pub lab: String,
    /// The owner's name.
    pub person: String,
    /// When it was requested.
    pub since: String,
    /// The expected time until there is room, in seconds; none if that can't be told.
    pub seconds: Option<i64>,
}
