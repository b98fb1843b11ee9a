//! What happened during a start, line by line, for who waits for it and who wants to know why it failed.

use faultline_domain::{EnvironmentId, progress::Event};
use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Store,
    db::{Tx, micros, time},
};

/// The most lines of one environment; the oldest go first.
pub const MAX_LINES: u32 = 200;
/// The most characters of a line.
pub const MAX_TEXT: usize = 400;

/// A line of a start's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When.
    pub at: Timestamp,
    /// During which stage, a stable word.
    pub stage: String,
    /// What happened, for people.
    pub text: String,
}

#[derive(FromRow)]
struct Row {
    at: i64,
    stage: String,
    text: String,
}

/// Writes a line, unless the last one says the same: progress within a stage repeats its text.
async fn insert(
    tx: &mut Tx,
    id: &EnvironmentId,
    at: Timestamp,
    stage: &str,
    text: &str,
) -> Result<()> {
    let text: String = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_TEXT)
        .collect();
    let written = sqlx::query(
        "INSERT INTO start_log (environment_id, position, at, stage, text) \
         SELECT $1, last + 1, $2, $3, $4 FROM (SELECT coalesce(max(position), 0) AS last \
             FROM start_log WHERE environment_id = $1) \
         WHERE NOT EXISTS (SELECT 1 FROM start_log WHERE environment_id = $1 \
             AND position = last AND stage = $3 AND text = $4)",
    )
    .bind(id.as_str())
    .bind(micros(at))
    .bind(stage)
    .bind(text)
    .execute(&mut **tx)
    .await?;
    if written.rows_affected() > 0 {
        sqlx::query(
            "DELETE FROM start_log WHERE environment_id = $1 AND position <= \
             (SELECT max(position) FROM start_log WHERE environment_id = $1) - $2",
        )
        .bind(id.as_str())
        .bind(i64::from(MAX_LINES))
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// The line that an event makes.
pub(crate) async fn append(
    tx: &mut Tx,
    id: &EnvironmentId,
    event: &Event,
    now: Timestamp,
) -> Result<()> {
    match event {
        Event::Started { stage, text } | Event::Update { stage, text, .. } => {
            insert(tx, id, now, stage, text).await
        }
        Event::Done {
            stage,
            cached: true,
            ..
        } => insert(tx, id, now, stage, "done: it was there already").await,
        Event::Done { stage, millis, .. } => {
            let text = format!("done after {}.{:03} s", millis / 1000, millis % 1000);
            insert(tx, id, now, stage, &text).await
        }
    }
}

/// Forgets an environment's log: it begins again.
pub(crate) async fn forget(tx: &mut Tx, id: &EnvironmentId) -> Result<()> {
    sqlx::query("DELETE FROM start_log WHERE environment_id = $1")
        .bind(id.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

impl Store {
    /// Writes a line that no event of a stage makes: that it failed, and what follows from it.
    pub async fn log_start(
        &self,
        id: &EnvironmentId,
        stage: &str,
        text: &str,
        now: Timestamp,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        insert(&mut tx, id, now, stage, text).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The log of an environment's start, the oldest line first.
    pub async fn start_log(&self, id: &EnvironmentId) -> Result<Vec<Line>> {
        sqlx::query_as::<_, Row>(
            "SELECT at, stage, text FROM start_log WHERE environment_id = $1 ORDER BY position",
        )
        .bind(id.as_str())
        .fetch_all(&self.readers)
        .await?
        .into_iter()
        .map(|row| {
            Ok(Line {
                at: time("log time", row.at)?,
                stage: row.stage,
                text: row.text,
            })
        })
        .collect()
    }
}
