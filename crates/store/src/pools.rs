//! Warm pools: their tenants, the starts that they are forecast from, the operators' bounds, and announced events.

use faultline_domain::{
    EnvironmentId, LabSlug, PersonId, TenantId,
    environment::{Environment, State as EnvironmentState},
    pool::{self, Bounds, Pool, Pooled, forecast::Event},
    tenant::{Spec, State, Tenant},
};
use jiff::{SignedDuration, Timestamp};
use sqlx::FromRow;

use crate::{
    Result, Store,
    db::{Tx, count, micros, parse, time, to_json},
    environments::{leave_queue, write_state},
    lab_contents::{self, LabContent},
    pool_saves, tenants,
};

/// What served a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServedBy {
    /// The lab's pool: the setup was done.
    Lab,
    /// The template's pool.
    Template,
    /// A tenant that was being made for a pool.
    Unfinished,
    /// A tenant of its own.
    Clone,
}

impl ServedBy {
    /// All of them, fastest first.
    pub const ALL: [Self; 4] = [Self::Lab, Self::Template, Self::Unfinished, Self::Clone];

    /// Returns the stable word used in the store, the API and the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lab => "lab",
            Self::Template => "template",
            Self::Unfinished => "unfinished",
            Self::Clone => "clone",
        }
    }

    fn of(pool: &Pool) -> Self {
        match pool {
            Pool::Lab(_) => Self::Lab,
            Pool::Template(_) => Self::Template,
        }
    }
}

/// A start that a forecast is based on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The lab.
    pub lab: LabSlug,
    /// When it was requested.
    pub at: Timestamp,
    /// True if it was a reset.
    pub is_reset: bool,
}

/// A start that was served, and how long its person waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// What served it.
    pub by: ServedBy,
    /// The time until the environment could be used, without the time in the queue, in milliseconds.
    pub millis: u64,
}

/// When a start was requested, got a tenant and could be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartTimes {
    /// The environment.
    pub environment: EnvironmentId,
    /// When it was requested.
    pub requested: Timestamp,
    /// What served it, and when it got its tenant. `None` if it never did.
    pub served: Option<(ServedBy, Timestamp)>,
    /// When it became active. `None` if it never did.
    pub active: Option<Timestamp>,
}

/// A tenant that was made for a pool, in any state.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolTenant {
    /// The tenant.
    pub tenant: Tenant,
    /// What it was made of.
    pub pooled: Pooled,
    /// How long it took to make it, in milliseconds. `None` if it isn't complete, or never was.
    pub made_in_millis: Option<u64>,
    /// The memory that it had to itself while paused, in bytes.
    pub paused_bytes: Option<u64>,
}

#[derive(FromRow)]
struct Row {
    #[sqlx(flatten)]
    tenant: tenants::Row,
    made_in_millis: Option<i64>,
    paused_bytes: Option<i64>,
}

#[derive(FromRow)]
struct EventRow {
    id: String,
    lab: String,
    begins_at: i64,
    seats: i64,
    note: String,
}

impl EventRow {
    fn read(self) -> Result<Event> {
        Ok(Event {
            id: self.id,
            lab: parse("lab", &self.lab)?,
            at: time("event time", self.begins_at)?,
            seats: count("seats", self.seats)?,
            note: self.note,
        })
    }
}

#[derive(FromRow)]
struct TimesRow {
    environment_id: String,
    requested_at: i64,
    served_by: Option<String>,
    served_at: Option<i64>,
    active_at: Option<i64>,
}

impl TimesRow {
    fn read(self) -> Result<StartTimes> {
        let at = |at: Option<i64>| at.map(|at| time("start time", at)).transpose();
        let by = ServedBy::ALL
            .into_iter()
            .find(|known| Some(known.as_str()) == self.served_by.as_deref());
        Ok(StartTimes {
            environment: parse("environment id", &self.environment_id)?,
            requested: time("start time", self.requested_at)?,
            served: by.zip(at(self.served_at)?),
            active: at(self.active_at)?,
        })
    }
}

/// Records a request for an environment, as demand for pools.
pub(crate) async fn record_start(tx: &mut Tx, of: &Environment) -> Result<()> {
    sqlx::query(
        "INSERT INTO starts (environment_id, requested_at, lab) VALUES ($1, $2, $3) \
         ON CONFLICT DO NOTHING",
    )
    .bind(of.id.as_str())
    .bind(micros(of.created_at))
    .bind(of.lab.as_str())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Records what serves an environment's current start, from now on.
pub(crate) async fn record_served(
    tx: &mut Tx,
    of: &Environment,
    by: ServedBy,
    now: Timestamp,
) -> Result<()> {
    let sql = "UPDATE starts SET served_by = $1, served_at = coalesce(served_at, $2) \
               WHERE environment_id = $3 AND requested_at = $4";
    sqlx::query(sql)
        .bind(by.as_str())
        .bind(micros(now))
        .bind(of.id.as_str())
        .bind(micros(of.created_at))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Records that an environment's current start is done, unless it already was.
pub(crate) async fn record_active(tx: &mut Tx, of: &Environment, now: Timestamp) -> Result<()> {
    sqlx::query(
        "UPDATE starts SET active_at = $1 \
         WHERE environment_id = $2 AND requested_at = $3 AND active_at IS NULL",
    )
    .bind(micros(now))
    .bind(of.id.as_str())
    .bind(micros(of.created_at))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Gives a tenant of a pool to an environment.
async fn assign(tx: &mut Tx, tenant: &Tenant, to: &Environment, now: Timestamp) -> Result<()> {
    leave_queue(tx, to, now).await?;
    sqlx::query("UPDATE tenants SET environment_id = $1, spec = $2 WHERE id = $3")
        .bind(to.id.as_str())
        .bind(to_json(&to.spec.tenant)?)
        .bind(tenant.id.as_str())
        .execute(&mut **tx)
        .await?;
    sqlx::query("UPDATE environments SET tenant_id = $1, added_nodes = '[]' WHERE id = $2")
        .bind(tenant.id.as_str())
        .bind(to.id.as_str())
        .execute(&mut **tx)
        .await?;
    crate::stages::forget(tx, &to.id).await
}

/// Returns the tenants of pools that are in this phase and that nobody has, oldest first.
async fn unclaimed(tx: &mut Tx, phase: &str) -> Result<Vec<Tenant>> {
    let rows: Vec<tenants::Row> = sqlx::query_as(
        "SELECT * FROM tenants WHERE is_final = $1 AND phase = $2 \
         AND environment_id IS NULL AND pooled IS NOT NULL ORDER BY created_at, id",
    )
    .bind(false)
    .bind(phase)
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(tenants::Row::read).collect()
}

/// Returns the tenant that an environment should get.
fn choose(tenants: &[Tenant], for_: &Environment) -> Option<(Tenant, Pool)> {
    let (hash, template) = (for_.lab_hash.as_deref(), &for_.spec.tenant.template);
    let chosen = pool::choose(tenants, &for_.lab, hash, template)?.clone();
    let pool = chosen.pooled.as_ref()?.pool.clone();
    Some((chosen, pool))
}

impl Store {
    /// Requests a tenant for a pool. `lab` is the content of the lab whose setup it gets. If one like it is on disk, it
    /// continues from that.
    pub async fn add_to_pool(
        &self,
        id: &TenantId,
        spec: &Spec,
        pooled: &Pooled,
        lab: Option<LabContent<'_>>,
        now: Timestamp,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        if let Some(lab) = lab {
            lab_contents::keep(&mut tx, lab).await?;
        }
        let spec = Spec {
            save_point: pool_saves::take(&mut tx, pooled, id).await?,
            ..spec.clone()
        };
        tenants::insert(&mut tx, id, None, &spec, Some(pooled), now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Claims a warm tenant of a pool for an environment that waits for one. Returns the environment as it is then, or
    /// `None` if there is no such tenant or the environment has changed since it was read.
    pub async fn claim_from_pool(
        &self,
        by: &Environment,
        preparing: &EnvironmentState,
        now: Timestamp,
    ) -> Result<Option<Environment>> {
        let mut tx = self.begin().await?;
        let warm = unclaimed(&mut tx, "warm").await?;
        let Some((tenant, pool)) = choose(&warm, by) else {
            return Ok(None);
        };
        let Some(claimed) = tenant.state.claim(now) else {
            return Ok(None);
        };
        if by.tenant.is_some()
            || !tenants::write(&mut tx, &tenant, &claimed, now).await?
            || !write_state(&mut tx, by, preparing, now).await?
        {
            return Ok(None);
        }
        assign(&mut tx, &tenant, by, now).await?;
        record_served(&mut tx, by, ServedBy::of(&pool), now).await?;
        let given = crate::environments::read(&mut tx, &by.id).await?;
        tx.commit().await?;
        Ok(given)
    }

    /// Gives an environment a tenant that is being made for a pool, and returns it. `None` if there is none or the
    /// environment has changed since it was read.
    pub async fn take_over_from_pool(
        &self,
        by: &Environment,
        now: Timestamp,
    ) -> Result<Option<TenantId>> {
        let mut tx = self.begin().await?;
        let begun = unclaimed(&mut tx, "provisioning").await?;
        let Some((tenant, _)) = choose(&begun, by) else {
            return Ok(None);
        };
        let done = sqlx::query(
            "UPDATE environments SET generation = generation + 1, updated_at = $1 \
             WHERE id = $2 AND generation = $3 AND tenant_id IS NULL",
        )
        .bind(micros(now))
        .bind(by.id.as_str())
        .bind(by.generation)
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(None);
        }
        assign(&mut tx, &tenant, by, now).await?;
        // Its deadline begins again. The generation stays, because the step that makes it goes on.
        sqlx::query("UPDATE tenants SET state = $1 WHERE id = $2")
            .bind(to_json(&State::Provisioning { since: now })?)
            .bind(tenant.id.as_str())
            .execute(&mut *tx)
            .await?;
        record_served(&mut tx, by, ServedBy::Unfinished, now).await?;
        tx.commit().await?;
        Ok(Some(tenant.id))
    }

    /// Returns the environment that a tenant was made for or that has claimed it.
    pub async fn owner_of_tenant(&self, id: &TenantId) -> Result<Option<EnvironmentId>> {
        let found: Option<Option<String>> =
            sqlx::query_scalar("SELECT environment_id FROM tenants WHERE id = $1")
                .bind(id.as_str())
                .fetch_optional(&self.readers)
                .await?;
        let found = found.flatten();
        found.map(|id| parse("environment id", &id)).transpose()
    }

    /// Releases a tenant of a pool, unless somebody has claimed it in the meantime.
    pub async fn release_from_pool(&self, id: &TenantId, now: Timestamp) -> Result<()> {
        let mut tx = self.begin().await?;
        let held: Option<i64> =
            sqlx::query_scalar("SELECT 1 FROM tenants WHERE id = $1 AND environment_id IS NULL")
                .bind(id.as_str())
                .fetch_optional(&mut *tx)
                .await?;
        if held.is_some() {
            tenants::release(&mut tx, id, now).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Records what it took to make a tenant of a pool.
    pub async fn record_made(
        &self,
        id: &TenantId,
        millis: u64,
        paused_bytes: Option<u64>,
    ) -> Result<()> {
        sqlx::query("UPDATE tenants SET made_in_millis = $1, paused_bytes = $2 WHERE id = $3")
            .bind(i64::try_from(millis).unwrap_or(i64::MAX))
            .bind(paused_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)))
            .bind(id.as_str())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Returns the tenants that were requested for pools since then, newest first, and all that still have resources
    /// and belong to nobody.
    pub async fn pool_tenants(&self, since: Timestamp) -> Result<Vec<PoolTenant>> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT * FROM tenants WHERE pooled IS NOT NULL \
             AND (created_at >= $1 OR (is_final = $2 AND environment_id IS NULL)) \
             ORDER BY created_at DESC, id",
        )
        .bind(micros(since))
        .bind(false)
        .fetch_all(&self.readers)
        .await?;
        let read = |row: Row| {
            let tenant = row.tenant.read()?;
            let Some(pooled) = tenant.pooled.clone() else {
                return Ok(None);
            };
            let number = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
            Ok(Some(PoolTenant {
                tenant,
                pooled,
                made_in_millis: number(row.made_in_millis),
                paused_bytes: number(row.paused_bytes),
            }))
        };
        rows.into_iter()
            .filter_map(|row| read(row).transpose())
            .collect()
    }

    /// Returns the starts and resets since then that got a tenant, oldest first.
    pub async fn starts_since(&self, since: Timestamp) -> Result<Vec<Start>> {
        let rows: Vec<(String, i64, bool)> = sqlx::query_as(
            "SELECT lab, requested_at, EXISTS (SELECT 1 FROM starts earlier \
             WHERE earlier.environment_id = starts.environment_id \
             AND earlier.requested_at < starts.requested_at) \
             FROM starts WHERE requested_at >= $1 AND served_by IS NOT NULL ORDER BY requested_at",
        )
        .bind(micros(since))
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter()
            .map(|(lab, at, is_reset)| {
                Ok(Start {
                    lab: parse("lab", &lab)?,
                    at: time("start time", at)?,
                    is_reset,
                })
            })
            .collect()
    }

    /// Returns the starts since then that were served, with how long people waited.
    pub async fn served_since(&self, since: Timestamp) -> Result<Vec<Served>> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT served_by, (active_at - served_at) / 1000 FROM starts \
             WHERE requested_at >= $1 AND served_by IS NOT NULL AND active_at IS NOT NULL",
        )
        .bind(micros(since))
        .fetch_all(&self.readers)
        .await?;
        let served = rows.into_iter().filter_map(|(by, millis)| {
            let by = ServedBy::ALL
                .into_iter()
                .find(|known| known.as_str() == by)?;
            Some(Served {
                by,
                millis: u64::try_from(millis).unwrap_or_default(),
            })
        });
        Ok(served.collect())
    }

    /// Returns the times of all starts that are still recorded, oldest first.
    pub async fn start_times(&self) -> Result<Vec<StartTimes>> {
        let rows: Vec<TimesRow> = sqlx::query_as(
            "SELECT environment_id, requested_at, served_by, served_at, active_at FROM starts \
             ORDER BY requested_at, environment_id",
        )
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(TimesRow::read).collect()
    }

    /// Returns when an environment's current start left the queue.
    pub async fn served_at(&self, of: &Environment) -> Result<Option<Timestamp>> {
        let at: Option<Option<i64>> = sqlx::query_scalar(
            "SELECT served_at FROM starts WHERE environment_id = $1 AND requested_at = $2",
        )
        .bind(of.id.as_str())
        .bind(micros(of.created_at))
        .fetch_optional(&self.readers)
        .await?;
        at.flatten().map(|at| time("start time", at)).transpose()
    }

    /// Returns how long environments usually live: the median of the last ones that ended. `None` if there are none.
    pub async fn usual_lifetime(&self) -> Result<Option<SignedDuration>> {
        let mut lives: Vec<i64> = sqlx::query_scalar(
            "SELECT coalesce((SELECT sum(ended_at - began_at) FROM runs \
             WHERE environment_id = e.id), 0) FROM (SELECT id FROM environments \
             WHERE phase = 'gone' AND activated IS NOT NULL \
             ORDER BY updated_at DESC LIMIT 50) e",
        )
        .fetch_all(&self.readers)
        .await?;
        lives.retain(|micros| *micros > 0);
        lives.sort_unstable();
        let median = lives.get(lives.len() / 2);
        Ok(median.map(|micros| SignedDuration::from_micros(*micros)))
    }

    /// Deletes starts and events from before `until`.
    pub async fn forget_demand(&self, until: Timestamp) -> Result<()> {
        let mut tx = self.begin().await?;
        for sql in [
            "DELETE FROM starts WHERE requested_at < $1",
            "DELETE FROM announced_events WHERE begins_at < $1",
        ] {
            sqlx::query(sql)
                .bind(micros(until))
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Returns the operators' bounds, by the names of pools. Other pools have the default.
    pub async fn pool_bounds(&self) -> Result<Vec<(String, Bounds)>> {
        let rows: Vec<(String, i64, i64)> =
            sqlx::query_as("SELECT pool, floor, ceiling FROM pool_bounds ORDER BY pool")
                .fetch_all(&self.readers)
                .await?;
        rows.into_iter()
            .map(|(pool, floor, ceiling)| {
                let bounds = Bounds {
                    floor: count("floor", floor)?,
                    ceiling: count("ceiling", ceiling)?,
                };
                Ok((pool, bounds))
            })
            .collect()
    }

    /// Sets a pool's bounds.
    pub async fn set_pool_bounds(
        &self,
        pool: &str,
        bounds: Bounds,
        by: &PersonId,
        now: Timestamp,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO pool_bounds (pool, floor, ceiling) VALUES ($1, $2, $3) \
             ON CONFLICT (pool) DO UPDATE SET floor = $2, ceiling = $3",
        )
        .bind(pool)
        .bind(i64::from(bounds.floor))
        .bind(i64::from(bounds.ceiling))
        .execute(&mut *tx)
        .await?;
        let detail = format!("floor {}, ceiling {}", bounds.floor, bounds.ceiling);
        crate::audit::insert(&mut tx, now, Some(by.as_str()), "pool", pool, &detail).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Returns the announced events that begin after `since`, earliest first.
    pub async fn events_since(&self, since: Timestamp) -> Result<Vec<Event>> {
        let rows: Vec<EventRow> = sqlx::query_as(
            "SELECT id, lab, begins_at, seats, note FROM announced_events \
             WHERE begins_at >= $1 ORDER BY begins_at, id",
        )
        .bind(micros(since))
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(EventRow::read).collect()
    }

    /// Announces an event.
    pub async fn announce_event(&self, event: &Event, by: &PersonId, now: Timestamp) -> Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO announced_events (id, lab, begins_at, seats, note, created_by) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&event.id)
        .bind(event.lab.as_str())
        .bind(micros(event.at))
        .bind(i64::from(event.seats))
        .bind(&event.note)
        .bind(by.as_str())
        .execute(&mut *tx)
        .await?;
        let detail = format!("{} at {}, {} people", event.lab, event.at, event.seats);
        crate::audit::insert(
            &mut tx,
            now,
            Some(by.as_str()),
            "announce",
            &event.id,
            &detail,
        )
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Cancels an announced event. Returns false if there is none.
    pub async fn cancel_event(&self, id: &str, by: &PersonId, now: Timestamp) -> Result<bool> {
        let mut tx = self.begin().await?;
        let done = sqlx::query("DELETE FROM announced_events WHERE id = $1")
            .bind(id)
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        crate::audit::insert(&mut tx, now, Some(by.as_str()), "cancel-event", id, "").await?;
        tx.commit().await?;
        Ok(true)
    }
}
