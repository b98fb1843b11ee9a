//! What lets a browser open an exposure: a code, which is exchanged for a cookie once, and that cookie. Each ends with the
//! session or the share that it was made with, and with the environment. Only hashes of their secrets are stored.

use faultline_domain::{EnvironmentId, authz::Principal, exposure::Place};
use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Secret, Store,
    db::{Tx, micros, time},
    people::PrincipalRow,
};

/// Who has the cookie of an exposure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visitor {
    /// A person who is signed in.
    Person(Principal),
    /// Somebody who has followed the link of a share.
    Guest,
}

#[derive(FromRow)]
struct Grounds {
    session_hash: Option<String>,
    share_id: Option<String>,
}

impl Store {
    /// Stores a code that the person of a session exchanges for a cookie.
    pub async fn add_visit_code(
        &self,
        code: &Secret,
        place: &Place,
        session: &Secret,
        expires_at: Timestamp,
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO exposure_visits \
             (secret_hash, is_code, environment_id, name, session_hash, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(code.hash())
        .bind(true)
        .bind(place.environment.as_str())
        .bind(place.name.as_str())
        .bind(session.hash())
        .bind(micros(expires_at))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Exchanges a code, once, or the secret of a share for a cookie. The cookie expires with the share, or at `latest`.
    /// Returns when it expires; `None` if the code or the share is not valid for this exposure.
    pub async fn enter(
        &self,
        presented: &Secret,
        place: &Place,
        cookie: &Secret,
        latest: Timestamp,
        now: Timestamp,
    ) -> Result<Option<Timestamp>> {
        let (environment, name) = (place.environment.as_str(), place.name.as_str());
        let mut tx = self.begin().await?;
        let code: Option<Grounds> = sqlx::query_as(
            "DELETE FROM exposure_visits WHERE secret_hash = $1 AND is_code = $2 \
             AND environment_id = $3 AND name = $4 AND expires_at > $5 \
             RETURNING session_hash, share_id",
        )
        .bind(presented.hash())
        .bind(true)
        .bind(environment)
        .bind(name)
        .bind(micros(now))
        .fetch_optional(&mut *tx)
        .await?;
        let share: Option<(String, i64)> = sqlx::query_as(
            "SELECT id, expires_at FROM exposure_shares WHERE secret_hash = $1 \
             AND environment_id = $2 AND name = $3 AND expires_at > $4",
        )
        .bind(presented.hash())
        .bind(environment)
        .bind(name)
        .bind(micros(now))
        .fetch_optional(&mut *tx)
        .await?;
        let (grounds, expires_at) = match (code, share) {
            (Some(grounds), _) => (grounds, micros(latest)),
            (None, Some((id, until))) => (
                Grounds {
                    session_hash: None,
                    share_id: Some(id),
                },
                until.min(micros(latest)),
            ),
            (None, None) => return Ok(None),
        };
        sqlx::query(
            "INSERT INTO exposure_visits \
             (secret_hash, is_code, environment_id, name, session_hash, share_id, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(cookie.hash())
        .bind(false)
        .bind(environment)
        .bind(name)
        .bind(grounds.session_hash)
        .bind(grounds.share_id)
        .bind(expires_at)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Some(time("visit time", expires_at)?))
    }

    /// Returns who has this cookie of an exposure; `None` if it is not valid, or the person's session is not.
    pub async fn visitor(
        &self,
        cookie: &Secret,
        place: &Place,
        now: Timestamp,
    ) -> Result<Option<Visitor>> {
        let person: Option<PrincipalRow> = sqlx::query_as(
            "SELECT s.person_id, p.role FROM exposure_visits v \
             JOIN sessions s ON s.token_hash = v.session_hash JOIN people p ON p.id = s.person_id \
             WHERE v.secret_hash = $1 AND v.is_code = $2 AND v.environment_id = $3 AND v.name = $4 \
             AND v.expires_at > $5 AND s.expires_at > $5 AND p.disabled_at IS NULL",
        )
        .bind(cookie.hash())
        .bind(false)
        .bind(place.environment.as_str())
        .bind(place.name.as_str())
        .bind(micros(now))
        .fetch_optional(&self.readers)
        .await?;
        if let Some(row) = person {
            return Ok(Some(Visitor::Person(row.read()?)));
        }
        let guest: Option<i64> = sqlx::query_scalar(
            "SELECT 1 FROM exposure_visits v JOIN exposure_shares s ON s.id = v.share_id \
             WHERE v.secret_hash = $1 AND v.is_code = $2 AND v.environment_id = $3 AND v.name = $4 \
             AND v.expires_at > $5 AND s.expires_at > $5",
        )
        .bind(cookie.hash())
        .bind(false)
        .bind(place.environment.as_str())
        .bind(place.name.as_str())
        .bind(micros(now))
        .fetch_optional(&self.readers)
        .await?;
        Ok(guest.map(|_| Visitor::Guest))
    }

    /// Deletes shares, codes and cookies that have expired. Returns the number of deleted rows.
    pub async fn remove_old_visits(&self, now: Timestamp) -> Result<u64> {
        let mut removed = 0;
        for sql in [
            "DELETE FROM exposure_visits WHERE expires_at <= $1",
            "DELETE FROM exposure_shares WHERE expires_at <= $1",
        ] {
            let done = sqlx::query(sql).bind(micros(now)).execute(&self.writer);
            removed += done.await?.rows_affected();
        }
        Ok(removed)
    }
}

/// Deletes all shares, codes and cookies of an environment that has ended.
pub(crate) async fn close(tx: &mut Tx, environment: &EnvironmentId) -> Result<()> {
    for sql in [
        "DELETE FROM exposure_visits WHERE environment_id = $1",
        "DELETE FROM exposure_shares WHERE environment_id = $1",
    ] {
        sqlx::query(sql)
            .bind(environment.as_str())
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}
