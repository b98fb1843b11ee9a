//! The changes of reconcilers: the state, and which warning was last given.

use faultline_domain::{
    EnvironmentId,
    environment::{Environment, State},
};
use jiff::Timestamp;

use super::suspension::settle_on_disk;
use crate::{
    Result, Store,
    db::{Tx, micros, to_json},
    outbox::{self, NewMail},
};

/// Writes an environment's state, and a change of phase into the audit log, unless the environment has changed since it
/// was read. Returns whether it was written.
pub(crate) async fn write_state(
    tx: &mut Tx,
    read: &Environment,
    state: &State,
    now: Timestamp,
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE environments SET state = $1, phase = $2, is_final = $3, \
         generation = generation + 1, updated_at = $4, \
         activated = CASE WHEN $2 = 'active' THEN coalesce(activated, $4) ELSE activated END \
         WHERE id = $5 AND generation = $6",
    )
    .bind(to_json(state)?)
    .bind(state.phase().as_str())
    .bind(state.is_final())
    .bind(micros(now))
    .bind(read.id.as_str())
    .bind(read.generation)
    .execute(&mut **tx)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    let detail = match state {
        State::Failed { stage, reason, .. } => format!("{stage}: {reason}"),
        _ => String::new(),
    };
    if matches!(state, State::Active { .. }) {
        crate::pools::record_active(tx, read, now).await?;
    }
    crate::quotas::record_run(tx, read, state.phase(), now).await?;
    if state.is_final() {
        crate::exposure_visits::close(tx, &read.id).await?;
    }
    if state.phase() != read.state.phase() {
        let (what, id) = (state.phase().as_str(), read.id.as_str());
        crate::audit::insert(tx, now, None, what, id, &detail).await?;
    }
    Ok(true)
}

/// Writes an environment's state with all that follows from it.
pub(super) async fn write_whole(
    tx: &mut Tx,
    read: &Environment,
    state: &State,
    now: Timestamp,
) -> Result<bool> {
    let written = write_state(tx, read, state, now).await?;
    if written
        && state.is_on_disk()
        && let Some(on_disk) = state.on_disk()
    {
        settle_on_disk(tx, read, on_disk, now).await?;
    }
    Ok(written)
}

/// Gives an environment back the lifetime that it has spent in the queue.
pub(crate) async fn leave_queue(tx: &mut Tx, of: &Environment, now: Timestamp) -> Result<()> {
    let State::Requested { since, .. } = of.state else {
        return Ok(());
    };
    let waited = micros(now) - micros(since);
    sqlx::query(
        "UPDATE environments SET expires_at = expires_at + $1, hard_end = hard_end + $1, \
         last_used = max(last_used, $2) WHERE id = $3",
    )
    .bind(waited.max(0))
    .bind(micros(now))
    .bind(of.id.as_str())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

impl Store {
    /// Records an environment's new state. Returns false and writes nothing if the environment has changed since it was
    /// read, which its generation tells.
    pub async fn record_state(
        &self,
        read: &Environment,
        state: &State,
        now: Timestamp,
    ) -> Result<bool> {
        self.record_state_and_tell(read, state, None, now).await
    }

    /// Like [`Self::record_state`]; also writes a mail about it, if any.
    pub async fn record_state_and_tell(
        &self,
        read: &Environment,
        state: &State,
        mail: Option<&NewMail>,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        if !write_whole(&mut tx, read, state, now).await? {
            return Ok(false);
        }
        if let Some(mail) = mail {
            outbox::insert(&mut tx, mail, now).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Sets the time without use after which an environment is suspended or ends, unless it was used since it was read.
    /// Returns whether it was set.
    pub async fn limit_idle_time(&self, read: &Environment, seconds: i64) -> Result<bool> {
        let sql = "UPDATE environments SET idle_seconds = $1 WHERE id = $2 AND last_used = $3";
        let done = sqlx::query(sql)
            .bind(seconds)
            .bind(read.id.as_str())
            .bind(micros(read.lifetime.last_used))
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Records the last warning, in seconds before the end, and writes the mail with it, if any. `None` clears it.
    pub async fn record_warned(
        &self,
        id: &EnvironmentId,
        seconds: Option<i64>,
        mail: Option<&NewMail>,
        now: Timestamp,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE environments SET warned = $1 WHERE id = $2")
            .bind(seconds)
            .bind(id.as_str())
            .execute(&mut *tx)
            .await?;
        if let Some(mail) = mail {
            outbox::insert(&mut tx, mail, now).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}
