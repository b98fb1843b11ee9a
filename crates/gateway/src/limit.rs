//! Limits of connections and failures, overall and per address. Does no I/O: the caller passes the time.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// The limits of connections and failures.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The maximum number of open connections. Default: 1024.
    pub connections: usize,
    /// The maximum number of open connections from one address. An IPv6 /64 network counts as one address. Default:
    /// 128.
    pub of_address: usize,
    /// The maximum number of new connections from one address per minute. Default: 600.
    pub per_minute: u32,
    /// The maximum number of refused keys or tokens from one address per minute. At the limit, new connections are
    /// refused until the minute is over. Default: 120.
    pub failures_per_minute: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            of_address: 128,
            per_minute: 600,
            failures_per_minute: 120,
        }
    }
}

/// Why a connection is refused. SSH clients receive the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The gateway has too many connections, or tracks too many addresses.
    #[error("too many connections; try again later")]
    Full,
    /// The address has too many open connections.
    #[error("too many connections from your address; close some")]
    OfAddress,
    /// The address has connected or failed too often within a minute.
    #[error("too many attempts from your address; try again in a minute")]
    TooOften,
}

#[derive(Debug)]
struct Record {
    open: usize,
    window: Instant,
    connects: u32,
    failures: u32,
}

/// The connections, and the recent attempts and failures, of each address.
#[derive(Debug)]
pub struct Ledger {
    limits: Limits,
    open: usize,
    records: HashMap<IpAddr, Record>,
}

const MINUTE: Duration = Duration::from_secs(60);
/// The maximum number of tracked addresses. At the limit, those without connections and recent attempts are dropped.
const MAX_RECORDS: usize = 16 * 1024;

impl Ledger {
    /// Creates an empty ledger.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            open: 0,
            records: HashMap::new(),
        }
    }

    /// Admits and counts a connection, or returns why not. The caller must call [`Self::ended`] when it ends.
    pub fn admit(&mut self, address: IpAddr, now: Instant) -> Result<(), Refusal> {
        if self.open >= self.limits.connections {
            return Err(Refusal::Full);
        }
        if self.records.len() >= MAX_RECORDS {
            self.records
                .retain(|_, r| r.open > 0 || now.duration_since(r.window) < MINUTE);
            if self.records.len() >= MAX_RECORDS && !self.records.contains_key(&key(address)) {
                return Err(Refusal::Full);
            }
        }
        let limits = self.limits;
        let record = self.record(address, now);
        if record.open >= limits.of_address {
            return Err(Refusal::OfAddress);
        }
        if record.connects >= limits.per_minute || record.failures >= limits.failures_per_minute {
            return Err(Refusal::TooOften);
        }
        record.open += 1;
        record.connects += 1;
        self.open += 1;
        Ok(())
    }

    /// Records the end of an admitted connection.
    pub fn ended(&mut self, address: IpAddr) {
        self.open = self.open.saturating_sub(1);
        if let Some(record) = self.records.get_mut(&key(address)) {
            record.open = record.open.saturating_sub(1);
        }
    }

    /// Records a refused key or token. Returns false if the address has exceeded its limit of failures.
    pub fn failed(&mut self, address: IpAddr, now: Instant) -> bool {
        let most = self.limits.failures_per_minute;
        let record = self.record(address, now);
        record.failures = record.failures.saturating_add(1);
        record.failures <= most
    }

    fn record(&mut self, address: IpAddr, now: Instant) -> &mut Record {
        let record = self.records.entry(key(address)).or_insert(Record {
            open: 0,
            window: now,
            connects: 0,
            failures: 0,
        });
        if now.duration_since(record.window) >= MINUTE {
            record.window = now;
            record.connects = 0;
            record.failures = 0;
        }
        record
    }
}

fn key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = u128::from(v6) & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> (Ledger, IpAddr, Instant) {
        let limits = Limits {
            connections: 5,
            of_address: 2,
            per_minute: 4,
            failures_per_minute: 2,
        };
        (
            Ledger::new(limits),
            "10.0.0.1".parse().unwrap(),
            Instant::now(),
        )
    }

    #[test]
    fn an_address_has_limits_at_once_and_per_minute() {
        let (mut ledger, a, now) = ledger();
        assert_eq!(ledger.admit(a, now), Ok(()));
        assert_eq!(ledger.admit(a, now), Ok(()));
        assert_eq!(ledger.admit(a, now), Err(Refusal::OfAddress));
        ledger.ended(a);
        ledger.ended(a);
        assert_eq!(ledger.admit(a, now), Ok(()));
        ledger.ended(a);
        assert_eq!(ledger.admit(a, now), Ok(()));
        ledger.ended(a);
        assert_eq!(ledger.admit(a, now), Err(Refusal::TooOften));
        assert_eq!(ledger.admit(a, now + MINUTE), Ok(()));
    }

    #[test]
    fn failures_block_an_address_for_a_minute() {
        let (mut ledger, a, now) = ledger();
        assert!(ledger.failed(a, now));
        assert!(ledger.failed(a, now));
        assert!(!ledger.failed(a, now));
        assert_eq!(ledger.admit(a, now), Err(Refusal::TooOften));
        assert_eq!(ledger.admit("10.0.0.2".parse().unwrap(), now), Ok(()));
        assert_eq!(ledger.admit(a, now + MINUTE), Ok(()));
    }

    #[test]
    fn an_ipv6_64_network_counts_as_one_address() {
        let (mut ledger, _, now) = ledger();
        for last in 1..=2 {
            let a: IpAddr = format!("2001:db8::{last}").parse().unwrap();
            assert_eq!(ledger.admit(a, now), Ok(()));
        }
        assert_eq!(
            ledger.admit("2001:db8::3".parse().unwrap(), now),
            Err(Refusal::OfAddress)
        );
    }
}
