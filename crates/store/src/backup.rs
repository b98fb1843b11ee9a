//! A consistent copy while the server runs, and the way back.

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

/// Writes a consistent copy of the database at `db` to `to`, whether a server has it open or not. Refused when
/// `to` exists.
pub async fn backup(db: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        return Err(Error::File {
            path: to.to_owned(),
            verb: "write the backup",
            source: std::io::Error::new(
                std::io::ErrorKind::AlreadyExists,
                "there is a file of that name; name another, or remove it",
            ),
        });
    }
    let mut connection = read_only(db).await?;
    // Into a temporary name first, so that a full disk leaves no half of a backup behind.
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
    finish(&partial, to)
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

/// Puts the backup `from` in the place of the database at `db`. The backup is validated first; refused while a
/// server has the database open. What was there is kept beside it, with the ending `before-restore`.
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
        // Fold the write-ahead log in, so that the copy that is kept is whole.
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
        return Err(bad("there is no such file".to_owned()));
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
            .map_err(|_| bad("it is not a database of Faultline".to_owned()))?;
    let known = MIGRATIONS.iter().map(|m| m.version).max();
    if version > known {
        return Err(bad("it was made by a newer version".to_owned()));
    }
    connection.close().await?;
    Ok(())
}
