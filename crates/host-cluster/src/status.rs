//! What runs of a host cluster.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;

use crate::{
    Error, Result,
    down::groups,
    groups::Groups,
    member::pid_file,
    place::{Member, Name, Place},
    process::{self, ServiceState, Services},
    state::{Phase, State},
};

/// The state of a cluster as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// A start has begun and not finished.
    Starting,
    /// Every program runs.
    Running,
    /// Programs have ended; `up` starts them again.
    Degraded,
    /// A member has ended; the cluster has to be started anew.
    Incomplete,
}

/// A host cluster, as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The name.
    pub name: Name,
    /// The folder with all of its files.
    pub folder: PathBuf,
    /// The state.
    pub condition: Condition,
    /// The minor version of Kubernetes.
    pub kubernetes: String,
    /// The URL of the API server on this machine.
    pub server: String,
    /// Whether the port of this machine's loopback leads to the API server.
    pub forwards: bool,
    /// The programs of each member that runs.
    pub members: BTreeMap<Member, Services>,
    /// The memory of each member and its pods, in MiB, without the page cache.
    pub memory_mib: BTreeMap<Member, u64>,
}

/// Returns the state of a cluster, without asking its API server.
pub fn status(place: &Place) -> Result<Status> {
    let folder = place.folder();
    let state = State::load(&folder).map_err(|_| Error::Missing(place.clone()))?;
    let groups = groups(place)?;
    let members: BTreeMap<Member, Services> = Member::ALL
        .into_iter()
        .filter(|member| first_process(place, &groups, *member).is_some())
        .map(|member| (member, services(place, member)))
        .collect();
    let forwards = !groups.processes_of("forward").is_empty();
    let runs = |state: &ServiceState| matches!(state, ServiceState::Running { .. });
    let condition = if state.phase == Phase::Starting {
        Condition::Starting
    } else if members.len() < Member::ALL.len() {
        Condition::Incomplete
    } else if forwards && members.values().flat_map(|m| m.values()).all(runs) {
        Condition::Running
    } else {
        Condition::Degraded
    };
    let memory = |member: &Member| Some((*member, groups.memory_mib(member.as_str())?));
    Ok(Status {
        name: place.name().clone(),
        folder,
        condition,
        kubernetes: state.kubernetes,
        server: format!("https://127.0.0.1:{}", state.port),
        forwards,
        memory_mib: members.keys().filter_map(memory).collect(),
        members,
    })
}

/// Returns the process ID of a member's first process, if it runs.
pub(crate) fn first_process(place: &Place, groups: &Groups, member: Member) -> Option<u32> {
    let pid: u32 = process::read(&pid_file(&place.folder(), member)).ok()?;
    let alive = groups
        .processes_of(member.as_str())
        .contains(&pid.cast_signed());
    alive.then_some(pid)
}

/// Returns the programs of a member as its first process has written them down.
pub(crate) fn services(place: &Place, member: Member) -> Services {
    process::read_status(&place.root(member)).unwrap_or_default()
}
