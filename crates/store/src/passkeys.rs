//! Passkeys by which people sign in. The store has their public keys.

use faultline_domain::PersonId;
use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Store,
    credentials::Removed,
    db::{micros, parse, time},
    sessions::{NewSession, sign_in},
};

/// A passkey, without its public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passkey {
    /// The ID.
    pub id: String,
    /// The ID that the authenticator gave to the credential.
    pub credential: String,
    /// The name, chosen by the person.
    pub name: String,
    /// When it was added.
    pub created_at: Timestamp,
    /// When the person last signed in with it; none if never.
    pub last_used: Option<Timestamp>,
}

/// A passkey to store.
#[derive(Debug, Clone, Copy)]
pub struct NewPasskey<'a> {
    /// The ID.
    pub id: &'a str,
    /// The ID that the authenticator gave to the credential.
    pub credential: &'a str,
    /// The name, chosen by the person.
    pub name: &'a str,
    /// The public key and its counter, as JSON.
    pub passkey: &'a str,
}

#[derive(FromRow)]
struct Row {
    id: String,
    credential: String,
    name: String,
    created_at: i64,
    last_used: Option<i64>,
}

impl Store {
    /// Stores a passkey. Returns false if the credential is stored already.
    pub async fn add_passkey(
        &self,
        person: &PersonId,
        new: &NewPasskey<'_>,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "INSERT INTO passkeys (id, person_id, credential, name, passkey, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (credential) DO NOTHING",
        )
        .bind(new.id)
        .bind(person.as_str())
        .bind(new.credential)
        .bind(new.name)
        .bind(new.passkey)
        .bind(micros(now))
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        let who = Some(person.as_str());
        crate::audit::insert(&mut tx, now, who, "passkey-add", new.id, new.name).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Returns a person's passkeys, oldest first.
    pub async fn passkeys(&self, person: &PersonId) -> Result<Vec<Passkey>> {
        let rows = sqlx::query_as::<_, Row>(
            "SELECT id, credential, name, created_at, last_used FROM passkeys \
             WHERE person_id = $1 ORDER BY created_at, id",
        )
        .bind(person.as_str())
        .fetch_all(&self.readers)
        .await?;
        let when = |at| time("passkey time", at);
        rows.into_iter()
            .map(|row| {
                Ok(Passkey {
                    id: row.id,
                    credential: row.credential,
                    name: row.name,
                    created_at: when(row.created_at)?,
                    last_used: row.last_used.map(when).transpose()?,
                })
            })
            .collect()
    }

    /// Returns the enabled person who has a passkey with this credential, and the passkey as JSON.
    pub async fn passkey_of_credential(
        &self,
        credential: &str,
    ) -> Result<Option<(PersonId, String)>> {
        let found: Option<(String, String)> = sqlx::query_as(
            "SELECT k.person_id, k.passkey FROM passkeys k JOIN people p ON p.id = k.person_id \
             WHERE k.credential = $1 AND p.disabled_at IS NULL",
        )
        .bind(credential)
        .fetch_optional(&self.readers)
        .await?;
        found
            .map(|(person, passkey)| Ok((parse("person id", &person)?, passkey)))
            .transpose()
    }

    /// Stores the session of the person whose passkey was verified as it was in `before`, and the passkey as it is now.
    /// Returns false if the passkey was used or removed or the person was disabled meanwhile.
    pub async fn sign_in_with_passkey(
        &self,
        credential: &str,
        (before, after): (&str, &str),
        session: &NewSession,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let person: Option<String> = sqlx::query_scalar(
            "UPDATE passkeys SET passkey = $3, last_used = $4 \
             WHERE credential = $1 AND passkey = $2 RETURNING person_id",
        )
        .bind(credential)
        .bind(before)
        .bind(after)
        .bind(micros(now))
        .fetch_optional(&mut *tx)
        .await?;
        let Some(person) = person else {
            return Ok(false);
        };
        if !sign_in(&mut tx, session, &person, "passkey", now).await? {
            return Ok(false);
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Removes a person's passkey, if they have another way to sign in.
    pub async fn remove_passkey(
        &self,
        person: &PersonId,
        id: &str,
        now: Timestamp,
    ) -> Result<Removed> {
        let sql = "DELETE FROM passkeys WHERE person_id = $1 AND id = $2";
        self.remove_way_to_sign_in(sql, person, id, "passkey-remove", now)
            .await
    }
}
