//! An in-process server with the fake provider.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use faultline_domain::Clock;
use faultline_lab::Catalogue;
use faultline_provider::fake::FakeProvider;
use faultline_server::{Config, Parts, Server, Shutdown};
use faultline_store::Store;
use tempfile::TempDir;

/// A running server.
#[derive(Debug)]
pub struct Serving {
    /// The base URL.
    pub base: String,
    /// A one-time sign-in link.
    pub link: String,
    /// An API token.
    pub token: String,
    /// The provider of its machines.
    pub provider: FakeProvider,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<()>,
    _folder: TempDir,
}

impl Serving {
    /// Starts a server with the labs of `e2e/labs`. Creating a machine takes `latency`.
    pub async fn begin(latency: Duration) -> Result<Self> {
        Self::with(latency, |_| Ok(())).await
    }

    /// Starts a server with settings that `configure` changes; they have its URL already.
    pub async fn with(
        latency: Duration,
        configure: impl FnOnce(&mut Config) -> Result<()>,
    ) -> Result<Self> {
        let labs = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs");
        Self::new(latency, &labs, configure).await
    }

    /// Starts a server with the labs of another folder.
    pub async fn of_labs(
        labs: &Path,
        configure: impl FnOnce(&mut Config) -> Result<()>,
    ) -> Result<Self> {
        Self::new(Duration::ZERO, labs, configure).await
    }

    async fn new(
        latency: Duration,
        labs: &Path,
        configure: impl FnOnce(&mut Config) -> Result<()>,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}", listener.local_addr()?);
        let provider = FakeProvider::new().with_latency(latency);
        let mut config = Config {
            public_url: base.clone(),
            data_dir: folder.path().to_owned(),
            reserve_memory_mib: 0,
            reserve_disk_mib: 0,
            ..Config::default()
        };
        configure(&mut config)?;
        let base = config.public_url.clone();
        let server = Server::new(Parts {
            config,
            store: Store::open(&folder.path().join("e2e.db")).await?,
            provider: Arc::new(provider.clone()),
            catalogue: Catalogue::load(labs),
            clock: Clock::system(),
            rng: rand::SeedableRng::from_os_rng(),
        })
        .await?;
        let link = server.sign_in_link().await?;
        let token = server.api_token("e2e").await?.expose().to_owned();
        let shutdown = Shutdown::default();
        let task = tokio::spawn(server.serve(listener, shutdown.clone()));
        Ok(Self {
            base,
            link,
            token,
            provider,
            shutdown,
            task,
            _folder: folder,
        })
    }

    /// Stops the server in the same way as an operator does.
    pub async fn end(self) -> Result<()> {
        self.shutdown.soft.cancel();
        tokio::time::timeout(Duration::from_secs(25), self.task)
            .await
            .context("the server did not stop")??;
        Ok(())
    }
}
