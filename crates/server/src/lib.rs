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
//! println!("{}", server.sign_in_link().await?);       // signs the owner in, once
//! let token = server.api_token("cli").await?;         // for the CLI: keep it in a file with mode 0600
//! let directory = server.directory();                 // for `faultline_gateway::serve`
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:7890").await?;
//! let shutdown = Shutdown::default();                 // cancel `soft`, then, if it takes too long, `hard`
//! server.serve(listener, shutdown).await;             // environments keep running afterwards
//! # let _ = (token, directory); Ok(()) }
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | the operator's settings |
//! | `app` | the state that all requests and reconcilers share |
//! | `auth` | authentication: sessions, API tokens, CSRF, and the extractors that return proofs |
//! | `mail` | the client of the mail server, and the texts of mail |
//! | `exposures` | which requests are for what tenants expose, and who may send them |
//! | `probes` | what answers there |
//! | `rates` | rate limits |
//! | `crash` | points at which tests end the server |
//! | `operations` | what people can do, one operation per file, used by the pages and the API |
//! | `reconcile` | the reconcilers: they take no input, are idempotent and return a status |
//! | `terminal` | terminals in the browser |
//! | `web`, `api` | pages and API: parse, call an operation, render |

#[macro_use]
mod crash;

mod api;
mod api_servers;
mod app;
mod assets;
mod auth;
mod capacity;
pub mod config;
mod counts;
mod directory;
mod entrance;
mod exposures;
mod headers;
mod hub;
mod listener;
mod lock;
mod looks;
pub mod mail;
mod metrics;
mod operations;
mod pools;
mod probes;
mod problem;
mod quotas;
mod rates;
mod reconcile;
mod router;
mod server;
mod status;
mod terminal;
mod usage;
mod web;

pub use api::openapi;
pub use config::Config;
pub use server::{Error, Parts, Reconcilers, Runs, Server, Shutdown};

/// Private items that the fuzz targets in `fuzz/` call.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::terminal::fuzz_message as terminal_message;
}

#[cfg(test)]
mod tests;
