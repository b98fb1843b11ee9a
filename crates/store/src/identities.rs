//! Accounts at identity providers by which people sign in. An account is its issuer and subject, never an e-mail address:
//! addresses change hands.

use faultline_domain::{PersonId, authz::Role};
use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Secret, Store,
    credentials::Removed,
    db::{Tx, from_json, micros, parse, time, to_json},
    invitations::use_invitation,
    people::end_invitations,
    sessions::{NewSession, insert_session, sign_in},
};

/// An account that a provider has verified.
#[derive(Debug, Clone, Copy)]
pub struct Account<'a> {
    /// The provider's issuer URL.
    pub issuer: &'a str,
    /// The ID at the provider.
    pub subject: &'a str,
    /// The account's name at the provider, for people.
    pub name: &'a str,
    /// The role that the provider's claims give; none if claims don't decide it.
    pub role: Option<Role>,
}

/// An account that is linked to a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkedAccount {
    /// The ID of the link.
    pub id: String,
    /// The provider's issuer URL.
    pub issuer: String,
    /// The account's name at the provider, for people.
    pub account: String,
    /// When it was linked.
    pub created_at: Timestamp,
    /// When the person last signed in by it; none if never.
    pub last_used: Option<Timestamp>,
}

/// The result of a sign-in by an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ByAccount {
    /// This person is signed in.
    SignedIn(PersonId),
    /// The person is disabled.
    Disabled,
    /// Nobody has linked the account.
    Unknown,
}

/// The result of joining by an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// The person has joined and is signed in.
    Done,
    /// The invitation is unknown, expired or used up.
    Invalid,
    /// The account is linked to somebody already.
    Taken,
}

/// The result of linking an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linked {
    /// The account is linked to the person.
    Done,
    /// It is linked to somebody else.
    Taken,
    /// The session has ended meanwhile.
    SignedOut,
}

#[derive(FromRow)]
struct Row {
    id: String,
    issuer: String,
    account: String,
    created_at: i64,
    last_used: Option<i64>,
}

/// Sets the role that claims give. The owner of the installation keeps theirs, and so does the last operator, so that
/// claims can't lock everybody out.
async fn set_role(tx: &mut Tx, person: &str, role: Role, now: Timestamp) -> Result<()> {
    let current: String = sqlx::query_scalar("SELECT role FROM people WHERE id = $1")
        .bind(person)
        .fetch_one(&mut **tx)
        .await?;
    let current: Role = from_json("role", &current)?;
    if current == role || person == PersonId::local().as_str() {
        return Ok(());
    }
    if current == Role::Operator {
        let others: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM people WHERE role = $1 AND disabled_at IS NULL AND id <> $2",
        )
        .bind(to_json(&Role::Operator)?)
        .bind(person)
        .fetch_one(&mut **tx)
        .await?;
        if others == 0 {
            return Ok(());
        }
    }
    sqlx::query("UPDATE people SET role = $2 WHERE id = $1")
        .bind(person)
        .bind(to_json(&role)?)
        .execute(&mut **tx)
        .await?;
    if role != Role::Operator {
        end_invitations(tx, &parse("person id", person)?, now).await?;
    }
    let detail = format!("{}, by the identity provider", role.as_str());
    crate::audit::insert(tx, now, None, "person-role", person, &detail).await
}

async fn insert(
    tx: &mut Tx,
    id: &str,
    person: &str,
    account: &Account<'_>,
    is_origin: bool,
    now: Timestamp,
) -> Result<bool> {
    let done = sqlx::query(
        "INSERT INTO identities (id, person_id, issuer, subject, account, is_origin, created_at, last_used) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (issuer, subject) DO NOTHING",
    )
    .bind(id)
    .bind(person)
    .bind(account.issuer)
    .bind(account.subject)
    .bind(account.name)
    .bind(is_origin)
    .bind(micros(now))
    .bind(is_origin.then_some(micros(now)))
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() > 0)
}

impl Store {
    /// Stores the session of the person who has linked an account, and sets the role that its claims give.
    pub async fn sign_in_by_account(
        &self,
        account: &Account<'_>,
        session: &NewSession,
        now: Timestamp,
    ) -> Result<ByAccount> {
        let mut tx = self.begin().await?;
        let person: Option<String> = sqlx::query_scalar(
            "UPDATE identities SET last_used = $3, account = $4 \
             WHERE issuer = $1 AND subject = $2 RETURNING person_id",
        )
        .bind(account.issuer)
        .bind(account.subject)
        .bind(micros(now))
        .bind(account.name)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(person) = person else {
            return Ok(ByAccount::Unknown);
        };
        if let Some(role) = account.role {
            set_role(&mut tx, &person, role, now).await?;
        }
        if !sign_in(&mut tx, session, &person, "provider", now).await? {
            return Ok(ByAccount::Disabled);
        }
        tx.commit().await?;
        Ok(ByAccount::SignedIn(parse("person id", &person)?))
    }

    /// Creates a person who joins by an account, with a session. `invitation` is the secret of the invitation that they
    /// accept; none if they may join without one.
    pub async fn join_by_account(
        &self,
        (person, name): (&PersonId, &str),
        (id, account): (&str, &Account<'_>),
        invitation: Option<&Secret>,
        session: &NewSession,
        now: Timestamp,
    ) -> Result<Joined> {
        let mut tx = self.begin().await?;
        let used = match invitation {
            Some(secret) => match use_invitation(&mut tx, secret, now).await? {
                Some(used) => Some(used),
                None => return Ok(Joined::Invalid),
            },
            None => None,
        };
        let invited = used.as_ref().map_or(Role::Student, |used| used.role);
        sqlx::query(
            "INSERT INTO people (id, name, role, created_at, last_sign_in, invitation_id) \
             VALUES ($1, $2, $3, $4, $4, $5)",
        )
        .bind(person.as_str())
        .bind(name)
        .bind(to_json(&account.role.unwrap_or(invited))?)
        .bind(micros(now))
        .bind(used.as_ref().map(|used| &used.id))
        .execute(&mut *tx)
        .await?;
        if !insert(&mut tx, id, person.as_str(), account, true, now).await? {
            return Ok(Joined::Taken);
        }
        if let Some(used) = &used {
            used.join_group(&mut tx, person.as_str()).await?;
        }
        insert_session(&mut tx, session, person.as_str(), now).await?;
        let by = used.as_ref().map(|used| used.id.as_str());
        let detail = by.unwrap_or("without an invitation, by the identity provider");
        let who = Some(person.as_str());
        crate::audit::insert(&mut tx, now, who, "join", person.as_str(), detail).await?;
        tx.commit().await?;
        Ok(Joined::Done)
    }

    /// Links an account to the person of a session.
    pub async fn link_account(
        &self,
        person: &PersonId,
        session: &Secret,
        (id, account): (&str, &Account<'_>),
        now: Timestamp,
    ) -> Result<Linked> {
        let mut tx = self.begin().await?;
        let valid: Option<i64> = sqlx::query_scalar(
            "SELECT 1 FROM sessions s JOIN people p ON p.id = s.person_id WHERE s.token_hash = $1 \
             AND s.person_id = $2 AND s.expires_at > $3 AND p.disabled_at IS NULL",
        )
        .bind(session.hash())
        .bind(person.as_str())
        .bind(micros(now))
        .fetch_optional(&mut *tx)
        .await?;
        if valid.is_none() {
            return Ok(Linked::SignedOut);
        }
        if !insert(&mut tx, id, person.as_str(), account, false, now).await? {
            let own: Option<i64> = sqlx::query_scalar(
                "SELECT 1 FROM identities WHERE issuer = $1 AND subject = $2 AND person_id = $3",
            )
            .bind(account.issuer)
            .bind(account.subject)
            .bind(person.as_str())
            .fetch_optional(&mut *tx)
            .await?;
            return Ok(if own.is_some() {
                Linked::Done
            } else {
                Linked::Taken
            });
        }
        let who = Some(person.as_str());
        crate::audit::insert(&mut tx, now, who, "account-link", id, account.name).await?;
        tx.commit().await?;
        Ok(Linked::Done)
    }

    /// Returns the accounts that a person has linked, oldest first.
    pub async fn linked_accounts(&self, person: &PersonId) -> Result<Vec<LinkedAccount>> {
        let rows = sqlx::query_as::<_, Row>(
            "SELECT id, issuer, account, created_at, last_used FROM identities \
             WHERE person_id = $1 ORDER BY created_at, id",
        )
        .bind(person.as_str())
        .fetch_all(&self.readers)
        .await?;
        let when = |at| time("identity time", at);
        rows.into_iter()
            .map(|row| {
                Ok(LinkedAccount {
                    id: row.id,
                    issuer: row.issuer,
                    account: row.account,
                    created_at: when(row.created_at)?,
                    last_used: row.last_used.map(when).transpose()?,
                })
            })
            .collect()
    }

    /// Removes a person's link to an account, if they have another way to sign in.
    pub async fn unlink_account(
        &self,
        person: &PersonId,
        id: &str,
        now: Timestamp,
    ) -> Result<Removed> {
        let sql = "DELETE FROM identities WHERE person_id = $1 AND id = $2";
        self.remove_way_to_sign_in(sql, person, id, "account-unlink", now)
            .await
    }
}
