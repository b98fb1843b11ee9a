//! Times as people type them.

use faultline_domain::Clock;
use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};

/// Parses a local date and time, an RFC 3339 time, or a duration from now.
pub fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    if let Ok(at) = text.parse::<DateTime>() {
        let at = at.to_zoned(TimeZone::system()).map_err(|e| e.to_string())?;
        return Ok(at.timestamp());
    }
    let now = Clock::system().now();
    let after = text.parse::<SignedDuration>().ok();
    after
        .filter(|after| after.is_positive())
        .and_then(|after| now.checked_add(after).ok())
        .ok_or_else(|| {
            "use a time such as \"2026-12-01 09:45\", or a duration such as 30m".to_owned()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_durations_are_understood() {
        let exact = moment("2026-12-01T09:45:00Z").unwrap();
        assert_eq!(exact.to_string(), "2026-12-01T09:45:00Z");
        moment("2026-12-01 09:45").unwrap();
        let soon = moment("30m").unwrap().duration_since(Clock::system().now());
        assert!((1790..=1800).contains(&soon.as_secs()));
        for wrong in ["", "soon", "-5m", "09:45"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }
}
