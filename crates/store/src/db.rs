//! Opens the database, begins transactions, and converts values to and from columns.

use std::{
    fs::File,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{
    Connection, Sqlite, Transaction,
    sqlite::{
        SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
    },
};

use crate::{Error, Result};

pub(crate) static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");

/// The store. Clones share the same connections.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) writer: SqlitePool,
    pub(crate) readers: SqlitePool,
    path: PathBuf,
    commits: Arc<AtomicU64>,
    _lock: Arc<File>,
}

pub(crate) type Tx = Transaction<'static, Sqlite>;

fn file_error(path: &Path, verb: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, verb, source }
}

/// Locks the database against use by another process, until the returned file is dropped.
pub(crate) fn lock(db: &Path) -> Result<File> {
    let path = db.with_extension("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(file_error(&path, "open"))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::InUse(db.to_owned())),
        Err(e) => Err(file_error(&path, "lock")(e.into())),
    }
}

impl Store {
    /// Opens the database at `path` and updates its schema. Creates the database and its folder if they don't exist.
    /// Returns [`Error::InUse`] while another process has it open.
    pub async fn open(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(file_error(folder, "create the folder"))?;
        }
        let lock = lock(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            // Deleted rows are overwritten: some had secrets of links, or a person's name.
            .pragma("secure_delete", "on")
            .busy_timeout(Duration::from_secs(10));
        let commits = Arc::new(AtomicU64::new(0));
        let counter = commits.clone();
        let writer = connections(1)
            .after_connect(move |connection, _| {
                let counter = counter.clone();
                Box::pin(async move {
                    let mut handle = connection.lock_handle().await?;
                    handle.set_commit_hook(move || {
                        counter.fetch_add(1, Ordering::Relaxed);
                        true
                    });
                    Ok(())
                })
            })
            .connect_with(options.clone())
            .await?;
        restrict(path)?;
        MIGRATIONS.run(&writer).await?;
        let readers = connections(6)
            .connect_with(options.pragma("query_only", "on"))
            .await?;
        Ok(Self {
            writer,
            readers,
            path: path.to_owned(),
            commits,
            _lock: Arc::new(lock),
        })
    }

    /// Returns the path of the database.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of transactions that were committed since the database was opened.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Checks that the database responds.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.readers).await?;
        Ok(())
    }

    /// Closes all connections, so that all writes are in the database's file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    pub(crate) async fn begin(&self) -> Result<Tx> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }
}

/// Returns the options of a pool of at most `max` connections.
///
/// SQLite rolls a transaction back by itself on some errors, for example when the disk is full. sqlx's own rollback then
/// fails, and it would count the connection as inside a transaction for ever: such a connection is replaced.
fn connections(max: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(max)
        .acquire_timeout(Duration::from_secs(20))
        .before_acquire(|connection, _| {
            let clean = !connection.is_in_transaction();
            Box::pin(async move { Ok(clean) })
        })
}

/// Restricts access to the database to its owner, because it contains hashes, names and keys.
fn restrict(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(file_error(path, "restrict access to"))
}

pub(crate) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

pub(crate) fn time(what: &'static str, micros: i64) -> Result<Timestamp> {
    Timestamp::from_microsecond(micros).map_err(|_| corrupt(what, micros))
}

pub(crate) fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| corrupt("value", e))
}

pub(crate) fn from_json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|_| corrupt(what, text))
}

pub(crate) fn parse<T: FromStr>(what: &'static str, text: &str) -> Result<T> {
    text.parse().map_err(|_| corrupt(what, text))
}

pub(crate) fn count(what: &'static str, number: i64) -> Result<u32> {
    u32::try_from(number).map_err(|_| corrupt(what, number))
}

pub(crate) fn corrupt(what: &'static str, value: impl std::fmt::Display) -> Error {
    Error::Corrupt {
        what,
        value: value.to_string(),
    }
}
