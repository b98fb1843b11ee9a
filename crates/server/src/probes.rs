//! What answers at exposures now. It is asked only while somebody looks, because students see the requests in their logs.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use faultline_domain::{
    ExposureName, TenantId,
    environment::Environment,
    exposure::{Answer, Answers, Exposure, Report},
};
use faultline_gateway::exposure::connect::connect;
use faultline_provider::Stream;
use futures::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{app::App, lock::lock};

/// Answers are asked for as long after somebody looked. An open workspace looks again sooner.
const WANTED: Duration = Duration::from_secs(45);
/// The minimum interval between two requests to an exposure.
const INTERVAL: Duration = Duration::from_secs(8);
/// The time that an exposure may take to begin its response.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The number of exposures of an environment that are asked at a time.
const PARALLEL: usize = 4;
/// The maximum length of a status line that is read, in bytes.
const STATUS_LINE: usize = 256;

#[derive(Debug)]
struct Probed {
    wanted_at: Instant,
    probed_at: Option<Instant>,
    answers: Answers,
}

/// The last answers of exposures that somebody looks at.
#[derive(Debug, Default)]
pub(crate) struct Probes(Mutex<HashMap<TenantId, Probed>>);

impl Probes {
    /// Returns the last answers of a tenant's exposures. They are asked again from now on.
    pub(crate) fn want(&self, tenant: &TenantId) -> Answers {
        let mut all = lock(&self.0);
        let now = Instant::now();
        let probed = all.entry(tenant.clone()).or_insert_with(|| Probed {
            wanted_at: now,
            probed_at: None,
            answers: Answers::new(),
        });
        probed.wanted_at = now;
        probed.answers.clone()
    }

    /// Returns whether the exposures of a tenant are to be asked now.
    pub(crate) fn are_due(&self, tenant: &TenantId) -> bool {
        let all = lock(&self.0);
        all.get(tenant).is_some_and(|probed| {
            probed.wanted_at.elapsed() < WANTED
                && probed.probed_at.is_none_or(|at| at.elapsed() >= INTERVAL)
        })
    }

    /// Records answers. Returns true if they have changed.
    pub(crate) fn record(&self, tenant: &TenantId, answers: Answers) -> bool {
        let mut all = lock(&self.0);
        let Some(probed) = all.get_mut(tenant) else {
            return false;
        };
        probed.probed_at = Some(Instant::now());
        let changed = probed.answers != answers;
        probed.answers = answers;
        changed
    }

    /// Forgets all tenants for which `keep` returns false.
    pub(crate) fn retain(&self, keep: impl Fn(&TenantId) -> bool) {
        let recent = |probed: &Probed| probed.wanted_at.elapsed() < WANTED;
        lock(&self.0).retain(|tenant, probed| keep(tenant) && recent(probed));
    }
}

/// Asks all exposures of an environment.
pub(crate) async fn probe(app: &App, e: &Environment, report: &Report) -> Answers {
    let Some(tenant) = e.tenant_id() else {
        return Answers::new();
    };
    let all = stream::iter(report.selection.exposures.clone());
    let asked = all.map(|exposure| ask(app, e, tenant, exposure));
    asked.buffer_unordered(PARALLEL).collect().await
}

async fn ask(
    app: &App,
    e: &Environment,
    tenant: &TenantId,
    exposure: Exposure,
) -> (ExposureName, Answer) {
    let nodes = exposure.nodes(e);
    let place = exposure.place(e);
    let own = app
        .config
        .exposure_domain()
        .map(|domain| domain.host(&place));
    let asked = async {
        let provider = &*app.provider;
        let Ok(stream) = connect(provider, tenant, &nodes, exposure.port).await else {
            return Answer::Nothing;
        };
        let host = exposure.host().or(own.as_deref()).unwrap_or_default();
        let status = status(stream, host).await;
        status.map_or(Answer::NotHttp, Answer::Status)
    };
    let answer = tokio::time::timeout(TIMEOUT, asked).await;
    (place.name, answer.unwrap_or(Answer::Nothing))
}

/// Sends a request and returns the status of the response; none if it isn't one.
async fn status(mut stream: Stream, host: &str) -> Option<u16> {
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: faultline\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    stream.flush().await.ok()?;
    let mut line = [0; STATUS_LINE];
    let mut read = 0;
    loop {
        let seen = line.get(..read)?;
        if let Some(status) = parse(seen) {
            return Some(status);
        }
        if seen.contains(&b'\n') {
            return None;
        }
        match stream.read(line.get_mut(read..)?).await {
            Ok(0) | Err(_) => return None,
            Ok(more) => read += more,
        }
    }
}

/// Returns the status in the beginning of a response; none if it isn't there yet, or isn't one.
fn parse(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?.get(1..)?;
    let digits = rest.strip_prefix(b" ")?.get(..3)?;
    let end = rest.get(4);
    if !end.is_some_and(|b| b.is_ascii_whitespace()) {
        return None;
    }
    let status: u16 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (100..600).contains(&status).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_from_its_line() {
        for (line, status) in [
            ("HTTP/1.1 200 OK\r\n", Some(200)),
            ("HTTP/1.0 404\r\n", Some(404)),
            ("HTTP/1.1 200", None),
            ("HTTP/1.1 2000 OK\r\n", None),
            ("HTTP/1.1 999 x\r\n", None),
            ("HTTP/1.1 +20 x\r\n", None),
            ("HTTP/2 200 OK\r\n", None),
            ("SSH-2.0-x\r\n", None),
            ("", None),
        ] {
            let found = parse(line.as_bytes());
            assert_eq!(found, status.filter(|_| line.contains('\n')), "{line:?}");
        }
    }
}
