//! People: their roles, login names and passwords. [`crate::invitations`] has how they join.

use faultline_domain::{
    Login, PersonId,
    authz::{Principal, Role},
    environment::{EndReason, Intent},
    mail::Purpose,
    person::Person,
};
use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Secret, Store,
    credentials::insert_sign_in,
    db::{Tx, from_json, micros, parse, time, to_json},
    mail_addresses,
    outbox::{self, NewMail},
    sessions::{NewSession, insert_session},
};

#[derive(FromRow)]
pub(crate) struct PrincipalRow {
    person_id: String,
    role: String,
}

impl PrincipalRow {
    pub(crate) fn read(&self) -> Result<Principal> {
        Ok(Principal {
            person: parse("person id", &self.person_id)?,
            role: from_json("role", &self.role)?,
        })
    }
}

#[derive(FromRow)]
struct Row {
    id: String,
    name: String,
    login: Option<String>,
    has_password: bool,
    mail: Option<String>,
    role: String,
    created_at: i64,
    last_sign_in: Option<i64>,
    disabled_at: Option<i64>,
}

impl Row {
    fn read(self) -> Result<Person> {
        let when = |at: Option<i64>| at.map(|at| time("person time", at)).transpose();
        Ok(Person {
            id: parse("person id", &self.id)?,
            name: self.name,
            login: self
                .login
                .map(|login| parse("login name", &login))
                .transpose()?,
            has_password: self.has_password,
            mail: self
                .mail
                .map(|address| parse("mail address", &address))
                .transpose()?,
            role: from_json("role", &self.role)?,
            created_at: time("person time", self.created_at)?,
            last_sign_in: when(self.last_sign_in)?,
            disabled_at: when(self.disabled_at)?,
        })
    }
}

const SELECT: &str = "SELECT id, name, login, password IS NOT NULL AS has_password, mail, role, \
     created_at, last_sign_in, disabled_at FROM people";

/// A change of a person by an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PersonChange {
    /// Gives the person another role.
    Role(Role),
    /// Refuses the person's credentials, and ends their sessions.
    Disable,
    /// Accepts the person's credentials again.
    Enable,
}

/// The result of a [`PersonChange`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// The change was made, or was not necessary.
    Done,
    /// There is no such person.
    NotFound,
    /// The change would take away the operator's own access or role.
    Yourself,
    /// The change would leave no enabled operator.
    LastOperator,
}

/// The result of choosing a login name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    /// The login name is the person's.
    Done,
    /// Another person has it.
    Taken,
    /// The password was changed or reset, or the session ended, since the current password was verified.
    Outdated,
}

/// The result of resetting a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// It was reset.
    Done,
    /// There is no such person.
    NotFound,
    /// The link should be mailed, but the person has no mail address. Nothing was changed.
    NoAddress,
}

/// Removes a person's sessions except for one, and all unused sign-in links.
async fn end_sessions(tx: &mut Tx, person: &PersonId, except: Option<&Secret>) -> Result<u64> {
    let ended = sqlx::query("DELETE FROM sessions WHERE person_id = $1 AND token_hash <> $2")
        .bind(person.as_str())
        .bind(except.map(Secret::hash).unwrap_or_default())
        .execute(&mut **tx)
        .await?;
    sqlx::query("DELETE FROM sign_in_tokens WHERE person_id = $1")
        .bind(person.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(ended.rows_affected())
}

/// Withdraws the invitations of a person who has another role now or no access any more, and removes the sign-in links that they made for
/// others.
pub(crate) async fn end_invitations(tx: &mut Tx, person: &PersonId, now: Timestamp) -> Result<()> {
    let sql = "DELETE FROM outbox WHERE id IN \
               (SELECT id FROM invitations WHERE created_by = $1 AND uses_left > 0)";
    sqlx::query(sql)
        .bind(person.as_str())
        .execute(&mut **tx)
        .await?;
    let sql = "UPDATE invitations SET uses_left = 0, withdrawn_at = $2 \
               WHERE created_by = $1 AND uses_left > 0";
    sqlx::query(sql)
        .bind(person.as_str())
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    sqlx::query("DELETE FROM sign_in_tokens WHERE made_by = $1")
        .bind(person.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

impl Store {
    /// Makes the person when there is none of that id; otherwise leaves everything as it is.
    pub async fn ensure_person(
        &self,
        id: &PersonId,
        name: &str,
        role: Role,
        now: Timestamp,
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO people (id, name, role, created_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (id) DO NOTHING",
        )
        .bind(id.as_str())
        .bind(name)
        .bind(to_json(&role)?)
        .bind(micros(now))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Returns all people, oldest first.
    pub async fn people(&self) -> Result<Vec<Person>> {
        let sql = format!("{SELECT} WHERE deleted_at IS NULL ORDER BY created_at, id");
        let sql = sqlx::AssertSqlSafe(sql);
        let rows = sqlx::query_as::<_, Row>(sql)
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter().map(Row::read).collect()
    }

    /// Returns a person.
    pub async fn person(&self, id: &PersonId) -> Result<Option<Person>> {
        let sql = format!("{SELECT} WHERE id = $1 AND deleted_at IS NULL");
        let sql = sqlx::AssertSqlSafe(sql);
        let row = sqlx::query_as::<_, Row>(sql)
            .bind(id.as_str())
            .fetch_optional(&self.readers)
            .await?;
        row.map(Row::read).transpose()
    }

    /// Returns the enabled person who has this login name and a password, with the password's hash.
    pub async fn password_of_login(&self, login: &Login) -> Result<Option<(PersonId, String)>> {
        let found: Option<(String, String)> = sqlx::query_as(
            "SELECT id, password FROM people \
             WHERE login = $1 AND password IS NOT NULL AND disabled_at IS NULL",
        )
        .bind(login.as_str())
        .fetch_optional(&self.readers)
        .await?;
        found
            .map(|(id, hash)| Ok((parse("person id", &id)?, hash)))
            .transpose()
    }

    /// Returns true if somebody has this login name.
    pub async fn has_login(&self, login: &Login) -> Result<bool> {
        let found: Option<String> = sqlx::query_scalar("SELECT id FROM people WHERE login = $1")
            .bind(login.as_str())
            .fetch_optional(&self.readers)
            .await?;
        Ok(found.is_some())
    }

    /// Records an attempt to sign in with a wrong password, or with an unknown login name, in the audit log.
    pub async fn failed_sign_in(&self, login: &str, now: Timestamp) -> Result<()> {
        let mut tx = self.begin().await?;
        crate::audit::insert(&mut tx, now, None, "sign-in-failed", login, "").await?;
        tx.commit().await?;
        Ok(())
    }

    /// Returns the hash of a person's password.
    pub async fn password_of(&self, person: &PersonId) -> Result<Option<String>> {
        let found: Option<Option<String>> =
            sqlx::query_scalar("SELECT password FROM people WHERE id = $1")
                .bind(person.as_str())
                .fetch_optional(&self.readers)
                .await?;
        Ok(found.flatten())
    }

    /// Stores the session of a person whose password was verified against `hash`. Returns false if the password was
    /// changed or the person was disabled meanwhile.
    pub async fn sign_in_with_password(
        &self,
        person: &PersonId,
        hash: &str,
        session: &NewSession,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "UPDATE people SET last_sign_in = $3 \
             WHERE id = $1 AND password = $2 AND disabled_at IS NULL",
        )
        .bind(person.as_str())
        .bind(hash)
        .bind(micros(now))
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        insert_session(&mut tx, session, person.as_str(), now).await?;
        let who = Some(person.as_str());
        crate::audit::insert(&mut tx, now, who, "sign-in", person.as_str(), "password").await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Sets a person's login name and password, and ends their other sessions. `before` is the hash of the password that
    /// was verified, if any; `keep` is the session that goes on.
    pub async fn set_password(
        &self,
        person: &PersonId,
        login: &Login,
        before: Option<&str>,
        hash: &str,
        keep: &Secret,
        now: Timestamp,
    ) -> Result<Chosen> {
        let mut tx = self.begin().await?;
        let current: Option<Option<String>> = sqlx::query_scalar(
            "SELECT p.password FROM people p JOIN sessions s ON s.person_id = p.id \
             WHERE p.id = $1 AND s.token_hash = $2 AND p.disabled_at IS NULL",
        )
        .bind(person.as_str())
        .bind(keep.hash())
        .fetch_optional(&mut *tx)
        .await?;
        if current.is_none_or(|current| current.as_deref() != before) {
            return Ok(Chosen::Outdated);
        }
        let taken: Option<String> =
            sqlx::query_scalar("SELECT id FROM people WHERE login = $1 AND id <> $2")
                .bind(login.as_str())
                .bind(person.as_str())
                .fetch_optional(&mut *tx)
                .await?;
        if taken.is_some() {
            return Ok(Chosen::Taken);
        }
        sqlx::query("UPDATE people SET login = $2, password = $3 WHERE id = $1")
            .bind(person.as_str())
            .bind(login.as_str())
            .bind(hash)
            .execute(&mut *tx)
            .await?;
        end_sessions(&mut tx, person, Some(keep)).await?;
        let (who, name) = (Some(person.as_str()), login.as_str());
        crate::audit::insert(&mut tx, now, who, "password-set", person.as_str(), name).await?;
        tx.commit().await?;
        Ok(Chosen::Done)
    }

    /// Ends a person's sessions except for the one with the secret `keep`. Returns the number of ended sessions.
    pub async fn end_other_sessions(
        &self,
        person: &PersonId,
        keep: Option<&Secret>,
        now: Timestamp,
    ) -> Result<u64> {
        let mut tx = self.begin().await?;
        let ended = end_sessions(&mut tx, person, keep).await?;
        let (who, count) = (Some(person.as_str()), ended.to_string());
        crate::audit::insert(
            &mut tx,
            now,
            who,
            "sign-out-others",
            person.as_str(),
            &count,
        )
        .await?;
        tx.commit().await?;
        Ok(ended)
    }

    /// Changes a person on behalf of an operator.
    pub async fn change_person(
        &self,
        operator: &PersonId,
        person: &PersonId,
        change: PersonChange,
        now: Timestamp,
    ) -> Result<Changed> {
        let is_loss = matches!(
            change,
            PersonChange::Disable
                | PersonChange::Role(Role::Student | Role::Author | Role::Instructor)
        );
        if operator == person && is_loss {
            return Ok(Changed::Yourself);
        }
        let mut tx = self.begin().await?;
        let role: Option<String> = sqlx::query_scalar("SELECT role FROM people WHERE id = $1")
            .bind(person.as_str())
            .fetch_optional(&mut *tx)
            .await?;
        // Without a change, nothing is withdrawn.
        if let (PersonChange::Role(wanted), Some(role)) = (change, &role)
            && *role == to_json(&wanted)?
        {
            return Ok(Changed::Done);
        }
        let (sql, value, action, detail) = match change {
            PersonChange::Role(role) => (
                "UPDATE people SET role = $2 WHERE id = $1 AND deleted_at IS NULL",
                Some(to_json(&role)?),
                "person-role",
                role.as_str(),
            ),
            PersonChange::Disable => (
                "UPDATE people SET disabled_at = COALESCE(disabled_at, CAST($2 AS INTEGER)) \
                 WHERE id = $1 AND deleted_at IS NULL",
                Some(micros(now).to_string()),
                "person-disable",
                "",
            ),
            PersonChange::Enable => (
                "UPDATE people SET disabled_at = $2 WHERE id = $1 AND deleted_at IS NULL",
                None,
                "person-enable",
                "",
            ),
        };
        let done = sqlx::query(sql)
            .bind(person.as_str())
            .bind(value)
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(Changed::NotFound);
        }
        let operators: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM people WHERE role = $1 AND disabled_at IS NULL",
        )
        .bind(to_json(&Role::Operator)?)
        .fetch_one(&mut *tx)
        .await?;
        if operators == 0 {
            return Ok(Changed::LastOperator);
        }
        if is_loss {
            end_invitations(&mut tx, person, now).await?;
        }
        if change == PersonChange::Disable {
            end_sessions(&mut tx, person, None).await?;
        }
        let who = Some(operator.as_str());
        crate::audit::insert(&mut tx, now, who, action, person.as_str(), detail).await?;
        tx.commit().await?;
        Ok(Changed::Done)
    }

    /// Deletes a person on behalf of an operator: their name and credentials are removed, and their environments end. The
    /// row stays without a name, because attempts and the audit log refer to it.
    pub async fn delete_person(
        &self,
        operator: &PersonId,
        person: &PersonId,
        now: Timestamp,
    ) -> Result<Changed> {
        if operator == person {
            return Ok(Changed::Yourself);
        }
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "UPDATE people SET name = 'Deleted person', login = NULL, password = NULL, role = $2, \
             disabled_at = COALESCE(disabled_at, $3), deleted_at = $3, last_sign_in = NULL, \
             invitation_id = NULL WHERE id = $1 AND deleted_at IS NULL",
        )
        .bind(person.as_str())
        .bind(to_json(&Role::Student)?)
        .bind(micros(now))
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(Changed::NotFound);
        }
        end_sessions(&mut tx, person, None).await?;
        end_invitations(&mut tx, person, now).await?;
        mail_addresses::remove(&mut tx, person).await?;
        crate::save_points::delete_all_of(&mut tx, person).await?;
        for sql in [
            "DELETE FROM api_tokens WHERE person_id = $1",
            "DELETE FROM cluster_tokens WHERE person_id = $1",
            "DELETE FROM identities WHERE person_id = $1",
            "DELETE FROM passkeys WHERE person_id = $1",
            "DELETE FROM ssh_keys WHERE person_id = $1",
            "DELETE FROM removed_ssh_keys WHERE person_id = $1",
            "DELETE FROM group_members WHERE person_id = $1",
        ] {
            sqlx::query(sql)
                .bind(person.as_str())
                .execute(&mut *tx)
                .await?;
        }
        sqlx::query("UPDATE environments SET intent = $2 WHERE person_id = $1 AND is_final = $3")
            .bind(person.as_str())
            .bind(to_json(&Intent::Gone(EndReason::EndedByOperator))?)
            .bind(false)
            .execute(&mut *tx)
            .await?;
        let (who, id) = (Some(operator.as_str()), person.as_str());
        crate::audit::insert(&mut tx, now, who, "person-delete", id, "").await?;
        tx.commit().await?;
        Ok(Changed::Done)
    }

    /// Removes a person's password, passkeys, sessions, API tokens, cluster tokens and the accounts that they linked, and
    /// stores a one-time sign-in token for them, all on behalf of an operator. Public keys stay, and the account that they
    /// joined by. With `mail`, the mail with the link is written to the outbox.
    pub async fn reset_password(
        &self,
        operator: &PersonId,
        person: &PersonId,
        token: &Secret,
        mail: Option<&NewMail>,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Reset> {
        let mut tx = self.begin().await?;
        let sql = "UPDATE people SET password = NULL WHERE id = $1 AND deleted_at IS NULL";
        let done = sqlx::query(sql)
            .bind(person.as_str())
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(Reset::NotFound);
        }
        // An earlier link stops working.
        outbox::delete_to(&mut tx, person, Some(Purpose::PasswordReset)).await?;
        if let Some(mail) = mail
            && !outbox::insert(&mut tx, mail, now).await?
        {
            return Ok(Reset::NoAddress);
        }
        end_sessions(&mut tx, person, None).await?;
        for sql in [
            "DELETE FROM api_tokens WHERE person_id = $1",
            "DELETE FROM cluster_tokens WHERE person_id = $1",
            "DELETE FROM passkeys WHERE person_id = $1",
            // Without the account that they joined by, they would join again as somebody else.
            "DELETE FROM identities WHERE person_id = $1 AND NOT is_origin",
        ] {
            sqlx::query(sql)
                .bind(person.as_str())
                .execute(&mut *tx)
                .await?;
        }
        insert_sign_in(&mut tx, token, person, operator, now, expires_at).await?;
        let who = Some(operator.as_str());
        let how = if mail.is_some() { "by mail" } else { "" };
        crate::audit::insert(&mut tx, now, who, "password-reset", person.as_str(), how).await?;
        tx.commit().await?;
        Ok(Reset::Done)
    }
}
