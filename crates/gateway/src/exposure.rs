//! The gateway to what tenants expose: a reverse proxy for HTTP and WebSockets. Each exposure has a host name, and so a web
//! origin, of its own.
//!
//! ```text
//! browser ── Host: <name>-<environment>.<domain> ──► answer ── authorizes the cookie ──► Exposures::admit
//!                                                      │                                    again when something changes
//!                                                      └── Provider::open(…, Port) ──► the tenant's node
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`connect`] | connects to a port of the first node that responds |
//! | `headers` | what is removed from requests and responses: cookies of the platform, headers of proxies |
//! | `limits` | limits of an environment's requests and bytes |
//! | [`refusal`] | refusals, as pages |
//!
//! The pages are a student's, so they are hostile. They get neither a cookie of the platform nor the one by which this
//! gateway knows the visitor, and can't set one for the platform. A page of another exposure, or of any other site, can't
//! send requests with the visitor's cookie, except by leading the visitor there.
//!
//! Paths below [`RESERVED`] belong to the gateway and are never forwarded. At [`ENTER`], a code is exchanged for the cookie.

pub mod connect;
mod headers;
mod limits;
pub mod refusal;

use std::{net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use faultline_domain::{EnvironmentId, NodeName, TenantId, exposure::Place};
use faultline_provider::{Provider, Stream};
use http_body::Body;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version, client::conn::http1, header,
    header::HeaderValue, http::request::Parts, http::uri::PathAndQuery,
};
use hyper_util::rt::TokioIo;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use self::limits::{Accounts, Permit};
pub use self::{headers::cookie, limits::Limits, refusal::Refusal};
use crate::{
    forwarding::{Ending, ForwardError, carry},
    hop,
};

/// The prefix of the paths that are never forwarded.
pub const RESERVED: &str = "/_faultline/";
/// The path at which a code, in the query `code=…`, is exchanged for the cookie.
pub const ENTER: &str = "/_faultline/enter";

/// The error of a body whose visitor may not open the exposure any more.
const ENDED: &str = "access to this exposure has ended";

type AnyBody = UnsyncBoxBody<Bytes, ForwardError>;
/// The response to the client.
pub type Answer = Response<AnyBody>;

/// Proof that a visitor may open an exposure now. Only [`Exposures`] creates it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The exposure.
    pub place: Place,
    /// The tenant that its environment currently runs on.
    pub tenant: TenantId,
    /// The nodes that may listen.
    pub nodes: Vec<NodeName>,
    /// The port.
    pub port: u16,
    /// The host name that the tenant expects; none if it is that of the exposure.
    pub host: Option<String>,
    /// True if the visitor owns the environment.
    pub is_owner: bool,
}

/// The cookie of a visitor who has just entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// The value of the cookie.
    pub secret: String,
    /// The cookie's lifetime, in seconds.
    pub seconds: i64,
}

/// Decides who may open which exposure.
#[async_trait]
pub trait Exposures: Send + Sync {
    /// Returns whether a visitor with this cookie may open an exposure. Called for each request, and again while it is open.
    async fn admit(&self, place: &Place, cookie: Option<&str>) -> Result<Grant, Refusal>;

    /// Exchanges a code for a cookie. A code is valid once, except that of a share.
    async fn enter(&self, place: &Place, code: &str) -> Result<Visit, Refusal>;

    /// Waits until the result of [`admit`](Self::admit) may have changed for an exposure of this environment.
    async fn changed(&self, environment: &EnvironmentId);

    /// Records that the owner uses the environment.
    async fn used(&self, environment: &EnvironmentId);
}

/// The configuration of the gateway.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// True if browsers use HTTPS.
    pub https: bool,
    /// The limits of each environment.
    pub limits: Limits,
    /// The time that a tenant may take to begin its response.
    pub response: Duration,
}

/// The gateway. Clones share their limits.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

struct Inner {
    exposures: Arc<dyn Exposures>,
    provider: Arc<dyn Provider>,
    config: Config,
    accounts: Accounts,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What ends a forwarded request: the end of the visitor's access, or of the byte budget, cancels `ended`. Dropping it ends
/// the task that watches.
struct Open {
    ended: CancellationToken,
    permit: Permit,
    _watched: DropGuard,
}

impl Gateway {
    /// Creates a gateway. What it has open ends with `stop`.
    #[must_use]
    pub fn new(
        exposures: Arc<dyn Exposures>,
        provider: Arc<dyn Provider>,
        config: Config,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            exposures,
            provider,
            accounts: Accounts::new(config.limits),
            config,
            tasks,
            stop,
        }))
    }

    /// Returns whether a request presents a visitor's cookie.
    #[must_use]
    pub fn has_cookie(&self, headers: &HeaderMap) -> bool {
        headers::cookie(headers, self.cookie()).is_some()
    }

    fn cookie(&self) -> &'static str {
        headers::visit_cookie(self.0.config.https)
    }

    /// Answers a request for an exposure. Requests that it refuses are marked with [`refusal::Refused`].
    pub async fn answer<B>(&self, place: &Place, request: Request<B>, from: IpAddr) -> Answer
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<ForwardError>,
    {
        let wants_html = refusal::wants_html(request.headers());
        let answered = if request.uri().path().starts_with(RESERVED) {
            let (parts, _) = request.into_parts();
            self.enter(place, &parts).await
        } else {
            self.forward(place, request, from).await
        };
        answered.unwrap_or_else(|refusal| refusal.response(wants_html))
    }

    /// Exchanges the code in the query for a cookie, and redirects to the exposure's page.
    async fn enter(&self, place: &Place, request: &Parts) -> Result<Answer, Refusal> {
        if request.uri.path() != ENTER || request.method != Method::GET {
            return Err(Refusal::reserved());
        }
        let query = request.uri.query().unwrap_or_default();
        let code = query.strip_prefix("code=").unwrap_or_default();
        let exposures = &self.0.exposures;
        let cookie = match exposures.enter(place, code).await {
            Ok(visit) => Some(self.set_cookie(&visit)),
            // Whoever reloads the page of a code that was exchanged has the cookie already.
            Err(refusal) => {
                let cookie = headers::cookie(&request.headers, self.cookie());
                let admitted = exposures.admit(place, cookie).await;
                admitted.map_err(|_| refusal)?;
                None
            }
        };
        let mut answer = Response::new(refusal::body(""));
        *answer.status_mut() = StatusCode::SEE_OTHER;
        let headers = answer.headers_mut();
        headers.insert(header::LOCATION, HeaderValue::from_static("/"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let policy = HeaderValue::from_static("no-referrer");
        headers.insert(header::REFERRER_POLICY, policy);
        if let Some(Ok(cookie)) = cookie.map(|cookie| cookie.parse()) {
            headers.insert(header::SET_COOKIE, cookie);
        }
        Ok(answer)
    }

    /// Returns the cookie of a visit. It is for this host only: it has no domain.
    fn set_cookie(&self, visit: &Visit) -> String {
        let name = self.cookie();
        let secure = if self.0.config.https { "; Secure" } else { "" };
        let Visit { secret, seconds } = visit;
        format!("{name}={secret}; Path=/; HttpOnly; SameSite=Lax; Max-Age={seconds}{secure}")
    }

    async fn forward<B>(
        &self,
        place: &Place,
        mut request: Request<B>,
        from: IpAddr,
    ) -> Result<Answer, Refusal>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<ForwardError>,
    {
        let Config {
            https, response, ..
        } = self.0.config;
        let cookie = headers::cookie(request.headers(), self.cookie()).map(str::to_owned);
        let grant = self.0.exposures.admit(place, cookie.as_deref()).await?;
        let host = headers::host(&request).ok_or_else(Refusal::no_host)?;
        let is_upgrade = hop::is_upgrade(&request);
        if headers::is_foreign(request.method(), request.headers(), &host, is_upgrade) {
            return Err(Refusal::foreign());
        }
        let permit = self.0.accounts.permit(&place.environment)?;
        if grant.is_owner && headers::is_use(request.method(), request.headers()) {
            self.0.exposures.used(&place.environment).await;
        }
        let open = Arc::new(self.open(&grant, cookie, permit));
        let upgrade = is_upgrade.then(|| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().cloned();
        parts.uri = path
            .unwrap_or_else(|| PathAndQuery::from_static("/"))
            .into();
        parts.version = Version::HTTP_11;
        hop::remove(&mut parts.headers, is_upgrade);
        headers::to_tenant(
            &mut parts.headers,
            &host,
            grant.host.as_deref(),
            https,
            from,
        );
        let body = open.meter(body.map_err(Into::into).boxed_unsync());
        let request = Request::from_parts(parts, body);

        let stream = connect::connect(&*self.0.provider, &grant.tenant, &grant.nodes, grant.port);
        let stream = stream.await.map_err(|_| Refusal::nothing_listens())?;
        let sent = tokio::time::timeout(response, self.send(stream, request, &open.ended)).await;
        let mut answer = sent.map_err(|_| Refusal::silent())??;

        let switches = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        let tenant = hyper::upgrade::on(&mut answer);
        let (mut parts, body) = answer.into_parts();
        hop::remove(&mut parts.headers, switches);
        headers::from_tenant(&mut parts.headers, &host, grant.host.as_deref(), https);
        parts.version = Version::default();
        // With any other status, the upgrade was refused or isn't supported, and the response is forwarded as usual.
        match (upgrade, switches) {
            (Some(client), true) => {
                self.0.tasks.spawn(session(client, tenant, open));
            }
            (None, true) => return Err(Refusal::malformed()),
            (_, false) => {
                let body = open.meter(body.map_err(Into::into).boxed_unsync());
                return Ok(Response::from_parts(parts, body));
            }
        }
        Ok(Response::from_parts(parts, refusal::body("")))
    }

    /// Sends a request on a connection of its own, which lasts as long as the request.
    async fn send(
        &self,
        stream: Stream,
        request: Request<AnyBody>,
        ended: &CancellationToken,
    ) -> Result<Response<hyper::body::Incoming>, Refusal> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Refusal::malformed())?;
        let ended = ended.clone().cancelled_owned();
        self.0.tasks.spawn(async move {
            tokio::select! {
                done = connection.with_upgrades() => if let Err(e) = done {
                    tracing::debug!(error = %e, "a connection to an exposed port ended");
                },
                () = ended => {}
            }
        });
        let sent = sender.send_request(request).await;
        sent.map_err(|_| Refusal::malformed())
    }

    /// Watches over a request: ends it when its visitor may not open the exposure any more.
    fn open(&self, grant: &Grant, cookie: Option<String>, permit: Permit) -> Open {
        let ended = self.0.stop.child_token();
        let done = CancellationToken::new();
        let watch = watch(
            self.0.exposures.clone(),
            grant.clone(),
            cookie,
            ended.clone(),
        );
        let watched = done.clone();
        self.0.tasks.spawn(async move {
            watched.run_until_cancelled(watch).await;
        });
        Open {
            ended,
            permit,
            _watched: done.drop_guard(),
        }
    }
}

/// Cancels `ended` when the visitor may not open the exposure any more, or it leads elsewhere.
async fn watch(
    exposures: Arc<dyn Exposures>,
    grant: Grant,
    cookie: Option<String>,
    ended: CancellationToken,
) {
    loop {
        tokio::select! {
            () = exposures.changed(&grant.place.environment) => {}
            () = ended.cancelled() => return,
        }
        match exposures.admit(&grant.place, cookie.as_deref()).await {
            Ok(now) if now == grant => {}
            Err(refusal) if refusal.is_undecided => {}
            _ => break,
        }
    }
    ended.cancel();
}

/// Carries an upgraded connection until either side or the visitor's access ends.
async fn session(
    client: hyper::upgrade::OnUpgrade,
    tenant: hyper::upgrade::OnUpgrade,
    open: Arc<Open>,
) {
    let count = |bytes: &[u8]| open.count(bytes.len());
    carry(client, tenant, &open.ended, count, count).await;
}

impl Open {
    /// Counts forwarded bytes. Ends the request if the environment has used up its budget.
    fn count(&self, bytes: usize) {
        if !self.permit.count(bytes) {
            self.ended.cancel();
        }
    }

    fn meter(self: &Arc<Self>, body: AnyBody) -> AnyBody {
        let count = |open: &Arc<Self>, bytes| open.count(bytes);
        Ending::new(body, &self.ended, ENDED, self.clone(), count).boxed_unsync()
    }
}

#[cfg(test)]
mod tests;
