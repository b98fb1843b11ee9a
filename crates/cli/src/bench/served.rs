//! A server whose reconcilers look after one tenant, to measure what that costs.

use std::sync::Arc;

use anyhow::Context;
use faultline_domain::{
    AttemptId, Clock, EnvironmentId, PersonId, TenantId,
    authz::Role,
    environment::{Lifetime, Spec},
    tenant,
};
use faultline_lab::Catalogue;
use faultline_server::{Config, Parts, Server, Shutdown};
use faultline_store::{Store, lab_contents::LabContent};
use faultline_tenancy_local::Local;
use jiff::{SignedDuration, Timestamp};
use rand::SeedableRng;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// A running server.
pub(super) struct Served {
    dir: TempDir,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<()>,
}

impl Served {
    /// Starts a server that takes a running tenant for that of an active environment.
    pub(super) async fn begin(
        provider: &Local,
        tenant: &TenantId,
        spec: tenant::Spec,
    ) -> anyhow::Result<Self> {
        let dir = super::scratch()?;
        let store = Store::open(&dir.path().join("bench.db")).await?;
        active(&store, tenant, spec, Clock::system().now()).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let server = Server::new(Parts {
            config: Config {
                public_url: format!("http://{}", listener.local_addr()?),
                data_dir: dir.path().to_owned(),
                ..Config::default()
            },
            store,
            provider: Arc::new(provider.clone()),
            catalogue: Catalogue::load(dir.path()),
            clock: Clock::system(),
            rng: rand::rngs::StdRng::from_os_rng(),
        })
        .await?;
        let shutdown = Shutdown::default();
        let task = tokio::spawn(server.serve(listener, shutdown.clone()));
        Ok(Self {
            dir,
            shutdown,
            task,
        })
    }

    /// Stops the server. The tenant keeps running.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        self.shutdown.soft.cancel();
        self.task.await?;
        Ok(self.dir.close()?)
    }
}

/// Writes an active environment of this tenant into the store.
async fn active(
    store: &Store,
    tenant: &TenantId,
    spec: tenant::Spec,
    now: Timestamp,
) -> anyhow::Result<()> {
    let mut rng = rand::rngs::StdRng::from_os_rng();
    let (id, attempt) = (
        EnvironmentId::generate(&mut rng),
        AttemptId::generate(&mut rng),
    );
    let person = PersonId::local();
    store
        .ensure_person(&person, "Bench", Role::Operator, now)
        .await?;
    let end = now + SignedDuration::from_hours(12);
    let lifetime = Lifetime {
        expires_at: end,
        hard_end: end,
        last_used: now,
        idle_seconds: 12 * 3600,
    };
    let content = LabContent {
        hash: "bench",
        text: "{}",
    };
    let spec = Spec {
        tenant: spec,
        setup_nodes: Vec::new(),
        groups: Vec::new(),
    };
    let lab = "bench".parse()?;
    let e = store
        .start_environment(
            id.clone(),
            attempt,
            &person,
            &lab,
            content,
            spec,
            lifetime,
            &|_| Ok(()),
            now,
        )
        .await?;
    store.ask_for_tenant(&e, tenant, now).await?;
    let row = store.tenant(tenant).await?.context("no tenant")?;
    let warm = row.state.warm(now).context("it is not being made")?;
    store.record_tenant(&row, &warm, now).await?;
    let again = async || anyhow::Ok(store.environment(&id).await?.context("no environment")?);
    let e = again().await?;
    store
        .claim_tenant(&e, &e.state.clone().prepare(now)?, now)
        .await?;
    let e = again().await?;
    let runs = e.state.clone().activate(now)?;
    anyhow::ensure!(
        store.record_state(&e, &runs, now).await?,
        "the environment was not written"
    );
    Ok(())
}
