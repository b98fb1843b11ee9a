//! Forwards one request to the API server and its response back, including upgraded connections.

use std::sync::Arc;

use bytes::Bytes;
use faultline_domain::EnvironmentId;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response, StatusCode, Uri, Version, body::Incoming, header,
    header::HeaderName, http::uri::PathAndQuery,
};
use tokio_util::task::TaskTracker;

use super::{
    Refusal,
    lease::{Lease, Leases, Permit},
    request,
    status::Authenticated,
};
use crate::{
    forwarding::{Ending, ForwardError, carry},
    hop,
};

/// The error of a body whose lease ends.
const ENDED: &str = "access to this environment has ended";

/// The response to the client.
pub(super) type Answer = Response<BoxBody<Bytes, ForwardError>>;

pub(super) struct Proxy {
    pub leases: Leases,
    pub tasks: TaskTracker,
}

/// A request's access: the lease of its token, and its path on the API server.
struct Admitted {
    lease: Arc<Lease>,
    token: String,
    path: PathAndQuery,
}

impl Proxy {
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Answer {
        let path = request::split(request.uri().path());
        let discovery = path.is_some_and(|(_, path)| request::is_discovery(path));
        let refuse = |refusal: Refusal| {
            let whole = |bytes| Full::new(bytes).map_err(|never| match never {}).boxed();
            refusal.response(discovery).map(whole)
        };
        let admitted = match self.admit(&request).await {
            Ok(admitted) => admitted,
            Err(refusal) => return refuse(refusal),
        };
        let mut answer = self.forward(request, admitted).await.unwrap_or_else(refuse);
        answer.extensions_mut().insert(Authenticated);
        answer
    }

    /// Decides whether the request's token gives access to the environment in its path.
    async fn admit(&self, request: &Request<Incoming>) -> Result<Admitted, Refusal> {
        let (environment, path) = destination(request.uri())?;
        let token = bearer(request.headers()).ok_or_else(Refusal::unauthorized)?;
        let lease = self.leases.get(&environment, token).await?;
        let token = token.to_owned();
        Ok(Admitted { lease, token, path })
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        Admitted { lease, token, path }: Admitted,
    ) -> Result<Answer, Refusal> {
        let permit = lease.permit()?;
        if !is_watch(request.uri()) {
            lease.used();
        }
        if let Some(change) = request::change(request.method(), path.path()) {
            lease.changes(&change).await;
        }
        let upgrade = hop::is_upgrade(&request).then(|| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        clean(&mut parts.headers, upgrade.is_some());
        parts.headers.remove(header::AUTHORIZATION);
        parts.headers.remove(header::HOST);
        parts.uri = uri(path, upgrade.is_some())?;
        let sent = if upgrade.is_some() {
            let host = header::HeaderValue::from_static("kubernetes");
            parts.headers.insert(header::HOST, host);
            parts.version = Version::HTTP_11;
            let request = Request::from_parts(parts, body.boxed());
            let answer = lease.send_alone(request).await;
            answer.map(|answer| (answer, None))
        } else {
            parts.version = Version::HTTP_2;
            let request = Request::from_parts(parts, body.boxed());
            let answer = lease.send(request).await;
            answer.map(|(answer, slot)| (answer, Some(slot)))
        };
        let (mut answer, slot) = match sent {
            Ok(sent) => sent,
            Err(seen) => return Err(self.leases.explain(&lease, &token, seen).await),
        };
        // With any other status, the upgrade was refused or isn't supported, and the response is forwarded as usual.
        if let (Some(client), StatusCode::SWITCHING_PROTOCOLS) = (upgrade, answer.status()) {
            let server = hyper::upgrade::on(&mut answer);
            self.tasks.spawn(session(client, server, lease, permit));
            let (mut parts, body) = answer.into_parts();
            clean(&mut parts.headers, true);
            let body = body.map_err(Into::into).boxed();
            return Ok(Response::from_parts(parts, body));
        }
        let (mut parts, body) = answer.into_parts();
        clean(&mut parts.headers, false);
        parts.version = Version::default();
        let ended = lease.ended.clone();
        let body = Ending::new(body, &ended, ENDED, (lease, permit, slot), |_, _| {});
        Ok(Response::from_parts(parts, body.boxed()))
    }
}

/// Returns the environment, and the path and query on its API server.
fn destination(uri: &Uri) -> Result<(EnvironmentId, PathAndQuery), Refusal> {
    let (id, path) = request::split(uri.path()).ok_or_else(|| {
        Refusal::bad_request("the path must start with /environments/<id>; `faultline kubeconfig` writes a kubeconfig with the right address")
    })?;
    let id = id.parse().map_err(|_| Refusal::not_found())?;
    let path = match uri.query() {
        Some(query) => format!("{path}?{query}").parse(),
        None => path.parse(),
    };
    let path = path.map_err(|_| Refusal::bad_request("the path is invalid"))?;
    Ok((id, path))
}

fn uri(path: PathAndQuery, alone: bool) -> Result<Uri, Refusal> {
    let mut parts = hyper::http::uri::Parts::default();
    parts.path_and_query = Some(path);
    if !alone {
        parts.scheme = Some(hyper::http::uri::Scheme::HTTPS);
        parts.authority = Some(hyper::http::uri::Authority::from_static("kubernetes"));
    }
    Uri::from_parts(parts).map_err(|_| Refusal::bad_request("the path is invalid"))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let said = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (kind, token) = said.split_once(' ')?;
    kind.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Returns whether a request waits for events or logs that may never come. That alone doesn't count as use.
fn is_watch(uri: &Uri) -> bool {
    let asked = uri.query().unwrap_or_default().split('&');
    asked
        .into_iter()
        .any(|part| matches!(part, "watch=true" | "watch=1" | "follow=true"))
}

/// Removes hop-by-hop headers, and `x-remote-` headers, which only the API server's own front proxy may set.
fn clean(headers: &mut HeaderMap, upgrades: bool) {
    hop::remove(headers, upgrades);
    let front: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-remote-"))
        .cloned()
        .collect();
    for name in front {
        headers.remove(name);
    }
}

/// Returns whether bytes are only pings and pongs. `kubectl exec` and `port-forward` send one every five seconds, even
/// if nobody uses them.
fn is_heartbeat(mut bytes: &[u8]) -> bool {
    loop {
        bytes = match bytes {
            [] => return true,
            // WebSocket: a masked ping or pong, with the payload's length and a masking key of four bytes.
            [0x89 | 0x8a, length @ 0x80..=0xfd, rest @ ..] => {
                match rest.get(4 + usize::from(length & 0x7f)..) {
                    Some(next) => next,
                    None => return false,
                }
            }
            // SPDY/3.1: a ping with a payload of four bytes.
            [0x80, 3, 0, 6, _, 0, 0, 4, _, _, _, _, rest @ ..] => rest,
            _ => return false,
        }
    }
}

/// Carries a session until either side or its lease ends. Everything that the client sends counts as use, except
/// heartbeats.
async fn session(
    client: hyper::upgrade::OnUpgrade,
    server: hyper::upgrade::OnUpgrade,
    lease: Arc<Lease>,
    _permit: Permit,
) {
    let from_client = |bytes: &[u8]| {
        if !is_heartbeat(bytes) {
            lease.used();
        }
    };
    carry(client, server, &lease.ended, from_client, |_| {}).await;
}

#[cfg(test)]
mod tests {
    use super::is_heartbeat;

    #[test]
    fn heartbeats_are_distinguished_from_use() {
        let ping = [0x89, 0x80, 1, 2, 3, 4];
        let pong = [0x8a, 0x82, 1, 2, 3, 4, 5, 6];
        let spdy = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
        for silent in [&ping[..], &pong, &spdy, &[ping.as_slice(), &pong].concat()] {
            assert!(is_heartbeat(silent), "{silent:?}");
        }
        let typed = [0x82, 0x82, 1, 2, 3, 4, 0, 100];
        let header = [0x80, 3, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1];
        for used in [
            &typed[..],
            &header,
            &[ping.as_slice(), &typed].concat(),
            b"ls\n",
        ] {
            assert!(!is_heartbeat(used), "{used:?}");
        }
    }
}
