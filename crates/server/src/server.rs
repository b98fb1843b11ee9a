//! The way in: making a server, serving, stopping.

use std::{sync::Arc, time::Duration};

use axum::Router;
use faultline_domain::{Clock, PersonId, authz::Role};
use faultline_lab::Catalogue;
use faultline_provider::Provider;
use faultline_store::{Secret, Store};
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    api_servers::StoreApiServers,
    app::{App, Shared},
    directory::StoreDirectory,
    listener::{Bounded, Peer},
    operations::sign_in_link,
    reconcile, router,
};

/// What a server is made of.
#[derive(Debug)]
pub struct Parts {
    /// What the operator set.
    pub config: Config,
    /// Where everything is kept.
    pub store: Store,
    /// Who makes the machines.
    pub provider: Arc<dyn Provider>,
    /// The labs.
    pub catalogue: Catalogue,
    /// The time.
    pub clock: Clock,
    /// Randomness for ids and tokens: a cryptographic generator, seeded by the system outside tests.
    pub rng: StdRng,
}

/// How a server is told to stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Take no new work, let what is under way end.
    pub soft: CancellationToken,
    /// Drop what is under way.
    pub hard: CancellationToken,
}

/// Why a server did not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] faultline_store::Error),
    /// The network failed.
    #[error("serving failed")]
    Serve(#[from] std::io::Error),
}

/// How long a soft stop waits for requests and steps under way.
const PATIENCE: Duration = Duration::from_secs(8);

/// The server.
#[derive(Debug)]
pub struct Server(Shared);

impl Server {
    /// Makes a server. The single local owner is made when there is nobody yet; runs of checks that a former server
    /// left unfinished are ended.
    pub async fn new(parts: Parts) -> Result<Self, Error> {
        let app = App::new(parts);
        let now = app.now();
        app.store
            .ensure_person(&PersonId::local(), "You", Role::Operator, now)
            .await?;
        app.store.abandon_checks(now).await?;
        Ok(Self(app))
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> Shared {
        self.0.clone()
    }

    /// A link that signs the local owner in, once.
    pub async fn sign_in_link(&self) -> Result<String, Error> {
        Ok(sign_in_link::sign_in_link(&self.0, &PersonId::local())
            .await?
            .0)
    }

    /// A new API token of the local owner, in the place of one of the same name.
    pub async fn api_token(&self, name: &str) -> Result<Secret, Error> {
        let secret = self.0.secret();
        let (id, now) = (self.0.row_id(), self.0.now());
        self.0
            .store
            .replace_api_token(&secret, &id, &PersonId::local(), name, now)
            .await?;
        Ok(secret)
    }

    /// Who may use what over SSH.
    #[must_use]
    pub fn directory(&self) -> Arc<StoreDirectory> {
        Arc::new(StoreDirectory::new(self.0.clone()))
    }

    /// Who may use which API server.
    #[must_use]
    pub fn api_servers(&self) -> Arc<StoreApiServers> {
        Arc::new(StoreApiServers::new(self.0.clone()))
    }

    /// The routes alone, for tests and for serving by other means. No reconciler runs.
    pub fn router(&self) -> Router {
        router::router(self.0.clone())
    }

    /// Runs the reconcilers and answers requests until told to stop. Environments go on living afterwards; the next
    /// server re-adopts them.
    pub async fn serve(self, listener: TcpListener, shutdown: Shutdown) -> Result<(), Error> {
        let app = self.0;
        reconcile::begin(&app);
        let stop = app.stopping.clone();
        let soft = shutdown.soft.clone();
        let router = router::router(app.clone());
        let serve = axum::serve(
            Bounded::new(listener),
            router.into_make_service_with_connect_info::<Peer>(),
        )
        .with_graceful_shutdown(async move {
            soft.cancelled().await;
            stop.cancel();
        });
        let patience = async {
            shutdown.soft.cancelled().await;
            tokio::select! {
                () = tokio::time::sleep(PATIENCE) => {}
                () = shutdown.hard.cancelled() => {}
            }
        };
        let served = tokio::select! {
            served = async { serve.await } => served,
            () = shutdown.hard.cancelled() => Ok(()),
            () = patience => Ok(()),
        };
        app.stopping.cancel();
        app.tasks.close();
        tokio::select! {
            () = app.tasks.wait() => {}
            () = tokio::time::sleep(PATIENCE) => {
                tracing::warn!("some work did not end in time; the next server finds it interrupted");
            }
            () = shutdown.hard.cancelled() => {}
        }
        app.store.close().await;
        Ok(served?)
    }
}
