//! The audit log. Each line is written in the transaction of the change that it records.

use faultline_domain::PersonId;
use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Store,
    db::{Tx, micros, time},
};

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When it happened.
    pub at: Timestamp,
    /// The person who did it. `None` if Faultline did it by itself.
    pub person: Option<String>,
    /// The action's stable name.
    pub action: String,
    /// The ID of the object that it concerns.
    pub subject: String,
    /// Details, for people.
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

impl Row {
    fn read(self) -> Result<Entry> {
        Ok(Entry {
            at: time("audit time", self.at)?,
            person: self.person_id,
            action: self.action,
            subject: self.subject,
            detail: self.detail,
        })
    }
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

/// The number of lines removed in one transaction, so that other writers don't wait long.
const BATCH: i64 = 5000;

impl Store {
    /// Removes lines older than `oldest`, and all but the latest `most` of the rest. Also removes the start logs of
    /// environments that ended before `oldest`. Returns the number of removed audit lines.
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

    /// Returns the latest lines, newest first.
    pub async fn audit(&self, limit: u32) -> Result<Vec<Entry>> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT at, person_id, action, subject, detail FROM audit ORDER BY id DESC LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(Row::read).collect()
    }

    /// Returns the latest entries about what a person did, newest first.
    pub async fn audit_of(&self, person: &PersonId, limit: u32) -> Result<Vec<Entry>> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT at, person_id, action, subject, detail FROM audit WHERE person_id = $1 \
             ORDER BY id DESC LIMIT $2",
        )
        .bind(person.as_str())
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(Row::read).collect()
    }
}
