//! Sessions: a browser in which a person is signed in. Only hashes of their secrets are stored.

use faultline_domain::{PersonId, authz::Principal};
use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Secret, Store,
    db::{Tx, micros, time},
    people::PrincipalRow,
};

/// A session to store.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// The secret that the browser keeps.
    pub secret: Secret,
    /// The ID, which is not the secret.
    pub id: String,
    /// The browser and its system, for people.
    pub browser: String,
    /// When the session expires.
    pub expires_at: Timestamp,
    /// The issuer of the identity provider through which the person signed in; none otherwise.
    pub issuer: Option<String>,
}

/// A session, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The ID.
    pub id: String,
    /// The browser and its system, for people; empty if the session began before this was recorded.
    pub browser: String,
    /// When the person signed in.
    pub created_at: Timestamp,
    /// When it was last used, with a precision of one minute; none if it was not used since this is recorded.
    pub last_used: Option<Timestamp>,
    /// When it expires.
    pub expires_at: Timestamp,
    /// True for the session whose secret was given.
    pub is_current: bool,
}

#[derive(FromRow)]
struct Row {
    id: String,
    browser: String,
    created_at: i64,
    last_used: Option<i64>,
    expires_at: i64,
    token_hash: String,
}

/// Stores a session.
pub(crate) async fn insert_session(
    tx: &mut Tx,
    new: &NewSession,
    person: &str,
    now: Timestamp,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO sessions \
         (token_hash, id, browser, person_id, created_at, last_used, expires_at, issuer) \
         VALUES ($1, $2, $3, $4, $5, $5, $6, $7)",
    )
    .bind(new.secret.hash())
    .bind(&new.id)
    .bind(&new.browser)
    .bind(person)
    .bind(micros(now))
    .bind(micros(new.expires_at))
    .bind(&new.issuer)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Signs an enabled person in: stores the session and records how. Returns false if the person is disabled.
pub(crate) async fn sign_in(
    tx: &mut Tx,
    new: &NewSession,
    person: &str,
    how: &str,
    now: Timestamp,
) -> Result<bool> {
    let sql = "UPDATE people SET last_sign_in = $2 WHERE id = $1 AND disabled_at IS NULL";
    let enabled = sqlx::query(sql)
        .bind(person)
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    if enabled.rows_affected() == 0 {
        return Ok(false);
    }
    insert_session(tx, new, person, now).await?;
    crate::audit::insert(tx, now, Some(person), "sign-in", person, how).await?;
    Ok(true)
}

impl Store {
    /// Stores a session.
    pub async fn add_session(
        &self,
        new: &NewSession,
        person: &PersonId,
        now: Timestamp,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        insert_session(&mut tx, new, person.as_str(), now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Returns the person of a session, unless it has expired.
    pub async fn session(&self, secret: &Secret, now: Timestamp) -> Result<Option<Principal>> {
        sqlx::query_as::<_, PrincipalRow>(
            "SELECT s.person_id, p.role FROM sessions s JOIN people p ON p.id = s.person_id \
             WHERE s.token_hash = $1 AND s.expires_at > $2 AND p.disabled_at IS NULL",
        )
        .bind(secret.hash())
        .bind(micros(now))
        .fetch_optional(&self.readers)
        .await?
        .map(|row| row.read())
        .transpose()
    }

    /// Records the use of a session, at most once a minute.
    pub async fn touch_session(&self, secret: &Secret, now: Timestamp) -> Result<()> {
        let (hash, minute_ago) = (secret.hash(), micros(now) - 60_000_000);
        let due: Option<i64> = sqlx::query_scalar(
            "SELECT 1 FROM sessions WHERE token_hash = $1 AND (last_used IS NULL OR last_used < $2)",
        )
        .bind(&hash)
        .bind(minute_ago)
        .fetch_optional(&self.readers)
        .await?;
        if due.is_some() {
            sqlx::query("UPDATE sessions SET last_used = $1 WHERE token_hash = $2")
                .bind(micros(now))
                .bind(hash)
                .execute(&self.writer)
                .await?;
        }
        Ok(())
    }

    /// Returns a person's sessions that have not expired, the latest first. `current` is the secret of the session that
    /// asks, if it is one.
    pub async fn sessions(
        &self,
        person: &PersonId,
        current: Option<&Secret>,
        now: Timestamp,
    ) -> Result<Vec<Session>> {
        let current = current.map(Secret::hash);
        let rows = sqlx::query_as::<_, Row>(
            "SELECT id, browser, created_at, last_used, expires_at, token_hash FROM sessions \
             WHERE person_id = $1 AND expires_at > $2 ORDER BY created_at DESC, id",
        )
        .bind(person.as_str())
        .bind(micros(now))
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter()
            .map(|row| {
                let when = |at| time("session time", at);
                Ok(Session {
                    is_current: current.as_ref() == Some(&row.token_hash),
                    id: row.id,
                    browser: row.browser,
                    created_at: when(row.created_at)?,
                    last_used: row.last_used.map(when).transpose()?,
                    expires_at: when(row.expires_at)?,
                })
            })
            .collect()
    }

    /// Ends one of a person's sessions. Returns false if there is none with this ID.
    pub async fn end_session(&self, person: &PersonId, id: &str, now: Timestamp) -> Result<bool> {
        let sql = "DELETE FROM sessions WHERE person_id = $1 AND id = $2";
        self.remove_owned(sql, person, id, "sign-out", now).await
    }

    /// Ends the session with this secret. Does nothing if there is none. Returns the issuer of the identity provider through
    /// which it began, if any.
    pub async fn sign_out(&self, secret: &Secret, now: Timestamp) -> Result<Option<String>> {
        let mut tx = self.begin().await?;
        let ended: Option<(String, String, Option<String>)> = sqlx::query_as(
            "DELETE FROM sessions WHERE token_hash = $1 RETURNING person_id, id, issuer",
        )
        .bind(secret.hash())
        .fetch_optional(&mut *tx)
        .await?;
        let mut issuer = None;
        if let Some((person, id, through)) = ended {
            crate::audit::insert(&mut tx, now, Some(&person), "sign-out", &id, "").await?;
            issuer = through;
        }
        tx.commit().await?;
        Ok(issuer)
    }
}
