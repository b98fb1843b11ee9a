//! Links by which anybody can open an exposure until they expire. Only hashes of their secrets are stored.

use faultline_domain::{
    EnvironmentId, PersonId,
    exposure::{Place, Share, ShareDenial},
};
use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Secret, Store,
    db::{count, micros, parse, time},
};

#[derive(FromRow)]
struct Row {
    id: String,
    environment_id: String,
    name: String,
    created_at: i64,
    expires_at: i64,
}

impl Row {
    fn read(self) -> Result<Share> {
        Ok(Share {
            id: self.id,
            place: Place {
                environment: parse("environment id", &self.environment_id)?,
                name: parse("name of an exposure", &self.name)?,
            },
            created_at: time("share time", self.created_at)?,
            expires_at: time("share time", self.expires_at)?,
        })
    }
}

/// A share to store.
#[derive(Debug)]
pub struct NewShare<'a> {
    /// The ID, which is not the secret.
    pub id: &'a str,
    /// The secret in the link.
    pub secret: &'a Secret,
    /// What it opens.
    pub place: &'a Place,
    /// Who makes it.
    pub person: &'a PersonId,
}

impl Store {
    /// Stores a share. `until` decides when it expires, given the number of the environment's shares; it is called within
    /// the transaction that counted them.
    pub async fn add_share(
        &self,
        new: &NewShare<'_>,
        until: impl FnOnce(u32) -> Result<Timestamp, ShareDenial> + Send,
        now: Timestamp,
    ) -> Result<Result<Share, ShareDenial>> {
        let environment = new.place.environment.as_str();
        let mut tx = self.begin().await?;
        let open: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM exposure_shares WHERE environment_id = $1 AND expires_at > $2",
        )
        .bind(environment)
        .bind(micros(now))
        .fetch_one(&mut *tx)
        .await?;
        let expires_at = match until(count("shares", open)?) {
            Ok(at) => at,
            Err(denial) => return Ok(Err(denial)),
        };
        sqlx::query(
            "INSERT INTO exposure_shares \
             (id, secret_hash, environment_id, name, created_at, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(new.id)
        .bind(new.secret.hash())
        .bind(environment)
        .bind(new.place.name.as_str())
        .bind(micros(now))
        .bind(micros(expires_at))
        .execute(&mut *tx)
        .await?;
        let (who, name) = (Some(new.person.as_str()), new.place.name.as_str());
        crate::audit::insert(&mut tx, now, who, "share", environment, name).await?;
        tx.commit().await?;
        Ok(Ok(Share {
            id: new.id.to_owned(),
            place: new.place.clone(),
            created_at: now,
            expires_at,
        }))
    }

    /// Returns the shares of an environment that have not expired, oldest first.
    pub async fn shares(&self, environment: &EnvironmentId, now: Timestamp) -> Result<Vec<Share>> {
        let rows = sqlx::query_as::<_, Row>(
            "SELECT id, environment_id, name, created_at, expires_at FROM exposure_shares \
             WHERE environment_id = $1 AND expires_at > $2 ORDER BY created_at, id",
        )
        .bind(environment.as_str())
        .bind(micros(now))
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(Row::read).collect()
    }

    /// Deletes a share with all cookies that were made with it. Returns false if the environment has none with this ID.
    pub async fn withdraw_share(
        &self,
        environment: &EnvironmentId,
        id: &str,
        person: &PersonId,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let name: Option<String> = sqlx::query_scalar(
            "DELETE FROM exposure_shares WHERE id = $1 AND environment_id = $2 RETURNING name",
        )
        .bind(id)
        .bind(environment.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(name) = &name {
            let (who, of) = (Some(person.as_str()), environment.as_str());
            crate::audit::insert(&mut tx, now, who, "withdraw-share", of, name).await?;
        }
        tx.commit().await?;
        Ok(name.is_some())
    }
}
