//! People and their roles.

use faultline_domain::{
    PersonId,
    authz::{Principal, Role},
};
use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Store,
    db::{from_json, micros, parse, to_json},
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

impl Store {
    /// Creates a person, unless one with this ID exists.
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
}
