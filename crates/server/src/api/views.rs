//! The types that the API returns and accepts.

use std::collections::BTreeMap;

use faultline_domain::{
    NodeName,
    attempt::Attempt,
    check::CheckRun,
    environment::{EndReason, Environment, Intent, State},
    group::{Group, Member},
    maintenance::Maintenance,
    nodes::NodeState,
    person::{Invitation, Person},
    pool::forecast::Event,
    queue::Place,
};
use faultline_lab::LabFolder;
use faultline_store::{
    mail_addresses::MailSettings, outbox::OutboxStatus, stages::Stage, start_log::Line,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    app::App,
    lock::lock,
    mail::Mailer,
    operations::{
        check,
        groups::{OpenLab, Progress},
        invitations::Made,
        maintenance::Running,
    },
    pools::{PoolStatus, Wait},
    problem::Problem,
    usage::{self, Fit, Overview, Share, Used},
};

/// A lab in the catalogue.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LabView {
    /// The lab's name in URLs and commands.
    slug: String,
    title: String,
    summary: String,
    /// `beginner`, `intermediate` or `hard`.
    level: &'static str,
    topics: Vec<String>,
    /// Minutes that somebody of this level typically needs.
    minutes: u32,
    nodes: u32,
    image: String,
    points: u32,
    hints: usize,
    checks: usize,
    /// True if the caller has solved it.
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

/// A lab with the incident and the caller's attempts.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LabDetail {
    #[serde(flatten)]
    pub lab: LabView,
    /// The incident, as Markdown.
    pub readme: String,
    /// The caller's attempts, newest first.
    pub attempts: Vec<AttemptView>,
}

/// What a lab keeps from students.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LabForAuthors {
    /// All hints, in order.
    hints: Vec<AuthorHint>,
    checks: Vec<AuthorCheck>,
    /// The solution, as Markdown.
    solution: String,
    /// The script that repairs it.
    solution_script: String,
}

/// A hint with its cost.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuthorHint {
    /// The hint, as Markdown.
    text: String,
    /// The cost of opening it, in percent of the lab's points.
    cost: u32,
}

/// A check of a lab.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuthorCheck {
    name: String,
    /// What must hold.
    title: String,
    /// The message for the student if it fails.
    fail: String,
}

impl LabForAuthors {
    pub(crate) fn new(folder: &LabFolder) -> Self {
        let hints = folder.lab.hints.iter().map(|hint| AuthorHint {
            text: hint.text.clone(),
            cost: hint.cost,
        });
        let checks = folder.lab.checks.iter().map(|check| AuthorCheck {
            name: check.name.clone(),
            title: check.title.clone(),
            fail: check.fail.clone(),
        });
        Self {
            hints: hints.collect(),
            checks: checks.collect(),
            solution: folder.solution.clone(),
            solution_script: String::from_utf8_lossy(&folder.solution_script).into_owned(),
        }
    }
}

/// An attempt at a lab.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AttemptView {
    id: String,
    lab: String,
    started_at: String,
    /// When it was solved or given up.
    finished_at: Option<String>,
    solved: bool,
    gave_up: bool,
    /// True if an earlier attempt had already shown the solution; then a repair earns no points and isn't `solved`.
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

/// The result of a check.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CheckView {
    name: String,
    title: String,
    passed: bool,
    /// What is wrong, if it failed.
    message: String,
    /// What was observed.
    seen: String,
    /// False if the check could not be evaluated.
    evaluated: bool,
    /// The number of the hint that is about this.
    hint: Option<u32>,
    millis: u64,
}

/// A run of a lab's checks.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CheckRunView {
    id: String,
    started_at: String,
    finished_at: Option<String>,
    /// Whether all checks passed, once the run has ended.
    passed: Option<bool>,
    /// Why the run could not be completed.
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

/// An opened hint.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HintView {
    /// The number, counted from 1.
    pub number: u32,
    /// The hint, as Markdown.
    pub text: String,
}

/// The solution with its explanation.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SolutionView {
    /// The solution, as Markdown.
    pub text: String,
}

/// The caller.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MeView {
    pub person: String,
    /// `student`, `author`, `instructor` or `operator`.
    pub role: &'static str,
}

/// The address and host key of the SSH gateway.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GatewayView {
    /// The host name, as people type it.
    pub host: String,
    pub port: u16,
    /// The public host key, in OpenSSH's format.
    pub host_key: String,
}

/// A public key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyView {
    pub id: String,
    pub name: String,
    /// The fingerprint, `SHA256:…`.
    pub fingerprint: String,
    /// The key, in OpenSSH's format.
    pub public_key: String,
    pub created_at: String,
}

/// A public key to add.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NewKey {
    /// The name of the key. Default: the key's comment.
    #[serde(default)]
    pub name: String,
    /// The key in OpenSSH's format, such as `ssh-ed25519 AAAA… you@host`.
    pub public_key: String,
}

/// An API token, without the token itself.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenView {
    pub id: String,
    pub name: String,
    pub created_at: String,
    pub last_used: Option<String>,
    /// `full`, or `read` if it may only read.
    pub scope: &'static str,
    /// When it ends; none if it doesn't.
    pub expires_at: Option<String>,
    /// True for the token of this request.
    pub is_current: bool,
}

/// A browser in which the caller is signed in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SessionView {
    pub id: String,
    /// The browser and its system, such as `Firefox on Linux`; empty if not known.
    pub browser: String,
    /// When the caller signed in.
    pub created_at: String,
    /// When it was last used, with a precision of one minute; none if not known.
    pub last_used: Option<String>,
    /// When it expires.
    pub expires_at: String,
}

impl From<faultline_store::sessions::Session> for SessionView {
    fn from(s: faultline_store::sessions::Session) -> Self {
        Self {
            id: s.id,
            browser: s.browser,
            created_at: s.created_at.to_string(),
            last_used: s.last_used.map(|at| at.to_string()),
            expires_at: s.expires_at.to_string(),
        }
    }
}

/// An API token to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    /// The name of the token.
    pub name: String,
    /// True if it may only read: no changes and no terminals. Default: false.
    #[serde(default)]
    pub read_only: bool,
    /// The number of days for which it is valid. Default: without an end.
    #[serde(default)]
    pub days: Option<u32>,
}

/// A new API token. No other response contains the token itself.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MadeToken {
    pub id: String,
    /// Send it as `Authorization: Bearer …`.
    pub token: String,
}

/// A link that signs a browser in, once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignInLink {
    pub url: String,
    /// When it expires.
    pub expires_at: String,
}

/// How a person gets the link after their password was reset.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResetRequest {
    /// True to send the link to the person's mail address. Default: false.
    #[serde(default)]
    pub mail: bool,
}

/// A link for a person whose password was reset.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResetView {
    /// The link, which signs the person in once; none if it is in the mail only.
    pub url: Option<String>,
    /// The mail address that it is sent to, if any.
    pub mailed_to: Option<String>,
    /// When it expires.
    pub expires_at: String,
}

/// A person.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PersonView {
    pub id: String,
    pub name: String,
    /// The name that the person signs in with; none if the person signs in by links only.
    pub login: Option<String>,
    /// The mail address that the person has confirmed, if any.
    pub mail: Option<String>,
    /// `student`, `author`, `instructor` or `operator`.
    pub role: &'static str,
    pub created_at: String,
    pub last_sign_in: Option<String>,
    /// When the person was disabled; none if the person has access.
    pub disabled_at: Option<String>,
}

impl From<Person> for PersonView {
    fn from(p: Person) -> Self {
        Self {
            id: p.id.to_string(),
            name: p.name,
            login: p.login.map(|login| login.to_string()),
            mail: p.mail.map(|address| address.to_string()),
            role: p.role.as_str(),
            created_at: p.created_at.to_string(),
            last_sign_in: p.last_sign_in.map(|at| at.to_string()),
            disabled_at: p.disabled_at.map(|at| at.to_string()),
        }
    }
}

/// A change of a person. What is left out stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PersonUpdate {
    /// `student`, `author`, `instructor` or `operator`.
    #[serde(default)]
    pub role: Option<String>,
    /// True to refuse the person's credentials, false to accept them again.
    #[serde(default)]
    pub disabled: Option<bool>,
}

/// An invitation, without its link.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InvitationView {
    pub id: String,
    pub note: String,
    /// The role of the people who accept it.
    pub role: &'static str,
    /// The access code; none if it is accepted by a link.
    pub code: Option<String>,
    /// The ID of the group that people join, if any.
    pub group: Option<String>,
    /// `open`, `used up`, `expired` or `withdrawn`.
    pub state: &'static str,
    /// The number of people who can still accept it; 0 if it was used up or withdrawn.
    pub uses_left: u32,
    pub created_by: String,
    pub created_at: String,
    pub expires_at: String,
    /// The names of the people who have accepted it.
    pub accepted_by: Vec<String>,
}

impl InvitationView {
    pub(crate) fn new(i: Invitation, now: Timestamp) -> Self {
        Self {
            state: i.validity(now).as_str(),
            code: i.code.map(|code| code.to_string()),
            group: i.group,
            id: i.id,
            note: i.note,
            role: i.role.as_str(),
            uses_left: i.uses_left,
            created_by: i.created_by.to_string(),
            created_at: i.created_at.to_string(),
            expires_at: i.expires_at.to_string(),
            accepted_by: i.accepted_by,
        }
    }
}

/// An invitation to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewInvitationView {
    /// A note for operators. Default: empty.
    #[serde(default)]
    pub note: String,
    /// The role of the people who accept it: `student`, `author`, `instructor` or `operator`. Default: `student`.
    #[serde(default = "student")]
    pub role: String,
    /// The number of people who can accept it, at most 500. Default: 1.
    #[serde(default = "one")]
    pub uses: u32,
    /// How long it is valid, such as `3h` or `2d`: at least five minutes, at most 90 days. Default: `7d`.
    #[serde(default)]
    pub expires: Option<String>,
    /// The number of days for which it is valid, instead of `expires`.
    #[serde(default)]
    pub days: Option<u32>,
    /// True for an access code that students type, false for a link. Default: false.
    #[serde(default)]
    pub by_code: bool,
    /// A mail address that it is sent to. Default: empty, for none.
    #[serde(default)]
    pub mail_to: String,
}

fn student() -> String {
    "student".to_owned()
}

const fn one() -> u32 {
    1
}

/// A new invitation, with its link.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MadeInvitation {
    pub id: String,
    /// The link by which people join. With an access code, it leads to the page where the code is entered. None if the link
    /// is in the mail only.
    pub url: Option<String>,
    /// The mail address that it is sent to, if any.
    pub mailed_to: Option<String>,
    /// The access code; none if it is accepted by the link.
    pub code: Option<String>,
    /// When it expires.
    pub expires_at: String,
}

impl From<Made> for MadeInvitation {
    fn from(made: Made) -> Self {
        let Made {
            invitation,
            link,
            mailed_to,
        } = made;
        Self {
            id: invitation.id,
            url: link,
            mailed_to: mailed_to.map(|address| address.to_string()),
            code: invitation.code.map(|code| code.to_string()),
            expires_at: invitation.expires_at.to_string(),
        }
    }
}

/// The status of the installation.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OperatorView {
    pub provider: &'static str,
    pub environments: Vec<EnvironmentView>,
    pub max_environments: u32,
    pub free_memory_mib: u64,
    pub free_disk_mib: u64,
    pub reconcilers: Vec<ReconcilerView>,
    /// The labs that can't be loaded, and why.
    pub broken_labs: Vec<String>,
}

/// The status of a reconciler's last run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReconcilerView {
    pub name: &'static str,
    pub last: String,
    pub millis: u64,
    pub runs: u64,
    /// Numbers of items that it looked at and of steps that it began, by name. Empty if it failed.
    pub counts: BTreeMap<&'static str, u64>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// An entry of the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditView {
    pub at: String,
    /// The person who did it; none if Faultline did it by itself.
    pub person: Option<String>,
    pub action: String,
    pub subject: String,
    pub detail: String,
}

/// The host's capacity, and what uses it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CapacityView {
    memory: ShareView,
    disk: ShareView,
    processors: ProcessorsView,
    /// The maximum number of environments.
    max_environments: u32,
    /// The environments with machines, and what these use.
    environments: Vec<UsedView>,
    /// How many more environments of each template fit now.
    templates: Vec<FitView>,
}

/// Who has the host's memory, or its disk space, in MiB.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ShareView {
    total_mib: u64,
    /// What stays free for the host.
    reserve_mib: u64,
    /// What environments really use, without what they share with their templates.
    environments_mib: u64,
    /// What tenants of pools use, in the same way. Starts get this memory when they need it.
    pools_mib: u64,
    /// What the host's other programs use.
    others_mib: u64,
    free_mib: u64,
}

impl From<Share> for ShareView {
    fn from(of: Share) -> Self {
        Self {
            total_mib: of.total,
            reserve_mib: of.reserve,
            environments_mib: of.environments,
            pools_mib: of.pools,
            others_mib: of.others(),
            free_mib: of.free,
        }
    }
}

/// The host's processors.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProcessorsView {
    total: u32,
    /// The average number of tasks that ran or waited for a processor in the last minute.
    load: f64,
    /// The number of processors that environments keep busy.
    environments: f64,
}

/// An environment, and what it uses.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsedView {
    environment: String,
    lab: String,
    /// The owner's name.
    person: String,
    phase: &'static str,
    created_at: String,
    nodes: usize,
    /// The memory that it doesn't share, in MiB; none while it starts.
    memory_mib: Option<u64>,
    /// The disk space of its overlays, in MiB; none while it starts.
    disk_mib: Option<u64>,
    /// The number of processors that it keeps busy; none until it was measured twice.
    processors: Option<f64>,
}

/// How many more environments of a template fit.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FitView {
    /// The template's name, such as `kubernetes-1.36@1+2`.
    template: String,
    nodes: u32,
    /// The number of labs that use it.
    labs: u32,
    /// The memory that a start is expected to need, in MiB.
    memory_mib: u64,
    /// The disk space that a start is expected to need, in MiB.
    disk_mib: u64,
    /// How many more fit now, if no others are started.
    more: u32,
}

impl CapacityView {
    pub(crate) fn new(of: Overview, people: &[Person]) -> Self {
        let name = |e: &Environment| {
            let person = people.iter().find(|p| p.id == e.person);
            person.map_or_else(|| e.person.to_string(), |p| p.name.clone())
        };
        let used = |used: Used| {
            let (e, measured) = (used.environment, used.measured);
            UsedView {
                person: name(&e),
                phase: e.state.phase().as_str(),
                created_at: e.created_at.to_string(),
                nodes: e.nodes().len(),
                memory_mib: measured.map(|m| m.memory_mib),
                disk_mib: measured.map(|m| m.disk_mib),
                processors: measured.and_then(|m| m.cores),
                environment: e.id.to_string(),
                lab: e.lab.to_string(),
            }
        };
        let fit = |fit: Fit| FitView {
            template: usage::name(&fit.template),
            nodes: fit.need.nodes,
            labs: fit.labs,
            memory_mib: fit.need.memory_mib,
            disk_mib: fit.need.disk_mib,
            more: fit.more,
        };
        Self {
            memory: of.memory.into(),
            disk: of.disk.into(),
            processors: ProcessorsView {
                total: of.host.cores,
                load: of.host.load,
                environments: of.cores,
            },
            max_environments: of.max_environments,
            environments: of.environments.into_iter().map(used).collect(),
            templates: of.fits.into_iter().map(fit).collect(),
        }
    }
}

/// The maintenance that is in effect, if any, and what runs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MaintenanceView {
    /// True while nothing can be started.
    in_maintenance: bool,
    /// When it began; none if the server isn't in maintenance.
    since: Option<String>,
    /// The operator's message for everybody; empty if there is none.
    message: String,
    /// When it is expected to end; none if that was not announced.
    until: Option<String>,
    /// When running environments are suspended to disk, or end if they can't be; none if they go on.
    end_environments_at: Option<String>,
    /// The number of environments with machines.
    environments: usize,
    /// The number of tenants in pools.
    pool_tenants: usize,
}

impl MaintenanceView {
    pub(crate) fn new(of: Option<Maintenance>, running: Running) -> Self {
        let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
        let of = of.as_ref();
        Self {
            in_maintenance: of.is_some(),
            since: time(of.map(|of| of.since)),
            message: of.map(|of| of.message.clone()).unwrap_or_default(),
            until: time(of.and_then(|of| of.until)),
            end_environments_at: time(of.and_then(|of| of.end_environments_at)),
            environments: running.environments,
            pool_tenants: running.pool_tenants,
        }
    }
}

/// A maintenance to begin.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewMaintenanceView {
    /// A message for everybody, at most 200 characters. Default: empty.
    #[serde(default)]
    pub message: String,
    /// When it is expected to end, in RFC 3339 format. It doesn't end by itself. Optional.
    #[serde(default)]
    pub until: Option<String>,
    /// When running environments are suspended to disk, or end if they can't be, in RFC 3339 format, at least two minutes
    /// ahead. Optional; without it, they go on.
    #[serde(default)]
    pub end_environments_at: Option<String>,
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

/// The warm pools.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PoolsView {
    /// Why no tenant is made now; none if nothing prevents it.
    pub hold: Option<&'static str>,
    pub pools: Vec<PoolView>,
    /// How long starts took in the last 24 hours, by what served them.
    pub waits: Vec<WaitView>,
}

/// A warm pool.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PoolView {
    /// The name: of a lab, or of a template such as `kubernetes-1.36@1+0`.
    pub pool: String,
    /// The number of tenants that it should hold.
    pub size: u32,
    /// The number of tenants that can be claimed.
    pub warm: u32,
    /// The number of tenants that were written to disk when the server was drained, and from which it will be filled.
    pub on_disk: u32,
    /// The number of tenants that are being made.
    pub unfinished: u32,
    /// Why it has its size, for people.
    pub reason: String,
    /// The expected starts per hour.
    pub starts_per_hour: f64,
    pub floor: u32,
    pub ceiling: u32,
    /// The time to make a tenant, in seconds.
    pub make_seconds: f64,
    /// The memory of a paused tenant, in MiB.
    pub memory_mib: u64,
    /// The next event that changes the size.
    pub next: Option<UpcomingView>,
    /// The number of failures since the last success.
    pub failures: u32,
    /// The last failure; none if the last tenant was made.
    pub failure: Option<String>,
    /// Seconds until the next attempt after a failure.
    pub retry_in_seconds: i64,
}

impl From<&PoolStatus> for PoolView {
    fn from(s: &PoolStatus) -> Self {
        Self {
            pool: s.pool.to_string(),
            size: s.size,
            warm: s.warm,
            on_disk: s.on_disk,
            unfinished: s.unfinished,
            reason: s.reason(),
            starts_per_hour: s.forecast.per_hour,
            floor: s.bounds.floor,
            ceiling: s.bounds.ceiling,
            make_seconds: s.make_seconds,
            memory_mib: s.memory_mib,
            next: s.forecast.next.as_ref().map(|next| UpcomingView {
                from: next.from.to_string(),
                size: next.size,
                event: next.event.id.clone(),
            }),
            failures: s.failures,
            failure: s.failure.clone(),
            retry_in_seconds: s.backoff.as_secs(),
        }
    }
}

/// The size of a pool at a later time.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UpcomingView {
    /// When its tenants begin to be made.
    pub from: String,
    pub size: u32,
    /// The ID of the event.
    pub event: String,
}

/// How long starts took.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WaitView {
    /// `lab`, `template`, `unfinished` or `clone`.
    pub served_by: &'static str,
    pub starts: usize,
    /// The median, in milliseconds.
    pub p50_millis: u64,
    /// The 95th percentile, in milliseconds.
    pub p95_millis: u64,
}

impl From<Wait> for WaitView {
    fn from(w: Wait) -> Self {
        Self {
            served_by: w.by.as_str(),
            starts: w.starts,
            p50_millis: w.p50,
            p95_millis: w.p95,
        }
    }
}

/// A change of a pool's bounds. What is left out stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BoundsUpdate {
    /// The pool's name.
    pub pool: String,
    /// The number of tenants that it holds even without demand.
    pub floor: Option<u32>,
    /// The maximum number of tenants.
    pub ceiling: Option<u32>,
}

/// A pool's bounds.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BoundsView {
    pub pool: String,
    pub floor: u32,
    pub ceiling: u32,
}

/// An announced event.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventView {
    pub id: String,
    pub lab: String,
    /// When it begins.
    pub at: String,
    /// The number of people.
    pub seats: u32,
    pub note: String,
}

impl From<Event> for EventView {
    fn from(e: Event) -> Self {
        Self {
            id: e.id,
            lab: e.lab.to_string(),
            at: e.at.to_string(),
            seats: e.seats,
            note: e.note,
        }
    }
}

/// An event to announce.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewEventView {
    /// The lab that people will start.
    pub lab: String,
    /// When it begins, in RFC 3339 format.
    pub at: String,
    /// The number of people, at most 500.
    pub seats: u32,
    /// A note for operators. Default: empty.
    #[serde(default)]
    pub note: String,
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

/// A group of people.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GroupView {
    pub id: String,
    pub name: String,
    pub created_at: String,
    pub members: Vec<MemberView>,
}

impl From<&Group> for GroupView {
    fn from(group: &Group) -> Self {
        Self {
            id: group.id.clone(),
            name: group.name.clone(),
            created_at: group.created_at.to_string(),
            members: group.members.iter().map(MemberView::from).collect(),
        }
    }
}

/// A member of a group.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MemberView {
    pub person: String,
    pub name: String,
    /// True if the member sees the others' progress.
    pub instructs: bool,
}

impl From<&Member> for MemberView {
    fn from(member: &Member) -> Self {
        Self {
            person: member.person.to_string(),
            name: member.name.clone(),
            instructs: member.instructs,
        }
    }
}

/// A group with its members' progress.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GroupDetail {
    #[serde(flatten)]
    pub group: GroupView,
    pub progress: Vec<ProgressView>,
}

/// A member's progress.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProgressView {
    pub person: String,
    pub name: String,
    /// True if the member sees the others' progress.
    pub instructs: bool,
    /// The number of solved labs.
    pub solved: usize,
    /// What the member works on now.
    pub open: Vec<OpenLabView>,
}

impl From<&Progress> for ProgressView {
    fn from(of: &Progress) -> Self {
        Self {
            person: of.member.person.to_string(),
            name: of.member.name.clone(),
            instructs: of.member.instructs,
            solved: of.solved,
            open: of.open.iter().map(OpenLabView::from).collect(),
        }
    }
}

/// A lab that a member works on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OpenLabView {
    /// The environment's ID.
    pub environment: String,
    pub lab: String,
    /// The environment's phase.
    pub phase: &'static str,
    /// When the environment was started or last reset.
    pub since: String,
    /// True if all checks have passed.
    pub repaired: bool,
    /// True while it waits in the queue.
    pub waits: bool,
    pub hints: usize,
    /// The number of checks that held in the last run; none if they were not run.
    pub checks_passed: Option<usize>,
    /// The number of checks; none if they were not run.
    pub checks: Option<usize>,
}

impl From<&OpenLab> for OpenLabView {
    fn from(of: &OpenLab) -> Self {
        let attempt = of.attempt.as_ref();
        Self {
            environment: of.environment.id.to_string(),
            lab: of.environment.lab.to_string(),
            phase: of.environment.state.phase().as_str(),
            since: of.environment.created_at.to_string(),
            waits: of.waits,
            repaired: attempt.is_some_and(Attempt::is_repaired),
            hints: attempt.map_or(0, |attempt| attempt.hints.len()),
            checks_passed: of.checks.map(|(held, _)| held),
            checks: of.checks.map(|(_, all)| all),
        }
    }
}

/// A group to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewGroup {
    /// The name, at most 60 characters.
    pub name: String,
}

/// A member's part in a group.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MemberUpdate {
    /// True if the member sees the others' progress. Default: false.
    #[serde(default)]
    pub instructs: bool,
}

/// An invitation of students to a group.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewGroupInvitation {
    /// The number of people who can accept it, at most 500. Default: 1.
    #[serde(default = "one")]
    pub uses: u32,
    /// How long it is valid, such as `3h` or `2d`: at least five minutes, at most 90 days. Default: `7d`.
    #[serde(default)]
    pub expires: Option<String>,
    /// The number of days for which it is valid, instead of `expires`.
    #[serde(default)]
    pub days: Option<u32>,
    /// True for an access code that students type, false for a link. Default: false.
    #[serde(default)]
    pub by_code: bool,
    /// A mail address that it is sent to. Default: empty, for none.
    #[serde(default)]
    pub mail_to: String,
}

/// The caller's settings of mail.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MailView {
    /// The address that the caller has confirmed, if any.
    pub address: Option<String>,
    /// The address that the caller has entered and can still confirm, if any.
    pub unconfirmed: Option<String>,
    /// True if the caller gets mail about their environments.
    pub notices: bool,
}

impl From<MailSettings> for MailView {
    fn from(of: MailSettings) -> Self {
        Self {
            address: of.address.map(|address| address.to_string()),
            unconfirmed: of.unconfirmed.map(|address| address.to_string()),
            notices: of.wants_notices,
        }
    }
}

/// A mail address to confirm.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAddress {
    pub address: String,
}

/// The code that confirms a mail address.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SentCode {
    pub code: String,
}

/// Whether the caller gets mail about their environments.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoticesUpdate {
    pub wanted: bool,
}

/// Where a test is sent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MailTest {
    /// The mail address.
    pub to: String,
}

/// A mail that the mail server has accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SentMail {
    /// The mail address.
    pub to: String,
}

/// The state of mail.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MailStatusView {
    pub host: String,
    pub port: u16,
    /// `none`, `starttls` or `tls`.
    pub encryption: &'static str,
    /// The sender.
    pub from: String,
    /// When the mail server was last used; none if it was not asked yet.
    pub used_at: Option<String>,
    /// Why it didn't answer as it should then; none if it did.
    pub problem: Option<String>,
    /// The number of mails that wait to be sent.
    pub waiting: u64,
    /// When the oldest of them was written.
    pub oldest: Option<String>,
    /// The mails that were given up, latest first.
    pub failures: Vec<MailFailureView>,
}

/// A mail that was given up.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MailFailureView {
    /// `invitation`, `password-reset`, `confirmation`, `ready` or `ending`.
    pub purpose: &'static str,
    /// The mail address.
    pub to: String,
    /// When it was given up.
    pub at: String,
    /// The number of attempts.
    pub attempts: u32,
    /// Why the last one failed.
    pub problem: String,
}

impl MailStatusView {
    pub(crate) fn new(mailer: &Mailer, outbox: OutboxStatus) -> Self {
        let answer = mailer.answer();
        let failure = |f: faultline_store::outbox::MailFailure| MailFailureView {
            purpose: f.purpose.as_str(),
            to: f.to.to_string(),
            at: f.failed_at.to_string(),
            attempts: f.attempts,
            problem: f.problem,
        };
        Self {
            host: mailer.settings.host.clone(),
            port: mailer.settings.port(),
            encryption: mailer.settings.encryption.as_str(),
            from: mailer.settings.from.clone(),
            used_at: answer.as_ref().map(|answer| answer.at.to_string()),
            problem: answer.and_then(|answer| answer.result.err()),
            waiting: outbox.waiting,
            oldest: outbox.oldest.map(|at| at.to_string()),
            failures: outbox.failures.into_iter().map(failure).collect(),
        }
    }
}
