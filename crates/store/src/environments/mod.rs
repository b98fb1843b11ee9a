//! Environments. Intent is written by requests and observation by reconcilers, each in its own columns.

mod intent;
mod nodes;
mod observation;
mod suspension;

use std::collections::HashMap;

use faultline_domain::{
    AttemptId, EnvironmentId, LabSlug, PersonId,
    environment::{CurrentTenant, Environment, Lifetime, Phase},
};
pub use intent::{Admit, Coming, Counts, Refused, Renewal};
use jiff::Timestamp;
pub use nodes::NoNode;
pub(crate) use observation::{leave_queue, write_state};
use sqlx::FromRow;

use crate::{
    Result, Store,
    db::{Tx, from_json, micros, parse, time},
};

/// Builds a query that selects environments as [`Row`]s.
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

/// Reads an environment within a transaction.
pub(crate) async fn read(tx: &mut Tx, id: &EnvironmentId) -> Result<Option<Environment>> {
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
    /// Returns an environment.
    pub async fn environment(&self, id: &EnvironmentId) -> Result<Option<Environment>> {
        sqlx::query_as::<_, Row>(select!("WHERE environments.id = $1"))
            .bind(id.as_str())
            .fetch_optional(&self.readers)
            .await?
            .map(Row::read)
            .transpose()
    }

    /// Returns all environments for which a reconciler may have work, oldest first.
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

    /// Returns everyone's latest environments, newest first.
    pub async fn latest_environments(&self, limit: u32) -> Result<Vec<Environment>> {
        let sql = select!("ORDER BY environments.created_at DESC, environments.id LIMIT $1");
        read_all(
            sqlx::query_as(sql)
                .bind(i64::from(limit))
                .fetch_all(&self.readers)
                .await?,
        )
    }

    /// Returns everyone's environments that failed since then, newest first.
    pub async fn failed_since(&self, since: Timestamp, limit: u32) -> Result<Vec<Environment>> {
        let sql = select!(
            "WHERE environments.phase = 'failed' AND environments.updated_at >= $1 \
             ORDER BY environments.updated_at DESC, environments.id LIMIT $2"
        );
        read_all(
            sqlx::query_as(sql)
                .bind(micros(since))
                .bind(i64::from(limit))
                .fetch_all(&self.readers)
                .await?,
        )
    }

    /// Returns a person's environments that have resources or are being created, newest first.
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

    /// Returns a person's latest environments, including ended ones, newest first.
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

    /// Returns the environment of each of a person's attempts. Attempts from before a reset have none.
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

    /// Returns a person's latest environment of a lab.
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

    /// Returns the number of environments in each phase, without those that ended before `since`.
    pub async fn count_by_phase(&self, since: Timestamp) -> Result<Vec<(Phase, i64)>> {
        let sql = "SELECT phase, count(*) FROM environments \
                   WHERE is_final = $1 OR updated_at > $2 GROUP BY phase ORDER BY phase";
        let rows: Vec<(String, i64)> = sqlx::query_as(sql)
            .bind(false)
            .bind(micros(since))
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter()
            .map(|(phase, count)| Ok((parse("phase", &phase)?, count)))
            .collect()
    }
}
