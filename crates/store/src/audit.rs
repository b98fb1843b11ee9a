//! Who did what. Lines are written in the transaction that does it.

use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Store,
    db::{Tx, micros, time},
};

/// A line of the audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// Who; nobody when Faultline did it by itself.
    pub person: Option<String>,
    /// What, a stable word.
    pub action: String,
    /// To what: an id.
    pub subject: String,
    /// More, for people.
    pub detail: String,
}

#[derive(FromRow)]
struct Row {
    at: i64,
    person_id: Option<String>,
    action: String,
    subject: String,
    detail: String,
}

pub(crate) async fn insert(
    tx: &mut Tx,
    at: Timestamp,
    person: Option<&str>,
    action: &str,
    subject: &str,
    detail: &str,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO audit (at, person_id, action, subject, detail) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(micros(at))
    .bind(person)
    .bind(action)
    .bind(subject)
    .bind(detail)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Lines removed in one transaction, so that nobody who writes waits long.
const BATCH: i64 = 5000;

impl Store {
    /// Removes lines written before `oldest`, and of the rest all but the latest `most`; the logs of starts that ended
    /// before `oldest` go with them. Says how many lines of the audit went.
    pub async fn trim_audit(&self, oldest: Timestamp, most: u32) -> Result<u64> {
        let mut removed = 0;
        loop {
            let done = sqlx::query(
                "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < $1 OR id <= \
                 (SELECT id FROM audit ORDER BY id DESC LIMIT 1 OFFSET $2) ORDER BY id LIMIT $3)",
            )
            .bind(micros(oldest))
            .bind(i64::from(most))
            .bind(BATCH)
            .execute(&self.writer)
            .await?
            .rows_affected();
            removed += done;
            if done.cast_signed() < BATCH {
                break;
            }
        }
        sqlx::query(
            "DELETE FROM start_log WHERE environment_id IN \
             (SELECT id FROM environments WHERE is_final = $1 AND updated_at < $2)",
        )
        .bind(true)
        .bind(micros(oldest))
        .execute(&self.writer)
        .await?;
        Ok(removed)
    }

    /// Writes a line about something that changes no other row.
    pub async fn note(
        &self,
        at: Timestamp,
        person: Option<&str>,
        action: &str,
        subject: &str,
        detail: &str,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        insert(&mut tx, at, person, action, subject, detail).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The latest lines, the newest first.
    pub async fn audit(&self, limit: u32) -> Result<Vec<Entry>> {
        sqlx::query_as::<_, Row>(
            "SELECT at, person_id, action, subject, detail FROM audit ORDER BY id DESC LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?
        .into_iter()
        .map(|row| {
            Ok(Entry {
                at: time("audit time", row.at)?,
                person: row.person_id,
                action: row.action,
                subject: row.subject,
                detail: row.detail,
            })
        })
        .collect()
    }
}
