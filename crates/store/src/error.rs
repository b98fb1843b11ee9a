//! What goes wrong with the store itself. A row that isn't there is an `Option`, not an error.

use std::path::PathBuf;

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database refused.
    #[error("the database did not do it")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the database's schema could not be brought up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A row holds what no version of Faultline writes.
    #[error("the database holds a {what} that makes no sense: {value:?}")]
    Corrupt {
        /// Which column.
        what: &'static str,
        /// What it holds.
        value: String,
    },
    /// A file could not be read or written.
    #[error("{}: cannot {verb}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried.
        verb: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("{}: in use by a running server; stop it first (`faultline down`)", .0.display())]
    InUse(PathBuf),
    /// A file is not a backup that this version can restore.
    #[error("{}: not a usable backup: {reason}", path.display())]
    NotABackup {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Result of the store's work.
pub type Result<T, E = Error> = std::result::Result<T, E>;
