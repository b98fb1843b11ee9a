//! The log of each start, line by line, for people who wait for it or want to know why it failed.

use faultline_domain::{EnvironmentId, progress::Event};
use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Store,
    db::{Tx, micros, time},
};

/// The maximum number of lines of an environment. The oldest are removed first.
pub const MAX_LINES: u32 = 200;
/// The maximum length of a line, in characters.
pub const MAX_TEXT: usize = 400;

/// A line of a start's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When it happened.
    pub at: Timestamp,
    /// The stable name of the stage.
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

/// Writes a line, unless the last one is the same, because progress within a stage repeats its text.
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

/// Writes the line of an event.
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
        } => insert(tx, id, now, stage, "done: it already existed").await,
        Event::Done { stage, millis, .. } => {
            let text = format!("done after {}.{:03} s", millis / 1000, millis % 1000);
            insert(tx, id, now, stage, &text).await
        }
    }
}

/// Deletes an environment's log, because the environment was reset.
pub(crate) async fn forget(tx: &mut Tx, id: &EnvironmentId) -> Result<()> {
    sqlx::query("DELETE FROM start_log WHERE environment_id = $1")
        .bind(id.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

impl Store {
    /// Writes a line that isn't an event of a stage, such as a failure and its consequences.
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

    /// Returns the log of an environment's start, oldest line first.
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
