//! Tests with the real router, real SQLite files and the fake provider.

mod access_codes;
mod api;
mod authoring;
mod burst;
mod capacity;
mod crashes;
mod credential;
mod directory;
mod exposures;
mod faults;
mod groups;
mod history;
mod lifecycle;
mod limits;
mod looks;
mod mail;
mod maintenance;
mod nodes;
mod oidc;
mod pages;
mod passkeys;
mod people;
mod pools;
mod pressure;
mod queue;
mod rates;
mod routes;
mod save_points;
pub(crate) mod smtp;
mod suspend;
mod terminals;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use faultline_domain::{
    Clock, EnvironmentId, TenantId,
    environment::{Environment, State},
    tenant::Observed,
};
use faultline_lab::Catalogue;
use faultline_provider::fake::FakeProvider;
use faultline_store::{Secret, Store, credentials::NewApiToken, sessions::NewSession};
use http_body_util::BodyExt;
use jiff::Timestamp;
use rand::SeedableRng;
use tempfile::TempDir;
use tower::ServiceExt;

use crate::{
    Config, Parts, app::App, app::Shared, auth::SESSION, config::PoolSettings, reconcile, router,
};

pub(super) struct Bed {
    pub app: Shared,
    pub provider: FakeProvider,
    pub clock: Clock,
    pub memory: reconcile::Memory,
    pub cookie: String,
    pub csrf: String,
    pub token: String,
    folder: Arc<TempDir>,
}

pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: axum::http::HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    pub fn location(&self) -> &str {
        self.headers[header::LOCATION].to_str().unwrap()
    }
}

pub(super) fn labs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/labs")
}

/// Copies a folder recursively.
pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub(super) async fn bed() -> Bed {
    bed_with(Config::default()).await
}

pub(super) async fn bed_with(config: Config) -> Bed {
    bed_of(config, FakeProvider::new()).await
}

/// Settings with which paused environments stay in memory.
pub(crate) fn in_memory() -> Config {
    Config {
        save_points: crate::config::SavePointSettings {
            suspended_days: 0,
            ..crate::config::SavePointSettings::default()
        },
        ..Config::default()
    }
}

/// Returns a server with this configuration and provider.
pub(super) async fn bed_of(config: Config, provider: FakeProvider) -> Bed {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let clock = Clock::stopped(Timestamp::from_second(1_800_000_000).unwrap());
    open(folder, clock, provider, config, 1).await
}

async fn open(
    folder: Arc<TempDir>,
    clock: Clock,
    provider: FakeProvider,
    config: Config,
    seed: u64,
) -> Bed {
    let catalogue = Catalogue::load(&labs());
    assert!(catalogue.broken().is_empty(), "{:?}", catalogue.broken());
    // Most tests count tenants, so pools are off unless a test configures them.
    let pools = match config.pools {
        pools if pools == PoolSettings::default() => PoolSettings {
            max_tenants: 0,
            ..pools
        },
        pools => pools,
    };
    let server = crate::Server::new(Parts {
        config: Config {
            data_dir: folder.path().to_owned(),
            // Most tests must not depend on the memory of the machine.
            reserve_memory_mib: match config.reserve_memory_mib {
                usual if usual == Config::default().reserve_memory_mib => 0,
                own => own,
            },
            reserve_disk_mib: 0,
            pools,
            ..config
        },
        store: store(&folder.path().join("test.db")).await,
        provider: Arc::new(provider.clone()),
        catalogue,
        clock: clock.clone(),
        rng: rand::rngs::StdRng::seed_from_u64(seed),
    })
    .await
    .unwrap();
    let token = server.api_token("test").await.unwrap();
    let app = server.shared();
    let session = app.secret();
    let new = new_session(&app, &session, 1000);
    let owner = faultline_domain::PersonId::local();
    app.store
        .add_session(&new, &owner, app.now())
        .await
        .unwrap();
    Bed {
        memory: reconcile::Memory::default(),
        cookie: format!("{SESSION}={}", session.expose()),
        csrf: crate::auth::csrf::token(&session),
        token: token.expose().to_owned(),
        app,
        provider,
        clock,
        folder,
    }
}

/// Returns a session with this secret that lasts for this many hours.
pub(super) fn new_session(app: &App, secret: &Secret, hours: i64) -> NewSession {
    NewSession {
        issuer: None,
        secret: secret.clone(),
        id: secret.hash(),
        browser: "Firefox on Linux".to_owned(),
        expires_at: app.now() + jiff::SignedDuration::from_hours(hours),
    }
}

/// Opens the store once the previous server has closed it; a response that is still being sent keeps it open.
async fn store(path: &std::path::Path) -> Store {
    for _ in 0..200 {
        match Store::open(path).await {
            Err(faultline_store::Error::InUse(_)) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            opened => return opened.unwrap(),
        }
    }
    panic!("{} stays in use", path.display());
}

impl Bed {
    /// Stops this server as a crash would, and starts the next one with the same store and provider.
    pub async fn restart(self) -> Self {
        self.app.stopping.cancel();
        self.app.tasks.close();
        self.app.tasks.wait().await;
        self.app.store.close().await;
        let (folder, clock, provider) = (self.folder, self.clock, self.provider);
        let config = self.app.config.clone();
        let seed = self.app.random(rand::Rng::random);
        drop((self.app, self.memory));
        open(folder, clock, provider, config, seed).await
    }

    /// Restarts with the labs of this folder.
    pub async fn restart_with(self, labs: &Path) -> Self {
        let bed = self.restart().await;
        bed.app.set_catalogue(Catalogue::load(labs));
        bed
    }

    /// Signs another student in, who makes all requests from now on.
    pub async fn become_another(&mut self, name: &str) {
        let (person, now) = (name.parse().unwrap(), self.app.now());
        let role = faultline_domain::authz::Role::Student;
        let (session, token) = (self.app.secret(), self.app.secret());
        let new = new_session(&self.app, &session, 1);
        let store = &self.app.store;
        let id = self.app.row_id();
        store.ensure_person(&person, name, role, now).await.unwrap();
        store.add_session(&new, &person, now).await.unwrap();
        store
            .add_api_token(&token, &NewApiToken::full(&id, &person, name), now)
            .await
            .unwrap();
        self.cookie = format!("{SESSION}={}", session.expose());
        self.csrf = crate::auth::csrf::token(&session);
        self.token = token.expose().to_owned();
    }

    pub fn router(&self) -> Router {
        router::router(self.app.clone())
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Answer {
            status,
            headers,
            body: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        let request = Request::get(path).header(header::COOKIE, &self.cookie);
        self.send(request.body(Body::empty()).unwrap()).await
    }

    /// Sends a form as one of our pages does.
    pub async fn post(&self, path: &str, form: &str) -> Answer {
        let request = Request::post(path)
            .header(header::COOKIE, &self.cookie)
            .header("sec-fetch-site", "same-origin")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let form = format!("csrf={}&{form}", self.csrf);
        self.send(request.body(Body::from(form)).unwrap()).await
    }

    pub async fn api(&self, method: Method, path: &str, json: Option<&str>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json");
        let body = json.map_or_else(Body::empty, |j| Body::from(j.to_owned()));
        self.send(request.body(body).unwrap()).await
    }

    /// Runs each reconciler once.
    pub async fn reconcile(&self) {
        reconcile::each(&self.app, &self.memory).await;
    }

    /// Reconciles until `done` returns true for the environment.
    pub async fn until(
        &mut self,
        id: &EnvironmentId,
        done: impl Fn(&Environment) -> bool,
    ) -> Environment {
        for _ in 0..400 {
            self.reconcile().await;
            let e = self.app.store.environment(id).await.unwrap().unwrap();
            if done(&e) {
                return e;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let e = self.app.store.environment(id).await.unwrap();
        panic!("the environment did not reach the expected state: {e:?}");
    }

    /// Returns the tenant of an environment.
    pub async fn tenant(&self, id: &EnvironmentId) -> TenantId {
        let e = self.app.store.environment(id).await.unwrap().unwrap();
        e.tenant_id().expect("it has a tenant").clone()
    }

    /// Reconciles until the provider has begun to create the tenant.
    pub async fn begun(&mut self, id: &EnvironmentId) -> TenantId {
        let seen = |e: &Environment| {
            let observed = e.tenant.as_ref().and_then(|t| t.observed);
            observed.is_some_and(|o| o != Observed::Absent)
        };
        let e = self.until(id, seen).await;
        e.tenant_id().unwrap().clone()
    }

    /// Adds a public key for the signed-in person, and returns it.
    pub async fn key(&self) -> faultline_gateway::PublicKey {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ ann@laptop";
        let form = format!("public_key={}", key.replace(' ', "+").replace('@', "%40"));
        let added = self.post("/keys", &form).await;
        assert_eq!(added.status, StatusCode::SEE_OTHER, "{}", added.body);
        faultline_gateway::PublicKey::parse(key).unwrap()
    }

    /// Starts a lab from its page, and returns the environment.
    pub async fn start(&self, lab: &str) -> EnvironmentId {
        let answer = self.post(&format!("/labs/{lab}/start"), "").await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.body);
        let place = answer.location();
        place.rsplit('/').next().unwrap().parse().unwrap()
    }

    /// Starts a lab and waits until it is active.
    pub async fn active(&mut self, lab: &str) -> EnvironmentId {
        let id = self.start(lab).await;
        self.until(&id, is_active).await;
        id
    }
}

pub(super) fn is_active(e: &Environment) -> bool {
    matches!(e.state, State::Active { .. })
}

pub(super) fn is_final(e: &Environment) -> bool {
    e.state.is_final()
}

pub(super) fn node() -> faultline_domain::NodeName {
    "node1".parse().unwrap()
}

/// Waits until no check run is in progress.
pub(super) async fn checked(app: &App, id: &EnvironmentId) {
    for _ in 0..500 {
        if !crate::operations::check::is_running(app, id) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the checks did not end");
}
