//! Forwards one request to the API server and its response back, including upgraded connections.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use faultline_domain::EnvironmentId;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response, StatusCode, Uri, Version, body::Incoming, header,
    header::HeaderName, http::uri::PathAndQuery,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::{sync::WaitForCancellationFutureOwned, task::TaskTracker};

use super::{
    Refusal,
    lease::{ConnectionSlot, Lease, Leases, Permit},
    request,
    status::Authenticated,
};
use crate::hop;

/// An error of either side while a body is forwarded.
type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// The response to the client.
pub(super) type Answer = Response<BoxBody<Bytes, BodyError>>;

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
            // Other options would make a proxy before the API server remove headers, such as those that authenticate.
            let upgrade = header::HeaderValue::from_static("Upgrade");
            parts.headers.insert(header::CONNECTION, upgrade);
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
            self.tasks.spawn(upgraded(client, server, lease, permit));
            let (mut parts, body) = answer.into_parts();
            clean(&mut parts.headers, true);
            let body = body.map_err(Into::into).boxed();
            return Ok(Response::from_parts(parts, body));
        }
        let (mut parts, body) = answer.into_parts();
        clean(&mut parts.headers, false);
        parts.version = Version::default();
        let body = LeasedBody {
            body,
            ended: Box::pin(lease.ended.clone().cancelled_owned()),
            _held: (lease, permit, slot),
        };
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

/// A response's body, which fails when its lease ends.
struct LeasedBody {
    body: Incoming,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    _held: (Arc<Lease>, Permit, Option<ConnectionSlot>),
}

impl http_body::Body for LeasedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err("access to this environment has ended".into())));
        }
        Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Copies bytes both ways until either side or the lease ends.
async fn upgraded(
    client: hyper::upgrade::OnUpgrade,
    server: hyper::upgrade::OnUpgrade,
    lease: Arc<Lease>,
    _permit: Permit,
) {
    let carried = async {
        let (client, server) = tokio::try_join!(client, server)?;
        let mut client = UseReporting {
            stream: TokioIo::new(client),
            lease: lease.clone(),
        };
        tokio::io::copy_bidirectional(&mut client, &mut TokioIo::new(server)).await?;
        Ok::<_, BodyError>(())
    };
    if let Some(Err(e)) = lease.ended.run_until_cancelled(carried).await {
        tracing::debug!(error = %e, "a session with an API server ended");
    }
}

/// The client's side of a session. Everything that the client sends counts as use, except heartbeats.
struct UseReporting {
    stream: TokioIo<hyper::upgrade::Upgraded>,
    lease: Arc<Lease>,
}

impl AsyncRead for UseReporting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let sent = buf.filled().get(before..).unwrap_or_default();
        if !is_heartbeat(sent) {
            self.lease.used();
        }
        read
    }
}

impl AsyncWrite for UseReporting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
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
