//! An environment: what a person works in.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Intent, Lifetime, State};
use crate::{
    AttemptId, EnvironmentId, LabSlug, NodeName, PersonId, TenantId,
    nodes::{self, AddedNode, NodeState},
    tenant::{self, Observed},
};

/// The immutable description of an environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The description of its tenants.
    pub tenant: tenant::Spec,
    /// The nodes that the lab's setup adds.
    #[serde(default)]
    pub setup_nodes: Vec<NodeName>,
    /// The owner's groups in its cluster. If empty, an administrator's.
    #[serde(default)]
    pub groups: Vec<String>,
}

impl Spec {
    /// Returns the nodes of its template.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeName> {
        self.tenant.template.shape.node_names()
    }

    /// Returns true if it runs a cluster.
    #[must_use]
    pub const fn is_cluster(&self) -> bool {
        self.tenant.template.is_cluster()
    }
}

/// The tenant that an environment runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentTenant {
    /// The id.
    pub id: TenantId,
    /// The lifecycle state.
    pub state: tenant::State,
    /// What the provider last observed.
    pub observed: Option<Observed>,
}

/// An environment.
#[derive(Debug, Clone, PartialEq)]
pub struct Environment {
    /// The id.
    pub id: EnvironmentId,
    /// The attempt that it belongs to.
    pub attempt: AttemptId,
    /// Its owner.
    pub person: PersonId,
    /// The lab.
    pub lab: LabSlug,
    /// The hash of the lab's content when it was started. Environments of earlier versions have none.
    pub lab_hash: Option<String>,
    /// The description.
    pub spec: Spec,
    /// Intent: the nodes it should have besides those of its template.
    pub wanted: Vec<NodeName>,
    /// Observation: the state of the added nodes.
    pub added: Vec<AddedNode>,
    /// When it was created or last reset.
    pub created_at: Timestamp,
    /// What its owner requested.
    pub intent: Intent,
    /// The times that limit its life.
    pub lifetime: Lifetime,
    /// The lifecycle state.
    pub state: State,
    /// Its current or last tenant; none while it waits for one.
    pub tenant: Option<CurrentTenant>,
    /// The lowest warning threshold, in seconds before its end, at which its owner was warned.
    pub warned: Option<i64>,
    /// A number that increases with each observation.
    pub generation: i64,
    /// When the observation last changed.
    pub updated_at: Timestamp,
}

impl Environment {
    /// Returns the id of its current or last tenant.
    #[must_use]
    pub fn tenant_id(&self) -> Option<&TenantId> {
        self.tenant.as_ref().map(|tenant| &tenant.id)
    }

    /// Returns the nodes that can be accessed, in order.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeName> {
        let ready = |n: &&AddedNode| matches!(n.state, NodeState::Ready { .. });
        let added = self.added.iter().filter(ready).map(|n| n.name.clone());
        let mut nodes: Vec<NodeName> = self.spec.nodes().into_iter().chain(added).collect();
        nodes.sort();
        nodes
    }

    /// Returns the node names in use: of nodes that exist, are to be added, or are being removed.
    #[must_use]
    pub fn taken(&self) -> Vec<NodeName> {
        let holds = |n: &&AddedNode| !matches!(n.state, NodeState::Failed { .. });
        let added = self.added.iter().filter(holds).map(|n| &n.name);
        let others = self.wanted.iter().chain(added).cloned();
        self.spec.nodes().into_iter().chain(others).collect()
    }

    /// Returns the number of nodes that were admitted but don't use their memory and disk yet.
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
            // In the queue, nothing is admitted yet.
            State::Requested { .. } if self.tenant.is_none() => 0,
            State::Requested { .. } => u64::from(self.spec.tenant.template.shape.nodes()) + added,
            _ => added,
        }
    }

    /// Returns true while nodes are to be added or removed.
    #[must_use]
    pub fn is_resizing(&self) -> bool {
        nodes::plan(&self.wanted, &self.added) != nodes::Step::Wait
    }

    /// Returns true while its owner has it: it has not failed or ended, and is not about to end.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !matches!(self.intent, Intent::Gone(_))
            && !self.state.is_final()
            && !matches!(self.state, State::Failed { .. } | State::Expired { .. })
    }
}

#[cfg(test)]
impl Environment {
    /// Returns a new environment of this person.
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
                    save_point: None,
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
