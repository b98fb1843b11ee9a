//! How many connections and failures an address may have. Pure: the caller says what time it is.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// The limits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most connections at once.
    pub connections: usize,
    /// The most connections at once of one address (an IPv6 network of 64 bits counts as one).
    pub of_address: usize,
    /// The most connections of one address within a minute.
    pub per_minute: u32,
    /// The most refused keys of one address within a minute; connections wait when they are used up.
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

/// Why a connection is not taken; the text is sent to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The gateway is full.
    #[error("too many connections; try again later")]
    Full,
    /// The address has too many.
    #[error("too many connections from your address")]
    OfAddress,
    /// The address connects or fails too often.
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

/// Who is connected, and how often who tried.
#[derive(Debug)]
pub struct Ledger {
    limits: Limits,
    open: usize,
    records: HashMap<IpAddr, Record>,
}

const MINUTE: Duration = Duration::from_secs(60);
/// Addresses remembered before those without connections are forgotten.
const MAX_RECORDS: usize = 16 * 1024;

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            open: 0,
            records: HashMap::new(),
        }
    }

    /// Takes a connection, or says why not. Every taken one must be given back with [`Self::ended`].
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

    /// A taken connection has ended.
    pub fn ended(&mut self, address: IpAddr) {
        self.open = self.open.saturating_sub(1);
        if let Some(record) = self.records.get_mut(&key(address)) {
            record.open = record.open.saturating_sub(1);
        }
    }

    /// A key was refused. False when the address has used up its failures.
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
    fn an_address_has_so_many_at_once_and_a_minute() {
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
    fn failures_close_the_door_for_a_minute() {
        let (mut ledger, a, now) = ledger();
        assert!(ledger.failed(a, now));
        assert!(ledger.failed(a, now));
        assert!(!ledger.failed(a, now));
        assert_eq!(ledger.admit(a, now), Err(Refusal::TooOften));
        assert_eq!(ledger.admit("10.0.0.2".parse().unwrap(), now), Ok(()));
        assert_eq!(ledger.admit(a, now + MINUTE), Ok(()));
    }

    #[test]
    fn a_network_of_64_bits_is_one_address() {
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
