//! One-time sign-in tokens and API tokens. Only hashes are stored. [`crate::sessions`] has the sessions.

use faultline_domain::{
    PersonId,
    authz::{Principal, Scope},
};
use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Secret, Store,
    db::{Tx, from_json, micros, time, to_json},
    people::PrincipalRow,
    sessions::{NewSession, sign_in},
};

/// The result of removing a way to sign in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It is removed.
    Done,
    /// There is none with this ID.
    NotFound,
    /// The person could not sign in any more.
    LastWay,
}

/// An API token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// The token's ID.
    pub id: String,
    /// The name that its owner gave it.
    pub name: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last used, with a precision of one minute.
    pub last_used: Option<Timestamp>,
    /// What it may do.
    pub scope: Scope,
    /// When it ends; none if it doesn't.
    pub expires_at: Option<Timestamp>,
}

async fn insert_sign_in_token(
    to: impl sqlx::SqliteExecutor<'_>,
    secret: &Secret,
    person: &str,
    now: Timestamp,
    ends: Timestamp,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO sign_in_tokens (token_hash, person_id, created_at, expires_at) \
         VALUES ($1, $2, $3, $4)",
    )
    .bind(secret.hash())
    .bind(person)
    .bind(micros(now))
    .bind(micros(ends))
    .execute(to)
    .await?;
    Ok(())
}

/// Stores a one-time sign-in token that an operator made for a person.
pub(crate) async fn insert_sign_in(
    tx: &mut crate::db::Tx,
    secret: &Secret,
    person: &PersonId,
    made_by: &PersonId,
    now: Timestamp,
    ends: Timestamp,
) -> Result<()> {
    insert_sign_in_token(&mut **tx, secret, person.as_str(), now, ends).await?;
    sqlx::query("UPDATE sign_in_tokens SET made_by = $1 WHERE token_hash = $2")
        .bind(made_by.as_str())
        .bind(secret.hash())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// An API token to store.
#[derive(Debug, Clone)]
pub struct NewApiToken<'a> {
    /// The ID, which is not the secret.
    pub id: &'a str,
    /// The person whom it belongs to.
    pub person: &'a PersonId,
    /// The name, chosen by the person.
    pub name: &'a str,
    /// What it may do.
    pub scope: Scope,
    /// When it ends; none if it doesn't.
    pub expires_at: Option<Timestamp>,
}

impl<'a> NewApiToken<'a> {
    /// Returns a token that may do everything and doesn't end.
    #[must_use]
    pub const fn full(id: &'a str, person: &'a PersonId, name: &'a str) -> Self {
        Self {
            id,
            person,
            name,
            scope: Scope::Full,
            expires_at: None,
        }
    }
}

async fn insert_api_token(
    mut tx: crate::db::Tx,
    secret: &Secret,
    new: &NewApiToken<'_>,
    now: Timestamp,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO api_tokens (id, token_hash, person_id, name, created_at, scope, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(new.id)
    .bind(secret.hash())
    .bind(new.person.as_str())
    .bind(new.name)
    .bind(micros(now))
    .bind(to_json(&new.scope)?)
    .bind(new.expires_at.map(micros))
    .execute(&mut *tx)
    .await?;
    let who = Some(new.person.as_str());
    crate::audit::insert(&mut tx, now, who, "token-add", new.id, new.name).await?;
    tx.commit().await?;
    Ok(())
}

#[derive(FromRow)]
struct ApiTokenRow {
    id: String,
    name: String,
    created_at: i64,
    last_used: Option<i64>,
    scope: String,
    expires_at: Option<i64>,
}

#[derive(FromRow)]
struct TokenHolderRow {
    #[sqlx(flatten)]
    principal: PrincipalRow,
    scope: String,
}

/// Deletes a row that belongs to a person, and records it in the audit log. Returns false if there is none with this ID.
async fn remove_owned(
    tx: &mut Tx,
    sql: &'static str,
    person: &PersonId,
    id: &str,
    action: &str,
    now: Timestamp,
) -> Result<bool> {
    let done = sqlx::query(sql)
        .bind(person.as_str())
        .bind(id)
        .execute(&mut **tx)
        .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    crate::audit::insert(tx, now, Some(person.as_str()), action, id, "").await?;
    Ok(true)
}

/// Returns true if a person has a password, a linked account or a passkey, or is the owner, who gets links from the
/// command line.
async fn has_way_to_sign_in(tx: &mut Tx, person: &PersonId) -> Result<bool> {
    let found: Option<i64> = sqlx::query_scalar(
        "SELECT 1 FROM people p WHERE p.id = $1 AND (p.id = $2 OR p.password IS NOT NULL \
         OR EXISTS (SELECT 1 FROM identities i WHERE i.person_id = p.id) \
         OR EXISTS (SELECT 1 FROM passkeys k WHERE k.person_id = p.id))",
    )
    .bind(person.as_str())
    .bind(PersonId::local().as_str())
    .fetch_optional(&mut **tx)
    .await?;
    Ok(found.is_some())
}

impl Store {
    /// Stores a one-time sign-in token.
    pub async fn add_sign_in_token(
        &self,
        secret: &Secret,
        person: &PersonId,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<()> {
        insert_sign_in_token(&self.writer, secret, person.as_str(), now, expires_at).await?;
        Ok(())
    }

    /// Returns the person whom a sign-in token signs in, without consuming it.
    pub async fn sign_in_token(&self, token: &Secret, now: Timestamp) -> Result<Option<PersonId>> {
        let person: Option<String> = sqlx::query_scalar(
            "SELECT person_id FROM sign_in_tokens WHERE token_hash = $1 AND expires_at > $2",
        )
        .bind(token.hash())
        .bind(micros(now))
        .fetch_optional(&self.readers)
        .await?;
        person
            .map(|id| crate::db::parse("person id", &id))
            .transpose()
    }

    /// Consumes a sign-in token and stores its session, in one transaction. Returns `None` if the token is unknown,
    /// used or expired.
    pub async fn sign_in(
        &self,
        token: &Secret,
        session: &NewSession,
        now: Timestamp,
    ) -> Result<Option<PersonId>> {
        let mut tx = self.begin().await?;
        let person: Option<String> = sqlx::query_scalar(
            "DELETE FROM sign_in_tokens WHERE token_hash = $1 AND expires_at > $2 \
             RETURNING person_id",
        )
        .bind(token.hash())
        .bind(micros(now))
        .fetch_optional(&mut *tx)
        .await?;
        let Some(person) = person else {
            return Ok(None);
        };
        if !sign_in(&mut tx, session, &person, "link", now).await? {
            return Ok(None);
        }
        tx.commit().await?;
        crate::db::parse("person id", &person).map(Some)
    }

    /// Stores an API token, and removes those of the same person with the same name.
    pub async fn replace_api_token(
        &self,
        secret: &Secret,
        new: &NewApiToken<'_>,
        now: Timestamp,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM api_tokens WHERE person_id = $1 AND name = $2")
            .bind(new.person.as_str())
            .bind(new.name)
            .execute(&mut *tx)
            .await?;
        insert_api_token(tx, secret, new, now).await
    }

    /// Stores an API token.
    pub async fn add_api_token(
        &self,
        secret: &Secret,
        new: &NewApiToken<'_>,
        now: Timestamp,
    ) -> Result<()> {
        let tx = self.begin().await?;
        insert_api_token(tx, secret, new, now).await
    }

    /// Returns the person of an API token, and what it may do. Records its use, at most once a minute.
    pub async fn api_token(
        &self,
        secret: &Secret,
        now: Timestamp,
    ) -> Result<Option<(Principal, Scope)>> {
        let hash = secret.hash();
        let row = sqlx::query_as::<_, TokenHolderRow>(
            "SELECT t.person_id, p.role, t.scope FROM api_tokens t \
             JOIN people p ON p.id = t.person_id WHERE t.token_hash = $1 \
             AND p.disabled_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > $2)",
        )
        .bind(&hash)
        .bind(micros(now))
        .fetch_optional(&self.readers)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let due: Option<String> = sqlx::query_scalar(
            "SELECT id FROM api_tokens WHERE token_hash = $1 \
             AND (last_used IS NULL OR last_used < $2)",
        )
        .bind(&hash)
        .bind(micros(now) - 60_000_000)
        .fetch_optional(&self.readers)
        .await?;
        if let Some(id) = due {
            sqlx::query("UPDATE api_tokens SET last_used = $1 WHERE id = $2")
                .bind(micros(now))
                .bind(id)
                .execute(&self.writer)
                .await?;
        }
        let scope = from_json("scope", &row.scope)?;
        Ok(Some((row.principal.read()?, scope)))
    }

    /// Returns when an API token ends, if it does.
    pub async fn api_token_end(&self, secret: &Secret) -> Result<Option<Timestamp>> {
        let end: Option<Option<i64>> =
            sqlx::query_scalar("SELECT expires_at FROM api_tokens WHERE token_hash = $1")
                .bind(secret.hash())
                .fetch_optional(&self.readers)
                .await?;
        end.flatten().map(|end| time("end", end)).transpose()
    }

    /// Returns a person's API tokens.
    pub async fn api_tokens(&self, person: &PersonId) -> Result<Vec<ApiToken>> {
        sqlx::query_as::<_, ApiTokenRow>(
            "SELECT id, name, created_at, last_used, scope, expires_at FROM api_tokens \
             WHERE person_id = $1 \
             ORDER BY created_at",
        )
        .bind(person.as_str())
        .fetch_all(&self.readers)
        .await?
        .into_iter()
        .map(|row| {
            Ok(ApiToken {
                id: row.id,
                name: row.name,
                created_at: time("token time", row.created_at)?,
                last_used: row.last_used.map(|at| time("token time", at)).transpose()?,
                scope: from_json("scope", &row.scope)?,
                expires_at: row
                    .expires_at
                    .map(|at| time("token time", at))
                    .transpose()?,
            })
        })
        .collect()
    }

    /// Returns the ID of the API token with this secret.
    pub async fn api_token_id(&self, secret: &Secret) -> Result<Option<String>> {
        let id = sqlx::query_scalar("SELECT id FROM api_tokens WHERE token_hash = $1")
            .bind(secret.hash())
            .fetch_optional(&self.readers)
            .await?;
        Ok(id)
    }

    /// Removes a person's API tokens except for the one with the secret `keep`. Returns the number of removed tokens.
    pub async fn remove_other_api_tokens(
        &self,
        person: &PersonId,
        keep: &Secret,
        now: Timestamp,
    ) -> Result<u64> {
        let mut tx = self.begin().await?;
        let removed =
            sqlx::query("DELETE FROM api_tokens WHERE person_id = $1 AND token_hash <> $2")
                .bind(person.as_str())
                .bind(keep.hash())
                .execute(&mut *tx)
                .await?
                .rows_affected();
        let (who, count) = (Some(person.as_str()), removed.to_string());
        let id = person.as_str();
        crate::audit::insert(&mut tx, now, who, "token-remove-others", id, &count).await?;
        tx.commit().await?;
        Ok(removed)
    }

    /// Removes a person's API token. Returns false if there is none with this ID.
    pub async fn remove_api_token(
        &self,
        person: &PersonId,
        id: &str,
        now: Timestamp,
    ) -> Result<bool> {
        let sql = "DELETE FROM api_tokens WHERE person_id = $1 AND id = $2";
        self.remove_owned(sql, person, id, "token-remove", now)
            .await
    }

    /// Removes a row that belongs to a person, and records it in the audit log. Returns false if there is none with
    /// this ID.
    pub(crate) async fn remove_owned(
        &self,
        sql: &'static str,
        person: &PersonId,
        id: &str,
        action: &str,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let removed = remove_owned(&mut tx, sql, person, id, action, now).await?;
        tx.commit().await?;
        Ok(removed)
    }

    /// The same for a way to sign in, which is kept if it is the person's only one.
    pub(crate) async fn remove_way_to_sign_in(
        &self,
        sql: &'static str,
        person: &PersonId,
        id: &str,
        action: &str,
        now: Timestamp,
    ) -> Result<Removed> {
        let mut tx = self.begin().await?;
        if !remove_owned(&mut tx, sql, person, id, action, now).await? {
            return Ok(Removed::NotFound);
        }
        if !has_way_to_sign_in(&mut tx, person).await? {
            return Ok(Removed::LastWay);
        }
        tx.commit().await?;
        Ok(Removed::Done)
    }

    /// Removes old sessions and tokens. Returns their number.
    pub async fn remove_old_credentials(&self, now: Timestamp) -> Result<u64> {
        let mut removed = 0;
        for sql in [
            "DELETE FROM sessions WHERE expires_at <= $1",
            "DELETE FROM sign_in_tokens WHERE expires_at <= $1",
            // With the cluster tokens that were created with them.
            "DELETE FROM api_tokens WHERE expires_at <= $1",
        ] {
            removed += sqlx::query(sql)
                .bind(micros(now))
                .execute(&self.writer)
                .await?
                .rows_affected();
        }
        // Cluster tokens are kept for a while. An expired one still authorizes what it has open. With one for an ended
        // environment, the client is told that it has ended, and it works again after a reset.
        let day = 24 * 60 * 60 * 1_000_000;
        removed += sqlx::query(
            "DELETE FROM cluster_tokens WHERE expires_at <= $1 OR environment_id IN \
             (SELECT id FROM environments WHERE is_final AND updated_at <= $2)",
        )
        .bind(micros(now) - 2 * day)
        .bind(micros(now) - 30 * day)
        .execute(&self.writer)
        .await?
        .rows_affected();
        Ok(removed)
    }
}
