//! What one token opens in one environment: asked for once, asked for again every few seconds while it is in use, and
//! ended, with everything that goes over it, as soon as the answer is another.

use std::{
    collections::HashMap,
    future::Future,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use faultline_domain::{EnvironmentId, PersonId};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{ApiServers, Config, Grant, Protocol, Refusal};

/// A lease that nothing goes over is kept so long, so that the next command of a person finds it.
const KEPT: Duration = Duration::from_secs(60);
/// How often use is reported at most.
const USED_EVERY: Duration = Duration::from_secs(30);
/// The most changes of a person in an environment that get a line each in the audit within a minute: a loop must not push
/// everything else out of it.
const TOLD: u32 = 20;
const MINUTE: Duration = Duration::from_secs(60);
/// How many seconds of the rate may come at once.
const BURST: NonZeroU32 = NonZeroU32::new(4).unwrap();
/// The most requests on one connection to an API server, below the 250 that Go's servers allow.
const ON_ONE: usize = 200;
/// How often an API server is asked whether it is there, and how long it may take, under emulation and load.
const KEEPALIVE: Duration = Duration::from_secs(30);
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
    /// What a person may ask of an environment, however many tokens they have.
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

    /// The lease of this token at this environment.
    pub(super) async fn get(
        &self,
        environment: &EnvironmentId,
        token: &str,
    ) -> Result<Arc<Lease>, Refusal> {
        let key = (environment.clone(), token.to_owned());
        if let Some(lease) = lock(&self.0.open).get(&key)
            && !lease.ended.is_cancelled()
        {
            return Ok(lease.clone());
        }
        let grant = self.0.servers.admit(environment, token, false).await?;
        let account = self.0.account(&grant);
        let lease = Arc::new(Lease {
            grant,
            account,
            ended: self.0.stop.child_token(),
            servers: self.0.servers.clone(),
            tasks: self.0.tasks.clone(),
            connections: tokio::sync::Mutex::default(),
            told: Mutex::new(None),
        });
        {
            // Of requests that came together the first has made one already.
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

    /// Why a request over this lease got no answer: asks now whether the lease still holds, and ends it if not. `seen` is
    /// what the request ran into.
    pub(super) async fn why(&self, lease: &Lease, token: &str, seen: Refusal) -> Refusal {
        match self
            .0
            .servers
            .admit(&lease.grant.environment, token, true)
            .await
        {
            Ok(grant) if grant == lease.grant => seen,
            Ok(_) => {
                lease.ended.cancel();
                Refusal::unavailable(
                    "this environment was reset, and its cluster is another now; ask again",
                )
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
            most: self.config,
            at_once: AtomicUsize::new(0),
            told: Mutex::new(Told {
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

/// Asks again and again, until the answer is another or nothing goes over it for a while.
async fn watch(inner: Arc<Inner>, key: Key, lease: Arc<Lease>) {
    let mut quiet = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(inner.config.recheck) => {}
            () = lease.ended.cancelled() => break,
        }
        {
            // Nobody takes it from the map while it is counted. One is the map's, one is this task's.
            let mut open = lock(&inner.open);
            if Arc::strong_count(&lease) > 2 {
                quiet = Instant::now();
            } else if quiet.elapsed() >= KEPT {
                lease.ended.cancel();
                open.remove(&key);
                return;
            }
        }
        // What nothing goes over has nothing that is open.
        let is_open = quiet.elapsed() < inner.config.recheck;
        match inner.servers.admit(&key.0, &key.1, is_open).await {
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

/// What one person may ask of one environment.
struct Account {
    most: Config,
    at_once: AtomicUsize,
    rate: DefaultDirectRateLimiter,
    told: Mutex<Told>,
}

/// How many changes were told of within a minute, and how many were not.
struct Told {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Told {
    /// Whether one more is told of, and how many were left out in the minute before.
    fn take(&mut self, now: Instant) -> (bool, u64) {
        let mut left_out = 0;
        if now.duration_since(self.since) >= MINUTE {
            left_out = std::mem::take(&mut self.left_out);
            (self.since, self.lines) = (now, 0);
        }
        self.lines += 1;
        let told = self.lines <= TOLD;
        self.left_out += u64::from(!told);
        (told, left_out)
    }
}

/// The rate of a person's requests, and four seconds of it at once.
fn quota(per_second: u32) -> Quota {
    let rate = NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(rate).allow_burst(rate.saturating_mul(BURST))
}

/// The right to one request; given back when dropped.
pub(super) struct Turn(Arc<Account>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a token opens.
pub(super) struct Lease {
    pub grant: Grant,
    /// Cancelled when it opens that no more.
    pub ended: CancellationToken,
    account: Arc<Account>,
    servers: Arc<dyn ApiServers>,
    tasks: TaskTracker,
    connections: tokio::sync::Mutex<Connections>,
    told: Mutex<Option<Instant>>,
}

/// The connections to the API server, of which one is made at a time.
#[derive(Default)]
struct Connections {
    open: Vec<Connection>,
    /// When one could not be made, and why.
    failed: Option<(Instant, Refusal)>,
}

/// A connection to the API server, and how many requests are on it.
#[derive(Clone)]
struct Connection {
    sender: http2::SendRequest<Body>,
    busy: Arc<AtomicUsize>,
}

/// A request's place on a connection; given back when dropped.
pub(super) struct OnConnection(Arc<AtomicUsize>);

impl Drop for OnConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Lease {
    /// The right to one request more.
    pub(super) fn turn(&self) -> Result<Turn, Refusal> {
        let account = &self.account;
        let (per_second, at_once) = (account.most.per_second, account.most.at_once);
        if account.rate.check().is_err() {
            return Err(Refusal::too_many(format!(
                "more than {per_second} requests a second; go slower"
            )));
        }
        // Counted before it is compared, and given back with the turn if it is one too many.
        let before = account.at_once.fetch_add(1, Ordering::AcqRel);
        let turn = Turn(account.clone());
        if before >= at_once {
            return Err(Refusal::too_many(format!(
                "{at_once} requests are open, watches and sessions included; close some"
            )));
        }
        Ok(turn)
    }

    /// Somebody does something.
    pub(super) fn used(self: &Arc<Self>) {
        {
            let mut told = lock(&self.told);
            if told.is_some_and(|at| at.elapsed() < USED_EVERY) {
                return;
            }
            *told = Some(Instant::now());
        }
        let lease = self.clone();
        self.tasks
            .spawn(async move { lease.servers.used(&lease.grant).await });
    }

    /// Somebody asks for a change.
    pub(super) async fn changes(&self, change: &super::Change) {
        let (told, left_out) = lock(&self.account.told).take(Instant::now());
        if left_out > 0 {
            let more = super::Change {
                verb: "more",
                resource: format!("{left_out} further changes before this minute"),
            };
            self.servers.changes(&self.grant, &more).await;
        }
        if told {
            self.servers.changes(&self.grant, change).await;
        }
    }

    /// Sends a request on a connection that others share.
    pub(super) async fn send(
        &self,
        request: Request<Body>,
    ) -> Result<(Response<Incoming>, OnConnection), Refusal> {
        let sent = async {
            let (mut sender, place) = self.connection().await?;
            let answer = sender.send_request(request).await.map_err(|e| broken(&e))?;
            Ok((answer, place))
        };
        self.ended
            .run_until_cancelled(sent)
            .await
            .unwrap_or_else(over)
    }

    /// Sends a request that is to be upgraded, on a connection of its own.
    pub(super) async fn send_alone(
        &self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Refusal> {
        let sent = async {
            let stream = self.servers.connect(&self.grant, Protocol::Http1).await?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|e| broken(&e))?;
            self.drive(connection.with_upgrades());
            sender.send_request(request).await.map_err(|e| broken(&e))
        };
        self.ended
            .run_until_cancelled(sent)
            .await
            .unwrap_or_else(over)
    }

    async fn connection(&self) -> Result<(http2::SendRequest<Body>, OnConnection), Refusal> {
        let asked = Instant::now();
        let mut all = self.connections.lock().await;
        all.open.retain(|connection| !connection.sender.is_closed());
        let free = |c: &&Connection| c.busy.load(Ordering::Acquire) < ON_ONE;
        let connection = match all.open.iter().find(free) {
            Some(connection) => connection.clone(),
            None => {
                // Whoever waited for the one that was being made shares how that ended: each would wait as long again.
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
        Ok((connection.sender, OnConnection(connection.busy)))
    }

    async fn dial(&self) -> Result<Connection, Refusal> {
        let stream = self.servers.connect(&self.grant, Protocol::Http2).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(ANSWER)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| broken(&e))?;
        self.drive(connection);
        Ok(Connection {
            sender,
            busy: Arc::default(),
        })
    }

    /// Keeps a connection going until it ends, or the lease does.
    fn drive(&self, connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
        let ended = self.ended.clone();
        self.tasks.spawn(async move {
            if let Some(Err(e)) = ended.run_until_cancelled(connection).await {
                tracing::debug!(error = %e, "a connection to an API server ended");
            }
        });
    }
}

/// The answer to a request whose lease has ended meanwhile, if nothing better is known.
fn over<T>() -> Result<T, Refusal> {
    Err(Refusal::unavailable(
        "this was withdrawn, or ended, while it was asked for; ask again",
    ))
}

/// The answer to a request that the API server did not answer.
fn broken(e: &hyper::Error) -> Refusal {
    use std::error::Error;
    let why = e
        .source()
        .map_or_else(|| e.to_string(), ToString::to_string);
    Refusal::unavailable(format!(
        "the API server of this environment did not answer this request: {why}"
    ))
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn a_loop_of_changes_is_told_of_as_one() {
        let now = Instant::now();
        let mut told = Told {
            since: now,
            lines: 0,
            left_out: 0,
        };
        let taken = (0..100).filter(|_| told.take(now).0).count();
        assert_eq!(taken, 20);
        assert_eq!(told.take(now + MINUTE), (true, 80));
        assert_eq!(told.take(now + MINUTE), (true, 0));
    }

    #[test]
    fn a_rate_gives_a_burst_and_then_the_rate() {
        let clock = FakeRelativeClock::default();
        let rate = RateLimiter::direct_with_clock(quota(10), clock.clone());
        let taken = (0..100).filter(|_| rate.check().is_ok()).count();
        assert_eq!(taken, 40);
        clock.advance(Duration::from_secs(1));
        let taken = (0..100).filter(|_| rate.check().is_ok()).count();
        assert_eq!(taken, 10);
    }
}
