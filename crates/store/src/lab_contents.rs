//! Labs as they were when environments of them were started.

use crate::{Result, Store, db::Tx};

/// A lab's content, with the hash by which it is known.
#[derive(Debug, Clone, Copy)]
pub struct LabContent<'a> {
    /// The hash.
    pub hash: &'a str,
    /// The content, as the lab writes it.
    pub text: &'a str,
}

/// Keeps a content; one that is known already is the same.
pub(crate) async fn keep(tx: &mut Tx, lab: LabContent<'_>) -> Result<()> {
    sqlx::query("INSERT INTO lab_contents (hash, content) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(lab.hash)
        .bind(lab.text)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

impl Store {
    /// The content of this hash.
    pub async fn lab_content(&self, hash: &str) -> Result<Option<String>> {
        Ok(
            sqlx::query_scalar("SELECT content FROM lab_contents WHERE hash = $1")
                .bind(hash)
                .fetch_optional(&self.readers)
                .await?,
        )
    }
}
