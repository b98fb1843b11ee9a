//! The stages of starts, as they happen, and their typical durations.

use std::collections::HashMap;

use faultline_domain::{EnvironmentId, LabSlug, NodeName, progress::Event};
use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Store,
    db::{Tx, micros, time},
};

/// One stage of a start.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// The stage's stable name. If a node is added or removed, the node's name precedes it: `node2 boot`.
    pub name: String,
    /// The title, for people: the stage's first text.
    pub title: String,
    /// What happens now, for people.
    pub text: String,
    /// The progress from 0 to 1, if known.
    pub fraction: Option<f64>,
    /// When it started.
    pub started_at: Timestamp,
    /// The duration in milliseconds, once it is done.
    pub millis: Option<u64>,
}

/// A stage with its typical durations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typical {
    /// The stage's stable name.
    pub name: String,
    /// The title, for people.
    pub title: String,
    /// The median duration, in milliseconds.
    pub millis: u64,
    /// The usual range of durations.
    pub usual: Usual,
}

/// The range of the measured durations, in milliseconds, without the shortest and the longest tenth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usual {
    /// The lower end.
    pub low: u64,
    /// The upper end.
    pub high: u64,
}

impl Usual {
    /// Returns the range of durations in ascending order. `None` if there are none.
    fn of(sorted: &[u64]) -> Option<Self> {
        let edge = sorted.len() / 10;
        let high = sorted.len().checked_sub(edge + 1)?;
        Some(Self {
            low: *sorted.get(edge)?,
            high: *sorted.get(high)?,
        })
    }
}

#[derive(FromRow)]
struct Row {
    stage: String,
    title: String,
    text: String,
    fraction: Option<f64>,
    started_at: i64,
    millis: Option<i64>,
}

/// The number of recent starts from which typical durations are computed.
const RECENT: i64 = 15;

/// Deletes the stages of an environment whose start is retried. The log is kept, because it covers both attempts.
pub(crate) async fn forget(tx: &mut Tx, id: &EnvironmentId) -> Result<()> {
    sqlx::query("DELETE FROM stage_events WHERE environment_id = $1")
        .bind(id.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

impl Store {
    /// Records an event of a start, and its line in the log. An event of a stage that hasn't started changes no stage.
    pub async fn record_stage(
        &self,
        id: &EnvironmentId,
        event: &Event,
        now: Timestamp,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        let open = "position = (SELECT max(position) FROM stage_events \
                    WHERE environment_id = $1 AND stage = $2)";
        match event {
            Event::Started { stage, text } => {
                sqlx::query(
                    "INSERT INTO stage_events \
                     (environment_id, position, stage, title, text, started_at, cached) \
                     SELECT $1, coalesce(max(position), 0) + 1, $2, $3, $3, $4, $5 \
                     FROM stage_events WHERE environment_id = $1",
                )
                .bind(id.as_str())
                .bind(stage.as_ref())
                .bind(text)
                .bind(micros(now))
                .bind(false)
                .execute(&mut *tx)
                .await?;
            }
            Event::Update {
                stage,
                fraction,
                text,
            } => {
                let sql = format!(
                    "UPDATE stage_events SET text = $3, fraction = $4 \
                     WHERE environment_id = $1 AND {open}"
                );
                sqlx::query(sqlx::AssertSqlSafe(sql))
                    .bind(id.as_str())
                    .bind(stage.as_ref())
                    .bind(text)
                    .bind(*fraction)
                    .execute(&mut *tx)
                    .await?;
            }
            Event::Done {
                stage,
                millis,
                cached,
            } => {
                let sql = format!(
                    "UPDATE stage_events SET millis = $3, cached = $4, fraction = 1.0 \
                     WHERE environment_id = $1 AND {open}"
                );
                sqlx::query(sqlx::AssertSqlSafe(sql))
                    .bind(id.as_str())
                    .bind(stage.as_ref())
                    .bind(i64::try_from(*millis).unwrap_or(i64::MAX))
                    .bind(*cached)
                    .execute(&mut *tx)
                    .await?;
            }
        }
        crate::start_log::append(&mut tx, id, event, now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Deletes the stages of earlier additions and removals of a node.
    pub async fn forget_node_stages(&self, id: &EnvironmentId, node: &NodeName) -> Result<()> {
        let sql = "DELETE FROM stage_events WHERE environment_id = $1 AND stage LIKE $2";
        sqlx::query(sql)
            .bind(id.as_str())
            .bind(format!("{node} %"))
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Returns the stages of an environment's start so far, and those of adding and removing nodes.
    pub async fn stages(&self, id: &EnvironmentId) -> Result<Vec<Stage>> {
        sqlx::query_as::<_, Row>(
            "SELECT stage, title, text, fraction, started_at, millis FROM stage_events \
             WHERE environment_id = $1 ORDER BY position",
        )
        .bind(id.as_str())
        .fetch_all(&self.readers)
        .await?
        .into_iter()
        .map(|row| {
            Ok(Stage {
                name: row.stage,
                title: row.title,
                text: row.text,
                fraction: row.fraction,
                started_at: time("stage time", row.started_at)?,
                millis: row.millis.and_then(|m| u64::try_from(m).ok()),
            })
        })
        .collect()
    }

    /// Returns the stages of a start of this lab, in order, with their typical durations. They are computed from recent
    /// starts of this lab, or of the labs `alike` if this one was never started.
    pub async fn typical_stages(&self, lab: &LabSlug, alike: &[LabSlug]) -> Result<Vec<Typical>> {
        let mut recent = self.recent_stages(lab).await?;
        if recent.is_empty() {
            for other in alike {
                recent.extend(self.recent_stages(other).await?);
            }
        }
        Ok(typical(&recent))
    }

    /// Returns the usual duration of a start of this lab, until it can be used. It is computed from recent starts of
    /// this lab, or of the labs `alike` if this one was never started.
    pub async fn usual_start(&self, lab: &LabSlug, alike: &[LabSlug]) -> Result<Option<Usual>> {
        let mut recent = self.recent_starts(lab).await?;
        if recent.is_empty() {
            for other in alike {
                recent.extend(self.recent_starts(other).await?);
            }
        }
        recent.sort_unstable();
        Ok(Usual::of(&recent))
    }

    /// Returns the durations of recent starts, from the end of the queue until active, in milliseconds. Those that were
    /// served by a pool tell nothing about the others.
    async fn recent_starts(&self, lab: &LabSlug) -> Result<Vec<u64>> {
        let rows: Vec<(i64,)> = sqlx::query_as(
            "SELECT (active_at - served_at) / 1000 FROM starts WHERE lab = $1 \
             AND active_at IS NOT NULL AND served_by = 'clone' ORDER BY requested_at DESC LIMIT $2",
        )
        .bind(lab.as_str())
        .bind(RECENT)
        .fetch_all(&self.readers)
        .await?;
        let millis = rows.into_iter().map(|(millis,)| u64::try_from(millis));
        Ok(millis.map(Result::unwrap_or_default).collect())
    }

    async fn recent_stages(&self, lab: &LabSlug) -> Result<Vec<(String, String, i64)>> {
        Ok(sqlx::query_as(
            "SELECT s.stage, s.title, s.millis FROM stage_events s \
             JOIN (SELECT id, created_at FROM environments \
                   JOIN starts ON starts.environment_id = id AND requested_at = created_at \
                   WHERE environments.lab = $1 AND activated IS NOT NULL AND served_by = 'clone' \
                   ORDER BY created_at DESC LIMIT $2) e ON e.id = s.environment_id \
             WHERE s.millis IS NOT NULL AND s.stage NOT LIKE '% %' ORDER BY e.created_at DESC, s.position",
        )
        .bind(lab.as_str())
        .bind(RECENT)
        .fetch_all(&self.readers)
        .await?)
    }
}

/// Computes typical durations, in the order of the newest start's stages.
fn typical(rows: &[(String, String, i64)]) -> Vec<Typical> {
    let mut order: Vec<(&str, &str)> = Vec::new();
    let mut times: HashMap<&str, Vec<u64>> = HashMap::new();
    for (name, title, millis) in rows {
        if !times.contains_key(name.as_str()) {
            order.push((name, title));
        }
        let millis = u64::try_from(*millis).unwrap_or_default();
        times.entry(name).or_default().push(millis);
    }
    order
        .into_iter()
        .filter_map(|(name, title)| {
            let mut all = times.remove(name)?;
            all.sort_unstable();
            Some(Typical {
                name: name.to_owned(),
                title: title.to_owned(),
                millis: *all.get(all.len() / 2)?,
                usual: Usual::of(&all)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_range_excludes_outliers() {
        let of = |all: &[u64]| Usual::of(all).map(|usual| (usual.low, usual.high));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[6_200]), Some((6_200, 6_200)));
        assert_eq!(of(&[5_000, 6_200, 17_000]), Some((5_000, 17_000)));
        let fifteen: Vec<u64> = (1..=15).collect();
        assert_eq!(of(&fifteen), Some((2, 14)));
    }
}
