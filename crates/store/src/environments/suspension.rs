//! Environments that are suspended to disk: written, continued, and returned to disk if that fails.

use faultline_domain::{
    EnvironmentId,
    environment::{Environment, Intent, Lifetime, OnDisk, Spec, State},
    nodes::{AddedNode, NodeState},
    save_point::{self, Bounds, SavePoint, Saved, State as SaveState},
    tenant,
};
use jiff::Timestamp;

use super::{
    intent::{Admit, Refused, counts},
    observation::{write_state, write_whole},
    read,
};
use crate::{
    Result, Store,
    db::{Tx, micros, to_json},
    save_points,
};

/// How many suspended environments are written at a time.
const AT_ONCE: usize = 2;

/// Sets what follows from the state of an environment on disk: nobody wants it to run, it has no tenant, and its clock
/// stands still.
pub(super) async fn settle_on_disk(
    tx: &mut Tx,
    of: &Environment,
    on_disk: &OnDisk,
    now: Timestamp,
) -> Result<()> {
    let kept = on_disk.kept();
    let point = save_points::find(tx, &on_disk.save_point).await?;
    let ready = |name| AddedNode {
        name,
        state: NodeState::Ready { since: now },
    };
    let added: Vec<_> = point.into_iter().flat_map(|p| p.added).map(ready).collect();
    sqlx::query(
        "UPDATE environments SET \
         intent = CASE WHEN intent LIKE '%gone%' THEN intent ELSE $1 END, tenant_id = NULL, added_nodes = $2, \
         expires_at = $3, hard_end = $4, last_used = $5, idle_seconds = $6, warned = NULL \
         WHERE id = $7",
    )
    .bind(to_json(&Intent::Suspended)?)
    .bind(to_json(&added)?)
    .bind(micros(kept.expires_at))
    .bind(micros(kept.hard_end))
    .bind(micros(kept.last_used))
    .bind(kept.idle_seconds)
    .bind(of.id.as_str())
    .execute(&mut **tx)
    .await?;
    if let Some(id) = of.tenant_id() {
        crate::tenants::release(tx, id, now).await?;
    }
    Ok(())
}

impl Store {
    /// Requests the save point of a suspended environment, of this estimated size in bytes. Returns false if there is one
    /// that is being made or has failed recently, if others are being written, or if there is no space for it.
    pub async fn request_suspension(
        &self,
        save: &SavePoint,
        estimate: u64,
        bounds: &Bounds,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let all = save_points::suspensions(&mut *tx).await?;
        let is_pending = |other: &SavePoint| {
            other.environment == save.environment
                && matches!(other.state, SaveState::Saving | SaveState::Failed { .. })
        };
        let written = all.iter().filter(|s| s.state == SaveState::Saving).count();
        if all.iter().any(is_pending)
            || written >= AT_ONCE
            || !save_point::may_suspend(&all, &save.person, estimate, bounds)
        {
            return Ok(false);
        }
        save_points::insert(&mut tx, save).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Records that a suspended environment was written to disk, and releases its tenant. Returns false if it was
    /// resumed, reset or ended meanwhile; then the save point is deleted.
    pub async fn record_suspension(
        &self,
        save: &SavePoint,
        saved: Saved,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let current = read(&mut tx, &save.environment).await?;
        let stays = current.filter(|e| {
            e.intent == Intent::Suspended && e.tenant_id() == Some(&save.tenant) && e.is_open()
        });
        let next = stays.and_then(|e| {
            let since = match e.state {
                // A save point from before an earlier resume shows another instant.
                State::Suspended { since, .. } if since <= save.created_at => since,
                _ => return None,
            };
            let on_disk = OnDisk {
                save_point: save.id.clone(),
                since,
                lifetime: e.lifetime,
                kept_until: save.expires_at,
                problem: None,
            };
            let next = e.state.clone().store(on_disk).ok()?;
            Some((e, next))
        });
        let made = SaveState::Complete(saved);
        let is_new =
            save_points::set_state(&mut tx, &save.id, Some(&SaveState::Saving), &made).await?;
        let stored = match next {
            Some((e, next)) if is_new => {
                write_whole(&mut tx, &e, &next, now).await?;
                let (id, detail) = (e.id.as_str(), save.id.as_str());
                crate::audit::insert(&mut tx, now, None, "store", id, detail).await?;
                true
            }
            _ => {
                save_points::set_state(&mut tx, &save.id, None, &SaveState::Deleting).await?;
                false
            }
        };
        tx.commit().await?;
        Ok(stored)
    }

    /// Records that a suspended environment could not be written to disk. It is tried again at `retry_at`.
    pub async fn record_failed_suspension(
        &self,
        save: &SavePoint,
        state: &SaveState,
        retry_at: Timestamp,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        if save_points::set_state(&mut tx, &save.id, Some(&SaveState::Saving), state).await? {
            sqlx::query("UPDATE save_points SET expires_at = $1 WHERE id = $2")
                .bind(micros(retry_at))
                .bind(save.id.as_str())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Requests that an environment continues from disk. Returns the environment as it is if it isn't on disk any more,
    /// and `None` if it doesn't exist. `idle_seconds` is the time without use after which it is suspended again.
    pub async fn load_environment(
        &self,
        id: &EnvironmentId,
        idle_seconds: i64,
        admit: Admit<'_>,
        now: Timestamp,
    ) -> Result<Option<Environment>, Refused> {
        let mut tx = self.begin().await?;
        let Some(e) = read(&mut tx, id).await? else {
            return Ok(None);
        };
        let (Some(on_disk), Ok(next)) = (e.state.on_disk(), e.state.clone().load(now)) else {
            return Ok(Some(e));
        };
        if !e.is_open() {
            return Ok(Some(e));
        }
        admit(counts(&mut tx, &e.person, Some(&e.id), now).await?)?;
        let lifetime = Lifetime {
            idle_seconds,
            ..on_disk.continued(now)
        };
        let spec = Spec {
            tenant: tenant::Spec {
                save_point: Some(on_disk.save_point.clone()),
                ..e.spec.tenant.clone()
            },
            ..e.spec.clone()
        };
        write_state(&mut tx, &e, &next, now).await?;
        sqlx::query(
            "UPDATE environments SET intent = $1, spec = $2, expires_at = $3, hard_end = $4, \
             last_used = $5, idle_seconds = $6, warned = NULL WHERE id = $7",
        )
        .bind(to_json(&Intent::Active)?)
        .bind(to_json(&spec)?)
        .bind(micros(lifetime.expires_at))
        .bind(micros(lifetime.hard_end))
        .bind(micros(lifetime.last_used))
        .bind(lifetime.idle_seconds)
        .bind(id.as_str())
        .execute(&mut *tx)
        .await?;
        crate::stages::forget(&mut tx, id).await?;
        crate::start_log::forget(&mut tx, id).await?;
        let who = Some(e.person.as_str());
        crate::audit::insert(&mut tx, now, who, "resume", id.as_str(), "").await?;
        let made = read(&mut tx, id).await?;
        tx.commit().await?;
        Ok(made)
    }

    /// Returns the save points of suspended environments.
    pub async fn suspensions(&self) -> Result<Vec<SavePoint>> {
        save_points::suspensions(&self.readers).await
    }
}
