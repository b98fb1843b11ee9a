//! Tenants of pools that were written to disk, so that a pool survives a reboot of the host.

use faultline_domain::{
    SavePointId, TenantId,
    pool::{PoolSave, PoolSavePhase, Pooled},
};
use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Store,
    db::{Tx, from_json, micros, parse, time, to_json},
    tenants,
};

#[derive(FromRow)]
struct Row {
    id: String,
    tenant_id: String,
    pooled: String,
    created_at: i64,
    phase: String,
}

impl Row {
    fn read(self) -> Result<PoolSave> {
        Ok(PoolSave {
            id: parse("save point id", &self.id)?,
            tenant: parse("tenant id", &self.tenant_id)?,
            pooled: from_json("what a pool's tenant was made of", &self.pooled)?,
            created_at: time("save point time", self.created_at)?,
            phase: parse("phase of a pool's save point", &self.phase)?,
        })
    }
}

/// Takes the oldest save point that was made of `pooled`, for a tenant that is to continue from it.
pub(crate) async fn take(
    tx: &mut Tx,
    pooled: &Pooled,
    tenant: &TenantId,
) -> Result<Option<SavePointId>> {
    let taken: Option<String> = sqlx::query_scalar(
        "UPDATE pool_saves SET phase = $1, tenant_id = $2 WHERE id = (SELECT id FROM pool_saves \
         WHERE phase = $3 AND pooled = $4 ORDER BY created_at, id LIMIT 1) RETURNING id",
    )
    .bind(PoolSavePhase::Used.as_str())
    .bind(tenant.as_str())
    .bind(PoolSavePhase::Complete.as_str())
    .bind(to_json(pooled)?)
    .fetch_optional(&mut **tx)
    .await?;
    taken.map(|id| parse("save point id", &id)).transpose()
}

impl Store {
    /// Requests that a warm tenant of a pool is written to disk, and releases it. Returns false if somebody has claimed
    /// it in the meantime. It is freed once it is written.
    pub async fn save_to_pool(&self, save: &PoolSave, now: Timestamp) -> Result<bool> {
        let mut tx = self.begin().await?;
        let held: Option<i64> = sqlx::query_scalar(
            "SELECT 1 FROM tenants WHERE id = $1 AND environment_id IS NULL AND phase = 'warm'",
        )
        .bind(save.tenant.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        if held.is_none() {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO pool_saves (id, tenant_id, pooled, created_at, phase) \
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(save.id.as_str())
        .bind(save.tenant.as_str())
        .bind(to_json(&save.pooled)?)
        .bind(micros(save.created_at))
        .bind(save.phase.as_str())
        .execute(&mut *tx)
        .await?;
        tenants::release(&mut tx, &save.tenant, now).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Returns all save points of pools, oldest first.
    pub async fn pool_saves(&self) -> Result<Vec<PoolSave>> {
        let rows: Vec<Row> = sqlx::query_as("SELECT * FROM pool_saves ORDER BY created_at, id")
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter().map(Row::read).collect()
    }

    /// Writes the phase of a save point of a pool, if it is still in the phase `from`.
    pub async fn record_pool_save(
        &self,
        id: &SavePointId,
        from: PoolSavePhase,
        to: PoolSavePhase,
    ) -> Result<()> {
        sqlx::query("UPDATE pool_saves SET phase = $1 WHERE id = $2 AND phase = $3")
            .bind(to.as_str())
            .bind(id.as_str())
            .bind(from.as_str())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Deletes the row of a save point of a pool whose files were deleted.
    pub async fn forget_pool_save(&self, id: &SavePointId) -> Result<()> {
        sqlx::query("DELETE FROM pool_saves WHERE id = $1")
            .bind(id.as_str())
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}
