//! Save points: requested, made, and deleted. Environments continue from them in
//! [`environments`](crate::environments).

use faultline_domain::{
    EnvironmentId, PersonId, SavePointId, TenantId,
    save_point::{Denial, Purpose, SavePoint, State},
};
use jiff::Timestamp;
use sqlx::{FromRow, SqliteExecutor};

use crate::{
    Result, Store,
    db::{Tx, from_json, micros, parse, time, to_json},
};

#[derive(FromRow)]
struct Row {
    id: String,
    environment_id: String,
    tenant_id: String,
    person_id: String,
    lab: String,
    lab_hash: Option<String>,
    spec: String,
    added_nodes: String,
    purpose: String,
    name: String,
    created_at: i64,
    expires_at: i64,
    state: String,
}

impl Row {
    fn read(self) -> Result<SavePoint> {
        Ok(SavePoint {
            id: parse("save point id", &self.id)?,
            environment: parse("environment id", &self.environment_id)?,
            tenant: parse("tenant id", &self.tenant_id)?,
            person: parse("person id", &self.person_id)?,
            lab: parse("lab name", &self.lab)?,
            lab_hash: self.lab_hash,
            spec: from_json("environment's spec", &self.spec)?,
            added: from_json("added nodes", &self.added_nodes)?,
            purpose: from_json("purpose of a save point", &self.purpose)?,
            name: self.name,
            created_at: time("save point time", self.created_at)?,
            expires_at: time("save point time", self.expires_at)?,
            state: from_json("save point's state", &self.state)?,
        })
    }
}

/// Returns the save points that a query with one parameter selects.
async fn select<'a>(
    from: impl SqliteExecutor<'a>,
    sql: &'static str,
    parameter: &str,
) -> Result<Vec<SavePoint>> {
    let rows: Vec<Row> = sqlx::query_as(sql).bind(parameter).fetch_all(from).await?;
    rows.into_iter().map(Row::read).collect()
}

/// Why an environment can't be saved.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The person may not have another save point.
    #[error(transparent)]
    Denied(#[from] Denial),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::Error),
}

impl From<sqlx::Error> for Refused {
    fn from(e: sqlx::Error) -> Self {
        Self::Store(e.into())
    }
}

/// Decides whether a person with these save points may have another one, within the transaction that read them.
pub type MaySave<'a> = &'a (dyn Fn(&[SavePoint]) -> Result<(), Denial> + Send + Sync);

async fn of_person(tx: &mut Tx, person: &PersonId) -> Result<Vec<SavePoint>> {
    let sql = "SELECT * FROM save_points WHERE person_id = $1 ORDER BY created_at, id";
    select(&mut **tx, sql, person.as_str()).await
}

pub(crate) async fn set_state(
    tx: &mut Tx,
    id: &SavePointId,
    from: Option<&State>,
    to: &State,
) -> Result<bool> {
    let from = from.map(State::as_str);
    let done = sqlx::query(
        "UPDATE save_points SET state = $1, phase = $2 \
         WHERE id = $3 AND phase <> 'deleting' AND ($4 IS NULL OR phase = $4)",
    )
    .bind(to_json(to)?)
    .bind(to.as_str())
    .bind(id.as_str())
    .bind(from)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Returns a save point within a transaction.
pub(crate) async fn find(tx: &mut Tx, id: &SavePointId) -> Result<Option<SavePoint>> {
    let sql = "SELECT * FROM save_points WHERE id = $1";
    Ok(select(&mut **tx, sql, id.as_str()).await?.pop())
}

/// Returns all save points of an environment within a transaction.
pub(crate) async fn of_environment(tx: &mut Tx, id: &EnvironmentId) -> Result<Vec<SavePoint>> {
    let sql = "SELECT * FROM save_points WHERE environment_id = $1";
    select(&mut **tx, sql, id.as_str()).await
}

/// Returns the save points of suspended environments that are not being deleted.
pub(crate) async fn suspensions<'a>(from: impl SqliteExecutor<'a>) -> Result<Vec<SavePoint>> {
    let sql = "SELECT * FROM save_points WHERE purpose = $1 AND phase <> 'deleting'";
    select(from, sql, &to_json(&Purpose::Suspension)?).await
}

/// Returns these save points without those for some purposes.
fn without(purposes: &[Purpose], mut all: Vec<SavePoint>) -> Vec<SavePoint> {
    all.retain(|save| !purposes.contains(&save.purpose));
    all
}

/// Requests the deletion of the save point with which an environment's previous reset can be undone, before `next`
/// replaces it.
async fn replace_undo(tx: &mut Tx, next: &SavePoint) -> Result<()> {
    for before in of_environment(tx, &next.environment).await? {
        // The tenant that is made from it may still need it.
        let is_used = next.spec.tenant.save_point.as_ref() == Some(&before.id);
        if before.purpose == Purpose::Undo && !is_used {
            set_state(tx, &before.id, None, &State::Deleting).await?;
        }
    }
    Ok(())
}

/// Makes the save point of a suspended environment one with which its reset can be undone.
pub(crate) async fn turn_into_undo(tx: &mut Tx, save: &SavePoint) -> Result<()> {
    replace_undo(tx, save).await?;
    sqlx::query("UPDATE save_points SET purpose = $1, name = $2, expires_at = $3 WHERE id = $4")
        .bind(to_json(&Purpose::Undo)?)
        .bind(&save.name)
        .bind(micros(save.expires_at))
        .bind(save.id.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Writes a save point that is to be made. One for undoing replaces the environment's previous one.
pub(crate) async fn insert(tx: &mut Tx, save: &SavePoint) -> Result<()> {
    if save.purpose == Purpose::Undo {
        replace_undo(tx, save).await?;
    }
    sqlx::query(
        "INSERT INTO save_points (id, environment_id, tenant_id, person_id, lab, lab_hash, spec, \
         added_nodes, purpose, name, created_at, expires_at, state, phase) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(save.id.as_str())
    .bind(save.environment.as_str())
    .bind(save.tenant.as_str())
    .bind(save.person.as_str())
    .bind(save.lab.as_str())
    .bind(&save.lab_hash)
    .bind(to_json(&save.spec)?)
    .bind(to_json(&save.added)?)
    .bind(to_json(&save.purpose)?)
    .bind(&save.name)
    .bind(micros(save.created_at))
    .bind(micros(save.expires_at))
    .bind(to_json(&save.state)?)
    .bind(save.state.as_str())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Returns true if the save point can be used.
pub(crate) async fn is_complete(tx: &mut Tx, id: &SavePointId) -> Result<bool> {
    let sql = "SELECT 1 FROM save_points WHERE id = $1 AND phase = 'complete'";
    let found: Option<i64> = sqlx::query_scalar(sql)
        .bind(id.as_str())
        .fetch_optional(&mut **tx)
        .await?;
    Ok(found.is_some())
}

/// Requests the deletion of all of a person's save points, and of others' copies of the person's environments.
pub(crate) async fn delete_all_of(tx: &mut Tx, person: &PersonId) -> Result<()> {
    let sql = "SELECT * FROM save_points WHERE person_id = $1 \
               OR environment_id IN (SELECT id FROM environments WHERE person_id = $1)";
    for save in select(&mut **tx, sql, person.as_str()).await? {
        set_state(tx, &save.id, None, &State::Deleting).await?;
    }
    Ok(())
}

impl Store {
    /// Requests a save point of a person's environment.
    pub async fn request_save_point(
        &self,
        save: &SavePoint,
        may: MaySave<'_>,
    ) -> Result<(), Refused> {
        let mut tx = self.begin().await?;
        may(&of_person(&mut tx, &save.person).await?)?;
        insert(&mut tx, save).await?;
        let (who, of) = (Some(save.person.as_str()), save.environment.as_str());
        let (at, id) = (save.created_at, save.id.as_str());
        let action = if save.purpose == Purpose::Copy {
            "copy"
        } else {
            "save"
        };
        crate::audit::insert(&mut tx, at, who, action, of, id).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Returns a save point.
    pub async fn save_point(&self, id: &SavePointId) -> Result<Option<SavePoint>> {
        let sql = "SELECT * FROM save_points WHERE id = $1";
        Ok(select(&self.readers, sql, id.as_str()).await?.pop())
    }

    /// Returns a person's save points that are not being deleted, oldest first, without those of suspended environments.
    pub async fn save_points_of(&self, person: &PersonId) -> Result<Vec<SavePoint>> {
        let sql = "SELECT * FROM save_points WHERE person_id = $1 AND phase <> 'deleting' \
                   ORDER BY created_at, id";
        let all = select(&self.readers, sql, person.as_str()).await?;
        Ok(without(&[Purpose::Suspension], all))
    }

    /// Returns the save points of an environment that its owner has and that are not being deleted, oldest first, without
    /// the one that it continues from after it was suspended.
    pub async fn save_points_of_environment(
        &self,
        environment: &EnvironmentId,
    ) -> Result<Vec<SavePoint>> {
        let sql = "SELECT * FROM save_points WHERE environment_id = $1 AND phase <> 'deleting' \
                   ORDER BY created_at, id";
        let all = select(&self.readers, sql, environment.as_str()).await?;
        Ok(without(&[Purpose::Suspension, Purpose::Copy], all))
    }

    /// Returns the copies of an environment that a person has and that are not being deleted, oldest first.
    pub async fn copies_of_environment(
        &self,
        environment: &EnvironmentId,
        person: &PersonId,
    ) -> Result<Vec<SavePoint>> {
        let mut all = self.save_points_of(person).await?;
        all.retain(|s| s.purpose == Purpose::Copy && s.environment == *environment);
        Ok(all)
    }

    /// Requests the deletion of the save point of an environment that is not suspended any more, unless it has become
    /// one for undoing meanwhile.
    pub async fn delete_suspension(&self, id: &SavePointId) -> Result<()> {
        let deleting = State::Deleting;
        sqlx::query(
            "UPDATE save_points SET state = $1, phase = $2 \
             WHERE id = $3 AND purpose = $4 AND phase <> 'saving'",
        )
        .bind(to_json(&deleting)?)
        .bind(deleting.as_str())
        .bind(id.as_str())
        .bind(to_json(&Purpose::Suspension)?)
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Returns the save points that are being made or deleted, whose time is up, or that are kept only while an environment
    /// is suspended, oldest first.
    pub async fn due_save_points(&self, now: Timestamp) -> Result<Vec<SavePoint>> {
        let sql = "SELECT * FROM save_points \
                   WHERE phase IN ('saving', 'deleting') OR expires_at <= $1 \
                   OR (purpose = $2 AND phase = 'complete') ORDER BY created_at, id";
        let rows: Vec<Row> = sqlx::query_as(sql)
            .bind(micros(now))
            .bind(to_json(&Purpose::Suspension)?)
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter().map(Row::read).collect()
    }

    /// Returns the tenants that are being saved. They must not be freed yet.
    pub async fn tenants_being_saved(&self) -> Result<Vec<TenantId>> {
        let sql = "SELECT tenant_id FROM save_points WHERE phase = 'saving' \
                   UNION ALL SELECT tenant_id FROM pool_saves WHERE phase = 'saving'";
        let ids: Vec<String> = sqlx::query_scalar(sql).fetch_all(&self.readers).await?;
        ids.iter().map(|id| parse("tenant id", id)).collect()
    }

    /// Records the result of saving, unless the save point was deleted meanwhile. Returns whether it was written.
    pub async fn record_save_point(&self, id: &SavePointId, state: &State) -> Result<bool> {
        let mut tx = self.begin().await?;
        let written = set_state(&mut tx, id, Some(&State::Saving), state).await?;
        tx.commit().await?;
        Ok(written)
    }

    /// Requests the deletion of a save point, by a person or because its time is up. Returns false if it is already
    /// being deleted.
    pub async fn delete_save_point(
        &self,
        save: &SavePoint,
        by: Option<&PersonId>,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        if !set_state(&mut tx, &save.id, None, &State::Deleting).await? {
            return Ok(false);
        }
        let (who, of) = (by.map(PersonId::as_str), save.environment.as_str());
        crate::audit::insert(&mut tx, now, who, "save-delete", of, save.id.as_str()).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Deletes the row of a save point whose files were deleted.
    pub async fn forget_save_point(&self, id: &SavePointId) -> Result<()> {
        sqlx::query("DELETE FROM save_points WHERE id = $1 AND phase = 'deleting'")
            .bind(id.as_str())
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}
