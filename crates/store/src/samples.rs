//! Samples of the server's state over time, for charts.

use jiff::{SignedDuration, Timestamp};
use sqlx::FromRow;

use crate::{
    Result, Store,
    db::{count, micros, time},
};

/// How long samples are kept.
const KEPT: SignedDuration = SignedDuration::from_hours(48);

/// The server's state at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// When it was taken.
    pub at: Timestamp,
    /// The number of running environments.
    pub environments: u32,
    /// The number of environments in the queue.
    pub queued: u32,
    /// The host's free memory, in MiB.
    pub free_memory_mib: u64,
    /// The host's load: the average number of tasks that ran or waited for a processor in the last minute.
    pub load: f64,
    /// The number of starts that succeeded since the previous sample.
    pub starts: u32,
    /// The number of starts that failed since the previous sample.
    pub failed_starts: u32,
    /// The 95th percentile of how long people waited for their starts of the last hour, including the queue, in
    /// milliseconds. `None` if there were none.
    pub wait_p95_millis: Option<u64>,
}

#[derive(FromRow)]
struct Row {
    at: i64,
    environments: i64,
    queued: i64,
    free_memory_mib: i64,
    load: f64,
    starts: i64,
    failed_starts: i64,
    wait_p95_millis: Option<i64>,
}

impl Row {
    fn read(self) -> Result<Sample> {
        Ok(Sample {
            at: time("sample time", self.at)?,
            environments: count("environments", self.environments)?,
            queued: count("queue", self.queued)?,
            free_memory_mib: u64::try_from(self.free_memory_mib).unwrap_or_default(),
            load: self.load,
            starts: count("starts", self.starts)?,
            failed_starts: count("failed starts", self.failed_starts)?,
            wait_p95_millis: self.wait_p95_millis.and_then(|n| u64::try_from(n).ok()),
        })
    }
}

impl Store {
    /// Records a sample, and deletes those that are too old.
    pub async fn record_sample(&self, sample: &Sample) -> Result<()> {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO samples (at, environments, queued, free_memory_mib, load, starts, \
             failed_starts, wait_p95_millis) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
             ON CONFLICT (at) DO NOTHING",
        )
        .bind(micros(sample.at))
        .bind(i64::from(sample.environments))
        .bind(i64::from(sample.queued))
        .bind(number(sample.free_memory_mib))
        .bind(sample.load)
        .bind(i64::from(sample.starts))
        .bind(i64::from(sample.failed_starts))
        .bind(sample.wait_p95_millis.map(number))
        .execute(&mut *tx)
        .await?;
        let oldest = sample.at.saturating_sub(KEPT).unwrap_or(Timestamp::MIN);
        sqlx::query("DELETE FROM samples WHERE at < $1")
            .bind(micros(oldest))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Returns the samples since then, oldest first.
    pub async fn samples_since(&self, since: Timestamp) -> Result<Vec<Sample>> {
        let rows: Vec<Row> = sqlx::query_as("SELECT * FROM samples WHERE at >= $1 ORDER BY at")
            .bind(micros(since))
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter().map(Row::read).collect()
    }

    /// Returns how long people waited for the starts that succeeded since then, from the request on, in milliseconds.
    pub async fn waits_since(&self, since: Timestamp) -> Result<Vec<u64>> {
        let rows: Vec<i64> = sqlx::query_scalar(
            "SELECT (active_at - requested_at) / 1000 FROM starts WHERE active_at >= $1",
        )
        .bind(micros(since))
        .fetch_all(&self.readers)
        .await?;
        let millis = rows.into_iter().map(u64::try_from);
        Ok(millis.map(Result::unwrap_or_default).collect())
    }
}
