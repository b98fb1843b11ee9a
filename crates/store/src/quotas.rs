//! Quotas: operators' exceptions, how much is used, and the records of when environments ran.

use std::collections::{HashMap, HashSet};

use faultline_domain::{
    PersonId,
    environment::{Environment, Phase},
    quota::{Overrides, Usage, WINDOW, month},
};
use jiff::{SignedDuration, Timestamp};
use sqlx::SqliteConnection;

use crate::{
    Result, Store,
    db::{Tx, from_json, micros, parse, time, to_json},
};

/// A quota's exceptions, and how much of it is used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Used {
    /// The exceptions.
    pub overrides: Overrides,
    /// How much is used.
    pub usage: Usage,
}

/// Everything that counts when a person asks for more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uses {
    /// Of the person.
    pub person: Used,
    /// Of each group whose member the person is without instructing it, with the group's name.
    pub groups: Vec<(String, Used)>,
    /// Of everyone.
    pub everyone: Usage,
}

/// What everyone uses.
struct Ledger<'a> {
    open: Vec<&'a Environment>,
    starts: Vec<(PersonId, Timestamp)>,
    ran: Vec<(PersonId, SignedDuration)>,
}

impl<'a> Ledger<'a> {
    /// Reads what is used. `unfinished` are the environments that count.
    async fn read(
        db: &mut SqliteConnection,
        unfinished: &'a [Environment],
        now: Timestamp,
    ) -> Result<Self> {
        // Pools don't count what continues from a save point as a start.
        let starts: Vec<(String, i64)> = sqlx::query_as(
            "SELECT person_id, at FROM (SELECT e.id, e.person_id, s.requested_at AS at FROM starts s \
             JOIN environments e ON e.id = s.environment_id WHERE s.requested_at > $1 \
             UNION SELECT id, person_id, created_at FROM environments WHERE created_at > $1)",
        )
        .bind(micros(now) - i64::try_from(WINDOW.as_micros()).unwrap_or(i64::MAX))
        .fetch_all(&mut *db)
        .await?;
        let ran: Vec<(String, i64)> = sqlx::query_as(
            "SELECT person_id, SUM(MAX(0, COALESCE(ended_at, $2) - MAX(began_at, $1))) FROM runs \
             WHERE ended_at IS NULL OR ended_at > $1 GROUP BY person_id",
        )
        .bind(micros(month(now).0))
        .bind(micros(now))
        .fetch_all(&mut *db)
        .await?;
        Ok(Self {
            open: unfinished
                .iter()
                .filter(|e| e.is_open() && !e.state.is_on_disk())
                .collect(),
            starts: starts
                .iter()
                .map(|(id, at)| Ok((parse("person id", id)?, time("start time", *at)?)))
                .collect::<Result<_>>()?,
            ran: ran
                .iter()
                .map(|(id, ran)| Ok((parse("person id", id)?, SignedDuration::from_micros(*ran))))
                .collect::<Result<_>>()?,
        })
    }

    /// Returns what the people use for whom `counts` returns true.
    fn usage(&self, counts: impl Fn(&PersonId) -> bool) -> Usage {
        let mut usage = Usage::default();
        for e in self.open.iter().filter(|e| counts(&e.person)) {
            let nodes = u32::try_from(e.taken().len()).unwrap_or(u32::MAX);
            usage.environments += 1;
            usage.nodes = usage.nodes.saturating_add(nodes);
        }
        let starts = self.starts.iter().filter(|(person, _)| counts(person));
        usage.starts = starts.map(|(_, at)| *at).collect();
        let ran = self.ran.iter().filter(|(person, _)| counts(person));
        usage.ran = ran.fold(SignedDuration::ZERO, |sum, (_, ran)| {
            sum.saturating_add(*ran)
        });
        usage
    }
}

/// Returns the members of these groups who don't instruct them.
async fn members(
    db: &mut SqliteConnection,
    person: Option<&PersonId>,
) -> Result<HashMap<String, HashSet<PersonId>>> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT group_id, person_id FROM group_members WHERE NOT instructs AND ($1 IS NULL \
         OR group_id IN (SELECT group_id FROM group_members WHERE person_id = $1 AND NOT instructs))",
    )
    .bind(person.map(PersonId::as_str))
    .fetch_all(db)
    .await?;
    let mut members: HashMap<String, HashSet<PersonId>> = HashMap::new();
    for (group, person) in rows {
        let person = parse("person id", &person)?;
        members.entry(group).or_default().insert(person);
    }
    Ok(members)
}

/// Returns everything that counts when a person asks for more. `unfinished` are the environments that count.
pub(crate) async fn uses(
    db: &mut SqliteConnection,
    person: &PersonId,
    unfinished: &[Environment],
    now: Timestamp,
) -> Result<Uses> {
    let ledger = Ledger::read(&mut *db, unfinished, now).await?;
    let own: Option<String> = sqlx::query_scalar("SELECT quota FROM people WHERE id = $1")
        .bind(person.as_str())
        .fetch_optional(&mut *db)
        .await?;
    let groups: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT g.id, g.name, g.quota FROM groups g JOIN group_members m ON m.group_id = g.id \
         WHERE m.person_id = $1 AND NOT m.instructs ORDER BY g.name, g.id",
    )
    .bind(person.as_str())
    .fetch_all(&mut *db)
    .await?;
    let mut members = if groups.is_empty() {
        HashMap::new()
    } else {
        members(db, Some(person)).await?
    };
    let mut shared = Vec::with_capacity(groups.len());
    for (id, name, quota) in groups {
        let members = members.remove(&id).unwrap_or_default();
        let used = Used {
            overrides: from_json("quota", &quota)?,
            usage: ledger.usage(|person| members.contains(person)),
        };
        shared.push((name, used));
    }
    Ok(Uses {
        person: Used {
            overrides: own
                .map(|quota| from_json("quota", &quota))
                .transpose()?
                .unwrap_or_default(),
            usage: ledger.usage(|other| other == person),
        },
        groups: shared,
        everyone: ledger.usage(|_| true),
    })
}

/// Records that an environment begins or stops to run, if its phase changes so.
pub(crate) async fn record_run(
    tx: &mut Tx,
    of: &Environment,
    next: Phase,
    now: Timestamp,
) -> Result<()> {
    let sql = match (of.state.phase(), next) {
        (Phase::Active, Phase::Active) => return Ok(()),
        (_, Phase::Active) => {
            "INSERT INTO runs (environment_id, person_id, began_at) VALUES ($1, $2, $3) \
             ON CONFLICT (environment_id, began_at) DO UPDATE SET ended_at = NULL"
        }
        (Phase::Active, _) => {
            "UPDATE runs SET ended_at = $3 \
             WHERE environment_id = $1 AND person_id = $2 AND ended_at IS NULL"
        }
        _ => return Ok(()),
    };
    sqlx::query(sql)
        .bind(of.id.as_str())
        .bind(of.person.as_str())
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

impl Store {
    /// Returns everything that counts when a person asks for more.
    pub async fn uses_of(&self, person: &PersonId, now: Timestamp) -> Result<Uses> {
        let unfinished = self.unfinished_environments().await?;
        let mut db = self.readers.acquire().await?;
        uses(&mut db, person, &unfinished, now).await
    }

    /// Returns a group's quota. `None` if there is no such group.
    pub async fn group_use(&self, group: &str, now: Timestamp) -> Result<Option<Used>> {
        let unfinished = self.unfinished_environments().await?;
        let mut db = self.readers.acquire().await?;
        let quota: Option<String> = sqlx::query_scalar("SELECT quota FROM groups WHERE id = $1")
            .bind(group)
            .fetch_optional(&mut *db)
            .await?;
        let Some(quota) = quota else {
            return Ok(None);
        };
        let mut members = members(&mut db, None).await?;
        let members = members.remove(group).unwrap_or_default();
        let ledger = Ledger::read(&mut db, &unfinished, now).await?;
        Ok(Some(Used {
            overrides: from_json("quota", &quota)?,
            usage: ledger.usage(|person| members.contains(person)),
        }))
    }

    /// Sets a person's exceptions on behalf of an operator. Returns false if there is no such person.
    pub async fn limit_person(
        &self,
        person: &PersonId,
        overrides: Overrides,
        by: &PersonId,
        now: Timestamp,
    ) -> Result<bool> {
        let sql = "UPDATE people SET quota = $2 WHERE id = $1 AND deleted_at IS NULL";
        let id = person.as_str();
        self.limit(sql, "person-limit", id, overrides, by, now)
            .await
    }

    /// Sets a group's exceptions on behalf of an operator. Returns false if there is no such group.
    pub async fn limit_group(
        &self,
        group: &str,
        overrides: Overrides,
        by: &PersonId,
        now: Timestamp,
    ) -> Result<bool> {
        let sql = "UPDATE groups SET quota = $2 WHERE id = $1";
        self.limit(sql, "group-limit", group, overrides, by, now)
            .await
    }

    async fn limit(
        &self,
        sql: &'static str,
        action: &'static str,
        id: &str,
        overrides: Overrides,
        by: &PersonId,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let quota = to_json(&overrides)?;
        let done = sqlx::query(sql)
            .bind(id)
            .bind(&quota)
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        crate::audit::insert(&mut tx, now, Some(by.as_str()), action, id, &quota).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Deletes the records of runs that ended before `until`.
    pub async fn forget_runs(&self, until: Timestamp) -> Result<()> {
        sqlx::query("DELETE FROM runs WHERE ended_at < $1")
            .bind(micros(until))
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}
