//! The server, its requests, and its crashes.

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use anyhow::Context;
use axum::{Router, body::Body, http::Request};
use faultline_domain::{Clock, PersonId, authz::Role};
use faultline_lab::Catalogue;
use faultline_provider::fake::FakeProvider;
use faultline_server::{
    Config, Parts, Reconcilers, Server, Shutdown,
    config::{PoolSettings, Rates},
};
use faultline_store::{Secret, Store, credentials::NewApiToken};
use http_body_util::BodyExt;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime};
use tower::ServiceExt;

/// The number of labs.
pub(super) const LABS: usize = 4;
/// How long a machine takes to be made.
const LATENCY: Duration = Duration::from_millis(20);
/// The probability that a stage of making, resuming or saving a machine fails.
const FAILURES: f64 = 0.002;

const LAB: &str = "title: A service that is in maintenance
summary: It was never taken out of maintenance.
level: beginner
topics: [files]
minutes: 5
needs:
  lifetime_minutes: 120
setup:
  - script: setup/break.sh
checks:
  - name: flag-gone
    title: The flag is gone
    fail: The flag is still there.
    hint: 1
    test:
      file:
        path: /var/lib/orders/maintenance
        exists: false
hints:
  - text: Look at `/var/lib/orders` with `ls`.
  - text: A file there says that it is in maintenance.
  - text: Remove `maintenance`.
";
const SCRIPT: &str = "#!/bin/sh\ntouch /var/lib/orders/maintenance\n";

/// Returns the name of a lab.
pub(super) fn slug(lab: usize) -> String {
    format!(
        "lab-{}",
        char::from(b'a' + u8::try_from(lab % 26).unwrap_or_default())
    )
}

/// Returns the ID of a person.
pub(super) fn person(n: usize) -> anyhow::Result<PersonId> {
    Ok(format!("person{n}").parse()?)
}

/// The response to a request. `None` if the server crashed before.
#[derive(Debug)]
pub(super) struct Answer {
    pub request: u64,
    pub status: u16,
    pub body: Value,
    pub took: Duration,
}

/// A server that runs.
#[derive(Debug)]
struct Running {
    runtime: runtime::Runtime,
    router: Router,
    reconcilers: Reconcilers,
    store: Store,
}

/// The host on which one server after another runs.
#[derive(Debug)]
pub(super) struct Host {
    dir: TempDir,
    config: Config,
    pub clock: Clock,
    pub provider: FakeProvider,
    rng: StdRng,
    tokens: Vec<String>,
    running: Option<Running>,
    answers: (mpsc::Sender<Answer>, mpsc::Receiver<Answer>),
    requests: u64,
    /// The transactions of the previous servers.
    commits: u64,
    /// The number of tasks of a server without a step in progress.
    idle_tasks: usize,
}

impl Host {
    /// Prepares the labs and the people, and starts a server.
    pub fn new(people: usize, places: u32, seed: u64, clock: Clock) -> anyhow::Result<Self> {
        let dir = crate::bench::scratch()?;
        for lab in 0..LABS {
            let folder = dir.path().join("labs").join(slug(lab));
            std::fs::create_dir_all(folder.join("setup"))?;
            std::fs::write(folder.join("lab.yaml"), LAB)?;
            for file in ["README.md", "SOLUTION.md"] {
                std::fs::write(folder.join(file), "# It is in maintenance\n")?;
            }
            for script in ["setup/break.sh", "solution.sh"] {
                let script = folder.join(script);
                std::fs::write(&script, SCRIPT)?;
                std::fs::set_permissions(&script, Permissions::from_mode(0o755))?;
            }
        }
        let config = Config {
            data_dir: dir.path().to_owned(),
            max_environments: places,
            // Nothing that the fake provider makes needs the host's memory or disk.
            reserve_memory_mib: 0,
            reserve_disk_mib: 0,
            node_memory_mib: 0,
            node_disk_mib: 0,
            rates: Rates::unlimited(),
            pools: PoolSettings {
                max_tenants: 100,
                parallel: 4,
            },
            ..Config::default()
        };
        let provider = FakeProvider::new().with_latency(LATENCY);
        let mut host = Self {
            dir,
            config,
            clock,
            provider,
            rng: StdRng::seed_from_u64(seed),
            tokens: Vec::new(),
            running: None,
            answers: mpsc::channel(),
            requests: 0,
            commits: 0,
            idle_tasks: 0,
        };
        host.start()?;
        host.idle_tasks = host.tasks();
        host.tokens = host.add_people(people)?;
        host.provider.fail_at_random(FAILURES, seed);
        Ok(host)
    }

    fn add_people(&mut self, people: usize) -> anyhow::Result<Vec<String>> {
        let mut tokens = Vec::with_capacity(people);
        let (store, now) = (self.store()?, self.clock.now());
        for n in 0..people {
            let (id, secret) = (person(n)?, Secret::generate(&mut self.rng));
            let token = format!("token{n}");
            let added = async {
                store
                    .ensure_person(&id, id.as_str(), Role::Student, now)
                    .await?;
                let new = NewApiToken::full(&token, &id, "simulation");
                store.add_api_token(&secret, &new, now).await
            };
            self.running()?.runtime.block_on(added)?;
            tokens.push(secret.expose().to_owned());
        }
        Ok(tokens)
    }

    fn running(&self) -> anyhow::Result<&Running> {
        self.running.as_ref().context("no server runs")
    }

    pub fn store(&self) -> anyhow::Result<Store> {
        Ok(self.running()?.store.clone())
    }

    /// Runs a future on the server's runtime.
    pub fn block_on<T>(
        &self,
        future: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        self.running()?.runtime.block_on(future)
    }

    /// Starts a server with the database and the machines of the previous one.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let path: PathBuf = self.dir.path().join("simulation.db");
        let labs = self.dir.path().join("labs");
        let rng = StdRng::seed_from_u64(self.rng.random());
        let (config, provider, clock) = (
            self.config.clone(),
            Arc::new(self.provider.clone()),
            self.clock.clone(),
        );
        let (server, store) = runtime.block_on(async {
            let store = open(&path).await?;
            let catalogue = Catalogue::load(&labs);
            anyhow::ensure!(
                catalogue.labs().len() == LABS,
                "the simulation's labs are broken: {:?}",
                catalogue.broken()
            );
            let server = Server::new(Parts {
                config,
                store: store.clone(),
                provider,
                catalogue,
                clock,
                rng,
            });
            anyhow::Ok((server.await?, store))
        })?;
        let (router, reconcilers) = (server.router(), server.reconcilers());
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let began = reconcilers.clone();
        runtime.spawn(server.serve(listener, Shutdown::default()));
        while !began.runs().iter().any(|r| r.reconciler == "environments") {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.running = Some(Running {
            runtime,
            router,
            reconcilers,
            store,
        });
        Ok(())
    }

    /// Ends the server with all its tasks, wherever they are. Returns the responses that it sent before.
    pub fn crash(&mut self) -> Vec<Answer> {
        if let Some(running) = self.running.take() {
            self.commits += running.store.commits();
            let Running {
                runtime,
                router,
                reconcilers,
                store,
            } = running;
            drop((router, reconcilers, store));
            drop(runtime);
        }
        self.answers()
    }

    /// Sends a request on behalf of a person. Returns its number.
    pub fn send(
        &mut self,
        person: usize,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<u64> {
        self.requests += 1;
        let number = self.requests;
        let token = self.tokens.get(person).context("no such person")?;
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json");
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = request.body(body)?;
        let running = self.running()?;
        let (router, answers) = (running.router.clone(), self.answers.0.clone());
        running.runtime.spawn(async move {
            let began = Instant::now();
            let Ok(response) = router.oneshot(request).await;
            let status = response.status().as_u16();
            let Ok(body) = response.into_body().collect().await else {
                return;
            };
            // The receiver lives as long as the host.
            let _ = answers.send(Answer {
                request: number,
                status,
                body: serde_json::from_slice(&body.to_bytes()).unwrap_or_default(),
                took: began.elapsed(),
            });
        });
        Ok(number)
    }

    /// Returns the responses that have arrived.
    pub fn answers(&self) -> Vec<Answer> {
        self.answers.1.try_iter().collect()
    }

    pub fn reconcilers(&self) -> anyhow::Result<&Reconcilers> {
        Ok(&self.running()?.reconcilers)
    }

    fn tasks(&self) -> usize {
        self.running.as_ref().map_or(0, |r| r.reconcilers.tasks())
    }

    /// Returns true if no step is in progress.
    pub fn is_idle(&self) -> bool {
        self.tasks() <= self.idle_tasks
    }

    /// Returns the number of transactions of all servers.
    pub fn commits(&self) -> u64 {
        let running = self.running.as_ref();
        self.commits + running.map_or(0, |r| r.store.commits())
    }
}

/// Opens the database, once the previous server's last task has closed it.
async fn open(path: &std::path::Path) -> anyhow::Result<Store> {
    for _ in 0..500 {
        match Store::open(path).await {
            Err(faultline_store::Error::InUse(_)) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            opened => return Ok(opened?),
        }
    }
    anyhow::bail!("{} stays in use", path.display())
}
