//! The outbox: mail to send. A mail is written in the transaction of what causes it, so a crash neither loses it nor sends
//! it without a cause.
//!
//! ```text
//! written ──► waits ⇄ failed, tried again later
//!               │         │
//!               ▼         ▼
//!             sent     given up ──► mail_failures, without the text
//! ```
//!
//! A row is deleted once its mail was sent or given up, because the text may have the secret of a link. A crash after a
//! mail was sent and before its row is deleted sends it again, with the same ID.

use faultline_domain::{
    MailAddress, PersonId,
    mail::{Purpose, next_attempt},
};
use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Store,
    db::{Tx, count, micros, parse, time},
};

/// Who gets a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// Somebody who has not joined.
    Stranger(MailAddress),
    /// A person, at an address that they have not confirmed.
    Unconfirmed(PersonId, MailAddress),
    /// A person, at the address that they have confirmed.
    Person(PersonId),
    /// A person, at the address that they have confirmed, if they want mail about their environments.
    IfWanted(PersonId),
}

/// A mail to write to the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMail {
    /// The ID; for an invitation, that of the invitation.
    pub id: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Who gets it.
    pub to: To,
    /// The subject.
    pub subject: String,
    /// The text.
    pub body: String,
    /// When sending it is no longer tried.
    pub give_up_at: Timestamp,
}

/// A mail in the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The ID.
    pub id: String,
    /// What it is for.
    pub purpose: Purpose,
    /// The address.
    pub to: MailAddress,
    /// The subject.
    pub subject: String,
    /// The text.
    pub body: String,
    /// When it was written.
    pub created_at: Timestamp,
    /// When sending it is no longer tried.
    pub give_up_at: Timestamp,
    /// The number of failed attempts.
    pub attempts: u32,
}

/// A mail that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailFailure {
    /// The ID of the mail.
    pub id: String,
    /// What it was for.
    pub purpose: Purpose,
    /// The address.
    pub to: MailAddress,
    /// When it was given up.
    pub failed_at: Timestamp,
    /// The number of failed attempts.
    pub attempts: u32,
    /// Why the last one failed.
    pub problem: String,
}

/// The state of the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxStatus {
    /// The number of mails that wait.
    pub waiting: u64,
    /// When the oldest of them was written.
    pub oldest: Option<Timestamp>,
    /// The mails that were given up, latest first.
    pub failures: Vec<MailFailure>,
}

/// What became of a mail that could not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotSent {
    /// It is tried again.
    Later,
    /// It was given up.
    GivenUp,
}

#[derive(FromRow)]
struct Row {
    id: String,
    purpose: String,
    address: String,
    subject: String,
    body: String,
    created_at: i64,
    give_up_at: i64,
    attempts: i64,
}

impl Row {
    fn read(self) -> Result<Mail> {
        Ok(Mail {
            id: self.id,
            purpose: parse("purpose of mail", &self.purpose)?,
            to: parse("mail address", &self.address)?,
            subject: self.subject,
            body: self.body,
            created_at: time("mail time", self.created_at)?,
            give_up_at: time("mail time", self.give_up_at)?,
            attempts: count("attempts", self.attempts)?,
        })
    }
}

#[derive(FromRow)]
struct FailureRow {
    id: String,
    purpose: String,
    address: String,
    failed_at: i64,
    attempts: i64,
    problem: String,
}

impl FailureRow {
    fn read(self) -> Result<MailFailure> {
        Ok(MailFailure {
            id: self.id,
            purpose: parse("purpose of mail", &self.purpose)?,
            to: parse("mail address", &self.address)?,
            failed_at: time("mail time", self.failed_at)?,
            attempts: count("attempts", self.attempts)?,
            problem: self.problem,
        })
    }
}

/// Returns the address of a mail and the person who gets it; none if the person has no address or doesn't want it.
async fn resolve(tx: &mut Tx, to: &To) -> Result<Option<(String, Option<String>)>> {
    let (person, wanted) = match to {
        To::Stranger(address) => return Ok(Some((address.to_string(), None))),
        To::Unconfirmed(person, address) => {
            return Ok(Some((address.to_string(), Some(person.to_string()))));
        }
        To::Person(person) => (person, false),
        To::IfWanted(person) => (person, true),
    };
    let address: Option<String> = sqlx::query_scalar(
        "SELECT mail FROM people WHERE id = $1 AND mail IS NOT NULL \
         AND ($2 = FALSE OR (wants_notices AND disabled_at IS NULL))",
    )
    .bind(person.as_str())
    .bind(wanted)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(address.map(|address| (address, Some(person.to_string()))))
}

/// Writes a mail to the outbox. Returns false if the person has no address or doesn't want it.
pub(crate) async fn insert(tx: &mut Tx, new: &NewMail, now: Timestamp) -> Result<bool> {
    let Some((address, person)) = resolve(tx, &new.to).await? else {
        return Ok(false);
    };
    sqlx::query(
        "INSERT INTO outbox \
         (id, purpose, person_id, address, subject, body, created_at, give_up_at, next_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $7)",
    )
    .bind(&new.id)
    .bind(new.purpose.as_str())
    .bind(person)
    .bind(address)
    .bind(&new.subject)
    .bind(&new.body)
    .bind(micros(now))
    .bind(micros(new.give_up_at))
    .execute(&mut **tx)
    .await?;
    Ok(true)
}

/// Deletes the mails to a person that were not sent; only those for one purpose, if it is given.
pub(crate) async fn delete_to(
    tx: &mut Tx,
    person: &PersonId,
    purpose: Option<Purpose>,
) -> Result<()> {
    sqlx::query("DELETE FROM outbox WHERE person_id = $1 AND ($2 IS NULL OR purpose = $2)")
        .bind(person.as_str())
        .bind(purpose.map(Purpose::as_str))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Deletes a mail and records that it was given up.
async fn give_up(tx: &mut Tx, mail: &Mail, problem: &str, now: Timestamp) -> Result<bool> {
    let moved = sqlx::query(
        "INSERT INTO mail_failures (id, purpose, person_id, address, failed_at, attempts, problem) \
         SELECT id, purpose, person_id, address, $2, $3, $4 FROM outbox WHERE id = $1",
    )
    .bind(&mail.id)
    .bind(micros(now))
    .bind(i64::from(mail.attempts))
    .bind(problem)
    .execute(&mut **tx)
    .await?;
    if moved.rows_affected() == 0 {
        return Ok(false);
    }
    delete(tx, &mail.id).await?;
    let purpose = mail.purpose.as_str();
    crate::audit::insert(tx, now, None, "mail-failed", &mail.id, purpose).await?;
    Ok(true)
}

/// Deletes a mail. Returns false if there is none with this ID.
pub(crate) async fn delete(tx: &mut Tx, id: &str) -> Result<bool> {
    let done = sqlx::query("DELETE FROM outbox WHERE id = $1")
        .bind(id)
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() > 0)
}

const SELECT: &str = "SELECT id, purpose, address, subject, body, created_at, give_up_at, attempts \
     FROM outbox";

impl Store {
    /// Returns the mails whose next attempt is due, the longest due first, at most `most`.
    pub async fn due_mail(&self, now: Timestamp, most: u32) -> Result<Vec<Mail>> {
        let sql = format!("{SELECT} WHERE next_at <= $1 ORDER BY next_at, id LIMIT $2");
        let rows = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(sql))
            .bind(micros(now))
            .bind(most)
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter().map(Row::read).collect()
    }

    /// Deletes a mail that was sent.
    pub async fn mail_sent(&self, mail: &Mail, now: Timestamp) -> Result<()> {
        let mut tx = self.begin().await?;
        if delete(&mut tx, &mail.id).await? {
            let purpose = mail.purpose.as_str();
            crate::audit::insert(&mut tx, now, None, "mail-sent", &mail.id, purpose).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Records a failed attempt. The mail is tried again, or given up if its time is up or `is_final` is true.
    pub async fn mail_not_sent(
        &self,
        mail: &Mail,
        problem: &str,
        is_final: bool,
        now: Timestamp,
    ) -> Result<NotSent> {
        let attempts = mail.attempts.saturating_add(1);
        let next = next_attempt(attempts, mail.give_up_at, now).filter(|_| !is_final);
        let mut tx = self.begin().await?;
        let done = match next {
            Some(next) => {
                sqlx::query(
                    "UPDATE outbox SET attempts = $2, next_at = $3, problem = $4 WHERE id = $1",
                )
                .bind(&mail.id)
                .bind(i64::from(attempts))
                .bind(micros(next))
                .bind(problem)
                .execute(&mut *tx)
                .await?;
                NotSent::Later
            }
            None => {
                let mail = Mail {
                    attempts,
                    ..mail.clone()
                };
                give_up(&mut tx, &mail, problem, now).await?;
                NotSent::GivenUp
            }
        };
        tx.commit().await?;
        Ok(done)
    }

    /// Gives the mails up whose time is up, and returns how many. `problem` is the reason if none of their attempts failed.
    pub async fn give_up_mail(&self, problem: &str, now: Timestamp) -> Result<u64> {
        let sql = format!("{SELECT} WHERE give_up_at <= $1");
        let late = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(sql))
            .bind(micros(now))
            .fetch_all(&self.readers)
            .await?;
        if late.is_empty() {
            return Ok(0);
        }
        let (mut tx, mut given_up) = (self.begin().await?, 0);
        for row in late {
            let mail = row.read()?;
            let last: Option<Option<String>> =
                sqlx::query_scalar("SELECT problem FROM outbox WHERE id = $1")
                    .bind(&mail.id)
                    .fetch_optional(&mut *tx)
                    .await?;
            let last = last.flatten();
            let problem = last.as_deref().unwrap_or(problem);
            given_up += u64::from(give_up(&mut tx, &mail, problem, now).await?);
        }
        tx.commit().await?;
        Ok(given_up)
    }

    /// Returns the state of the outbox, with at most `most` of the mails that were given up.
    pub async fn outbox_status(&self, most: u32) -> Result<OutboxStatus> {
        let (waiting, oldest): (i64, Option<i64>) =
            sqlx::query_as("SELECT COUNT(*), MIN(created_at) FROM outbox")
                .fetch_one(&self.readers)
                .await?;
        let failures = sqlx::query_as::<_, FailureRow>(
            "SELECT id, purpose, address, failed_at, attempts, problem FROM mail_failures \
             ORDER BY failed_at DESC, id LIMIT $1",
        )
        .bind(most)
        .fetch_all(&self.readers)
        .await?;
        Ok(OutboxStatus {
            waiting: u64::try_from(waiting).unwrap_or_default(),
            oldest: oldest.map(|at| time("mail time", at)).transpose()?,
            failures: failures
                .into_iter()
                .map(FailureRow::read)
                .collect::<Result<_>>()?,
        })
    }

    /// Forgets the mails that were given up before this time. Returns their number.
    pub async fn forget_mail_failures(&self, before: Timestamp) -> Result<u64> {
        let done = sqlx::query("DELETE FROM mail_failures WHERE failed_at < $1")
            .bind(micros(before))
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected())
    }
}
