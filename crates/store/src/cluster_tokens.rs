//! Tokens of one person for the API server of one environment.

use faultline_domain::{EnvironmentId, PersonId};
use jiff::Timestamp;

use crate::{
    Result, Secret, Store,
    db::{micros, parse, time},
};

/// The access that a token gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterToken {
    /// The person whose token it is.
    pub person: PersonId,
    /// The environment whose API server it is for.
    pub environment: EnvironmentId,
    /// When it expires. `None` if it lasts as long as the environment.
    pub expires_at: Option<Timestamp>,
}

impl Store {
    /// Stores a token for a person and an environment. Without `expires_at`, it lasts as long as the environment. If
    /// `asked_with` is an API token, the token is removed with it.
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

    /// Returns the access of a token, even if it has expired.
    pub async fn cluster_token(&self, secret: &Secret) -> Result<Option<ClusterToken>> {
        let found: Option<(String, String, Option<i64>)> = sqlx::query_as(
            "SELECT t.person_id, t.environment_id, t.expires_at FROM cluster_tokens t \
             JOIN people p ON p.id = t.person_id \
             WHERE t.token_hash = $1 AND p.disabled_at IS NULL",
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
