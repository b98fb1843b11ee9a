//! Writes consistent backups while the server runs, and restores them.

use std::path::Path;

use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    Error, Result,
    db::{MIGRATIONS, lock},
};

async fn read_only(path: &Path) -> Result<SqliteConnection> {
    Ok(SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .busy_timeout(std::time::Duration::from_secs(10))
        .connect()
        .await?)
}

/// Writes a consistent copy of the database at `db` to `to`, even while a server has it open. Fails if `to` exists.
pub async fn backup(db: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        return Err(Error::File {
            path: to.to_owned(),
            verb: "write the backup to",
            source: std::io::Error::new(
                std::io::ErrorKind::AlreadyExists,
                "the file exists; choose another name, or remove it",
            ),
        });
    }
    let mut connection = read_only(db).await?;
    // Written to a temporary file first, so that a full disk doesn't leave an incomplete backup.
    let partial = to.with_extension("partial");
    let _ = std::fs::remove_file(&partial);
    let copied = sqlx::query("VACUUM INTO $1")
        .bind(partial.to_string_lossy().into_owned())
        .execute(&mut connection)
        .await;
    connection.close().await?;
    if let Err(e) = copied {
        let _ = std::fs::remove_file(&partial);
        return Err(e.into());
    }
    if let Err(e) = empty_outbox(&partial).await {
        let _ = std::fs::remove_file(&partial);
        return Err(e);
    }
    finish(&partial, to)
}

/// Deletes the mail to send from a copy of the database. It has secrets of links, and would be sent again after the copy
/// was restored.
async fn empty_outbox(copy: &Path) -> Result<()> {
    let mut connection = SqliteConnectOptions::new()
        .filename(copy)
        .pragma("secure_delete", "on")
        .connect()
        .await?;
    let table = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'outbox'";
    let is_there: Option<i64> = sqlx::query_scalar(table)
        .fetch_optional(&mut connection)
        .await?;
    // A database of an earlier version has none.
    if is_there.is_some() {
        sqlx::query("DELETE FROM outbox")
            .execute(&mut connection)
            .await?;
    }
    connection.close().await?;
    Ok(())
}

fn finish(partial: &Path, to: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let done = std::fs::set_permissions(partial, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::File::open(partial)?.sync_all())
        .and_then(|()| std::fs::rename(partial, to));
    done.map_err(|source| Error::File {
        path: to.to_owned(),
        verb: "write",
        source,
    })
}

/// Replaces the database at `db` with the backup `from`, after validating the backup. Fails while a server has the
/// database open. The old database is kept next to it, with the extension `before-restore`.
pub async fn restore(db: &Path, from: &Path) -> Result<()> {
    validate(from).await?;
    let _lock = lock(db)?;
    let failed = |verb| {
        let path = db.to_owned();
        move |source| Error::File { path, verb, source }
    };
    let partial = db.with_extension("partial");
    std::fs::copy(from, &partial).map_err(failed("copy the backup to"))?;
    if db.exists() {
        // Merges the write-ahead log into the file, so that the kept copy is complete.
        if let Ok(mut old) = SqliteConnectOptions::new().filename(db).connect().await {
            let _ = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
                .execute(&mut old)
                .await;
            old.close().await?;
        }
        std::fs::rename(db, db.with_extension("before-restore"))
            .map_err(failed("keep a copy of"))?;
    }
    for ending in ["-wal", "-shm"] {
        let mut name = db.as_os_str().to_owned();
        name.push(ending);
        let _ = std::fs::remove_file(name);
    }
    finish(&partial, db)
}

async fn validate(path: &Path) -> Result<()> {
    let bad = |reason: String| Error::NotABackup {
        path: path.to_owned(),
        reason,
    };
    if !path.exists() {
        return Err(bad("the file doesn't exist".to_owned()));
    }
    let mut connection = read_only(path)
        .await
        .map_err(|_| bad("it can't be opened as a database".to_owned()))?;
    let sound: String = sqlx::query_scalar("PRAGMA integrity_check")
        .fetch_one(&mut connection)
        .await
        .map_err(|_| bad("it is not a database".to_owned()))?;
    if sound != "ok" {
        return Err(bad(format!("it is damaged ({sound})")));
    }
    let version: Option<i64> =
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
            .fetch_one(&mut connection)
            .await
            .map_err(|_| bad("it is not a Faultline database".to_owned()))?;
    let known = MIGRATIONS.iter().map(|m| m.version).max();
    if version > known {
        return Err(bad(
            "it was written by a newer version of Faultline".to_owned()
        ));
    }
    connection.close().await?;
    Ok(())
}
