//! What tenants expose, as their reconciler last reported it. This is observation.

use faultline_domain::{TenantId, exposure::Report};

use crate::{
    Result, Store,
    db::{from_json, to_json},
};

impl Store {
    /// Returns the last report of what a tenant exposes.
    pub async fn exposures(&self, tenant: &TenantId) -> Result<Option<Report>> {
        let found: Option<String> =
            sqlx::query_scalar("SELECT report FROM exposures WHERE tenant_id = $1")
                .bind(tenant.as_str())
                .fetch_optional(&self.readers)
                .await?;
        found
            .map(|text| from_json("report of exposures", &text))
            .transpose()
    }

    /// Records what a tenant exposes. Returns true if that has changed.
    pub async fn record_exposures(&self, tenant: &TenantId, report: &Report) -> Result<bool> {
        let before = self.exposures(tenant).await?;
        if before.as_ref() == Some(report) {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO exposures (tenant_id, report) VALUES ($1, $2) \
             ON CONFLICT (tenant_id) DO UPDATE SET report = excluded.report",
        )
        .bind(tenant.as_str())
        .bind(to_json(report)?)
        .execute(&self.writer)
        .await?;
        Ok(true)
    }

    /// Deletes the reports of tenants that were freed.
    pub async fn forget_exposures(&self) -> Result<u64> {
        let done = sqlx::query(
            "DELETE FROM exposures WHERE tenant_id IN (SELECT id FROM tenants WHERE is_final = $1)",
        )
        .bind(true)
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected())
    }
}
