//! The injected clock, and times as text.

use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

/// A source of the current time. Clones share the source, so that a test can advance a stopped clock with its clone.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System,
    Stopped(Arc<Mutex<Timestamp>>),
}

impl Clock {
    /// Returns the system's clock.
    #[must_use]
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// Returns a clock that stays at `at` until [`Clock::advance`] moves it.
    #[must_use]
    pub fn stopped(at: Timestamp) -> Self {
        Self(Source::Stopped(Arc::new(Mutex::new(at))))
    }

    /// Returns the current time, in microsecond precision.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            #[expect(
                clippy::disallowed_methods,
                reason = "the only place that reads the system's clock"
            )]
            Source::System => {
                let now = Timestamp::now();
                Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
            }
            Source::Stopped(at) => *at.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
        }
    }

    /// Advances a stopped clock. Does nothing to the system's.
    pub fn advance(&self, by: SignedDuration) {
        if let Source::Stopped(at) = &self.0 {
            let mut at = at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *at = at.saturating_add(by).unwrap_or(*at);
        }
    }
}

/// Formats a time for people: `09:45 UTC` today, `Tue 1 Dec, 09:45 UTC` on other days.
#[must_use]
pub fn utc(at: Timestamp, now: Timestamp) -> String {
    let (at, now) = (at.to_zoned(TimeZone::UTC), now.to_zoned(TimeZone::UTC));
    let format = if at.date() == now.date() {
        "%H:%M UTC"
    } else {
        "%a %-d %b, %H:%M UTC"
    };
    at.strftime(format).to_string()
}
