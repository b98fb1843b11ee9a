//! The gateways: SSH, API servers, and what tenants expose. They are the trust boundary between people and environments.
//!
//! ```text
//! ssh ──► accept: limits ──► ssh.rs (callbacks → Event) ──► connection.rs (one loop per connection)
//!                                                              │ a task per channel
//!                                                              ▼
//!                                       channel.rs: shell, exec, sftp, -L  ──► Provider::open(…, Guest)
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`login`] | user names: `<environment>` and `<node>.<environment>` |
//! | [`key`] | host keys and people's public keys, without the SSH library's types |
//! | `ssh` | the only module that uses the SSH library |
//! | `connection` | the loop that consumes a connection's events and owns its channels |
//! | `channel` | the task of one channel: a program, files, a forward, the console |
//! | `gate` | backpressure on clients that send faster than the guest reads |
//! | [`kube`] | the gateway to API servers: an authenticating reverse proxy |
//! | [`exposure`] | the gateway to what tenants expose: a reverse proxy for HTTP and WebSockets |
//! | `hop` | hop-by-hop headers, which the reverse proxies don't forward |
//! | `forwarding` | bodies and upgraded connections that the reverse proxies forward |
//! | [`limit`] | limits of connections and failures, overall and per address |
//!
//! The guest needs no sshd: shells, commands, files and forwards go over the guest link, so they work even if a lab has
//! broken the guest's network. If the link itself is lost, a shell falls back to the serial console.
//!
//! A client learns nothing about an environment that it may not use: an unknown environment, somebody else's and a
//! wrong key are refused in the same way, after the same time. The owner of an environment that can't be entered, with
//! the right key, may log in and is told why.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # async fn example(directory: Arc<dyn faultline_gateway::Directory>, provider: Arc<dyn faultline_provider::Provider>) -> Result<(), Box<dyn std::error::Error>> {
//! use faultline_gateway::{Config, HostKey, serve};
//! let key = HostKey::generate(&mut rand::rng()); // store key.to_openssh() and load it next time
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:2222").await?;
//! let stop = tokio_util::sync::CancellationToken::new();
//! serve(listener, &key, Config::default(), directory, provider, stop).await?;
//! # Ok(()) }
//! ```

mod channel;
mod connection;
pub mod exposure;
mod forwarding;
mod gate;
mod hop;
pub mod key;
pub mod kube;
pub mod limit;
pub mod login;
mod server;
mod ssh;

use std::time::Duration;

use async_trait::async_trait;
use faultline_domain::{EnvironmentId, NodeName, TenantId};

pub use key::{HostKey, PublicKey};
pub use login::Login;
pub use server::serve;

/// Proof that the holder of a key may use a node. Only a [`Directory`] creates it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The environment.
    pub environment: EnvironmentId,
    /// The tenant that it currently runs on.
    pub tenant: TenantId,
    /// The node that shells and forwards go to.
    pub node: NodeName,
}

/// The result for the holder of a key who asks to enter their own environment. Only a [`Directory`] creates it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// They may enter.
    Enter(Access),
    /// They can't enter now, with why and what to do: it is paused, for example, or has ended, or has no such node.
    Closed(String),
}

/// Decides who may use which environment.
#[async_trait]
pub trait Directory: Send + Sync {
    /// Returns whether the holder of this key may log in. `None` for an unknown environment, somebody else's, and an
    /// unknown key.
    ///
    /// Called for each key that a client offers, and again when it has proven that it holds the key. Also called
    /// regularly during a connection, which ends if the client may no longer enter. Should take less time than
    /// [`Config::rejection`], which hides how long the call took.
    async fn authorize(&self, login: &Login, key: &PublicKey) -> Option<Admission>;

    /// Records that the environment is in use. Called when a channel opens, and then at most every 30 seconds while the
    /// client sends input.
    async fn used(&self, environment: &EnvironmentId);
}

/// The configuration of the SSH gateway.
#[derive(Debug, Clone)]
pub struct Config {
    /// The time limit for authentication. Default: 30 s.
    pub login_grace: Duration,
    /// The duration of each refusal, so that all look alike. Default: 400 ms.
    pub rejection: Duration,
    /// The interval at which connected clients are authorized again. Default: 15 s.
    pub recheck: Duration,
    /// The interval of keepalive requests to a silent client. After three without a response, the connection ends.
    /// Default: 30 s.
    pub keepalive: Duration,
    /// The maximum number of channels of a connection. Default: 32.
    pub max_channels: usize,
    /// The limits of connections.
    pub limits: limit::Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            login_grace: Duration::from_secs(30),
            rejection: Duration::from_millis(400),
            recheck: Duration::from_secs(15),
            keepalive: Duration::from_secs(30),
            max_channels: 32,
            limits: limit::Limits::default(),
        }
    }
}
