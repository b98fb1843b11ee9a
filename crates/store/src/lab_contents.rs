//! The contents of labs at the time when their environments were started.

use crate::{Result, Store, db::Tx};

/// A lab's content, with the hash that identifies it.
#[derive(Debug, Clone, Copy)]
pub struct LabContent<'a> {
    /// The hash.
    pub hash: &'a str,
    /// The serialized content.
    pub text: &'a str,
}

/// Stores a content, unless one with the same hash exists.
pub(crate) async fn keep(tx: &mut Tx, lab: LabContent<'_>) -> Result<()> {
    sqlx::query("INSERT INTO lab_contents (hash, content) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(lab.hash)
        .bind(lab.text)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

impl Store {
    /// Returns the content with this hash.
    pub async fn lab_content(&self, hash: &str) -> Result<Option<String>> {
        Ok(
            sqlx::query_scalar("SELECT content FROM lab_contents WHERE hash = $1")
                .bind(hash)
                .fetch_optional(&self.readers)
                .await?,
        )
    }
}
