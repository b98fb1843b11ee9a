//! Errors of the store itself. A missing row is a `None`, not an error.

use std::path::PathBuf;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A database operation failed.
    #[error("a database operation failed")]
    Database(#[from] sqlx::Error),
    /// Updating the schema failed.
    #[error("updating the database's schema failed")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A column has a value that no version of Faultline writes.
    #[error("the database contains an invalid {what}: {value:?}")]
    Corrupt {
        /// The column.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// An operation on a file failed.
    #[error("cannot {verb} {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operation, such as `open`.
        verb: &'static str,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// Another process has the database open.
    #[error("{} is in use by a running server; stop it first with `faultline down`", .0.display())]
    InUse(PathBuf),
    /// A file isn't a backup that this version can restore.
    #[error("{} is not a usable backup: {reason}", path.display())]
    NotABackup {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
}

/// The result of the store's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;
