//! Tenants, which a provider creates and frees. Those of pools are claimed in [`pools`](crate::pools).

use faultline_domain::{
    EnvironmentId, TenantId,
    environment::{Environment, State as EnvironmentState},
    pool::Pooled,
    tenant::{Observed, Spec, State, Tenant},
};
use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Store,
    db::{Tx, from_json, micros, parse, time, to_json},
    environments::{leave_queue, write_state},
    pools::ServedBy,
};

#[derive(FromRow)]
pub(crate) struct Row {
    id: String,
    environment_id: Option<String>,
    pooled: Option<String>,
    spec: String,
    created_at: i64,
    state: String,
    observed: Option<String>,
    generation: i64,
}

impl Row {
    pub(crate) fn read(self) -> Result<Tenant> {
        Ok(Tenant {
            id: parse("tenant id", &self.id)?,
            environment: self
                .environment_id
                .map(|id| parse("environment id", &id))
                .transpose()?,
            pooled: self
                .pooled
                .map(|text| from_json("pooled tenant", &text))
                .transpose()?,
            spec: from_json("tenant's spec", &self.spec)?,
            created_at: time("tenant time", self.created_at)?,
            state: from_json("tenant's state", &self.state)?,
            observed: self
                .observed
                .map(|text| from_json("observation", &text))
                .transpose()?,
            generation: self.generation,
        })
    }
}

/// Writes a tenant's state, unless it has changed since it was read. Returns whether it was written.
pub(crate) async fn write(
    tx: &mut Tx,
    read: &Tenant,
    state: &State,
    now: Timestamp,
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE tenants SET state = $1, phase = $2, is_final = $3, generation = generation + 1, \
         updated_at = $4 WHERE id = $5 AND generation = $6",
    )
    .bind(to_json(state)?)
    .bind(state.phase().as_str())
    .bind(state.is_final())
    .bind(micros(now))
    .bind(read.id.as_str())
    .bind(read.generation)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Inserts a tenant that is to be made, for an environment or for a pool.
pub(crate) async fn insert(
    tx: &mut Tx,
    id: &TenantId,
    environment: Option<&EnvironmentId>,
    spec: &Spec,
    pooled: Option<&Pooled>,
    now: Timestamp,
) -> Result<()> {
    let state = State::Provisioning { since: now };
    sqlx::query(
        "INSERT INTO tenants (id, environment_id, spec, pooled, created_at, state, phase, is_final, \
         generation, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $5)",
    )
    .bind(id.as_str())
    .bind(environment.map(EnvironmentId::as_str))
    .bind(to_json(spec)?)
    .bind(pooled.map(to_json).transpose()?)
    .bind(micros(now))
    .bind(to_json(&state)?)
    .bind(state.phase().as_str())
    .bind(false)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn read(tx: &mut Tx, id: &TenantId) -> Result<Option<Tenant>> {
    sqlx::query_as::<_, Row>("SELECT * FROM tenants WHERE id = $1")
        .bind(id.as_str())
        .fetch_optional(&mut **tx)
        .await?
        .map(Row::read)
        .transpose()
}

/// Releases a tenant, in any state. Does nothing if it is already released.
pub(crate) async fn release(tx: &mut Tx, id: &TenantId, now: Timestamp) -> Result<()> {
    if let Some(tenant) = read(tx, id).await?
        && let Some(next) = tenant.state.release(now)
    {
        write(tx, &tenant, &next, now).await?;
    }
    Ok(())
}

impl Store {
    /// Returns a tenant.
    pub async fn tenant(&self, id: &TenantId) -> Result<Option<Tenant>> {
        sqlx::query_as::<_, Row>("SELECT * FROM tenants WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(&self.readers)
            .await?
            .map(Row::read)
            .transpose()
    }

    /// Returns all tenants that have resources or will have some, oldest first.
    pub async fn unfinished_tenants(&self) -> Result<Vec<Tenant>> {
        let sql = "SELECT * FROM tenants WHERE is_final = $1 ORDER BY created_at, id";
        let rows: Vec<Row> = sqlx::query_as(sql)
            .bind(false)
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter().map(Row::read).collect()
    }

    /// Requests a tenant for an environment, and deletes the stages of an earlier start. Returns false and writes
    /// nothing if the environment has changed since it was read or has a tenant.
    pub async fn ask_for_tenant(
        &self,
        of: &Environment,
        id: &TenantId,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        insert(&mut tx, id, Some(&of.id), &of.spec.tenant, None, now).await?;
        let done = sqlx::query(
            "UPDATE environments SET tenant_id = $1, added_nodes = '[]', \
             generation = generation + 1, updated_at = $2 \
             WHERE id = $3 AND generation = $4 AND tenant_id IS NULL",
        )
        .bind(id.as_str())
        .bind(micros(now))
        .bind(of.id.as_str())
        .bind(of.generation)
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        crate::stages::forget(&mut tx, &of.id).await?;
        crate::pools::record_served(&mut tx, of, ServedBy::Clone, now).await?;
        leave_queue(&mut tx, of, now).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Claims the warm tenant that was created for an environment. Returns false and writes nothing if the environment
    /// has changed since it was read, or the tenant isn't warm.
    pub async fn claim_tenant(
        &self,
        by: &Environment,
        preparing: &EnvironmentState,
        now: Timestamp,
    ) -> Result<bool> {
        let Some(id) = by.tenant_id() else {
            return Ok(false);
        };
        let mut tx = self.begin().await?;
        let Some(tenant) = read(&mut tx, id).await? else {
            return Ok(false);
        };
        let Some(claimed) = tenant.state.claim(now) else {
            return Ok(false);
        };
        if !write(&mut tx, &tenant, &claimed, now).await?
            || !write_state(&mut tx, by, preparing, now).await?
        {
            return Ok(false);
        }
        // What was observed while it was created doesn't apply any more.
        sqlx::query("UPDATE tenants SET observed = NULL WHERE id = $1")
            .bind(id.as_str())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Releases an environment's tenant. It remains the environment's tenant until it is freed.
    pub async fn release_tenant(&self, id: &TenantId, now: Timestamp) -> Result<()> {
        let mut tx = self.begin().await?;
        release(&mut tx, id, now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Releases an environment's tenant, so that its start is retried with another one. Returns false and writes
    /// nothing if the environment has changed since it was read.
    pub async fn retry_start(
        &self,
        of: &Environment,
        requested: &EnvironmentState,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        if !write_state(&mut tx, of, requested, now).await? {
            return Ok(false);
        }
        sqlx::query("UPDATE environments SET tenant_id = NULL WHERE id = $1")
            .bind(of.id.as_str())
            .execute(&mut *tx)
            .await?;
        if let Some(id) = of.tenant_id() {
            release(&mut tx, id, now).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Records a tenant's new state. Returns false and writes nothing if the tenant has changed since it was read,
    /// which its generation tells.
    pub async fn record_tenant(
        &self,
        read: &Tenant,
        state: &State,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        if !write(&mut tx, read, state, now).await? {
            return Ok(false);
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Records what the provider observed, unless the stored observation is no longer `before`. Returns whether it was
    /// written.
    pub async fn correct_observed(
        &self,
        id: &TenantId,
        before: Option<Observed>,
        observed: Observed,
    ) -> Result<bool> {
        let before = before.as_ref().map(to_json).transpose()?;
        let done = sqlx::query(
            "UPDATE tenants SET observed = $1 WHERE id = $2 AND observed IS NOT DISTINCT FROM $3",
        )
        .bind(to_json(&observed)?)
        .bind(id.as_str())
        .bind(before)
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Records what the provider observed.
    pub async fn record_observed(&self, id: &TenantId, observed: Observed) -> Result<()> {
        sqlx::query("UPDATE tenants SET observed = $1 WHERE id = $2")
            .bind(to_json(&observed)?)
            .bind(id.as_str())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Returns the environment whose current tenant this is. `None` if a reset gave it another one.
    pub async fn environment_with(&self, id: &TenantId) -> Result<Option<EnvironmentId>> {
        let found: Option<String> =
            sqlx::query_scalar("SELECT id FROM environments WHERE tenant_id = $1")
                .bind(id.as_str())
                .fetch_optional(&self.readers)
                .await?;
        found.map(|id| parse("environment id", &id)).transpose()
    }
}
