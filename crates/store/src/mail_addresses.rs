//! Mail addresses of people. An address is a person's only once they have entered the code that was sent there.

use faultline_domain::{MailAddress, PersonId, mail::Purpose};
use jiff::{SignedDuration, Timestamp};

use crate::{
    Result, Secret, Store,
    db::{Tx, micros, parse, time},
    outbox::{self, NewMail},
};

/// The time between two codes for a person, so that nobody makes the server send much mail to somebody else.
pub const INTERVAL: SignedDuration = SignedDuration::from_mins(5);

/// A person's settings of mail.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MailSettings {
    /// The address that the person has confirmed.
    pub address: Option<MailAddress>,
    /// The address that the person has entered and can still confirm.
    pub unconfirmed: Option<MailAddress>,
    /// True if the person wants mail about their environments.
    pub wants_notices: bool,
}

/// The result of entering an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// A code is sent to it.
    Done,
    /// The last code was sent so recently that the next one has to wait until then.
    TooSoon(Timestamp),
}

/// Removes a person's address, the one to be confirmed, and the mail that was not sent.
pub(crate) async fn remove(tx: &mut Tx, person: &PersonId) -> Result<u64> {
    let removed = sqlx::query(
        "UPDATE people SET mail = NULL, wants_notices = FALSE WHERE id = $1 AND mail IS NOT NULL",
    )
    .bind(person.as_str())
    .execute(&mut **tx)
    .await?;
    let entered = sqlx::query("DELETE FROM mail_confirmations WHERE person_id = $1")
        .bind(person.as_str())
        .execute(&mut **tx)
        .await?;
    outbox::delete_to(tx, person, None).await?;
    sqlx::query("DELETE FROM mail_failures WHERE person_id = $1")
        .bind(person.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(removed.rows_affected() + entered.rows_affected())
}

impl Store {
    /// Returns a person's settings of mail.
    pub async fn mail_settings(&self, person: &PersonId, now: Timestamp) -> Result<MailSettings> {
        let row: Option<(Option<String>, bool, Option<String>)> = sqlx::query_as(
            "SELECT p.mail, p.wants_notices, c.address FROM people p \
             LEFT JOIN mail_confirmations c ON c.person_id = p.id AND c.expires_at > $2 \
             WHERE p.id = $1",
        )
        .bind(person.as_str())
        .bind(micros(now))
        .fetch_optional(&self.readers)
        .await?;
        let Some((address, wants_notices, unconfirmed)) = row else {
            return Ok(MailSettings::default());
        };
        let read = |address: Option<String>| {
            let address = address.map(|address| parse("mail address", &address));
            address.transpose()
        };
        Ok(MailSettings {
            address: read(address)?,
            unconfirmed: read(unconfirmed)?,
            wants_notices,
        })
    }

    /// Stores an address that a person has entered, with the secret of the code that confirms it, and writes the mail with
    /// the code. It replaces an earlier one.
    pub async fn enter_address(
        &self,
        person: &PersonId,
        address: &MailAddress,
        code: &Secret,
        mail: &NewMail,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Entered> {
        let mut tx = self.begin().await?;
        let last: Option<i64> =
            sqlx::query_scalar("SELECT created_at FROM mail_confirmations WHERE person_id = $1")
                .bind(person.as_str())
                .fetch_optional(&mut *tx)
                .await?;
        if let Some(last) = last {
            let next = time("confirmation time", last)?.saturating_add(INTERVAL);
            let next = next.unwrap_or(Timestamp::MAX);
            if next > now {
                return Ok(Entered::TooSoon(next));
            }
        }
        sqlx::query(
            "INSERT INTO mail_confirmations (person_id, address, code_hash, created_at, expires_at) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (person_id) \
             DO UPDATE SET address = $2, code_hash = $3, created_at = $4, expires_at = $5",
        )
        .bind(person.as_str())
        .bind(address.as_str())
        .bind(code.hash())
        .bind(micros(now))
        .bind(micros(expires_at))
        .execute(&mut *tx)
        .await?;
        outbox::delete_to(&mut tx, person, Some(Purpose::Confirmation)).await?;
        outbox::insert(&mut tx, mail, now).await?;
        let (who, id) = (Some(person.as_str()), person.as_str());
        crate::audit::insert(&mut tx, now, who, "mail-address-entered", id, "").await?;
        tx.commit().await?;
        Ok(Entered::Done)
    }

    /// Makes the address that a person has entered theirs, if the code is right. Returns false if it isn't or has expired.
    pub async fn confirm_address(
        &self,
        person: &PersonId,
        code: &Secret,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let address: Option<String> = sqlx::query_scalar(
            "DELETE FROM mail_confirmations \
             WHERE person_id = $1 AND code_hash = $2 AND expires_at > $3 RETURNING address",
        )
        .bind(person.as_str())
        .bind(code.hash())
        .bind(micros(now))
        .fetch_optional(&mut *tx)
        .await?;
        let Some(address) = address else {
            return Ok(false);
        };
        // What was written before goes to the old address.
        outbox::delete_to(&mut tx, person, None).await?;
        sqlx::query("UPDATE people SET mail = $2 WHERE id = $1")
            .bind(person.as_str())
            .bind(address)
            .execute(&mut *tx)
            .await?;
        let (who, id) = (Some(person.as_str()), person.as_str());
        crate::audit::insert(&mut tx, now, who, "mail-address-set", id, "").await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Removes a person's address, and the one that they have entered. Returns false if there is none.
    pub async fn remove_address(&self, person: &PersonId, now: Timestamp) -> Result<bool> {
        let mut tx = self.begin().await?;
        if remove(&mut tx, person).await? == 0 {
            return Ok(false);
        }
        let (who, id) = (Some(person.as_str()), person.as_str());
        crate::audit::insert(&mut tx, now, who, "mail-address-removed", id, "").await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Sets whether a person wants mail about their environments. Returns false if they have no address.
    pub async fn set_notices(
        &self,
        person: &PersonId,
        wanted: bool,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let done =
            sqlx::query("UPDATE people SET wants_notices = $2 WHERE id = $1 AND mail IS NOT NULL")
                .bind(person.as_str())
                .bind(wanted)
                .execute(&mut *tx)
                .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        let (who, id) = (Some(person.as_str()), person.as_str());
        let detail = if wanted { "on" } else { "off" };
        crate::audit::insert(&mut tx, now, who, "mail-notices", id, detail).await?;
        tx.commit().await?;
        Ok(true)
    }
}
