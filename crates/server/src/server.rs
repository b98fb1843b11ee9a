//! Creating a server, serving, stopping.

use std::{sync::Arc, time::Duration};

use axum::Router;
use faultline_domain::{Clock, PersonId, authz::Role};
use faultline_lab::Catalogue;
use faultline_provider::Provider;
use faultline_store::{Secret, Store, credentials::NewApiToken};
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    api_servers::StoreApiServers,
    app::{App, Shared},
    directory::StoreDirectory,
    listener,
    lock::lock,
    operations::sign_in_link,
    reconcile, router,
};

/// Everything that a server is built from.
#[derive(Debug)]
pub struct Parts {
    /// The operator's settings.
    pub config: Config,
    /// The database.
    pub store: Store,
    /// Creates and frees the tenants.
    pub provider: Arc<dyn Provider>,
    /// The labs.
    pub catalogue: Catalogue,
    /// The clock.
    pub clock: Clock,
    /// Generates IDs and tokens. Cryptographically secure; seeded by the operating system, except in tests.
    pub rng: StdRng,
}

/// Tells a server to stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Accept no new work, but finish requests and steps that are in progress.
    pub soft: CancellationToken,
    /// Abort what is in progress.
    pub hard: CancellationToken,
}

/// An error that keeps a server from running.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] faultline_store::Error),
    /// The settings are not valid.
    #[error(transparent)]
    Settings(#[from] crate::config::SettingsError),
}

/// The reconcilers of a server, for simulations, whose clock jumps.
#[derive(Debug, Clone)]
pub struct Reconcilers(Shared);

/// The runs of a reconciler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    /// The reconciler's name.
    pub reconciler: &'static str,
    /// The number of runs since the server started.
    pub runs: u64,
    /// How long the last one took.
    pub last: Duration,
}

impl Reconcilers {
    /// Wakes them.
    pub fn wake(&self) {
        self.0.wake.all();
        self.0.wake.pools_changed();
    }

    /// Returns the runs of each.
    #[must_use]
    pub fn runs(&self) -> Vec<Runs> {
        let all = lock(&self.0.statuses);
        let runs = all.iter().map(|(name, status)| Runs {
            reconciler: name,
            runs: status.runs,
            last: status.took,
        });
        runs.collect()
    }

    /// Returns the number of the server's tasks: one for each reconciler, and one for each step in progress.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.0.tasks.len()
    }
}

/// How long a soft stop waits for requests and steps that are in progress.
const GRACE_PERIOD: Duration = Duration::from_secs(8);

/// The server.
#[derive(Debug)]
pub struct Server(Shared);

impl Server {
    /// Creates a server. Also creates the local owner if there is none yet, and ends the check runs that a previous
    /// server left unfinished.
    pub async fn new(parts: Parts) -> Result<Self, Error> {
        let app = App::new(parts)?;
        let now = app.now();
        app.store
            .ensure_person(&PersonId::local(), "Operator", Role::Operator, now)
            .await?;
        app.store.abandon_checks(now).await?;
        *lock(&app.maintenance) = app.store.maintenance().await?;
        Ok(Self(app))
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> Shared {
        self.0.clone()
    }

    /// Returns a link that signs the local owner in, once.
    pub async fn sign_in_link(&self) -> Result<String, Error> {
        Ok(sign_in_link::sign_in_link(&self.0, &PersonId::local())
            .await?
            .0)
    }

    /// Creates an API token for the local owner. It replaces the token with the same name, if any.
    pub async fn api_token(&self, name: &str) -> Result<Secret, Error> {
        let secret = self.0.secret();
        let (id, now) = (self.0.row_id(), self.0.now());
        let owner = PersonId::local();
        let new = NewApiToken::full(&id, &owner, name);
        self.0.store.replace_api_token(&secret, &new, now).await?;
        Ok(secret)
    }

    /// Returns the directory that tells the SSH gateway who may use which environment.
    #[must_use]
    pub fn directory(&self) -> Arc<StoreDirectory> {
        Arc::new(StoreDirectory::new(self.0.clone()))
    }

    /// Returns what tells the kubectl gateway who may use which API server.
    #[must_use]
    pub fn api_servers(&self) -> Arc<StoreApiServers> {
        Arc::new(StoreApiServers::new(self.0.clone()))
    }

    /// Returns the reconcilers. They run while the server serves.
    #[must_use]
    pub fn reconcilers(&self) -> Reconcilers {
        Reconcilers(self.0.clone())
    }

    /// Returns only the routes, for tests and for serving by other means. No reconciler runs.
    pub fn router(&self) -> Router {
        router::router(self.0.clone())
    }

    /// Runs the reconcilers and serves requests until `shutdown`. Environments keep running afterwards, and the next
    /// server adopts them.
    pub async fn serve(self, listener: TcpListener, shutdown: Shutdown) {
        let app = self.0;
        reconcile::begin(&app);
        let stop = app.stopping.clone();
        let soft = shutdown.soft.clone();
        let serve = listener::serve(listener, router::router(app.clone()), async move {
            soft.cancelled().await;
            stop.cancel();
        });
        let grace_period = async {
            shutdown.soft.cancelled().await;
            tokio::select! {
                () = tokio::time::sleep(GRACE_PERIOD) => {}
                () = shutdown.hard.cancelled() => {}
            }
        };
        tokio::select! {
            () = serve => {}
            () = shutdown.hard.cancelled() => {}
            () = grace_period => {}
        }
        app.stopping.cancel();
        app.tasks.close();
        tokio::select! {
            () = app.tasks.wait() => {}
            () = tokio::time::sleep(GRACE_PERIOD) => {
                tracing::warn!("some work did not finish in time; the next server will treat it as interrupted");
            }
            () = shutdown.hard.cancelled() => {}
        }
        app.store.close().await;
    }
}
