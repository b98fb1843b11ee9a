//! Starts of people over days, for simulations.

use jiff::Timestamp;
use rand::{Rng, rngs::StdRng};

/// A Monday, so that days are weekdays.
const BEGIN: i64 = 1_799_625_600;
/// The length of an hour, in seconds.
pub(super) const HOUR: i64 = 3600;
/// The length of a day, in seconds.
pub(super) const DAY: i64 = 24 * HOUR;

/// Returns the time this many seconds after the beginning.
pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(BEGIN + seconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Returns the days on which classes take place.
pub(super) fn weekdays(days: i64) -> impl Iterator<Item = i64> {
    (0..days).filter(|day| day % 7 < 5)
}

/// Adds starts at random times, this many per hour on average.
pub(super) fn trickle(
    rng: &mut StdRng,
    from: i64,
    to: i64,
    per_hour: f64,
    starts: &mut Vec<Timestamp>,
) {
    #[expect(clippy::cast_precision_loss, reason = "some hours")]
    let mut time = from as f64;
    #[expect(clippy::cast_precision_loss, reason = "some hours")]
    let end = to as f64;
    loop {
        let even: f64 = rng.random_range(f64::EPSILON..1.0);
        time -= even.ln() * 3600.0 / per_hour;
        if time >= end {
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "seconds")]
        starts.push(at(time as i64));
    }
}

/// Returns the starts of self-learners during the day and the evening, every day. In the evening there are 2.25 times as
/// many as during the day.
pub(super) fn learners(rng: &mut StdRng, days: i64, per_hour: f64) -> Vec<Timestamp> {
    let mut starts = Vec::new();
    for day in 0..days {
        let hour = |hour: i64| day * DAY + hour * HOUR;
        trickle(rng, hour(8), hour(18), per_hour, &mut starts);
        trickle(rng, hour(18), hour(23), per_hour * 2.25, &mut starts);
    }
    starts
}

/// Returns when the class of this day begins.
pub(super) fn class_begins(day: i64) -> i64 {
    day * DAY + 9 * HOUR
}

/// Returns the starts of a class: this many within so many seconds.
pub(super) fn class(rng: &mut StdRng, begins: i64, seats: usize, within: i64) -> Vec<Timestamp> {
    let starts = (0..seats).map(|_| at(begins + rng.random_range(0..within.max(1))));
    starts.collect()
}
