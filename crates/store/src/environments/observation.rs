//! What reconcilers change: the state, and which warnings were given.

use faultline_domain::{
    EnvironmentId,
    environment::{Environment, State},
};
use jiff::Timestamp;

use crate::{
    Result, Store,
    db::{Tx, micros, to_json},
};

/// Writes an environment's state, and what changed into the audit, unless somebody else has written since it was read.
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
    if state.phase() != read.state.phase() {
        let (what, id) = (state.phase().as_str(), read.id.as_str());
        crate::audit::insert(tx, now, None, what, id, &detail).await?;
    }
    Ok(true)
}

impl Store {
    /// Writes the state that a step led to. False, and nothing is written, when somebody else wrote since the
    /// environment was read: its generation tells.
    pub async fn record_state(
        &self,
        read: &Environment,
        state: &State,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        if !write_state(&mut tx, read, state, now).await? {
            return Ok(false);
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Records the last warning, in seconds before the end; `None` clears it.
    pub async fn record_warned(&self, id: &EnvironmentId, seconds: Option<i64>) -> Result<()> {
        sqlx::query("UPDATE environments SET warned = $1 WHERE id = $2")
            .bind(seconds)
            .bind(id.as_str())
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}
