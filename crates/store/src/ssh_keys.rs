//! People's public keys, for the SSH gateway and the guests' own sshd. This is intent; [`crate::node_keys`] has what
//! was applied to nodes.

use faultline_domain::{EnvironmentId, PersonId};
use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Store,
    db::{Tx, micros, parse, time},
};

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshKey {
    /// The key's ID.
    pub id: String,
    /// The name that its owner gave it.
    pub name: String,
    /// The algorithm and the key in OpenSSH format, without the comment.
    pub public_key: String,
    /// The fingerprint: `SHA256:…`.
    pub fingerprint: String,
    /// When it was added.
    pub created_at: Timestamp,
}

#[derive(FromRow)]
struct Row {
    id: String,
    name: String,
    public_key: String,
    fingerprint: String,
    created_at: i64,
}

/// Increments the version of a person's set of keys.
async fn raise_version(tx: &mut Tx, person: &PersonId) -> Result<()> {
    sqlx::query("UPDATE people SET keys_version = keys_version + 1 WHERE id = $1")
        .bind(person.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

impl Store {
    /// Adds a person's public key and increments the version of their keys. Returns false if the person already has it.
    pub async fn add_ssh_key(&self, person: &PersonId, key: &SshKey) -> Result<bool> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "INSERT INTO ssh_keys (id, person_id, name, public_key, fingerprint, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (person_id, public_key) DO NOTHING",
        )
        .bind(&key.id)
        .bind(person.as_str())
        .bind(&key.name)
        .bind(&key.public_key)
        .bind(&key.fingerprint)
        .bind(micros(key.created_at))
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query("DELETE FROM removed_ssh_keys WHERE person_id = $1 AND fingerprint = $2")
            .bind(person.as_str())
            .bind(&key.fingerprint)
            .execute(&mut *tx)
            .await?;
        raise_version(&mut tx, person).await?;
        let (at, who) = (key.created_at, Some(person.as_str()));
        crate::audit::insert(&mut tx, at, who, "key-add", &key.id, &key.fingerprint).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Returns a person's public keys, oldest first.
    pub async fn ssh_keys(&self, person: &PersonId) -> Result<Vec<SshKey>> {
        sqlx::query_as::<_, Row>(
            "SELECT id, name, public_key, fingerprint, created_at FROM ssh_keys \
             WHERE person_id = $1 ORDER BY created_at",
        )
        .bind(person.as_str())
        .fetch_all(&self.readers)
        .await?
        .into_iter()
        .map(|row| {
            Ok(SshKey {
                id: row.id,
                name: row.name,
                public_key: row.public_key,
                fingerprint: row.fingerprint,
                created_at: time("key time", row.created_at)?,
            })
        })
        .collect()
    }

    /// Removes a person's public key and increments the version of their keys. Returns false if there is none with this
    /// ID.
    pub async fn remove_ssh_key(
        &self,
        person: &PersonId,
        id: &str,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let fingerprint: Option<String> = sqlx::query_scalar(
            "DELETE FROM ssh_keys WHERE person_id = $1 AND id = $2 RETURNING fingerprint",
        )
        .bind(person.as_str())
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(fingerprint) = fingerprint else {
            return Ok(false);
        };
        // It may be in a machine still.
        sqlx::query(
            "INSERT INTO removed_ssh_keys (person_id, fingerprint, removed_at) VALUES ($1, $2, $3) \
             ON CONFLICT (person_id, fingerprint) DO UPDATE SET removed_at = excluded.removed_at",
        )
        .bind(person.as_str())
        .bind(&fingerprint)
        .bind(micros(now))
        .execute(&mut *tx)
        .await?;
        raise_version(&mut tx, person).await?;
        crate::audit::insert(&mut tx, now, Some(person.as_str()), "key-remove", id, "").await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Returns the owner of an environment, if this public key is one of the owner's. A wrong key and an unknown
    /// environment have the same result and the same cost, one query.
    pub async fn key_holder_of(
        &self,
        environment: &EnvironmentId,
        public_key: &str,
    ) -> Result<Option<PersonId>> {
        let person: Option<String> = sqlx::query_scalar(
            "SELECT e.person_id FROM environments e JOIN ssh_keys k ON k.person_id = e.person_id \
             JOIN people p ON p.id = e.person_id \
             WHERE e.id = $1 AND k.public_key = $2 AND p.disabled_at IS NULL",
        )
        .bind(environment.as_str())
        .bind(public_key)
        .fetch_optional(&self.readers)
        .await?;
        person.map(|id| parse("person id", &id)).transpose()
    }
}
