//! Limits of what is forwarded to an environment's exposures, whoever sends it.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use faultline_domain::EnvironmentId;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Refusal;

const HOUR: Duration = Duration::from_secs(3600);
/// The maximum burst of requests, in seconds of the rate: a page may load many files.
const BURST: NonZeroU32 = NonZeroU32::new(4).unwrap();

/// The limits of an environment's exposures together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The maximum number of open requests, including WebSockets.
    pub at_once: usize,
    /// The maximum average rate of requests, per second.
    pub per_second: u32,
    /// The maximum number of bytes in both directions within an hour.
    pub bytes_per_hour: u64,
}

/// The accounts of all environments.
pub(super) struct Accounts {
    limits: Limits,
    all: Mutex<HashMap<EnvironmentId, Arc<Account>>>,
}

struct Account {
    limits: Limits,
    at_once: Arc<Semaphore>,
    rate: DefaultDirectRateLimiter,
    hour: Mutex<Hour>,
}

/// The bytes within an hour.
struct Hour {
    since: Instant,
    bytes: u64,
}

/// The permit for one request, released on drop.
pub(super) struct Permit {
    account: Arc<Account>,
    _slot: OwnedSemaphorePermit,
}

impl Accounts {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            all: Mutex::default(),
        }
    }

    /// Acquires a permit for one request.
    pub(super) fn permit(&self, environment: &EnvironmentId) -> Result<Permit, Refusal> {
        self.account(environment).permit()
    }

    fn account(&self, environment: &EnvironmentId) -> Arc<Account> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = all.get(environment) {
            return account.clone();
        }
        // An account that was idle for an hour is like a new one.
        all.retain(|_, account| account.is_recent());
        let rate = NonZeroU32::new(self.limits.per_second).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(rate).allow_burst(rate.saturating_mul(BURST));
        let account = Arc::new(Account {
            limits: self.limits,
            at_once: Arc::new(Semaphore::new(self.limits.at_once)),
            rate: RateLimiter::direct(quota),
            hour: Mutex::new(Hour {
                since: Instant::now(),
                bytes: 0,
            }),
        });
        all.insert(environment.clone(), account.clone());
        account
    }
}

impl Account {
    fn is_recent(self: &Arc<Self>) -> bool {
        let hour = self.hour.lock().unwrap_or_else(PoisonError::into_inner);
        // The map has one reference.
        Arc::strong_count(self) > 1 || hour.since.elapsed() < HOUR
    }

    fn permit(self: &Arc<Self>) -> Result<Permit, Refusal> {
        let Limits {
            at_once,
            per_second,
            bytes_per_hour,
        } = self.limits;
        if self.rate.check().is_err() {
            return Err(Refusal::too_many(format!(
                "This environment gets more than {per_second} requests per second."
            )));
        }
        if !self.count(0) {
            return Err(Refusal::too_many(format!(
                "This environment has transferred more than {} MiB within an hour.",
                bytes_per_hour >> 20
            )));
        }
        let slot = self.at_once.clone().try_acquire_owned();
        let slot = slot.map_err(|_| {
            Refusal::too_many(format!(
                "{at_once} requests to this environment are open already; close some of its pages."
            ))
        })?;
        Ok(Permit {
            account: self.clone(),
            _slot: slot,
        })
    }

    fn count(&self, bytes: usize) -> bool {
        let mut hour = self.hour.lock().unwrap_or_else(PoisonError::into_inner);
        if hour.since.elapsed() >= HOUR {
            *hour = Hour {
                since: Instant::now(),
                bytes: 0,
            };
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        hour.bytes = hour.bytes.saturating_add(bytes);
        hour.bytes <= self.limits.bytes_per_hour
    }
}

impl Permit {
    /// Counts forwarded bytes. Returns false if the environment has used up its budget.
    pub(super) fn count(&self, bytes: usize) -> bool {
        self.account.count(bytes)
    }
}
