//! `bench door`: compares requests to an API server through the gateway with direct ones, by the same client.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use async_trait::async_trait;
use faultline_cluster::client;
use faultline_domain::{Clock, LabSlug, lab::SetupStep};
use faultline_lab::{Catalogue, LabFolder};
use faultline_provider::{ApiAccess, Error, Provider, Stream, api::ApiServer};
use faultline_tenancy_local::Local;
use futures::TryStreamExt;
use hyper::{Request, header};
use serde_json::Value;
use tokio::net::TcpStream;

use super::{Report, pages::start};
use crate::api::Api;

/// The request of `kubectl get nodes`.
const NODES: &str = "/api/v1/nodes?limit=500";
/// The watched resource, which changes rarely.
const WATCH: &str = "/api/v1/namespaces/default/secrets?watch=true&timeoutSeconds=600";
const WATCHES: usize = 100;
/// The timeout for a server's start and stop.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server in a process of its own, so that its memory can be measured.
struct Up {
    child: Child,
    kube: SocketAddr,
    api: Api,
}

impl Up {
    async fn begin(dir: &Path, labs: &Path, images: &Path) -> anyhow::Result<Self> {
        let [pages, ssh, kube] = [free()?, free()?, free()?];
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("up").arg("--no-browser");
        command.arg("--data").arg(dir);
        command.arg("--labs").arg(labs).arg("--images").arg(images);
        command.arg("--listen").arg(pages.to_string());
        command.arg("--ssh-listen").arg(ssh.to_string());
        command.arg("--kube-listen").arg(kube.to_string());
        let log = std::fs::File::create(dir.join("up.log"))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut child = command.spawn().context("the server does not start")?;
        let began = Instant::now();
        loop {
            if let Ok(api) = Api::load(dir) {
                let asked = api.clone();
                let answers =
                    tokio::task::spawn_blocking(move || asked.get::<Value>("/labs").is_ok());
                if answers.await? {
                    return Ok(Self { child, kube, api });
                }
            }
            if child.try_wait()?.is_some() || began.elapsed() > PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                let said = std::fs::read_to_string(dir.join("up.log"))?;
                bail!("the server did not start:\n{said}");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Returns the server's memory in MiB.
    fn memory_mib(&self) -> anyhow::Result<f64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path)?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
        Ok(kib.context("cannot read the server's memory")? / 1024.0)
    }

    /// Stops the server and removes everything it made.
    async fn end(mut self, provider: &Local) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        tokio::task::spawn_blocking(move || self.child.wait()).await??;
        for (id, _) in provider.list().await? {
            provider.destroy(&id).await?;
        }
        Ok(())
    }
}

fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// The gateway as the address of an API server.
#[derive(Debug)]
struct Door(SocketAddr);

#[async_trait]
impl ApiServer for Door {
    fn name(&self) -> &str {
        "the gateway"
    }

    async fn connect(&self) -> Result<Stream, Error> {
        let stream = TcpStream::connect(self.0).await;
        let stream = stream.map_err(|e| Error::failed("door", e.to_string()))?;
        Ok(Box::new(stream))
    }
}

/// A route to the API server, and what each request on it needs.
struct Way {
    access: ApiAccess,
    /// The prefix of paths.
    before: String,
    token: Option<String>,
}

impl Way {
    fn request(&self, path: &str) -> anyhow::Result<Request<Vec<u8>>> {
        let mut request = Request::get(format!("{}{path}", self.before));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        Ok(request.body(Vec::new())?)
    }

    /// Connects and sends a request, as each run of kubectl does, and then a second request. Returns the duration of
    /// both in milliseconds.
    async fn ask(&self) -> anyhow::Result<(f64, f64)> {
        let began = Instant::now();
        let client = client::connect(&self.access).await?;
        let text = client.request_text(self.request(NODES)?).await?;
        let first = millis(began);
        anyhow::ensure!(text.contains("NodeList"), "no list of nodes: {text}");
        let began = Instant::now();
        client.request_text(self.request(NODES)?).await?;
        Ok((first, millis(began)))
    }

    /// Opens a watch on a connection of its own, and reads until its headers or first bytes have arrived.
    async fn watch(&self) -> anyhow::Result<impl Sized + use<>> {
        let client = client::connect(&self.access).await?;
        let answer = client.send(self.request(WATCH)?.map(Into::into)).await?;
        anyhow::ensure!(
            answer.status().is_success(),
            "a watch was answered with {}",
            answer.status()
        );
        Ok((client, answer))
    }
}

fn millis(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}

/// Measures, and cleans up in any case.
pub(super) async fn door(rounds: u32, labs: &Path, images: &Path) -> anyhow::Result<Report> {
    let scratch = super::scratch()?;
    let dir = scratch.path();
    let lab = smallest_cluster(labs)?;
    // The only lab of its server, which would otherwise prepare the images of others too.
    let only = dir.join("labs");
    copy(&lab.path, &only.join(lab.slug.as_str()))?;
    let cache = faultline_image::cache::Cache::of_user();
    let provider = Local::new(dir, images, cache, &std::env::current_exe()?)?;
    let template = provider.template(&lab.lab.needs.template())?;
    let accelerator = template.map_or("none", |t| t.manifest.accelerator().as_str());
    let mut report = Report::new("door", accelerator);
    let up = Up::begin(dir, &only, images).await?;
    let measured = measure(rounds, &up, &provider, &lab.slug, &mut report).await;
    up.end(&provider).await?;
    scratch.close()?;
    measured.map(|()| report)
}

/// Returns the lab with the fewest nodes whose API server runs, and where a student is an administrator.
fn smallest_cluster(labs: &Path) -> anyhow::Result<Arc<LabFolder>> {
    let catalogue = Catalogue::load(labs);
    let clusters = catalogue.labs().into_iter().filter(|l| {
        let needs = &l.lab.needs;
        // A setup whose last step uses the API server hasn't broken it.
        let ends_with_it = |s: &SetupStep| s.wait.is_some() || s.apply.is_some();
        needs.kubernetes.is_some()
            && needs.groups.is_empty()
            && l.lab.setup.last().is_some_and(ends_with_it)
    });
    clusters
        .min_by_key(|l| (l.lab.needs.nodes, l.slug.to_string()))
        .cloned()
        .with_context(|| format!("there is no lab with a cluster in {}", labs.display()))
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

async fn measure(
    rounds: u32,
    up: &Up,
    provider: &Local,
    lab: &LabSlug,
    report: &mut Report,
) -> anyhow::Result<()> {
    let id = start(up.api.url.clone(), up.api.token.clone(), lab.to_string()).await?;
    let (door, tenant) = {
        let (api, of) = (up.api.clone(), id.clone());
        let asked = tokio::task::spawn_blocking(move || {
            let cluster = api.get(&format!("/environments/{of}/cluster"))?;
            let credential = api.post(&format!("/environments/{of}/credential"), None)?;
            anyhow::Ok((cluster, credential))
        });
        let (cluster, credential) = asked.await??;
        let text = |value: &Value, key: &str| {
            let value = value.get(key).and_then(Value::as_str);
            value
                .map(str::to_owned)
                .with_context(|| format!("the server's answer has no {key}"))
        };
        let all = provider.list().await?;
        let tenant = all.into_iter().next().context("nothing runs")?.0;
        let platform = client::platform(Clock::system().now());
        let direct = provider.api(&tenant, &platform).await?;
        let door = Way {
            access: ApiAccess {
                servers: vec![Arc::new(Door(up.kube))],
                server_name: up.kube.ip().to_string(),
                authority: text(&cluster, "authority")?,
                credential: direct.credential.clone(),
                namespace: None,
            },
            before: format!("/environments/{id}"),
            token: Some(text(&credential, "token")?),
        };
        (door, tenant)
    };
    let platform = client::platform(Clock::system().now());
    let direct = Way {
        access: provider.api(&tenant, &platform).await?,
        before: String::new(),
        token: None,
    };

    let mut samples = [const { Vec::new() }; 4];
    // Alternates, so that other load on the machine affects both alike.
    for _ in 0..rounds {
        let (first, next) = direct.ask().await.context("directly")?;
        let (first_by_door, next_by_door) = door.ask().await.context("through the gateway")?;
        for (to, sample) in samples
            .iter_mut()
            .zip([first, first_by_door, next, next_by_door])
        {
            to.push(sample);
        }
    }
    let names = [
        "nodes, a new client, directly",
        "nodes, a new client, through the gateway",
        "nodes, the same client again, directly",
        "nodes, the same client again, through the gateway",
    ];
    for (name, samples) in names.iter().zip(&samples) {
        report.add(name, "ms", samples);
    }
    report.ratio("a new client, gateway / direct", names[1], names[0]);
    report.ratio(
        "the same client again, gateway / direct",
        names[3],
        names[2],
    );

    let before = up.memory_mib()?;
    let watches: Vec<_> = futures::stream::iter((0..WATCHES).map(Ok))
        .and_then(|_: usize| door.watch())
        .try_collect()
        .await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let with = up.memory_mib()?;
    drop(watches);
    report.add("memory of the server", "MiB", &[before]);
    report.add("memory of the server with 100 watches", "MiB", &[with]);
    Ok(())
}
