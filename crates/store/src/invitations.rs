//! Invitations: links and access codes by which people join.

use std::collections::HashMap;

use faultline_domain::{AccessCode, Login, PersonId, authz::Role, person::Invitation};
use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Secret, Store,
    db::{Tx, from_json, micros, parse, time, to_json},
    outbox::{self, NewMail},
    sessions::{NewSession, insert_session},
};

/// A person who accepts an invitation.
#[derive(Debug, Clone)]
pub struct NewPerson {
    /// The person's id.
    pub id: PersonId,
    /// The name that others see.
    pub name: String,
    /// The name that the person signs in with.
    pub login: Login,
    /// The hash of the password, as a PHC string.
    pub password: String,
}

/// The result of accepting an invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// The person has joined and is signed in.
    Done,
    /// The invitation is unknown, expired or used up.
    Invalid,
    /// Another person has the login name. The invitation was not used.
    LoginTaken,
}

#[derive(FromRow)]
struct Row {
    id: String,
    note: String,
    role: String,
    group_id: Option<String>,
    uses_left: i64,
    created_by: String,
    created_at: i64,
    expires_at: i64,
    code: Option<String>,
    withdrawn_at: Option<i64>,
}

impl Row {
    fn read(self, accepted_by: Vec<String>) -> Result<Invitation> {
        Ok(Invitation {
            id: self.id,
            note: self.note,
            role: from_json("role", &self.role)?,
            group: self.group_id,
            uses_left: u32::try_from(self.uses_left).unwrap_or_default(),
            created_by: parse("person id", &self.created_by)?,
            created_at: time("invitation time", self.created_at)?,
            expires_at: time("invitation time", self.expires_at)?,
            code: self
                .code
                .map(|code| parse("access code", &code))
                .transpose()?,
            withdrawn_at: self
                .withdrawn_at
                .map(|at| time("invitation time", at))
                .transpose()?,
            accepted_by,
        })
    }
}

/// An invitation of which one use was counted.
pub(crate) struct Used {
    pub(crate) id: String,
    pub(crate) role: Role,
    group: Option<String>,
}

impl Used {
    /// Makes a new person a member of the invitation's group, if it has one.
    pub(crate) async fn join_group(&self, tx: &mut Tx, person: &str) -> Result<()> {
        if let Some(group) = &self.group {
            sqlx::query(
                "INSERT INTO group_members (group_id, person_id, instructs) VALUES ($1, $2, $3)",
            )
            .bind(group)
            .bind(person)
            .bind(false)
            .execute(&mut **tx)
            .await?;
        }
        Ok(())
    }
}

/// Counts a use of an invitation. Returns `None` if it is unknown, expired or used up. Dropping the transaction gives the
/// use back.
pub(crate) async fn use_invitation(
    tx: &mut Tx,
    secret: &Secret,
    now: Timestamp,
) -> Result<Option<Used>> {
    let used: Option<(String, String, Option<String>)> = sqlx::query_as(
        "UPDATE invitations SET uses_left = uses_left - 1 \
         WHERE token_hash = $1 AND uses_left > 0 AND expires_at > $2 RETURNING id, role, group_id",
    )
    .bind(secret.hash())
    .bind(micros(now))
    .fetch_optional(&mut **tx)
    .await?;
    used.map(|(id, role, group)| {
        Ok(Used {
            id,
            role: from_json("role", &role)?,
            group,
        })
    })
    .transpose()
}

impl Store {
    /// Stores an invitation with the secret of its link or code, and writes the mail with it, if any. Returns false if the person who creates it may not do so any
    /// more: the request may have taken a while since it was authorized.
    pub async fn add_invitation(
        &self,
        secret: &Secret,
        invitation: &Invitation,
        mail: Option<&NewMail>,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let may: Option<i64> = sqlx::query_scalar(
            "SELECT 1 FROM people p WHERE p.id = $1 AND p.disabled_at IS NULL AND (p.role = $2 \
             OR (p.role = $3 AND EXISTS (SELECT 1 FROM group_members m \
             WHERE m.group_id = $4 AND m.person_id = p.id AND m.instructs)))",
        )
        .bind(invitation.created_by.as_str())
        .bind(to_json(&Role::Operator)?)
        .bind(to_json(&Role::Instructor)?)
        .bind(&invitation.group)
        .fetch_optional(&mut *tx)
        .await?;
        if may.is_none() {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO invitations \
             (id, token_hash, note, role, uses_left, created_by, created_at, expires_at, group_id, code) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(&invitation.id)
        .bind(secret.hash())
        .bind(&invitation.note)
        .bind(to_json(&invitation.role)?)
        .bind(i64::from(invitation.uses_left))
        .bind(invitation.created_by.as_str())
        .bind(micros(invitation.created_at))
        .bind(micros(invitation.expires_at))
        .bind(&invitation.group)
        .bind(invitation.code.as_ref().map(AccessCode::as_str))
        .execute(&mut *tx)
        .await?;
        let (at, who) = (invitation.created_at, Some(invitation.created_by.as_str()));
        let by_mail = match mail {
            Some(mail) => {
                outbox::insert(&mut tx, mail, at).await?;
                ", by mail"
            }
            None => "",
        };
        let detail = format!(
            "{}, uses: {}{by_mail}",
            invitation.role.as_str(),
            invitation.uses_left
        );
        crate::audit::insert(&mut tx, at, who, "invite", &invitation.id, &detail).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Returns the latest invitations, newest first, even those that can't be accepted any more.
    pub async fn invitations(&self, most: u32) -> Result<Vec<Invitation>> {
        let rows = sqlx::query_as::<_, Row>(
            "SELECT id, note, role, group_id, uses_left, created_by, created_at, expires_at, code, \
             withdrawn_at FROM invitations ORDER BY created_at DESC LIMIT $1",
        )
        .bind(most)
        .fetch_all(&self.readers)
        .await?;
        let joined: Vec<(String, String)> = sqlx::query_as(
            "SELECT invitation_id, name FROM people WHERE invitation_id IN \
             (SELECT id FROM invitations ORDER BY created_at DESC LIMIT $1) ORDER BY created_at",
        )
        .bind(most)
        .fetch_all(&self.readers)
        .await?;
        let mut names: HashMap<String, Vec<String>> = HashMap::new();
        for (invitation, name) in joined {
            names.entry(invitation).or_default().push(name);
        }
        rows.into_iter()
            .map(|row| {
                let accepted_by = names.remove(&row.id).unwrap_or_default();
                row.read(accepted_by)
            })
            .collect()
    }

    /// Returns the role that an invitation gives, if it can be accepted.
    pub async fn invitation(&self, secret: &Secret, now: Timestamp) -> Result<Option<Role>> {
        let role: Option<String> = sqlx::query_scalar(
            "SELECT i.role FROM invitations i JOIN people p ON p.id = i.created_by \
             WHERE i.token_hash = $1 AND i.uses_left > 0 AND i.expires_at > $2 \
             AND p.disabled_at IS NULL",
        )
        .bind(secret.hash())
        .bind(micros(now))
        .fetch_optional(&self.readers)
        .await?;
        role.map(|role| from_json("role", &role)).transpose()
    }

    /// Withdraws an invitation: any, on behalf of an operator, or one to a group, on behalf of somebody who instructs it.
    /// People who have accepted it stay, and its mail is not sent any more. Returns false if there is none with this id that could be accepted.
    pub async fn withdraw_invitation(
        &self,
        by: &PersonId,
        id: &str,
        group: Option<&str>,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "UPDATE invitations SET uses_left = 0, withdrawn_at = $2 \
             WHERE id = $1 AND uses_left > 0 AND expires_at > $2 AND ($3 IS NULL OR group_id = $3)",
        )
        .bind(id)
        .bind(micros(now))
        .bind(group)
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        outbox::delete(&mut tx, id).await?;
        let who = Some(by.as_str());
        crate::audit::insert(&mut tx, now, who, "invite-withdraw", id, "").await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Accepts an invitation: stores the person and a session of theirs, and counts the use, in one transaction.
    pub async fn accept_invitation(
        &self,
        secret: &Secret,
        person: &NewPerson,
        session: &NewSession,
        now: Timestamp,
    ) -> Result<Accepted> {
        let mut tx = self.begin().await?;
        let used = use_invitation(&mut tx, secret, now).await?;
        let Some(used) = used else {
            return Ok(Accepted::Invalid);
        };
        let done = sqlx::query(
            "INSERT INTO people \
             (id, name, role, login, password, created_at, last_sign_in, invitation_id) \
             VALUES ($1, $2, $3, $4, $5, $6, $6, $7) ON CONFLICT (login) DO NOTHING",
        )
        .bind(person.id.as_str())
        .bind(&person.name)
        .bind(to_json(&used.role)?)
        .bind(person.login.as_str())
        .bind(&person.password)
        .bind(micros(now))
        .bind(&used.id)
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            // Dropping the transaction gives the use back.
            return Ok(Accepted::LoginTaken);
        }
        let id = person.id.as_str();
        used.join_group(&mut tx, id).await?;
        insert_session(&mut tx, session, id, now).await?;
        crate::audit::insert(&mut tx, now, Some(id), "join", id, &used.id).await?;
        tx.commit().await?;
        Ok(Accepted::Done)
    }
}
