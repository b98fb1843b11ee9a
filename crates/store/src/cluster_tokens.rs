//! Tokens that open the API server of one environment to one person.

use faultline_domain::{EnvironmentId, PersonId};
use jiff::Timestamp;

use crate::{
    Result, Secret, Store,
    db::{micros, parse, time},
};

/// What a token opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterToken {
    /// To whom.
    pub person: PersonId,
    /// Which environment's API server.
    pub environment: EnvironmentId,
    /// Until when; nothing: as long as the environment lasts.
    pub expires_at: Option<Timestamp>,
}

impl Store {
    /// Stores a token for a person and an environment; without an end it lasts as long as the environment. One that is
    /// asked for with an API token ends with that, too.
    pub async fn add_cluster_token(
        &self,
        secret: &Secret,
        environment: &EnvironmentId,
        person: &PersonId,
        asked_with: &Secret,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO cluster_tokens \
             (token_hash, person_id, environment_id, api_token_id, created_at, expires_at) \
             VALUES ($1, $2, $3, (SELECT id FROM api_tokens WHERE token_hash = $4), $5, $6)",
        )
        .bind(secret.hash())
        .bind(person.as_str())
        .bind(environment.as_str())
        .bind(asked_with.hash())
        .bind(micros(now))
        .bind(expires_at.map(micros))
        .execute(&mut *tx)
        .await?;
        if expires_at.is_none() {
            let (who, id) = (Some(person.as_str()), environment.as_str());
            crate::audit::insert(&mut tx, now, who, "kubeconfig", id, "").await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// What a token opens, also one that has run out.
    pub async fn cluster_token(&self, secret: &Secret) -> Result<Option<ClusterToken>> {
        let found: Option<(String, String, Option<i64>)> = sqlx::query_as(
            "SELECT person_id, environment_id, expires_at FROM cluster_tokens \
             WHERE token_hash = $1",
        )
        .bind(secret.hash())
        .fetch_optional(&self.readers)
        .await?;
        found
            .map(|(person, environment, expires_at)| {
                Ok(ClusterToken {
                    person: parse("person id", &person)?,
                    environment: parse("environment id", &environment)?,
                    expires_at: expires_at.map(|at| time("token time", at)).transpose()?,
                })
            })
            .transpose()
    }
}
