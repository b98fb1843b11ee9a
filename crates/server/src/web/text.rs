//! Times and durations as text for people.

use faultline_domain::queue::Place;
use faultline_store::stages::Usual;
use jiff::Timestamp;

/// Formats a duration: `1 min 20 s`, `2 h 5 min`, `0.4 s`, `<0.1 s`.
pub(crate) fn duration(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0 if millis < 100 => "<0.1 s".to_owned(),
        0..10 => format!("{}.{} s", seconds, millis % 1000 / 100),
        10..60 => format!("{seconds} s"),
        60..3600 => match seconds % 60 {
            0 => format!("{} min", seconds / 60),
            rest => format!("{} min {rest} s", seconds / 60),
        },
        _ => match seconds % 3600 / 60 {
            0 => format!("{} h", seconds / 3600),
            rest => format!("{} h {rest} min", seconds / 3600),
        },
    }
}

/// Formats a usual duration: `about 6 s`, `5 to 17 s`, `50 s to 3 min`, `2 to 4 min`. Rounds up rather than down.
pub(crate) fn usual(usual: Usual) -> String {
    const MINUTE: u64 = 60;
    let (low, high) = (usual.low / 1000, usual.high.div_ceil(1000));
    if high < MINUTE * 3 / 2 {
        return match high.saturating_sub(low.max(1)) {
            0 | 1 => format!("about {} s", high.max(1)),
            _ => format!("{} to {high} s", low.max(1)),
        };
    }
    let minutes = high.div_ceil(MINUTE);
    match low / MINUTE {
        0 => format!("{low} s to {minutes} min"),
        least if least + 1 >= minutes => format!("about {minutes} min"),
        least => format!("{least} to {minutes} min"),
    }
}

/// Formats a duration like a stopwatch: `0:00.4`, `12:05.0`.
pub(crate) fn clock(since: jiff::SignedDuration) -> String {
    let tenths = (since.as_millis() / 100).max(0);
    let (minutes, seconds) = (tenths / 600, tenths / 10 % 60);
    format!("{minutes}:{seconds:02}.{}", tenths % 10)
}

/// Formats the time left: `12 min`, `1 h 5 min`, `6 days`, and seconds only below a minute.
pub(crate) fn left(seconds: i64) -> String {
    match seconds {
        ..=0 => "no time".to_owned(),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} days", (seconds + 43_200) / 86_400),
    }
}

/// Formats a place in the queue: `All places are taken. Number 3 of 7 in the queue; your turn is expected in about 12 min.`
pub(crate) fn place(of: Place) -> String {
    let wait = match of.seconds {
        Some(..60) => "your turn is expected within a minute".to_owned(),
        Some(seconds) => format!("your turn is expected in about {}", left(seconds)),
        None => "how long it takes can't be told yet".to_owned(),
    };
    let (lack, position) = (of.lack.as_sentence(), of.position);
    format!(
        "{lack} Number {position} of {} in the queue; {wait}.",
        of.of
    )
}

/// Formats a past time: `just now`, `5 min ago`, `3 days ago`.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(at).as_secs();
    match seconds {
        ..60 => "just now".to_owned(),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86400 => format!("{} h ago", seconds / 3600),
        86400..172_800 => "yesterday".to_owned(),
        _ => format!("{} days ago", seconds / 86400),
    }
}

pub(crate) fn plural(n: usize, one: &str, many: &str) -> String {
    if n == 1 {
        format!("1 {one}")
    } else {
        format!("{n} {many}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_durations_are_ranges() {
        for (low, high, text) in [
            (5_100, 16_400, "5 to 17 s"),
            (6_200, 6_200, "about 7 s"),
            (300, 800, "about 1 s"),
            (0, 0, "about 1 s"),
            (700, 4_000, "1 to 4 s"),
            (50_000, 130_000, "50 s to 3 min"),
            (125_000, 230_000, "2 to 4 min"),
            (130_000, 160_000, "about 3 min"),
        ] {
            assert_eq!(usual(Usual { low, high }), text);
        }
    }

    #[test]
    fn durations_are_short() {
        for (millis, text) in [
            (12, "<0.1 s"),
            (430, "0.4 s"),
            (9_999, "9.9 s"),
            (59_000, "59 s"),
            (80_000, "1 min 20 s"),
            (3_600_000, "1 h"),
            (7_500_000, "2 h 5 min"),
        ] {
            assert_eq!(duration(millis), text);
        }
        assert_eq!(left(90), "1 min");
        let since = jiff::SignedDuration::from_millis(725_450);
        assert_eq!(clock(since), "12:05.4");
        let now = Timestamp::from_second(1_000_000).unwrap();
        assert_eq!(
            ago(Timestamp::from_second(999_700).unwrap(), now),
            "5 min ago"
        );
    }
}
