//! The changes of requests: that an environment should exist, for how long, and that it should end.

use faultline_domain::{
    AttemptId, EnvironmentId, LabSlug, NodeName, PersonId,
    environment::{EndReason, Environment, Intent, Lifetime, Spec, State},
    limits::Denial,
    save_point::SavePoint,
};
use jiff::{SignedDuration, Timestamp};

use super::{Row, read, read_all, select};
use crate::{
    Result, Store,
    db::{Tx, micros, to_json},
    lab_contents::{self, LabContent},
    quotas::{self, Uses},
    save_points,
};

/// The counts that admission needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// The number of environments with a tenant.
    pub environments: u32,
    /// The number of nodes of these environments.
    pub nodes: u32,
    /// What the person, the person's groups and everyone use, including environments in the queue.
    pub uses: Uses,
    /// Nodes that were admitted but haven't allocated their memory and disk yet.
    pub coming: Vec<Coming>,
}

impl Counts {
    /// Counts environments that haven't ended. Those in the queue have no resources yet.
    #[must_use]
    pub fn of(all: &[Environment]) -> Self {
        let placed = all.iter().filter(|e| e.tenant.is_some());
        let coming = placed.clone().map(|e| Coming {
            is_cluster: e.spec.is_cluster(),
            nodes: e.nodes_to_come(),
        });
        let nodes = placed.clone().map(|e| e.taken().len()).sum::<usize>();
        Self {
            environments: u32::try_from(placed.count()).unwrap_or(u32::MAX),
            nodes: u32::try_from(nodes).unwrap_or(u32::MAX),
            uses: Uses::default(),
            coming: coming.filter(|c| c.nodes > 0).collect(),
        }
    }
}

/// Nodes of an environment that are still to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coming {
    /// Whether a cluster runs on them.
    pub is_cluster: bool,
    /// The number of nodes.
    pub nodes: u64,
}

/// Decides whether one more environment or node is admitted, within the transaction that counted.
pub type Admit<'a> = &'a (dyn Fn(Counts) -> Result<(), Denial> + Send + Sync);

/// Why an environment can't be started.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Admission was denied.
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

pub(super) async fn counts(
    tx: &mut Tx,
    person: &PersonId,
    without: Option<&EnvironmentId>,
    now: Timestamp,
) -> Result<Counts> {
    let rows: Vec<Row> = sqlx::query_as(select!(
        "WHERE environments.is_final = $1 AND environments.id <> $2"
    ))
    .bind(false)
    .bind(without.map_or("", EnvironmentId::as_str))
    .fetch_all(&mut **tx)
    .await?;
    let all = read_all(rows)?;
    Ok(Counts {
        uses: quotas::uses(tx, person, &all, now).await?,
        ..Counts::of(&all)
    })
}

const INSERT: &str = "INSERT INTO environments (id, attempt_id, person_id, lab, spec, created_at, \
     intent, expires_at, hard_end, last_used, idle_seconds, state, phase, is_final, generation, \
     updated_at, wanted_nodes, lab_hash) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 0, $6, $15, $16)";
/// Resets an environment, as if it were inserted now. The generation increases, so that earlier reads are outdated.
const RESET: &str = "UPDATE environments SET attempt_id = $2, person_id = $3, lab = $4, spec = $5, \
     created_at = $6, intent = $7, expires_at = $8, hard_end = $9, last_used = $10, \
     idle_seconds = $11, state = $12, phase = $13, is_final = $14, generation = generation + 1, \
     updated_at = $6, wanted_nodes = $15, lab_hash = $16, added_nodes = '[]', warned = NULL, \
     activated = NULL, tenant_id = NULL WHERE id = $1";

/// Writes a new environment, with [`INSERT`] or [`RESET`].
async fn write(tx: &mut Tx, sql: &'static str, e: &Environment) -> Result<()> {
    sqlx::query(sql)
        .bind(e.id.as_str())
        .bind(e.attempt.as_str())
        .bind(e.person.as_str())
        .bind(e.lab.as_str())
        .bind(to_json(&e.spec)?)
        .bind(micros(e.created_at))
        .bind(to_json(&e.intent)?)
        .bind(micros(e.lifetime.expires_at))
        .bind(micros(e.lifetime.hard_end))
        .bind(micros(e.lifetime.last_used))
        .bind(e.lifetime.idle_seconds)
        .bind(to_json(&e.state)?)
        .bind(e.state.phase().as_str())
        .bind(e.state.is_final())
        .bind(to_json(&e.wanted)?)
        .bind(&e.lab_hash)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Returns a person's open environments of a lab, newest first.
async fn open_at(tx: &mut Tx, person: &PersonId, lab: &LabSlug) -> Result<Vec<Environment>> {
    let sql = select!(
        "WHERE person_id = $1 AND lab = $2 AND environments.is_final = $3 \
         ORDER BY environments.created_at DESC"
    );
    let rows: Vec<Row> = sqlx::query_as(sql)
        .bind(person.as_str())
        .bind(lab.as_str())
        .bind(false)
        .fetch_all(&mut **tx)
        .await?;
    let mut open = read_all(rows)?;
    open.retain(Environment::is_open);
    Ok(open)
}

async fn begin_attempt(
    tx: &mut Tx,
    id: &AttemptId,
    person: &PersonId,
    lab: &LabSlug,
    now: Timestamp,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO attempts (id, person_id, lab, started_at, gave_up) \
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(id.as_str())
    .bind(person.as_str())
    .bind(lab.as_str())
    .bind(micros(now))
    .bind(false)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn fresh(
    id: EnvironmentId,
    attempt: AttemptId,
    (person, lab): (PersonId, LabSlug),
    content: LabContent<'_>,
    spec: Spec,
    lifetime: Lifetime,
    now: Timestamp,
) -> Environment {
    Environment {
        id,
        attempt,
        person,
        lab,
        lab_hash: Some(content.hash.to_owned()),
        wanted: spec.setup_nodes.clone(),
        added: Vec::new(),
        spec,
        created_at: now,
        intent: Intent::Active,
        lifetime,
        state: State::requested(now),
        tenant: None,
        warned: None,
        generation: 0,
        updated_at: now,
    }
}

/// What an environment begins anew with.
#[derive(Debug)]
pub struct Renewal<'a> {
    /// The attempt that is started if the current one is finished.
    pub attempt: AttemptId,
    /// The lab's content.
    pub content: LabContent<'a>,
    /// The description of the environment.
    pub spec: Spec,
    /// The nodes that it should have besides those of its template.
    pub nodes: Vec<NodeName>,
    /// The times that limit its life.
    pub lifetime: Lifetime,
    /// The save point with which this can be undone. It is made of the current tenant before that is freed, or it is the
    /// one of the suspended environment.
    pub undo: Option<SavePoint>,
}

/// Requests an environment anew, and releases its current tenant.
async fn renew(
    tx: &mut Tx,
    old: &Environment,
    renewal: Renewal<'_>,
    now: Timestamp,
) -> Result<Environment> {
    let finished: Option<i64> =
        sqlx::query_scalar("SELECT finished_at FROM attempts WHERE id = $1")
            .bind(old.attempt.as_str())
            .fetch_optional(&mut **tx)
            .await?
            .flatten();
    let attempt = if finished.is_some() {
        begin_attempt(tx, &renewal.attempt, &old.person, &old.lab, now).await?;
        renewal.attempt
    } else {
        old.attempt.clone()
    };
    let made = Environment {
        generation: old.generation + 1,
        wanted: renewal.nodes,
        // Only what it holds now gives it the next place.
        state: match (&old.tenant, &old.state) {
            (Some(tenant), _) if !tenant.state.is_final() => State::requested_again(now),
            // Whoever waits keeps the place.
            (
                None,
                State::Requested {
                    since,
                    tries,
                    returns,
                    ..
                },
            ) => State::Requested {
                since: *since,
                tries: *tries,
                returns: *returns,
                on_disk: None,
            },
            _ => State::requested(now),
        },
        ..fresh(
            old.id.clone(),
            attempt,
            (old.person.clone(), old.lab.clone()),
            renewal.content,
            renewal.spec,
            renewal.lifetime,
            now,
        )
    };
    lab_contents::keep(tx, renewal.content).await?;
    write(tx, RESET, &made).await?;
    quotas::record_run(tx, old, made.state.phase(), now).await?;
    if let Some(undo) = renewal.undo {
        let runs = matches!(old.state, State::Active { .. } | State::Suspended { .. });
        match (old.state.on_disk(), old.tenant_id()) {
            // It may have reached the disk since it was read.
            (Some(on_disk), _) => {
                let id = on_disk.save_point.clone();
                save_points::turn_into_undo(tx, &SavePoint { id, ..undo }).await?;
            }
            // A tenant that has not been used yet, or has ended, has nothing to go back to.
            (None, Some(id)) if runs && undo.tenant == *id => {
                save_points::insert(tx, &undo).await?;
            }
            _ => {}
        }
    }
    if let Some(id) = old.tenant_id() {
        crate::tenants::release(tx, id, now).await?;
    }
    crate::stages::forget(tx, &old.id).await?;
    crate::start_log::forget(tx, &old.id).await?;
    Ok(made)
}

/// Writes a new environment and starts its attempt, if it is admitted.
async fn begin(
    tx: &mut Tx,
    made: &Environment,
    content: LabContent<'_>,
    admit: Admit<'_>,
) -> Result<(), Refused> {
    let now = made.created_at;
    admit(counts(tx, &made.person, None, now).await?)?;
    begin_attempt(tx, &made.attempt, &made.person, &made.lab, now).await?;
    lab_contents::keep(tx, content).await?;
    write(tx, INSERT, made).await?;
    Ok(())
}

impl Store {
    /// Requests an environment of a lab and starts an attempt. If the person has an open environment of this lab,
    /// returns that one, so pressing Start twice creates one machine. `id` and `attempt` are used only for a new
    /// environment.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a column; a struct would only be taken apart again"
    )]
    pub async fn start_environment(
        &self,
        id: EnvironmentId,
        attempt: AttemptId,
        person: &PersonId,
        lab: &LabSlug,
        content: LabContent<'_>,
        spec: Spec,
        lifetime: Lifetime,
        admit: Admit<'_>,
        now: Timestamp,
    ) -> Result<Environment, Refused> {
        let mut tx = self.begin().await?;
        if let Some(open) = open_at(&mut tx, person, lab).await?.into_iter().next() {
            return Ok(open);
        }
        let made = fresh(
            id,
            attempt,
            (person.clone(), lab.clone()),
            content,
            spec,
            lifetime,
            now,
        );
        begin(&mut tx, &made, content, admit).await?;
        crate::pools::record_start(&mut tx, &made).await?;
        let who = Some(person.as_str());
        crate::audit::insert(&mut tx, now, who, "start", made.id.as_str(), lab.as_str()).await?;
        tx.commit().await?;
        Ok(made)
    }

    /// Resets an environment, in any state: it is requested anew, on another tenant, and its current tenant is
    /// released. It keeps its attempt, unless that was solved or given up; then another one is started. If the
    /// environment has ended and the person has another open one of this lab, returns that one instead.
    pub async fn reset_environment(
        &self,
        old: &Environment,
        renewal: Renewal<'_>,
        admit: Admit<'_>,
        now: Timestamp,
    ) -> Result<Environment, Refused> {
        let mut tx = self.begin().await?;
        let current = read(&mut tx, &old.id).await?;
        // It has already been reset since it was read: pressing Reset twice resets it once.
        if let Some(done) = current.as_ref().filter(|e| e.created_at > old.created_at) {
            return Ok(done.clone());
        }
        let old = current.as_ref().unwrap_or(old);
        if !old.is_open() {
            let open = open_at(&mut tx, &old.person, &old.lab).await?;
            if let Some(newer) = open.into_iter().next() {
                return Ok(newer);
            }
        }
        admit(counts(&mut tx, &old.person, Some(&old.id), now).await?)?;
        let made = renew(&mut tx, old, renewal, now).await?;
        crate::pools::record_start(&mut tx, &made).await?;
        let (who, id) = (Some(old.person.as_str()), old.id.as_str());
        crate::audit::insert(&mut tx, now, who, "reset", id, old.lab.as_str()).await?;
        tx.commit().await?;
        Ok(made)
    }

    /// Restores an environment, in any state, to a save point: like a reset, but its next tenant continues from there.
    /// Returns `None` if the save point can't be used any more.
    pub async fn restore_environment(
        &self,
        old: &Environment,
        save: &SavePoint,
        renewal: Renewal<'_>,
        admit: Admit<'_>,
        now: Timestamp,
    ) -> Result<Option<Environment>, Refused> {
        let mut tx = self.begin().await?;
        if !save_points::is_complete(&mut tx, &save.id).await? {
            return Ok(None);
        }
        let current = read(&mut tx, &old.id).await?;
        if let Some(done) = current.as_ref().filter(|e| e.created_at > old.created_at) {
            return Ok(Some(done.clone()));
        }
        let old = current.as_ref().unwrap_or(old);
        admit(counts(&mut tx, &old.person, Some(&old.id), now).await?)?;
        let made = renew(&mut tx, old, renewal, now).await?;
        let (who, id) = (Some(old.person.as_str()), old.id.as_str());
        crate::audit::insert(&mut tx, now, who, "restore", id, save.id.as_str()).await?;
        tx.commit().await?;
        Ok(Some(made))
    }

    /// Requests another environment that continues from a save point, and starts an attempt. Returns `None` if the save
    /// point can't be used any more.
    pub async fn fork_environment(
        &self,
        id: EnvironmentId,
        save: &SavePoint,
        renewal: Renewal<'_>,
        admit: Admit<'_>,
        now: Timestamp,
    ) -> Result<Option<Environment>, Refused> {
        let mut tx = self.begin().await?;
        if !save_points::is_complete(&mut tx, &save.id).await? {
            return Ok(None);
        }
        let (person, lab) = (save.person.clone(), save.lab.clone());
        let made = Environment {
            wanted: renewal.nodes,
            ..fresh(
                id,
                renewal.attempt,
                (person, lab),
                renewal.content,
                renewal.spec,
                renewal.lifetime,
                now,
            )
        };
        begin(&mut tx, &made, renewal.content, admit).await?;
        let (who, of) = (Some(save.person.as_str()), save.id.as_str());
        crate::audit::insert(&mut tx, now, who, "fork", made.id.as_str(), of).await?;
        tx.commit().await?;
        Ok(Some(made))
    }

    /// Requests an environment's end. Returns false if its end was already requested or has come.
    pub async fn end_environment(
        &self,
        id: &EnvironmentId,
        reason: EndReason,
        by: Option<&PersonId>,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "UPDATE environments SET intent = $1 \
             WHERE id = $2 AND is_final = $3 AND intent NOT LIKE '%gone%'",
        )
        .bind(to_json(&Intent::Gone(reason))?)
        .bind(id.as_str())
        .bind(false)
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        let who = by.map(PersonId::as_str);
        let why = to_json(&reason)?;
        let why = why.trim_matches('"');
        crate::audit::insert(&mut tx, now, who, "end", id.as_str(), why).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Sets an environment's intent, to run or to be suspended: by a person, or because nobody uses it. A change counts
    /// as use. Returns false if the environment's end was requested or has come, or if it should run and is on disk.
    pub async fn set_intent(
        &self,
        id: &EnvironmentId,
        intent: Intent,
        by: Option<&PersonId>,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let wanted = to_json(&intent)?;
        let current = read(&mut tx, id).await?;
        let current = current
            .filter(|e| !e.state.is_final() && !matches!(e.intent, Intent::Gone(_)))
            // From there, it continues on another tenant.
            .filter(|e| intent != Intent::Active || !e.state.is_on_disk());
        let Some(current) = current else {
            return Ok(false);
        };
        if current.intent == intent {
            return Ok(true);
        }
        let sql =
            "UPDATE environments SET intent = $1, last_used = $2, warned = NULL WHERE id = $3";
        sqlx::query(sql)
            .bind(wanted)
            .bind(micros(now))
            .bind(id.as_str())
            .execute(&mut *tx)
            .await?;
        let what = match intent {
            Intent::Active => "resume",
            Intent::Suspended => "suspend",
            Intent::Gone(_) => "end",
        };
        let who = by.map(PersonId::as_str);
        crate::audit::insert(&mut tx, now, who, what, id.as_str(), "").await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Extends an environment's lifetime by `step`, at most to its hard end. Clears its warnings and counts as use.
    /// Returns the new lifetime, or `None` if the environment has ended.
    pub async fn extend_environment(
        &self,
        id: &EnvironmentId,
        step: SignedDuration,
        by: &PersonId,
        now: Timestamp,
    ) -> Result<Option<Lifetime>> {
        let mut tx = self.begin().await?;
        // The lifetime is read here, because a reset may have changed it since the request.
        let Some(e) = read(&mut tx, id).await?.filter(Environment::is_open) else {
            return Ok(None);
        };
        let lifetime = Lifetime {
            last_used: now,
            ..e.lifetime.extended(step)
        };
        sqlx::query(
            "UPDATE environments SET expires_at = $1, last_used = $2, warned = NULL WHERE id = $3",
        )
        .bind(micros(lifetime.expires_at))
        .bind(micros(lifetime.last_used))
        .bind(id.as_str())
        .execute(&mut *tx)
        .await?;
        let (who, until) = (Some(by.as_str()), lifetime.expires_at.to_string());
        crate::audit::insert(&mut tx, now, who, "extend", id.as_str(), &until).await?;
        tx.commit().await?;
        Ok(Some(lifetime))
    }

    /// Records that an environment is in use. Writes at most twice a minute, however often it is called.
    pub async fn touch_environment(&self, id: &EnvironmentId, now: Timestamp) -> Result<()> {
        let before = micros(now) - 30_000_000;
        let sql = "SELECT 1 FROM environments WHERE id = $1 AND last_used < $2";
        let due: Option<i64> = sqlx::query_scalar(sql)
            .bind(id.as_str())
            .bind(before)
            .fetch_optional(&self.readers)
            .await?;
        if due.is_some() {
            sqlx::query("UPDATE environments SET last_used = $1 WHERE id = $2 AND last_used < $3")
                .bind(micros(now))
                .bind(id.as_str())
                .bind(before)
                .execute(&self.writer)
                .await?;
        }
        Ok(())
    }
}
