//! Environments: what was asked of them (intent, written by requests) and what is (observation, written by
//! reconcilers), in columns of their own.

mod intent;
mod nodes;
mod observation;

use std::collections::HashMap;

use faultline_domain::{
    AttemptId, EnvironmentId, LabSlug, NodeName, PersonId, Shape, TenantId,
    environment::{Intent, Lifetime, State},
    lab::Egress,
    limits::Limits,
    nodes::{AddedNode, NodeState},
    tenant::{self, Observed},
};
pub use intent::{Admit, Counts, Refused};
use jiff::Timestamp;
pub use nodes::NoNode;
pub(crate) use observation::write_state;
use serde::{Deserialize, Serialize};
use sqlx::FromRow;

use crate::{
    Result, Store,
    db::{Tx, from_json, micros, parse, time},
};

/// What an environment is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnvironmentSpec {
    /// The image's name.
    pub image: String,
    /// The nodes of its template.
    pub nodes: Vec<NodeName>,
    /// Those that the lab's setup adds.
    #[serde(default)]
    pub setup_nodes: Vec<NodeName>,
    /// How many of them, the first, are control planes.
    #[serde(default = "one")]
    pub control_planes: u32,
    /// Whether its cluster is as kubeadm makes it.
    #[serde(default)]
    pub stock: bool,
    /// The groups in which its owner acts in its cluster; none: an administrator's.
    #[serde(default)]
    pub groups: Vec<String>,
    /// What it may use.
    pub limits: Limits,
    /// Where its nodes may connect to.
    pub egress: Vec<Egress>,
}

const fn one() -> u32 {
    1
}

impl EnvironmentSpec {
    /// Whether a cluster runs in it: see `Needs::image_name`.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        self.image.starts_with("kubernetes-")
    }

    /// Its nodes' roles.
    #[must_use]
    pub fn shape(&self) -> Shape {
        let nodes = u32::try_from(self.nodes.len()).unwrap_or(1);
        Shape::new(
            self.control_planes,
            nodes.saturating_sub(self.control_planes),
        )
        .unwrap_or(Shape::SINGLE)
        .with_stock(self.stock)
    }

    /// What its tenants are made of.
    #[must_use]
    pub fn tenant(&self) -> tenant::Spec {
        tenant::Spec {
            image: self.image.clone(),
            shape: self.shape(),
            limits: self.limits,
            egress: self.egress.clone(),
        }
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
    pub spec: EnvironmentSpec,
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
        let mut nodes: Vec<NodeName> = self.spec.nodes.iter().cloned().chain(added).collect();
        nodes.sort();
        nodes
    }

    /// The names that are taken: by nodes that are, will be, or are on their way out.
    #[must_use]
    pub fn taken(&self) -> Vec<NodeName> {
        let holds = |n: &&AddedNode| !matches!(n.state, NodeState::Failed { .. });
        let added = self.added.iter().filter(holds).map(|n| &n.name);
        let all = self.spec.nodes.iter().chain(&self.wanted).chain(added);
        all.cloned().collect()
    }

    /// True while a node is to be added or removed.
    #[must_use]
    pub fn is_resizing(&self) -> bool {
        faultline_domain::nodes::plan(&self.wanted, &self.added)
            != faultline_domain::nodes::Step::Wait
    }

    /// True while its owner has it: nobody asked for its end, and it neither ended nor failed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !matches!(self.intent, Intent::Gone(_))
            && !self.state.is_final()
            && !matches!(self.state, State::Failed { .. } | State::Expired { .. })
    }
}

/// Selects rows of [`Environment`].
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT environments.*, tenants.state AS tenant_state, \
             tenants.observed AS tenant_observed FROM environments \
             LEFT JOIN tenants ON tenants.id = environments.tenant_id ",
            $rest
        )
    };
}
pub(crate) use select;

#[derive(FromRow)]
struct Row {
    id: String,
    attempt_id: String,
    person_id: String,
    lab: String,
    lab_hash: Option<String>,
    spec: String,
    wanted_nodes: String,
    added_nodes: String,
    created_at: i64,
    intent: String,
    expires_at: i64,
    hard_end: i64,
    last_used: i64,
    idle_seconds: i64,
    state: String,
    tenant_id: Option<String>,
    tenant_state: Option<String>,
    tenant_observed: Option<String>,
    warned: Option<i64>,
    generation: i64,
    updated_at: i64,
}

impl Row {
    fn read(self) -> Result<Environment> {
        Ok(Environment {
            id: parse("environment id", &self.id)?,
            attempt: parse("attempt id", &self.attempt_id)?,
            person: parse("person id", &self.person_id)?,
            lab: parse("lab", &self.lab)?,
            lab_hash: self.lab_hash,
            spec: from_json("spec", &self.spec)?,
            wanted: from_json("wanted nodes", &self.wanted_nodes)?,
            added: from_json("added nodes", &self.added_nodes)?,
            created_at: time("environment time", self.created_at)?,
            intent: from_json("intent", &self.intent)?,
            lifetime: Lifetime {
                expires_at: time("end", self.expires_at)?,
                hard_end: time("hard end", self.hard_end)?,
                last_used: time("last use", self.last_used)?,
                idle_seconds: self.idle_seconds,
            },
            state: from_json("state", &self.state)?,
            tenant: match (&self.tenant_id, &self.tenant_state) {
                (Some(id), Some(state)) => Some(CurrentTenant {
                    id: parse("tenant id", id)?,
                    state: from_json("tenant's state", state)?,
                    observed: self
                        .tenant_observed
                        .map(|text| from_json("observation", &text))
                        .transpose()?,
                }),
                _ => None,
            },
            warned: self.warned,
            generation: self.generation,
            updated_at: time("environment time", self.updated_at)?,
        })
    }
}

/// One environment, within a transaction.
async fn read(tx: &mut Tx, id: &EnvironmentId) -> Result<Option<Environment>> {
    sqlx::query_as::<_, Row>(select!("WHERE environments.id = $1"))
        .bind(id.as_str())
        .fetch_optional(&mut **tx)
        .await?
        .map(Row::read)
        .transpose()
}

fn read_all(rows: Vec<Row>) -> Result<Vec<Environment>> {
    rows.into_iter().map(Row::read).collect()
}

impl Store {
    /// One environment.
    pub async fn environment(&self, id: &EnvironmentId) -> Result<Option<Environment>> {
        sqlx::query_as::<_, Row>(select!("WHERE environments.id = $1"))
            .bind(id.as_str())
            .fetch_optional(&self.readers)
            .await?
            .map(Row::read)
            .transpose()
    }

    /// All environments for which there may be something to do, the oldest first.
    pub async fn unfinished_environments(&self) -> Result<Vec<Environment>> {
        let sql = select!(
            "WHERE environments.is_final = $1 ORDER BY environments.created_at, environments.id"
        );
        read_all(
            sqlx::query_as(sql)
                .bind(false)
                .fetch_all(&self.readers)
                .await?,
        )
    }

    /// The latest environments of everybody, the newest first.
    pub async fn latest_environments(&self, limit: u32) -> Result<Vec<Environment>> {
        let sql = select!("ORDER BY environments.created_at DESC, environments.id LIMIT $1");
        read_all(
            sqlx::query_as(sql)
                .bind(i64::from(limit))
                .fetch_all(&self.readers)
                .await?,
        )
    }

    /// A person's environments that hold something or are being made, the newest first.
    pub async fn unfinished_of(&self, person: &PersonId) -> Result<Vec<Environment>> {
        let sql = select!(
            "WHERE person_id = $1 AND environments.is_final = $2 \
             ORDER BY environments.created_at DESC, environments.id"
        );
        read_all(
            sqlx::query_as(sql)
                .bind(person.as_str())
                .bind(false)
                .fetch_all(&self.readers)
                .await?,
        )
    }

    /// A person's latest environments, those that have ended too, the newest first.
    pub async fn latest_of(&self, person: &PersonId, limit: u32) -> Result<Vec<Environment>> {
        let sql = select!(
            "WHERE person_id = $1 \
             ORDER BY environments.created_at DESC, environments.id LIMIT $2"
        );
        read_all(
            sqlx::query_as(sql)
                .bind(person.as_str())
                .bind(i64::from(limit))
                .fetch_all(&self.readers)
                .await?,
        )
    }

    /// Which environment leads back to each of a person's attempts: of an attempt before a reset, none.
    pub async fn environments_by_attempt(
        &self,
        person: &PersonId,
    ) -> Result<HashMap<AttemptId, EnvironmentId>> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT attempt_id, id FROM environments WHERE person_id = $1")
                .bind(person.as_str())
                .fetch_all(&self.readers)
                .await?;
        rows.iter()
            .map(|(attempt, id)| Ok((parse("attempt id", attempt)?, parse("environment id", id)?)))
            .collect()
    }

    /// A person's latest environment of a lab.
    pub async fn latest_at(&self, person: &PersonId, lab: &LabSlug) -> Result<Option<Environment>> {
        let sql = select!(
            "WHERE person_id = $1 AND lab = $2 \
             ORDER BY environments.created_at DESC, environments.id LIMIT 1"
        );
        sqlx::query_as::<_, Row>(sql)
            .bind(person.as_str())
            .bind(lab.as_str())
            .fetch_optional(&self.readers)
            .await?
            .map(Row::read)
            .transpose()
    }

    /// How many environments are in each phase, those that ended long ago aside.
    pub async fn count_by_phase(&self, since: Timestamp) -> Result<Vec<(String, i64)>> {
        let sql = "SELECT phase, count(*) FROM environments \
                   WHERE is_final = $1 OR updated_at > $2 GROUP BY phase ORDER BY phase";
        Ok(sqlx::query_as(sql)
            .bind(false)
            .bind(micros(since))
            .fetch_all(&self.readers)
            .await?)
    }
}
