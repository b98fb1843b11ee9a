//! The installation, its audit log and its capacity.

use std::collections::BTreeMap;

use faultline_domain::{environment::Environment, person::Person};
use serde::Serialize;
use utoipa::ToSchema;

use super::environments::EnvironmentView;
use crate::usage::{self, Fit, Overview, Share, Used};

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
