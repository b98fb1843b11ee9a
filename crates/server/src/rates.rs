//! Rate limits. There are six kinds of budgets. Each is refilled evenly and uses a bounded amount of memory.
//!
//! | budget | per | for |
//! |---|---|---|
//! | people | session or API token | pages and API; generous, only stops a runaway loop |
//! | strangers | address | requests without a valid credential |
//! | wrong | address | invalid sessions, tokens and links; strict |
//! | guesses | address | wrong passwords; strict |
//! | codes | address | wrong access codes |
//! | passwords | login name | attempts to sign in with a password, from any address; strict |
//! | passwords | person | changes of the password, and new API tokens, each of which is a line of the audit log |
//!
//! If an address has used up *wrong*, further invalid credentials get 429. Valid sessions, tokens and links are never
//! refused for it: they are random, so nobody guesses them, and nobody can lock out others behind the same address. If it
//! has used up *guesses*, no password from there is verified for a while, and after *codes*, no access code. Assets, health and metrics aren't counted. A
//! stream counts once, when it is opened.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU32,
    sync::Mutex,
    time::Duration,
};

use axum::extract::{ConnectInfo, Request};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock, Reference},
    middleware::NoOpMiddleware,
    state::keyed::HashMapStateStore,
};

use crate::{Config, listener::Peer, lock::lock, problem::Problem};

/// The maximum number of addresses, and of sessions and tokens, that have a budget of their own.
const MAX_KEYS: usize = 20_000;
/// The minimum interval between two cleanups of full budgets.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);

/// Where a request comes from: an IPv4 address, or the /64 network of an IPv6 address, because a single machine usually
/// has all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Origin(IpAddr);

impl Origin {
    /// Returns the origin of a request. `X-Forwarded-For` counts only if it comes from a trusted proxy.
    pub(crate) fn of(request: &Request, config: &Config) -> Self {
        let peer = request
            .extensions()
            .get::<ConnectInfo<Peer>>()
            .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |c| c.0.0.ip())
            .to_canonical();
        let trusted = |ip: &IpAddr| config.trusted_proxies.contains(ip);
        let mut from = peer;
        let forwarded = request.headers().get_all("x-forwarded-for");
        let forwarded = forwarded.iter().filter_map(|v| v.to_str().ok());
        let forwarded: Vec<&str> = forwarded.flat_map(|v| v.split(',')).collect();
        // From the right, since each proxy appends its client. Everything left of the first untrusted address can be
        // forged.
        for part in forwarded.into_iter().rev() {
            if !trusted(&from) {
                break;
            }
            match part.trim().parse::<IpAddr>() {
                Ok(ip) => from = ip.to_canonical(),
                Err(_) => break,
            }
        }
        Self(match from {
            IpAddr::V6(ip) => {
                let network = ip.to_bits() & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

impl Origin {
    /// Returns the address.
    pub(crate) const fn address(self) -> IpAddr {
        self.0
    }
}

/// Refused: how long to wait before the next request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wait(Duration);

impl From<Wait> for Problem {
    fn from(wait: Wait) -> Self {
        Self::too_many(wait.0)
    }
}

/// A limiter with one budget per key. `None` is the budget that all keys beyond the maximum share.
type Limiter<K, C> =
    RateLimiter<Option<K>, HashMapStateStore<Option<K>>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// Budgets of one kind, one per key. New keys beyond `max_keys` share one budget.
struct Budgets<K: Hash + Eq + Clone, C: Clock> {
    limiter: Option<Limiter<K, C>>,
    clock: C,
    max_keys: usize,
    tidied: Mutex<C::Instant>,
}

impl<K: Hash + Eq + Clone, C: Clock + Clone> Budgets<K, C> {
    /// Allows `per_minute` requests per minute, in one burst if necessary; 0 means no limit.
    fn new(per_minute: u32, max_keys: usize, clock: &C) -> Self {
        Self {
            limiter: NonZeroU32::new(per_minute)
                .map(|n| RateLimiter::hashmap_with_clock(Quota::per_minute(n), clock.clone())),
            clock: clock.clone(),
            max_keys,
            tidied: Mutex::new(clock.now()),
        }
    }

    fn take(&self, key: K) -> Result<(), Wait> {
        let Some(limiter) = &self.limiter else {
            return Ok(());
        };
        let now = self.clock.now();
        if limiter.len() >= self.max_keys {
            let mut tidied = lock(&self.tidied);
            if Duration::from(now.duration_since(*tidied)) >= TIDY_INTERVAL {
                *tidied = now;
                limiter.retain_recent();
            }
        }
        let key = (limiter.len() < self.max_keys).then_some(key);
        limiter
            .check_key(&key)
            .map_err(|not| Wait(not.wait_time_from(now)))
    }

    /// Forgets keys whose budget is full again.
    fn tidy(&self) {
        if let Some(limiter) = &self.limiter {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

pub(crate) struct Rates<C: Clock = MonotonicClock> {
    people: Budgets<String, C>,
    strangers: Budgets<Origin, C>,
    wrong: Budgets<Origin, C>,
    guesses: Guesses<C>,
    codes: Guesses<C>,
    passwords: Budgets<String, C>,
}

/// Wrong guesses per origin. After too many, no further guess from there is evaluated for a while.
struct Guesses<C: Clock> {
    wrong: Budgets<Origin, C>,
    /// Origins whose guesses aren't evaluated until the given time.
    held: Mutex<HashMap<Origin, C::Instant>>,
    clock: C,
    max_keys: usize,
}

impl<C: Clock + Clone> Guesses<C> {
    fn new(per_minute: u32, max_keys: usize, clock: &C) -> Self {
        Self {
            wrong: Budgets::new(per_minute, max_keys, clock),
            held: Mutex::default(),
            clock: clock.clone(),
            max_keys,
        }
    }

    /// Checks whether a guess may be evaluated.
    fn may(&self, from: Origin) -> Result<(), Wait> {
        let now = self.clock.now();
        match lock(&self.held).get(&from) {
            Some(until) if *until > now => Err(Wait(until.duration_since(now).into())),
            _ => Ok(()),
        }
    }

    /// Counts a wrong guess.
    fn wrong(&self, from: Origin) -> Result<(), Wait> {
        let Err(Wait(wait)) = self.wrong.take(from) else {
            return Ok(());
        };
        let now = self.clock.now();
        let mut held = lock(&self.held);
        if held.len() >= self.max_keys {
            held.retain(|_, until| *until > now);
        }
        if held.len() < self.max_keys {
            held.insert(from, now + wait.into());
        }
        Err(Wait(wait))
    }

    fn tidy(&self) {
        self.wrong.tidy();
        let now = self.clock.now();
        lock(&self.held).retain(|_, until| *until > now);
    }
}

impl<C: Clock> std::fmt::Debug for Rates<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rates")
    }
}

impl Rates {
    pub(crate) fn new(config: &Config) -> Self {
        Self::with(config, MAX_KEYS, &MonotonicClock)
    }
}

impl<C: Clock + Clone> Rates<C> {
    fn with(config: &Config, max_keys: usize, clock: &C) -> Self {
        let rates = &config.rates;
        Self {
            people: Budgets::new(rates.person_per_minute, max_keys, clock),
            strangers: Budgets::new(rates.stranger_per_minute, max_keys, clock),
            wrong: Budgets::new(rates.wrong_per_minute, max_keys, clock),
            guesses: Guesses::new(rates.wrong_per_minute, max_keys, clock),
            codes: Guesses::new(rates.code_per_minute, max_keys, clock),
            passwords: Budgets::new(rates.password_per_minute, max_keys, clock),
        }
    }

    /// Checks whether a password from this origin may be verified.
    pub(crate) fn may_guess(&self, from: Origin) -> Result<(), Wait> {
        self.guesses.may(from)
    }

    /// Checks whether an access code from this origin may be looked up.
    pub(crate) fn may_try_code(&self, from: Origin) -> Result<(), Wait> {
        self.codes.may(from)
    }

    /// Counts a wrong access code. If there were too many, no code from this origin is looked up for a while.
    pub(crate) fn wrong_code(&self, from: Origin) -> Result<(), Wait> {
        self.codes.wrong(from)
    }

    /// Counts a request with a valid credential against its own budget.
    pub(crate) fn right(&self, hash: String) -> Result<(), Wait> {
        self.people.take(hash)
    }

    /// Counts an invalid session, token or link.
    pub(crate) fn wrong(&self, from: Origin) -> Result<(), Wait> {
        self.wrong.take(from)
    }

    /// Counts a wrong password. If there were too many, no password from this origin is verified for a while.
    pub(crate) fn wrong_password(&self, from: Origin) -> Result<(), Wait> {
        self.guesses.wrong(from)
    }

    /// Counts an attempt to sign in with a password.
    pub(crate) fn password(&self, login: &str) -> Result<(), Wait> {
        self.passwords.take(login.to_owned())
    }

    /// Counts a request without a valid credential.
    pub(crate) fn stranger(&self, from: Origin) -> Result<(), Wait> {
        self.strangers.take(from)
    }

    /// Forgets what no longer matters. Called regularly.
    pub(crate) fn tidy(&self) {
        self.people.tidy();
        self.strangers.tidy();
        self.wrong.tidy();
        self.guesses.tidy();
        self.codes.tidy();
        self.passwords.tidy();
    }
}

#[cfg(test)]
mod tests;
