//! Stores intent, observation and progress in SQLite. The only crate with SQL.
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
//! | [`people`] | people: roles, login names, passwords |
//! | [`groups`] | groups of people and their instructors |
//! | [`identities`] | accounts at identity providers by which people sign in |
//! | [`invitations`] | the links by which people join |
//! | [`passkeys`] | the public keys of passkeys |
//! | [`secret`] | random tokens and their hashes |
//! | [`sessions`] | the browsers in which people are signed in |
//! | [`credentials`] | one-time sign-in tokens, API tokens: only their hashes |
//! | [`cluster_tokens`] | tokens of one person for one environment's API server |
//! | [`ssh_keys`] | public keys, and the version of each person's set of keys |
//! | [`node_keys`] | the version of the keys that was last applied to each node |
//! | [`environments`] | intent and observation of environments |
//! | [`tenants`] | the tenants of environments: requested, claimed, released |
//! | [`pools`] | tenants of pools, the starts that pools are forecast from, bounds and events |
//! | [`quotas`] | how much people and groups may use, how much they use, and when environments ran |
//! | [`mail_addresses`] | mail addresses of people, and the codes by which they confirm them |
//! | [`outbox`] | mail to send, and mail that was given up |
//! | [`maintenance`] | the maintenance that is in effect, and what the owners of environments were notified of |
//! | [`samples`] | the state of the server every minute, for charts |
//! | `exposures` | what tenants expose |
//! | [`exposure_shares`] | links by which anybody can open an exposure |
//! | [`exposure_visits`] | codes and cookies by which a browser opens an exposure |
//! | [`save_points`] | save points of environments |
//! | [`lab_contents`] | the contents of labs at the time when their environments were started |
//! | [`stages`] | the stages of starts, and their typical durations |
//! | [`start_log`] | the log of each start, line by line |
//! | [`attempts`] | attempts at labs, revealed hints, check runs |
//! | [`audit`] | the audit log |
//! | [`backup`] | consistent backups while a server runs, and restoring them |
//!
//! All writes go through one connection and begin with `BEGIN IMMEDIATE`, so a transaction never waits for another one
//! halfway. Readers have their own connections. A change of a row and the work that it implies are one transaction: an
//! environment is inserted together with its attempt, its audit line, and the count that admitted it.

pub mod attempts;
pub mod audit;
pub mod backup;
pub mod cluster_tokens;
pub mod credentials;
mod db;
pub mod environments;
mod error;
pub mod exposure_shares;
pub mod exposure_visits;
mod exposures;
pub mod groups;
pub mod identities;
pub mod invitations;
pub mod lab_contents;
pub mod mail_addresses;
pub mod maintenance;
pub mod node_keys;
pub mod outbox;
pub mod passkeys;
pub mod people;
mod pool_saves;
pub mod pools;
pub mod quotas;
pub mod samples;
pub mod save_points;
pub mod secret;
pub mod sessions;
pub mod ssh_keys;
pub mod stages;
pub mod start_log;
pub mod tenants;

pub use db::Store;
pub use error::{Error, Result};
pub use secret::Secret;

#[cfg(test)]
mod tests;
