//! Groups of people, and their instructors.

use std::collections::HashMap;

use faultline_domain::{
    PersonId,
    group::{Group, Member},
};
use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Store,
    db::{Tx, micros, parse, time},
};

#[derive(FromRow)]
struct Row {
    id: String,
    name: String,
    created_at: i64,
}

#[derive(FromRow)]
struct MemberRow {
    group_id: String,
    person_id: String,
    name: String,
    instructs: bool,
}

/// The result of a change of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupChanged {
    /// The change was made.
    Done,
    /// There is no such group or person.
    NotFound,
    /// Another group has the name.
    NameTaken,
}

/// Withdraws a person's invitations to a group that the person doesn't instruct any more.
async fn end_invitations(
    tx: &mut Tx,
    group: &str,
    person: &PersonId,
    now: Timestamp,
) -> Result<()> {
    let sql = "UPDATE invitations SET uses_left = 0, withdrawn_at = $3 \
               WHERE group_id = $1 AND created_by = $2 AND uses_left > 0";
    sqlx::query(sql)
        .bind(group)
        .bind(person.as_str())
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

impl Store {
    /// Returns the ids of the groups of each person who is a member of one without instructing it.
    pub async fn memberships(&self) -> Result<HashMap<PersonId, Vec<String>>> {
        let sql =
            "SELECT person_id, group_id FROM group_members WHERE NOT instructs ORDER BY group_id";
        let rows: Vec<(String, String)> = sqlx::query_as(sql).fetch_all(&self.readers).await?;
        let mut all: HashMap<PersonId, Vec<String>> = HashMap::new();
        for (person, group) in rows {
            let person = parse("person id", &person)?;
            all.entry(person).or_default().push(group);
        }
        Ok(all)
    }

    /// Returns all groups with their members, by name.
    pub async fn groups(&self) -> Result<Vec<Group>> {
        let rows: Vec<Row> =
            sqlx::query_as("SELECT id, name, created_at FROM groups ORDER BY name, id")
                .fetch_all(&self.readers)
                .await?;
        let members: Vec<MemberRow> = sqlx::query_as(
            "SELECT m.group_id, m.person_id, p.name, m.instructs FROM group_members m \
             JOIN people p ON p.id = m.person_id ORDER BY m.instructs DESC, p.name, p.id",
        )
        .fetch_all(&self.readers)
        .await?;
        let mut by_group: HashMap<String, Vec<Member>> = HashMap::new();
        for row in members {
            by_group.entry(row.group_id).or_default().push(Member {
                person: parse("person id", &row.person_id)?,
                name: row.name,
                instructs: row.instructs,
            });
        }
        rows.into_iter()
            .map(|row| {
                Ok(Group {
                    members: by_group.remove(&row.id).unwrap_or_default(),
                    created_at: time("group time", row.created_at)?,
                    id: row.id,
                    name: row.name,
                })
            })
            .collect()
    }

    /// Returns a group.
    pub async fn group(&self, id: &str) -> Result<Option<Group>> {
        let all = self.groups().await?;
        Ok(all.into_iter().find(|group| group.id == id))
    }

    /// Creates a group.
    pub async fn create_group(
        &self,
        id: &str,
        name: &str,
        by: &PersonId,
        now: Timestamp,
    ) -> Result<GroupChanged> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "INSERT INTO groups (id, name, created_at) VALUES ($1, $2, $3) \
             ON CONFLICT (name) DO NOTHING",
        )
        .bind(id)
        .bind(name)
        .bind(micros(now))
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(GroupChanged::NameTaken);
        }
        crate::audit::insert(&mut tx, now, Some(by.as_str()), "group-create", id, name).await?;
        tx.commit().await?;
        Ok(GroupChanged::Done)
    }

    /// Deletes a group. Its members stay.
    pub async fn delete_group(
        &self,
        id: &str,
        by: &PersonId,
        now: Timestamp,
    ) -> Result<GroupChanged> {
        let mut tx = self.begin().await?;
        let done = sqlx::query("DELETE FROM groups WHERE id = $1")
            .bind(id)
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(GroupChanged::NotFound);
        }
        crate::audit::insert(&mut tx, now, Some(by.as_str()), "group-delete", id, "").await?;
        tx.commit().await?;
        Ok(GroupChanged::Done)
    }

    /// Adds a member to a group, or changes whether the member instructs it.
    pub async fn add_member(
        &self,
        group: &str,
        person: &PersonId,
        instructs: bool,
        by: &PersonId,
        now: Timestamp,
    ) -> Result<GroupChanged> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "INSERT INTO group_members (group_id, person_id, instructs) \
             SELECT g.id, p.id, $3 FROM groups g, people p WHERE g.id = $1 AND p.id = $2 \
             ON CONFLICT (group_id, person_id) DO UPDATE SET instructs = $3",
        )
        .bind(group)
        .bind(person.as_str())
        .bind(instructs)
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(GroupChanged::NotFound);
        }
        if !instructs {
            end_invitations(&mut tx, group, person, now).await?;
        }
        let what = if instructs {
            "group-instructor"
        } else {
            "group-member"
        };
        let who = Some(by.as_str());
        crate::audit::insert(&mut tx, now, who, what, group, person.as_str()).await?;
        tx.commit().await?;
        Ok(GroupChanged::Done)
    }

    /// Removes a member from a group.
    pub async fn remove_member(
        &self,
        group: &str,
        person: &PersonId,
        by: &PersonId,
        now: Timestamp,
    ) -> Result<GroupChanged> {
        let mut tx = self.begin().await?;
        let sql = "DELETE FROM group_members WHERE group_id = $1 AND person_id = $2";
        let done = sqlx::query(sql)
            .bind(group)
            .bind(person.as_str())
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(GroupChanged::NotFound);
        }
        end_invitations(&mut tx, group, person, now).await?;
        let who = Some(by.as_str());
        crate::audit::insert(&mut tx, now, who, "group-remove", group, person.as_str()).await?;
        tx.commit().await?;
        Ok(GroupChanged::Done)
    }
}
