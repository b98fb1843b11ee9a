//! Leases: the access that one token gives to one environment. It is authorized once, and again every few seconds while
//! it is in use. As soon as the result changes, the lease ends with everything that uses it.

use std::{
    collections::HashMap,
    future::Future,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use faultline_domain::{EnvironmentId, PersonId};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hyper::{
    HeaderMap, Request, Response,
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{ApiServers, Config, Grant, Protocol, Refusal, authenticate::authenticate};

/// The time that an idle lease is kept, so that the person's next command can reuse it.
const KEPT: Duration = Duration::from_secs(60);
/// The minimum interval between reports that a lease is in use.
const USED_EVERY: Duration = Duration::from_secs(30);
/// The maximum number of audit lines per minute for a person's changes in an environment, so that a loop doesn't push
/// everything else out of the audit log.
const MAX_LINES: u32 = 20;
const MINUTE: Duration = Duration::from_secs(60);
/// The maximum burst, in seconds of the rate.
const BURST: NonZeroU32 = NonZeroU32::new(4).unwrap();
/// The maximum number of requests on one connection to an API server, below the 250 that Go's servers allow.
const MAX_REQUESTS: usize = 200;
/// The time after which a connection whose requests are authenticated by headers takes no new ones, because a token among
/// them may expire. Those that are open go on.
const RENEWED: Duration = Duration::from_secs(9 * 60);
/// The interval of keepalives to an API server.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// The time that an API server may take to respond to a keepalive. It may be emulated or under load.
const ANSWER: Duration = Duration::from_secs(60);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Key = (EnvironmentId, String);
type Body = http_body_util::combinators::BoxBody<Bytes, hyper::Error>;

/// All leases.
pub(super) struct Leases(Arc<Inner>);

struct Inner {
    servers: Arc<dyn ApiServers>,
    config: Config,
    tasks: TaskTracker,
    stop: CancellationToken,
    open: Mutex<HashMap<Key, Arc<Lease>>>,
    /// The limits of each person in each environment, whose tokens share them.
    accounts: Mutex<HashMap<(PersonId, EnvironmentId), Weak<Account>>>,
}

impl Leases {
    pub(super) fn new(
        servers: Arc<dyn ApiServers>,
        config: Config,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            servers,
            config,
            tasks,
            stop,
            open: Mutex::default(),
            accounts: Mutex::default(),
        }))
    }

    /// Returns the lease of this token for this environment. Authorizes the token if there is none.
    pub(super) async fn get(
        &self,
        environment: &EnvironmentId,
        token: &str,
    ) -> Result<Arc<Lease>, Refusal> {
        let key = (environment.clone(), token.to_owned());
        if let Some(lease) = lock(&self.0.open).get(&key)
            && !lease.ended.is_cancelled()
        {
            if lease.is_expired.load(Ordering::Acquire) {
                return Err(Refusal::expired());
            }
            return Ok(lease.clone());
        }
        let grant = self.0.servers.admit(environment, token, false).await?;
        let account = self.0.account(&grant);
        let lease = Arc::new(Lease {
            grant,
            account,
            ended: self.0.stop.child_token(),
            is_expired: AtomicBool::new(false),
            servers: self.0.servers.clone(),
            tasks: self.0.tasks.clone(),
            connections: tokio::sync::Mutex::default(),
            use_reported_at: Mutex::new(None),
        });
        {
            // A concurrent request may have created one already.
            let mut open = lock(&self.0.open);
            if let Some(other) = open.get(&key)
                && !other.ended.is_cancelled()
                && other.grant == lease.grant
            {
                return Ok(other.clone());
            }
            open.insert(key.clone(), lease.clone());
        }
        let watch = watch(self.0.clone(), key, lease.clone());
        self.0.tasks.spawn(watch);
        Ok(lease)
    }

    /// Returns why a request that uses this lease failed with `seen`. Authorizes the token again. If the result has
    /// changed, ends the lease and returns that reason instead.
    pub(super) async fn explain(&self, lease: &Lease, token: &str, seen: Refusal) -> Refusal {
        match self
            .0
            .servers
            .admit(&lease.grant.environment, token, true)
            .await
        {
            Ok(grant) if grant == lease.grant => seen,
            Ok(_) => {
                lease.ended.cancel();
                Refusal::unavailable("this environment was reset and has a new cluster; try again")
            }
            Err(refusal) if refusal.undecided => seen,
            Err(refusal) => {
                lease.ended.cancel();
                refusal
            }
        }
    }
}

impl Inner {
    fn account(&self, grant: &Grant) -> Arc<Account> {
        let mut accounts = lock(&self.accounts);
        accounts.retain(|_, account| account.strong_count() > 0);
        let key = (grant.person.clone(), grant.environment.clone());
        if let Some(account) = accounts.get(&key).and_then(Weak::upgrade) {
            return account;
        }
        let account = Arc::new(Account {
            config: self.config,
            at_once: AtomicUsize::new(0),
            audit: Mutex::new(AuditLimiter {
                since: Instant::now(),
                lines: 0,
                left_out: 0,
            }),
            rate: RateLimiter::direct(quota(self.config.per_second)),
        });
        accounts.insert(key, Arc::downgrade(&account));
        account
    }
}

/// Authorizes a lease's token regularly. Ends the lease if the result changes or the lease is idle for [`KEPT`].
async fn watch(inner: Arc<Inner>, key: Key, lease: Arc<Lease>) {
    let mut quiet = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(inner.config.recheck) => {}
            () = lease.ended.cancelled() => break,
        }
        {
            // The lock keeps others from cloning it while references are counted. Two are the map's and this task's.
            let mut open = lock(&inner.open);
            if Arc::strong_count(&lease) > 2 {
                quiet = Instant::now();
            } else if quiet.elapsed() >= KEPT {
                lease.ended.cancel();
                open.remove(&key);
                return;
            }
        }
        // Nothing is open on an idle lease.
        let is_open = quiet.elapsed() < inner.config.recheck;
        let mut admitted = inner.servers.admit(&key.0, &key.1, false).await;
        if is_open && admitted.as_ref().is_err_and(|refusal| refusal.code == 401) {
            admitted = inner.servers.admit(&key.0, &key.1, true).await;
            if admitted.is_ok() {
                lease.is_expired.store(true, Ordering::Release);
            }
        }
        match admitted {
            Ok(grant) if grant == lease.grant => {}
            Err(refusal) if refusal.undecided => {}
            _ => break,
        }
    }
    lease.ended.cancel();
    let mut open = lock(&inner.open);
    if open
        .get(&key)
        .is_some_and(|other| Arc::ptr_eq(other, &lease))
    {
        open.remove(&key);
    }
}

/// The limits of one person in one environment, and their use.
struct Account {
    config: Config,
    at_once: AtomicUsize,
    rate: DefaultDirectRateLimiter,
    audit: Mutex<AuditLimiter>,
}

/// Counts the changes within a minute, and those that were left out of the audit log.
struct AuditLimiter {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl AuditLimiter {
    /// Counts a change. Returns whether to record it, and how many were left out in the previous minute.
    fn take(&mut self, now: Instant) -> (bool, u64) {
        let mut left_out = 0;
        if now.duration_since(self.since) >= MINUTE {
            left_out = std::mem::take(&mut self.left_out);
            (self.since, self.lines) = (now, 0);
        }
        self.lines += 1;
        let recorded = self.lines <= MAX_LINES;
        self.left_out += u64::from(!recorded);
        (recorded, left_out)
    }
}

/// Returns the quota of a person's requests: the rate, with bursts of [`BURST`] seconds of it.
fn quota(per_second: u32) -> Quota {
    let rate = NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(rate).allow_burst(rate.saturating_mul(BURST))
}

/// The permit for one request, released on drop.
pub(super) struct Permit(Arc<Account>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The access that a token gives to an environment.
pub(super) struct Lease {
    pub grant: Grant,
    /// Cancelled when the access ends.
    pub ended: CancellationToken,
    /// True once the token has expired. Then only what is open goes on.
    is_expired: AtomicBool,
    account: Arc<Account>,
    servers: Arc<dyn ApiServers>,
    tasks: TaskTracker,
    connections: tokio::sync::Mutex<Connections>,
    use_reported_at: Mutex<Option<Instant>>,
}

/// The connections to the API server. One is opened at a time.
#[derive(Default)]
struct Connections {
    open: Vec<Shared>,
    /// When connecting last failed, and why.
    failed: Option<(Instant, Refusal)>,
}

/// A connection to the API server, and the number of its open requests.
#[derive(Clone)]
struct Shared {
    sender: http2::SendRequest<Body>,
    headers: HeaderMap,
    since: Instant,
    busy: Arc<AtomicUsize>,
}

impl Shared {
    /// Returns false if it takes no new requests.
    fn is_open(&self) -> bool {
        let is_valid = self.headers.is_empty() || self.since.elapsed() < RENEWED;
        is_valid && !self.sender.is_closed()
    }
}

/// A request's slot on a connection, released on drop.
pub(super) struct ConnectionSlot(Arc<AtomicUsize>);

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Lease {
    /// Acquires a permit for one request.
    pub(super) fn permit(&self) -> Result<Permit, Refusal> {
        let account = &self.account;
        let (per_second, at_once) = (account.config.per_second, account.config.at_once);
        if account.rate.check().is_err() {
            return Err(Refusal::too_many(format!(
                "more than {per_second} requests per second; slow down"
            )));
        }
        // The request is counted before the limit is checked. If it exceeds the limit, dropping the permit undoes that.
        let before = account.at_once.fetch_add(1, Ordering::AcqRel);
        let permit = Permit(account.clone());
        if before >= at_once {
            return Err(Refusal::too_many(format!(
                "{at_once} requests are already open, including watches and sessions; close some"
            )));
        }
        Ok(permit)
    }

    /// Reports that the lease is in use, at most every [`USED_EVERY`].
    pub(super) fn used(self: &Arc<Self>) {
        {
            let mut reported = lock(&self.use_reported_at);
            if reported.is_some_and(|at| at.elapsed() < USED_EVERY) {
                return;
            }
            *reported = Some(Instant::now());
        }
        let lease = self.clone();
        self.tasks
            .spawn(async move { lease.servers.used(&lease.grant).await });
    }

    /// Records a requested change, or counts it if there are too many.
    pub(super) async fn changes(&self, change: &super::Change) {
        let (recorded, left_out) = lock(&self.account.audit).take(Instant::now());
        if left_out > 0 {
            let more = super::Change {
                verb: "more",
                resource: format!("{left_out} earlier changes that are not listed"),
            };
            self.servers.changes(&self.grant, &more).await;
        }
        if recorded {
            self.servers.changes(&self.grant, change).await;
        }
    }

    /// Sends a request on a shared connection.
    pub(super) async fn send(
        &self,
        mut request: Request<Body>,
    ) -> Result<(Response<Incoming>, ConnectionSlot), Refusal> {
        let sent = async {
            let (mut sender, headers, slot) = self.connection().await?;
            authenticate(&mut request, headers)?;
            let answer = sender
                .send_request(request)
                .await
                .map_err(|e| no_response(&e))?;
            Ok((answer, slot))
        };
        self.ended
            .run_until_cancelled(sent)
            .await
            .unwrap_or_else(lease_ended)
    }

    /// Sends a request for an upgrade, on its own connection.
    pub(super) async fn send_alone(
        &self,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, Refusal> {
        let sent = async {
            let upstream = self.servers.connect(&self.grant, Protocol::Http1).await?;
            authenticate(&mut request, upstream.headers)?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(upstream.stream))
                .await
                .map_err(|e| no_response(&e))?;
            self.drive(connection.with_upgrades());
            sender
                .send_request(request)
                .await
                .map_err(|e| no_response(&e))
        };
        self.ended
            .run_until_cancelled(sent)
            .await
            .unwrap_or_else(lease_ended)
    }

    async fn connection(
        &self,
    ) -> Result<(http2::SendRequest<Body>, HeaderMap, ConnectionSlot), Refusal> {
        let asked = Instant::now();
        let mut all = self.connections.lock().await;
        all.open.retain(Shared::is_open);
        let free = |c: &&Shared| c.busy.load(Ordering::Acquire) < MAX_REQUESTS;
        let connection = match all.open.iter().find(free) {
            Some(connection) => connection.clone(),
            None => {
                // If connecting failed while this request waited, it fails too. Otherwise each request would wait anew.
                if let Some((at, why)) = &all.failed
                    && *at > asked
                {
                    return Err(why.clone());
                }
                match self.dial().await {
                    Ok(made) => {
                        all.open.push(made.clone());
                        made
                    }
                    Err(why) => {
                        all.failed = Some((Instant::now(), why.clone()));
                        return Err(why);
                    }
                }
            }
        };
        connection.busy.fetch_add(1, Ordering::AcqRel);
        let slot = ConnectionSlot(connection.busy);
        Ok((connection.sender, connection.headers, slot))
    }

    async fn dial(&self) -> Result<Shared, Refusal> {
        let upstream = self.servers.connect(&self.grant, Protocol::Http2).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(ANSWER)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(upstream.stream))
            .await
            .map_err(|e| no_response(&e))?;
        self.drive(connection);
        Ok(Shared {
            sender,
            headers: upstream.headers,
            since: Instant::now(),
            busy: Arc::default(),
        })
    }

    /// Runs a connection until it or the lease ends.
    fn drive(&self, connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
        let ended = self.ended.clone();
        self.tasks.spawn(async move {
            if let Some(Err(e)) = ended.run_until_cancelled(connection).await {
                tracing::debug!(error = %e, "a connection to an API server ended");
            }
        });
    }
}

/// Returns the refusal of a request whose lease ended in the meantime. [`Leases::explain`] replaces it if it can.
fn lease_ended<T>() -> Result<T, Refusal> {
    Err(Refusal::unavailable(
        "access to this environment ended during the request; try again",
    ))
}

/// Returns the refusal of a request that the API server didn't respond to.
fn no_response(e: &hyper::Error) -> Refusal {
    use std::error::Error;
    let why = e
        .source()
        .map_or_else(|| e.to_string(), ToString::to_string);
    Refusal::unavailable(format!(
        "the API server of this environment didn't respond to this request: {why}"
    ))
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn a_loop_of_changes_is_summarized() {
        let now = Instant::now();
        let mut limiter = AuditLimiter {
            since: now,
            lines: 0,
            left_out: 0,
        };
        let taken = (0..100).filter(|_| limiter.take(now).0).count();
        assert_eq!(taken, 20);
        assert_eq!(limiter.take(now + MINUTE), (true, 80));
        assert_eq!(limiter.take(now + MINUTE), (true, 0));
    }

    #[test]
    fn the_quota_allows_a_burst_and_then_the_rate() {
        let clock = FakeRelativeClock::default();
        let rate = RateLimiter::direct_with_clock(quota(10), clock.clone());
        let taken = (0..100).filter(|_| rate.check().is_ok()).count();
        assert_eq!(taken, 40);
        clock.advance(Duration::from_secs(1));
        let taken = (0..100).filter(|_| rate.check().is_ok()).count();
        assert_eq!(taken, 10);
    }
}
