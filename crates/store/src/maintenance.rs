//! The maintenance that is in effect, and what the owners of environments were notified of.

use std::collections::HashMap;

use faultline_domain::{
    EnvironmentId, PersonId,
    maintenance::{Maintenance, Notice},
};
use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Store,
    db::{micros, parse, time},
    outbox::{self, NewMail},
};

#[derive(FromRow)]
struct Row {
    began_at: i64,
    message: String,
    expected_end: Option<i64>,
    end_environments_at: Option<i64>,
}

impl Row {
    fn read(self) -> Result<Maintenance> {
        let optional = |what, at: Option<i64>| at.map(|micros| time(what, micros)).transpose();
        Ok(Maintenance {
            since: time("maintenance time", self.began_at)?,
            message: self.message,
            until: optional("maintenance's end", self.expected_end)?,
            end_environments_at: optional("environments' end", self.end_environments_at)?,
        })
    }
}

/// Returns the details of a maintenance for the audit log.
fn detail(of: &Maintenance) -> String {
    let time = |what, at: Option<Timestamp>| at.map(|at| format!("{what} {at}"));
    let parts = [
        time("until", of.until),
        time("environments end at", of.end_environments_at),
        (!of.message.is_empty()).then(|| of.message.clone()),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    parts.join(", ")
}

impl Store {
    /// Returns the maintenance that is in effect.
    pub async fn maintenance(&self) -> Result<Option<Maintenance>> {
        let row: Option<Row> = sqlx::query_as(
            "SELECT began_at, message, expected_end, end_environments_at FROM maintenance",
        )
        .fetch_optional(&self.readers)
        .await?;
        row.map(Row::read).transpose()
    }

    /// Begins a maintenance, or changes the one that is in effect; that keeps its beginning.
    pub async fn begin_maintenance(
        &self,
        new: &Maintenance,
        by: &PersonId,
        now: Timestamp,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO maintenance (id, began_at, message, expected_end, end_environments_at) \
             VALUES (1, $1, $2, $3, $4) ON CONFLICT (id) \
             DO UPDATE SET message = $2, expected_end = $3, end_environments_at = $4",
        )
        .bind(micros(new.since))
        .bind(&new.message)
        .bind(new.until.map(micros))
        .bind(new.end_environments_at.map(micros))
        .execute(&mut *tx)
        .await?;
        let (who, detail) = (Some(by.as_str()), detail(new));
        crate::audit::insert(&mut tx, now, who, "maintenance-begin", "server", &detail).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Ends the maintenance. Returns false if there is none.
    pub async fn end_maintenance(&self, by: &PersonId, now: Timestamp) -> Result<bool> {
        let mut tx = self.begin().await?;
        let done = sqlx::query("DELETE FROM maintenance")
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        let who = Some(by.as_str());
        crate::audit::insert(&mut tx, now, who, "maintenance-end", "server", "").await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Returns what the owners of environments were notified of.
    pub async fn end_notices(&self) -> Result<HashMap<EnvironmentId, Notice>> {
        let rows: Vec<(String, i64, i64)> =
            sqlx::query_as("SELECT environment_id, ends_at, told_at FROM end_notices")
                .fetch_all(&self.readers)
                .await?;
        rows.into_iter()
            .map(|(id, ends_at, told_at)| {
                let notice = Notice {
                    ends_at: time("announced end", ends_at)?,
                    told_at: time("time of the announcement", told_at)?,
                };
                Ok((parse("environment id", &id)?, notice))
            })
            .collect()
    }

    /// Records what an environment's owner was notified of, and writes the mail with it, if any.
    pub async fn record_end_notice(
        &self,
        id: &EnvironmentId,
        notice: Notice,
        mail: Option<&NewMail>,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO end_notices (environment_id, ends_at, told_at) VALUES ($1, $2, $3) \
             ON CONFLICT (environment_id) DO UPDATE SET ends_at = $2, told_at = $3",
        )
        .bind(id.as_str())
        .bind(micros(notice.ends_at))
        .bind(micros(notice.told_at))
        .execute(&mut *tx)
        .await?;
        if let Some(mail) = mail {
            outbox::insert(&mut tx, mail, notice.told_at).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Deletes what was recorded of these environments' owners.
    pub async fn forget_end_notices<'a>(
        &self,
        of: impl IntoIterator<Item = &'a EnvironmentId> + Send,
    ) -> Result<()> {
        let ids: Vec<&EnvironmentId> = of.into_iter().collect();
        let mut tx = self.begin().await?;
        for id in ids {
            sqlx::query("DELETE FROM end_notices WHERE environment_id = $1")
                .bind(id.as_str())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }
}
