//! An environment: what a person has.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Intent, Lifetime, State};
use crate::{
    AttemptId, EnvironmentId, LabSlug, NodeName, PersonId, TenantId,
    nodes::{self, AddedNode, NodeState},
    tenant::{self, Observed},
};

/// What an environment is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// What its tenants are.
    pub tenant: tenant::Spec,
    /// The nodes that the lab's setup adds.
    #[serde(default)]
    pub setup_nodes: Vec<NodeName>,
    /// The groups in which its owner acts in its cluster; none: an administrator's.
    #[serde(default)]
    pub groups: Vec<String>,
}

impl Spec {
    /// The nodes of its template.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeName> {
        self.tenant.template.shape.node_names()
    }

    /// Whether a cluster runs in it.
    #[must_use]
    pub const fn is_cluster(&self) -> bool {
        self.tenant.template.is_cluster()
    }
}

/// What an environment runs on now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentTenant {
    /// Its id.
    pub id: TenantId,
    /// Where in its life it is.
    pub state: tenant::State,
    /// What the provider saw last.
    pub observed: Option<Observed>,
}

/// An environment.
#[derive(Debug, Clone, PartialEq)]
pub struct Environment {
    /// Its id.
    pub id: EnvironmentId,
    /// The try that it belongs to.
    pub attempt: AttemptId,
    /// Its owner.
    pub person: PersonId,
    /// The lab.
    pub lab: LabSlug,
    /// The lab's content when it was started; none in environments of earlier versions.
    pub lab_hash: Option<String>,
    /// What it is made of.
    pub spec: Spec,
    /// The nodes that should be, beyond those of its template.
    pub wanted: Vec<NodeName>,
    /// How these are.
    pub added: Vec<AddedNode>,
    /// When it was asked for, or reset last.
    pub created_at: Timestamp,
    /// What should be.
    pub intent: Intent,
    /// How long.
    pub lifetime: Lifetime,
    /// Where in its life it is.
    pub state: State,
    /// What it runs on, or did last; none while it waits for one.
    pub tenant: Option<CurrentTenant>,
    /// The smallest number of seconds before its end that its owner was warned at.
    pub warned: Option<i64>,
    /// Grows with each observation.
    pub generation: i64,
    /// When the observation changed last.
    pub updated_at: Timestamp,
}

impl Environment {
    /// What it runs on, or did last.
    #[must_use]
    pub fn tenant_id(&self) -> Option<&TenantId> {
        self.tenant.as_ref().map(|tenant| &tenant.id)
    }

    /// The nodes that may be entered, in order.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeName> {
        let ready = |n: &&AddedNode| matches!(n.state, NodeState::Ready { .. });
        let added = self.added.iter().filter(ready).map(|n| n.name.clone());
        let mut nodes: Vec<NodeName> = self.spec.nodes().into_iter().chain(added).collect();
        nodes.sort();
        nodes
    }

    /// The names that are taken: by nodes that are, will be, or are on their way out.
    #[must_use]
    pub fn taken(&self) -> Vec<NodeName> {
        let holds = |n: &&AddedNode| !matches!(n.state, NodeState::Failed { .. });
        let added = self.added.iter().filter(holds).map(|n| &n.name);
        let others = self.wanted.iter().chain(added).cloned();
        self.spec.nodes().into_iter().chain(others).collect()
    }

    /// How many nodes were admitted and don't hold their memory and disk yet.
    #[must_use]
    pub fn nodes_to_come(&self) -> u64 {
        if !self.is_open() {
            return 0;
        }
        let ready = |name: &NodeName| {
            let known = self.added.iter().find(|n| n.name == *name);
            known.is_some_and(|n| matches!(n.state, NodeState::Ready { .. }))
        };
        let added = self.wanted.iter().filter(|name| !ready(name)).count() as u64;
        match self.state {
            State::Requested { .. } => u64::from(self.spec.tenant.template.shape.nodes()) + added,
            _ => added,
        }
    }

    /// True while a node is to be added or removed.
    #[must_use]
    pub fn is_resizing(&self) -> bool {
        nodes::plan(&self.wanted, &self.added) != nodes::Step::Wait
    }

    /// True while its owner has it: nobody asked for its end, and it neither ended nor failed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !matches!(self.intent, Intent::Gone(_))
            && !self.state.is_final()
            && !matches!(self.state, State::Failed { .. } | State::Expired { .. })
    }
}

#[cfg(test)]
impl Environment {
    /// Somebody's, as it is when it was asked for.
    pub(crate) fn example(person: PersonId) -> Self {
        use crate::{Shape, TemplateRef, limits::Limits, tenant::Allowance};
        let now = Timestamp::UNIX_EPOCH;
        Self {
            id: "abc".parse().unwrap(),
            attempt: "def".parse().unwrap(),
            person,
            lab: "some-lab".parse().unwrap(),
            lab_hash: None,
            spec: Spec {
                tenant: tenant::Spec {
                    template: TemplateRef::plain("debian-12", Shape::SINGLE),
                    allowance: Allowance {
                        limits: Limits {
                            cpu_millis: 1000,
                            memory_mib: 512,
                            pids: 128,
                            disk_mib_s: 200,
                            disk_iops: 4000,
                            bandwidth_mbit: 100,
                        },
                        egress: Vec::new(),
                    },
                },
                setup_nodes: Vec::new(),
                groups: Vec::new(),
            },
            wanted: Vec::new(),
            added: Vec::new(),
            created_at: now,
            intent: Intent::Active,
            lifetime: Lifetime {
                expires_at: now,
                hard_end: now,
                last_used: now,
                idle_seconds: 60,
            },
            state: State::requested(now),
            tenant: None,
            warned: None,
            generation: 0,
            updated_at: now,
        }
    }
}
