//! `bench pages`: measures the server over real sockets, with one real environment and 100 viewers of its terminals.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use faultline_domain::{Clock, Shape, TemplateRef};
use faultline_image::sources::Sources;
use faultline_lab::Catalogue;
use faultline_provider::Provider;
use faultline_server::{Config, Parts, Server, Shutdown};
use faultline_store::Store;
use faultline_tenancy_local::Local;
use http_body_util::{BodyExt, Full};
use hyper::{Request, header};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rand::SeedableRng;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_tungstenite::{connect_async, tungstenite::client::IntoClientRequest};

use super::Report;
use crate::api::Api;

/// The number of viewers, spread over this many terminals.
const VIEWERS: usize = 100;
const TERMINALS: usize = 8;
/// The number of concurrent connections.
const CONNECTIONS: usize = 8;

type Http = Client<HttpConnector, Full<Bytes>>;

/// Measures, and cleans up in any case.
pub async fn pages(
    seconds: u64,
    labs: &Path,
    images: &Path,
    sources: Sources,
) -> anyhow::Result<Report> {
    let dir = super::scratch()?;
    let cache = faultline_image::cache::Cache::of_user();
    let provider = Local::new(dir.path(), images, cache, &std::env::current_exe()?)?;
    let provider = Arc::new(provider.with_sources(sources));
    let measured = serve_and_measure(seconds, labs, dir.path(), &provider).await;
    for (id, _) in provider.list().await? {
        provider.destroy(&id).await?;
    }
    dir.close()?;
    measured
}

async fn serve_and_measure(
    seconds: u64,
    labs: &Path,
    dir: &Path,
    provider: &Arc<Local>,
) -> anyhow::Result<Report> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    let catalogue = Catalogue::load(labs);
    let slug = catalogue
        .labs()
        .into_iter()
        .find(|l| l.lab.needs.kubernetes.is_none())
        .map(|l| l.slug.clone())
        .with_context(|| format!("there is no lab in {}", labs.display()))?;
    let server = Server::new(Parts {
        config: Config {
            public_url: base.clone(),
            data_dir: dir.to_owned(),
            rates: faultline_server::config::Rates::unlimited(),
            max_sockets_of_person: VIEWERS,
            ..Config::default()
        },
        store: Store::open(&dir.join("bench.db")).await?,
        provider: provider.clone(),
        catalogue,
        clock: Clock::system(),
        rng: rand::rngs::StdRng::from_os_rng(),
    })
    .await?;
    let link = server.sign_in_link().await?;
    let token = server.api_token("bench").await?.expose().to_owned();
    let shutdown = Shutdown::default();
    let serving = tokio::spawn(server.serve(listener, shutdown.clone()));

    let http: Http = Client::builder(TokioExecutor::new()).build_http();
    let cookie = sign_in(&http, &base, &link).await?;
    let accelerator = provider
        .template(&TemplateRef::plain("debian-12", Shape::SINGLE))?
        .map_or("none", |t| t.manifest.accelerator().as_str());
    let mut report = Report::new("pages", accelerator);
    for (name, path) in [
        ("catalogue", "/".to_owned()),
        ("lab page", format!("/labs/{slug}")),
    ] {
        measure(
            &mut report,
            name,
            &http,
            &format!("{base}{path}"),
            &cookie,
            seconds,
        )
        .await?;
    }
    let environment = start(base.clone(), token.clone(), slug.to_string()).await?;
    let mut viewers = Vec::new();
    for n in 0..VIEWERS {
        let url = format!(
            "{}/api/v1/environments/{environment}/nodes/node1/terminals/{}",
            base.replacen("http", "ws", 1),
            n % TERMINALS + 1
        );
        let mut request = url.into_client_request()?;
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, format!("Bearer {token}").parse()?);
        viewers.push(
            connect_async(request)
                .await
                .context("a terminal did not open")?
                .0,
        );
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    measure(
        &mut report,
        "catalogue with 100 idle terminals",
        &http,
        &format!("{base}/"),
        &cookie,
        seconds,
    )
    .await?;
    report.ratio(
        "rate with 100 idle terminals, part of the rate without",
        "catalogue with 100 idle terminals, rate",
        "catalogue, rate",
    );
    drop(viewers);
    shutdown.hard.cancel();
    let _ = serving.await;
    Ok(report)
}

async fn measure(
    report: &mut Report,
    name: &str,
    http: &Http,
    url: &str,
    cookie: &str,
    seconds: u64,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let until = began + Duration::from_secs(seconds);
    let clients = (0..CONNECTIONS).map(|_| async {
        let mut latencies = Vec::new();
        while Instant::now() < until {
            let asked = Instant::now();
            let request = Request::get(url)
                .header(header::COOKIE, cookie)
                .header(header::ACCEPT_ENCODING, "gzip")
                .body(Full::default())?;
            let answer = http.request(request).await?;
            anyhow::ensure!(
                answer.status().is_success(),
                "{url} answered {}",
                answer.status()
            );
            answer.into_body().collect().await?;
            latencies.push(asked.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(latencies)
    });
    let latencies: Vec<f64> = futures::future::try_join_all(clients).await?.concat();
    #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
    let rate = latencies.len() as f64 / began.elapsed().as_secs_f64();
    report.add(&format!("{name}, rate"), "requests/s", &[rate]);
    report.add(&format!("{name}, latency"), "ms", &latencies);
    Ok(())
}

/// Submits the one-time link's form as a browser does, and returns the session's cookie.
async fn sign_in(http: &Http, base: &str, link: &str) -> anyhow::Result<String> {
    let token = link
        .split_once("token=")
        .map(|(_, t)| t)
        .context("the link has no token")?;
    let request = Request::post(format!("{base}/sign-in"))
        .header(header::ORIGIN, base)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Full::from(format!("token={token}")))?;
    let answer = http.request(request).await?;
    let cookies: Vec<String> = answer
        .headers()
        .get_all(header::SET_COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok()?.split(';').next().map(str::to_owned))
        .collect();
    anyhow::ensure!(
        !cookies.is_empty(),
        "signing in gave no cookie ({})",
        answer.status()
    );
    Ok(cookies.join("; "))
}

/// Starts a lab and waits until it is ready.
pub(super) async fn start(base: String, token: String, slug: String) -> anyhow::Result<String> {
    let api = Api {
        url: base,
        token,
        ssh: None,
    };
    let asking = move || -> anyhow::Result<String> {
        let mut answer = api.post(&format!("/labs/{slug}/environments"), None)?;
        let text = |answer: &Value, key: &str| {
            answer
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let id = text(&answer, "id");
        let began = Instant::now();
        while text(&answer, "phase") != "active" {
            anyhow::ensure!(
                text(&answer, "phase") != "failed",
                "the lab did not start: {}",
                text(&answer, "failed_reason")
            );
            anyhow::ensure!(
                began.elapsed() < Duration::from_secs(600),
                "the lab did not start in time"
            );
            std::thread::sleep(Duration::from_millis(300));
            answer = api.get(&format!("/environments/{id}"))?;
        }
        Ok(id)
    };
    tokio::task::spawn_blocking(asking).await?
}
