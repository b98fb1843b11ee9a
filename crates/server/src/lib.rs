//! The server: HTTP API, pages, reconcilers, and their wiring.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # async fn example(provider: Arc<dyn faultline_provider::Provider>) -> Result<(), Box<dyn std::error::Error>> {
//! use faultline_domain::Clock;
//! use faultline_lab::Catalogue;
//! use faultline_server::{Config, Parts, Server, Shutdown};
//! use faultline_store::Store;
//!
//! let server = Server::new(Parts {
//!     config: Config { data_dir: "/var/lib/faultline".into(), ..Config::default() },
//!     store: Store::open("/var/lib/faultline/faultline.db".as_ref()).await?,
//!     provider,
//!     catalogue: Catalogue::load("labs".as_ref()),
//!     clock: Clock::system(),
//!     rng: rand::SeedableRng::from_os_rng(),
//! })
//! .await?;
//! println!("{}", server.sign_in_link().await?);       // opens the pages as the owner, once
//! let token = server.api_token("cli").await?;         // for the CLI: keep it in a file of mode 0600
//! let directory = server.directory();                 // for `faultline_gateway::serve`
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:7890").await?;
//! let shutdown = Shutdown::default();                 // cancel `soft`, then, if it takes too long, `hard`
//! server.serve(listener, shutdown).await?;            // environments go on living afterwards
//! # let _ = (token, directory); Ok(()) }
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | what an operator may set |
//! | `app` | what every request and every reconciler shares |
//! | `auth` | who is asking: sessions, API tokens, CSRF, and the extractors that give proofs |
//! | `rates` | how many requests one may make |
//! | `operations` | what people can do, one file each, used by pages and API alike |
//! | `reconcile` | environments, warnings, orphans, cleaning up: no input, idempotent, with a status |
//! | `terminal` | a browser's terminal on a node |
//! | `web`, `api` | pages and API: parse, call an operation, show |

mod api;
mod api_servers;
mod app;
mod assets;
mod auth;
mod capacity;
pub mod config;
mod directory;
mod entrance;
mod headers;
mod hub;
mod listener;
mod lock;
mod metrics;
mod operations;
mod problem;
mod rates;
mod reconcile;
mod router;
mod server;
mod status;
mod terminal;
mod web;

pub use api::openapi;
pub use config::Config;
pub use server::{Error, Parts, Server, Shutdown};

/// The private parts that `fuzz/` reaches.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::terminal::fuzz_message as terminal_message;
}

#[cfg(test)]
mod tests;
