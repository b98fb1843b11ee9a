//! The gateways: the trust boundary between people and environments. SSH, and the way to API servers.
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
//! | `ssh` | the only module that knows the SSH library |
//! | `connection` | the loop that consumes a connection's events and owns its channels |
//! | `channel` | what happens on one channel |
//! | `gate` | holds a client back that sends faster than the guest takes |
//! | [`kube`] | the door to API servers: an authenticating reverse proxy |
//! | [`limit`] | how many connections and failures an address may have |
//!
//! Nobody needs sshd in a guest for this: shells, commands, files and forwards go over the guest link, so they
//! work while a lab has the guest's network in pieces. When the link itself is lost a shell falls back to the
//! serial console.
//!
//! What a client learns about an environment it may not use is nothing: an unknown one, somebody else's and a wrong key
//! are refused alike, after the same time. Its owner, with a key of theirs, is let in far enough to be told why it can't be
//! entered.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # async fn example(directory: Arc<dyn faultline_gateway::Directory>, provider: Arc<dyn faultline_provider::Provider>) -> Result<(), Box<dyn std::error::Error>> {
//! use faultline_gateway::{Config, HostKey, serve};
//! let key = HostKey::generate(&mut rand::rng()); // keep key.to_openssh() and read it back next time
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:2222").await?;
//! let stop = tokio_util::sync::CancellationToken::new();
//! serve(listener, &key, Config::default(), directory, provider, stop).await?;
//! # Ok(()) }
//! ```

mod channel;
mod connection;
mod gate;
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

/// Proof that the holder of a key may use a node: made only by a [`Directory`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The environment.
    pub environment: EnvironmentId,
    /// What it runs on now.
    pub tenant: TenantId,
    /// The node that shells and forwards go to.
    pub node: NodeName,
}

/// What the holder of a key meets at an environment of theirs: made only by a [`Directory`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// The way in.
    Enter(Access),
    /// A closed door, with why and what to do: it is paused, say, or has ended, or has no such node.
    Closed(String),
}

/// Who may use what.
#[async_trait]
pub trait Directory: Send + Sync {
    /// May the holder of this key log in so? Called for each key that a client offers, and again when it has
    /// proven to hold it. Nothing for an unknown environment, somebody else's, and an unknown key. Asked again while a
    /// connection lasts, which ends once the answer is not to enter.
    /// Should take less than [`Config::rejection`], which hides how long it took.
    async fn authorize(&self, login: &Login, key: &PublicKey) -> Option<Admission>;

    /// Somebody does something in this environment: called when a channel opens and then at most every half
    /// minute while keys are typed or data is sent.
    async fn used(&self, environment: &EnvironmentId);
}

/// How the gateway behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long a client may take to authenticate.
    pub login_grace: Duration,
    /// How long each refusal takes, so that all look alike.
    pub rejection: Duration,
    /// How often the directory is asked again whether who is connected still may be.
    pub recheck: Duration,
    /// How often a silent client is asked whether it is there; after three times without an answer it is gone.
    pub keepalive: Duration,
    /// The most channels of one connection.
    pub max_channels: usize,
    /// Limits of connections.
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
