//! The version of the owner's public keys that was last applied to each node. This is observation.

use std::collections::BTreeMap;

use faultline_domain::{
    NodeName, PersonId, TenantId,
    keys::{KeyVersions, KeysVersion},
};

use crate::{Result, Store, db::parse};

/// The keys that a person's nodes should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySet {
    /// The version of this set.
    pub version: KeysVersion,
    /// The keys, one OpenSSH line each, oldest first.
    pub keys: Vec<String>,
    /// The fingerprints of removed keys that nodes may still have.
    pub removed: Vec<String>,
}

impl Store {
    /// Returns a person's current keys and their version, read in one transaction.
    pub async fn key_set(&self, person: &PersonId) -> Result<KeySet> {
        let mut tx = self.readers.begin().await?;
        let version: Option<i64> =
            sqlx::query_scalar("SELECT keys_version FROM people WHERE id = $1")
                .bind(person.as_str())
                .fetch_optional(&mut *tx)
                .await?;
        let keys = sqlx::query_scalar(
            "SELECT public_key FROM ssh_keys WHERE person_id = $1 ORDER BY created_at",
        )
        .bind(person.as_str())
        .fetch_all(&mut *tx)
        .await?;
        let removed =
            sqlx::query_scalar("SELECT fingerprint FROM removed_ssh_keys WHERE person_id = $1")
                .bind(person.as_str())
                .fetch_all(&mut *tx)
                .await?;
        Ok(KeySet {
            version: KeysVersion::new(version.unwrap_or_default()),
            keys,
            removed,
        })
    }

    /// Returns the wanted and the applied versions for the tenants of all unfinished environments.
    pub async fn key_versions(&self) -> Result<BTreeMap<TenantId, KeyVersions>> {
        let rows: Vec<(String, i64, Option<String>, Option<i64>)> = sqlx::query_as(
            "SELECT environments.tenant_id, people.keys_version, node_keys.node, node_keys.version \
             FROM environments JOIN people ON people.id = environments.person_id \
             LEFT JOIN node_keys ON node_keys.tenant_id = environments.tenant_id \
             WHERE environments.is_final = $1 AND environments.tenant_id IS NOT NULL",
        )
        .bind(false)
        .fetch_all(&self.readers)
        .await?;
        let mut all = BTreeMap::new();
        for (tenant, wanted, node, applied) in rows {
            let versions = all
                .entry(parse("tenant id", &tenant)?)
                .or_insert_with(|| KeyVersions {
                    wanted: KeysVersion::new(wanted),
                    applied: BTreeMap::new(),
                });
            if let (Some(node), Some(applied)) = (node, applied) {
                let node: NodeName = parse("node", &node)?;
                versions.applied.insert(node, KeysVersion::new(applied));
            }
        }
        Ok(all)
    }

    /// Records the version that was applied to a node.
    pub async fn record_node_keys(
        &self,
        tenant: &TenantId,
        node: &NodeName,
        version: KeysVersion,
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO node_keys (tenant_id, node, version) VALUES ($1, $2, $3) \
             ON CONFLICT (tenant_id, node) DO UPDATE SET version = excluded.version",
        )
        .bind(tenant.as_str())
        .bind(node.as_str())
        .bind(version.number())
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Deletes removed keys that no machine can have any more, and the applied versions of freed tenants. Returns the
    /// number of deleted rows. Only a tenant or a save point that was created before a key was removed can have the key.
    pub async fn forget_removed_keys(&self) -> Result<u64> {
        let keys = sqlx::query(
            "DELETE FROM removed_ssh_keys WHERE NOT EXISTS ( \
             SELECT 1 FROM environments JOIN tenants ON tenants.id = environments.tenant_id \
             WHERE environments.person_id = removed_ssh_keys.person_id \
             AND tenants.is_final = $1 AND tenants.created_at <= removed_ssh_keys.removed_at) \
             AND NOT EXISTS (SELECT 1 FROM save_points \
             WHERE save_points.person_id = removed_ssh_keys.person_id \
             AND save_points.created_at <= removed_ssh_keys.removed_at)",
        )
        .bind(false)
        .execute(&self.writer)
        .await?;
        let nodes = sqlx::query(
            "DELETE FROM node_keys WHERE tenant_id IN (SELECT id FROM tenants WHERE is_final = $1)",
        )
        .bind(true)
        .execute(&self.writer)
        .await?;
        Ok(keys.rows_affected() + nodes.rows_affected())
    }
}
