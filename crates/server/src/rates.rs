//! How many requests one may make. Three budgets, each refilled evenly and bounded in what it remembers:
//!
//! | budget | of | for |
//! |---|---|---|
//! | people | a session or API token | pages and API: generous, it only stops a loop gone wild |
//! | strangers | an address | whoever presents nothing valid |
//! | wrong | an address | sessions, tokens and sign-in links that are not valid: strict |
//!
//! An address that used up *wrong* is refused before its next credential is looked up, unless this server has seen that
//! one valid before: neighbours behind one address are not locked out by a stranger among them. Assets, health and
//! metrics are not counted, and a stream counts once, when it is opened.

use std::{
    collections::{HashMap, HashSet},
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

/// The most addresses, and the most sessions and tokens, that are told apart at once.
const MOST: usize = 20_000;
/// What is full is tidied at most this often.
const TIDY: Duration = Duration::from_secs(1);

/// Where a request comes from: an IPv4 address, or the /64 that an IPv6 address lies in, since one machine has all of
/// that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Origin(IpAddr);

impl Origin {
    /// The address that the request came from; a proxy that we trust says for whom it asks.
    pub(crate) fn of(request: &Request, config: &Config) -> Self {
        let peer = request
            .extensions()
            .get::<ConnectInfo<Peer>>()
            .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |c| c.0.0.ip())
            .to_canonical();
        let trusted = |ip: &IpAddr| config.trusted_proxies.contains(ip);
        let mut from = peer;
        let said = request.headers().get_all("x-forwarded-for");
        let said = said.iter().filter_map(|v| v.to_str().ok());
        let said: Vec<&str> = said.flat_map(|v| v.split(',')).collect();
        // From the right: each proxy adds whom it was asked by, and what lies left of the first stranger is hearsay.
        for part in said.into_iter().rev() {
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

/// Not before so long.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wait(Duration);

impl From<Wait> for Problem {
    fn from(wait: Wait) -> Self {
        Self::too_many(wait.0)
    }
}

/// Without a key: the budget that those share who came when there was no more room.
type Limiter<K, C> =
    RateLimiter<Option<K>, HashMapStateStore<Option<K>>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// Budgets of one kind, one a key. Beyond [`MOST`] keys the new ones share one.
struct Budgets<K: Hash + Eq + Clone, C: Clock> {
    limiter: Option<Limiter<K, C>>,
    clock: C,
    most: usize,
    tidied: Mutex<C::Instant>,
}

impl<K: Hash + Eq + Clone, C: Clock + Clone> Budgets<K, C> {
    /// So many a minute, all of them at once if need be; with 0, without end.
    fn new(per_minute: u32, most: usize, clock: &C) -> Self {
        Self {
            limiter: NonZeroU32::new(per_minute)
                .map(|n| RateLimiter::hashmap_with_clock(Quota::per_minute(n), clock.clone())),
            clock: clock.clone(),
            most,
            tidied: Mutex::new(clock.now()),
        }
    }

    fn take(&self, key: K) -> Result<(), Wait> {
        let Some(limiter) = &self.limiter else {
            return Ok(());
        };
        let now = self.clock.now();
        if limiter.len() >= self.most {
            let mut tidied = lock(&self.tidied);
            if Duration::from(now.duration_since(*tidied)) >= TIDY {
                *tidied = now;
                limiter.retain_recent();
            }
        }
        let key = (limiter.len() < self.most).then_some(key);
        limiter
            .check_key(&key)
            .map_err(|not| Wait(not.wait_time_from(now)))
    }

    /// Forgets whoever has their whole budget again.
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
    /// Origins whose next credential is not looked up before this.
    held: Mutex<HashMap<Origin, C::Instant>>,
    /// Hashes of credentials that were valid.
    known: Mutex<HashSet<String>>,
    clock: C,
    most: usize,
}

impl<C: Clock> std::fmt::Debug for Rates<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rates")
    }
}

impl Rates {
    pub(crate) fn new(config: &Config) -> Self {
        Self::with(config, MOST, &MonotonicClock)
    }
}

impl<C: Clock + Clone> Rates<C> {
    fn with(config: &Config, most: usize, clock: &C) -> Self {
        let rates = &config.rates;
        Self {
            people: Budgets::new(rates.person_per_minute, most, clock),
            strangers: Budgets::new(rates.stranger_per_minute, most, clock),
            wrong: Budgets::new(rates.wrong_per_minute, most, clock),
            held: Mutex::default(),
            known: Mutex::default(),
            clock: clock.clone(),
            most,
        }
    }

    /// May a credential be looked up for this origin?
    pub(crate) fn may_present(&self, from: Origin, hash: &str) -> Result<(), Wait> {
        if lock(&self.known).contains(hash) {
            return Ok(());
        }
        let now = self.clock.now();
        match lock(&self.held).get(&from) {
            Some(until) if *until > now => Err(Wait(until.duration_since(now).into())),
            _ => Ok(()),
        }
    }

    /// The credential was valid: its holder spends of their own.
    pub(crate) fn right(&self, hash: String) -> Result<(), Wait> {
        {
            let mut known = lock(&self.known);
            if known.len() >= self.most && !known.contains(&hash) {
                known.clear();
            }
            known.insert(hash.clone());
        }
        self.people.take(hash)
    }

    /// The credential was not valid.
    pub(crate) fn wrong(&self, from: Origin) -> Result<(), Wait> {
        let Err(Wait(wait)) = self.wrong.take(from) else {
            return Ok(());
        };
        let now = self.clock.now();
        let mut held = lock(&self.held);
        if held.len() >= self.most {
            held.retain(|_, until| *until > now);
        }
        if held.len() < self.most {
            held.insert(from, now + wait.into());
        }
        Err(Wait(wait))
    }

    /// Nothing valid was presented.
    pub(crate) fn stranger(&self, from: Origin) -> Result<(), Wait> {
        self.strangers.take(from)
    }

    /// Forgets what no longer matters; called now and then.
    pub(crate) fn tidy(&self) {
        self.people.tidy();
        self.strangers.tidy();
        self.wrong.tidy();
        let now = self.clock.now();
        lock(&self.held).retain(|_, until| *until > now);
    }
}

#[cfg(test)]
mod tests;
