//! Warm pools and events.

use faultline_domain::pool::forecast::Event;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::pools::{PoolStatus, Wait};

/// The warm pools.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PoolsView {
    /// Why no tenant is made now; none if nothing prevents it.
    pub hold: Option<&'static str>,
    pub pools: Vec<PoolView>,
    /// How long starts took in the last 24 hours, by what served them.
    pub waits: Vec<WaitView>,
}

/// A warm pool.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PoolView {
    /// The name: of a lab, or of a template such as `kubernetes-1.36@1+0`.
    pub pool: String,
    /// The number of tenants that it should hold.
    pub size: u32,
    /// The number of tenants that can be claimed.
    pub warm: u32,
    /// The number of tenants that were written to disk when the server was drained, and from which it will be filled.
    pub on_disk: u32,
    /// The number of tenants that are being made.
    pub unfinished: u32,
    /// Why it has its size, for people.
    pub reason: String,
    /// The expected starts per hour.
    pub starts_per_hour: f64,
    pub floor: u32,
    pub ceiling: u32,
    /// The time to make a tenant, in seconds.
    pub make_seconds: f64,
    /// The memory of a paused tenant, in MiB.
    pub memory_mib: u64,
    /// The next event that changes the size.
    pub next: Option<UpcomingView>,
    /// The number of failures since the last success.
    pub failures: u32,
    /// The last failure; none if the last tenant was made.
    pub failure: Option<String>,
    /// Seconds until the next attempt after a failure.
    pub retry_in_seconds: i64,
}

impl From<&PoolStatus> for PoolView {
    fn from(s: &PoolStatus) -> Self {
        Self {
            pool: s.pool.to_string(),
            size: s.size,
            warm: s.warm,
            on_disk: s.on_disk,
            unfinished: s.unfinished,
            reason: s.reason(),
            starts_per_hour: s.forecast.per_hour,
            floor: s.bounds.floor,
            ceiling: s.bounds.ceiling,
            make_seconds: s.make_seconds,
            memory_mib: s.memory_mib,
            next: s.forecast.next.as_ref().map(|next| UpcomingView {
                from: next.from.to_string(),
                size: next.size,
                event: next.event.id.clone(),
            }),
            failures: s.failures,
            failure: s.failure.clone(),
            retry_in_seconds: s.backoff.as_secs(),
        }
    }
}

/// The size of a pool at a later time.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UpcomingView {
    /// When its tenants begin to be made.
    pub from: String,
    pub size: u32,
    /// The ID of the event.
    pub event: String,
}

/// How long starts took.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WaitView {
    /// `lab`, `template`, `unfinished` or `clone`.
    pub served_by: &'static str,
    pub starts: usize,
    /// The median, in milliseconds.
    pub p50_millis: u64,
    /// The 95th percentile, in milliseconds.
    pub p95_millis: u64,
}

impl From<Wait> for WaitView {
    fn from(w: Wait) -> Self {
        Self {
            served_by: w.by.as_str(),
            starts: w.starts,
            p50_millis: w.p50,
            p95_millis: w.p95,
        }
    }
}

/// A change of a pool's bounds. What is left out stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BoundsUpdate {
    /// The pool's name.
    pub pool: String,
    /// The number of tenants that it holds even without demand.
    pub floor: Option<u32>,
    /// The maximum number of tenants.
    pub ceiling: Option<u32>,
}

/// A pool's bounds.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BoundsView {
    pub pool: String,
    pub floor: u32,
    pub ceiling: u32,
}

/// An announced event.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventView {
    pub id: String,
    pub lab: String,
    /// When it begins.
    pub at: String,
    /// The number of people.
    pub seats: u32,
    pub note: String,
}

impl From<Event> for EventView {
    fn from(e: Event) -> Self {
        Self {
            id: e.id,
            lab: e.lab.to_string(),
            at: e.at.to_string(),
            seats: e.seats,
            note: e.note,
        }
    }
}

/// An event to announce.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewEventView {
    /// The lab that people will start.
    pub lab: String,
    /// When it begins, in RFC 3339 format.
    pub at: String,
    /// The number of people, at most 500.
    pub seats: u32,
    /// A note for operators. Default: empty.
    #[serde(default)]
    pub note: String,
}
