//! Intent, observation and progress in SQL; the only crate with SQL in it.
//!
//! ```no_run
//! # async fn example() -> Result<(), faultline_store::Error> {
//! let store = faultline_store::Store::open("/var/lib/faultline/faultline.db".as_ref()).await?;
//! let unfinished = store.unfinished_environments().await?;
//! # Ok(()) }
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`people`] | who there is |
//! | [`credentials`] | sessions, one-time sign-in tokens, API tokens: only their hashes |
//! | [`cluster_tokens`] | what opens one environment's API server to one person |
//! | [`ssh_keys`] | public keys, and the version of each person's set of them |
//! | [`node_keys`] | the version that was last applied to each node |
//! | [`environments`] | intent and observation of environments, their stages |
//! | [`tenants`] | what environments run on: asked for, claimed, let go of |
//! | [`lab_contents`] | labs as they were when environments of them were started |
//! | [`start_log`] | what happened during a start, line by line |
//! | [`attempts`] | tries at labs, hints opened, check runs |
//! | [`audit`] | who did what |
//! | [`backup`] | a consistent copy while running, and the way back |
//!
//! Writers go through one connection and begin with `BEGIN IMMEDIATE`, so none ever waits for another inside a
//! transaction; readers have connections of their own. A row change and the work it implies are one transaction:
//! an environment is inserted together with its attempt, its audit line, and the count that admitted it.

pub mod attempts;
pub mod audit;
pub mod backup;
pub mod cluster_tokens;
pub mod credentials;
mod db;
pub mod environments;
mod error;
pub mod lab_contents;
pub mod node_keys;
pub mod people;
pub mod secret;
pub mod ssh_keys;
pub mod stages;
pub mod start_log;
pub mod tenants;

pub use db::Store;
pub use error::{Error, Result};
pub use secret::Secret;

#[cfg(test)]
mod tests;
