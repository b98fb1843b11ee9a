//! The charts of `/operator`: the last 24 hours, from the samples in the store.

use faultline_domain::clock::utc;
use faultline_store::samples::Sample;
use jiff::{SignedDuration, Timestamp};

use super::{
    chart::{Chart, Series, Style, round_up, svg},
    text,
};
use crate::{app::App, capacity::Host, problem::Problem};

/// The period that the charts show.
const PERIOD: SignedDuration = SignedDuration::from_hours(24);
/// The number of columns of a chart: one for five minutes.
const FINE: usize = 288;
/// The number of columns of a chart of counts: one for half an hour.
const COARSE: usize = 48;
/// The number of rows of the table.
const HOURS: usize = 24;

/// A chart with its figures.
pub(super) struct Shown {
    pub title: &'static str,
    /// The latest, the lowest and the highest value.
    pub figures: String,
    /// The value at the upper edge.
    pub top: String,
    pub svg: String,
}

/// A row of the table: the hour, and a value for each chart.
pub(super) struct Hour {
    pub from: String,
    pub values: Vec<String>,
}

/// The charts, and their figures as a table.
pub(super) struct History {
    pub charts: Vec<Shown>,
    /// The headings of the table.
    pub headings: Vec<&'static str>,
    /// Newest first.
    pub hours: Vec<Hour>,
}

/// What the samples of a column are merged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Merge {
    Mean,
    Highest,
    Sum,
}

/// What a chart shows.
struct Quantity {
    id: &'static str,
    title: &'static str,
    style: Style,
    columns: usize,
    merge: Merge,
    value: fn(&Sample) -> Option<f64>,
    /// A second quantity, whose values are drawn in the colour of failures.
    failures: Option<fn(&Sample) -> Option<f64>>,
    format: fn(f64) -> String,
}

fn number(value: f64) -> String {
    format!("{value:.0}")
}

fn load(value: f64) -> String {
    format!("{value:.1}")
}

fn gib(mib: f64) -> String {
    format!("{:.1} GiB", mib / 1024.0)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a duration, for people"
)]
fn duration(millis: f64) -> String {
    text::duration(millis.max(0.0) as u64)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "for a chart of a few hundred points"
)]
const QUANTITIES: [Quantity; 6] = [
    Quantity {
        id: "environments",
        title: "Environments running",
        style: Style::Steps,
        columns: FINE,
        merge: Merge::Highest,
        value: |s| Some(f64::from(s.environments)),
        failures: None,
        format: number,
    },
    Quantity {
        id: "queue",
        title: "Queue",
        style: Style::Steps,
        columns: FINE,
        merge: Merge::Highest,
        value: |s| Some(f64::from(s.queued)),
        failures: None,
        format: number,
    },
    Quantity {
        id: "starts",
        title: "Starts in half an hour",
        style: Style::Steps,
        columns: COARSE,
        merge: Merge::Sum,
        value: |s| Some(f64::from(s.starts)),
        failures: Some(|s| Some(f64::from(s.failed_starts))),
        format: number,
    },
    Quantity {
        id: "memory",
        title: "Free memory",
        style: Style::Line,
        columns: FINE,
        merge: Merge::Mean,
        value: |s| Some(s.free_memory_mib as f64),
        failures: None,
        format: gib,
    },
    Quantity {
        id: "load",
        title: "Load of the processors",
        style: Style::Line,
        columns: FINE,
        merge: Merge::Mean,
        value: |s| Some(s.load),
        failures: None,
        format: load,
    },
    Quantity {
        id: "wait",
        title: "Wait for a start, 95 % within",
        style: Style::Line,
        columns: FINE,
        merge: Merge::Highest,
        value: |s| s.wait_p95_millis.map(|millis| millis as f64),
        failures: None,
        format: duration,
    },
];

/// Merges samples into columns of the same width that end now, oldest first. A column without a value is a gap.
fn columns(
    samples: &[Sample],
    now: Timestamp,
    count: usize,
    merge: Merge,
    value: impl Fn(&Sample) -> Option<f64>,
) -> Vec<Option<f64>> {
    let width = PERIOD.as_micros() / i128::try_from(count.max(1)).unwrap_or(1);
    let mut all: Vec<Vec<f64>> = vec![Vec::new(); count];
    for sample in samples {
        let age = now.duration_since(sample.at).as_micros();
        let back = usize::try_from(age / width.max(1)).unwrap_or(usize::MAX);
        let column = back.checked_add(1).and_then(|n| count.checked_sub(n));
        let column = column.filter(|_| age >= 0);
        if let (Some(column), Some(value)) = (column, value(sample))
            && let Some(values) = all.get_mut(column)
        {
            values.push(value);
        }
    }
    all.iter().map(|values| merged(values, merge)).collect()
}

fn merged(values: &[f64], merge: Merge) -> Option<f64> {
    let sum: f64 = values.iter().sum();
    #[expect(clippy::cast_precision_loss, reason = "a number of samples")]
    let count = values.len() as f64;
    let highest = values.iter().copied().reduce(f64::max)?;
    Some(match merge {
        Merge::Mean => sum / count,
        Merge::Highest => highest,
        Merge::Sum => sum,
    })
}

/// Returns the latest, the lowest and the highest value as a text.
fn figures(values: &[Option<f64>], format: fn(f64) -> String) -> String {
    let known = || values.iter().flatten().copied();
    let (Some(low), Some(high)) = (known().reduce(f64::min), known().reduce(f64::max)) else {
        return "no data yet".to_owned();
    };
    let now = values
        .last()
        .copied()
        .flatten()
        .map_or_else(|| "none".to_owned(), format);
    format!("now {now}, {} to {}", format(low), format(high))
}

impl Quantity {
    fn show(&self, samples: &[Sample], now: Timestamp, host: &Host) -> Shown {
        let values = columns(samples, now, self.columns, self.merge, self.value);
        let failed = self
            .failures
            .map(|value| columns(samples, now, self.columns, self.merge, value));
        let mut figures = figures(&values, self.format);
        let highest = values.iter().flatten().copied().fold(0.0, f64::max);
        if let Some(failed) = &failed {
            let total = |values: &[Option<f64>]| values.iter().flatten().sum::<f64>();
            figures = format!(
                "{} in 24 h, {} failed",
                (self.format)(total(&values)),
                (self.format)(total(failed))
            );
        }
        let least = match self.id {
            "memory" => host.memory_total_mib.unwrap_or_default() as f64,
            "load" => f64::from(host.cores),
            _ => 0.0,
        };
        let highest = failed
            .iter()
            .flatten()
            .flatten()
            .copied()
            .fold(highest.max(least), f64::max);
        let top = match self.id {
            // In whole GiB, or in whole seconds.
            "memory" => (highest / 1024.0).ceil() * 1024.0,
            "wait" => round_up(highest / 1000.0) * 1000.0,
            _ => round_up(highest),
        };
        let mut series = vec![Series {
            class: "main",
            values,
        }];
        series.extend(failed.map(|values| Series {
            class: "failures",
            values,
        }));
        let svg = svg(&Chart {
            id: self.id,
            title: self.title,
            description: &format!("The last 24 hours: {figures}."),
            style: self.style,
            top,
            series: &series,
        });
        Shown {
            title: self.title,
            top: (self.format)(top),
            figures,
            svg,
        }
    }

    /// Returns the values of the table, by the hour, oldest first.
    fn by_hour(&self, samples: &[Sample], now: Timestamp) -> Vec<String> {
        let values = columns(samples, now, HOURS, self.merge, self.value);
        let failed = self
            .failures
            .map(|value| columns(samples, now, HOURS, self.merge, value));
        let text = |(i, value): (usize, &Option<f64>)| {
            let value = (*value).map(self.format)?;
            let failed = failed
                .as_ref()
                .and_then(|all| all.get(i).copied().flatten());
            Some(match failed.filter(|n| *n > 0.0) {
                Some(failed) => format!("{value}, {} failed", (self.format)(failed)),
                None => value,
            })
        };
        let texts = values.iter().enumerate().map(text);
        texts
            .map(|text| text.unwrap_or_else(|| "–".to_owned()))
            .collect()
    }
}

/// Returns the charts of the last 24 hours.
pub(super) async fn history(app: &App, host: &Host) -> Result<History, Problem> {
    let now = app.now();
    let since = now.saturating_sub(PERIOD).unwrap_or(Timestamp::MIN);
    let samples = app.store.samples_since(since).await?;
    Ok(draw(&samples, now, host))
}

fn draw(samples: &[Sample], now: Timestamp, host: &Host) -> History {
    let by_hour: Vec<Vec<String>> = QUANTITIES.iter().map(|q| q.by_hour(samples, now)).collect();
    let hour = |i: usize| {
        let back = SignedDuration::from_hours(i64::try_from(HOURS - i).unwrap_or_default());
        Hour {
            from: utc(now.saturating_sub(back).unwrap_or(now), now),
            values: by_hour
                .iter()
                .map(|values| values.get(i).cloned().unwrap_or_default())
                .collect(),
        }
    };
    History {
        charts: QUANTITIES
            .iter()
            .map(|q| q.show(samples, now, host))
            .collect(),
        headings: QUANTITIES
            .iter()
            .map(|q| match q.id {
                "starts" => "Starts",
                _ => q.title,
            })
            .collect(),
        hours: (0..HOURS).rev().map(hour).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minutes * 60).unwrap()
    }

    fn sample(minutes: i64, environments: u32) -> Sample {
        Sample {
            at: at(minutes),
            environments,
            queued: 0,
            free_memory_mib: 2048,
            load: 0.5,
            starts: 1,
            failed_starts: 0,
            wait_p95_millis: None,
        }
    }

    const HOST: Host = Host {
        memory_total_mib: Some(4096),
        cores: 2,
        load: 0.0,
    };

    #[test]
    fn samples_are_merged_into_columns_and_missing_ones_are_gaps() {
        let samples = [
            sample(-1440, 1),
            sample(-300, 2),
            sample(-299, 4),
            sample(0, 6),
        ];
        let of = |merge| {
            columns(&samples, at(0), 24, merge, |s| {
                Some(f64::from(s.environments))
            })
        };
        let mean = of(Merge::Mean);
        assert_eq!(mean.len(), 24);
        assert_eq!(mean.iter().flatten().count(), 3, "the oldest is outside");
        assert_eq!((mean[18], mean[19], mean[20]), (Some(2.0), Some(4.0), None));
        assert_eq!(mean[23], Some(6.0));
        let hours = [sample(-59, 2), sample(-58, 4), sample(-1, 3)];
        let last = |merge| {
            let all = columns(&hours, at(0), 24, merge, |s| {
                Some(f64::from(s.environments))
            });
            all[23]
        };
        assert_eq!(last(Merge::Mean), Some(3.0));
        assert_eq!(last(Merge::Highest), Some(4.0));
        assert_eq!(last(Merge::Sum), Some(9.0));
    }

    #[test]
    fn samples_of_the_future_are_left_out() {
        let all = columns(
            &[sample(5, 1), sample(300, 1)],
            at(0),
            24,
            Merge::Sum,
            |_| Some(1.0),
        );
        assert_eq!(all.iter().flatten().count(), 0);
    }

    #[test]
    fn every_chart_has_its_figures_as_text() {
        let failed = Sample {
            failed_starts: 2,
            wait_p95_millis: Some(6_000),
            ..sample(-1, 3)
        };
        let history = draw(&[sample(-90, 1), failed], at(0), &HOST);
        let figures: Vec<&str> = history.charts.iter().map(|c| c.figures.as_str()).collect();
        assert_eq!(
            figures,
            [
                "now 3, 1 to 3",
                "now 0, 0 to 0",
                "2 in 24 h, 2 failed",
                "now 2.0 GiB, 2.0 GiB to 2.0 GiB",
                "now 0.5, 0.5 to 0.5",
                "now 6.0 s, 6.0 s to 6.0 s"
            ]
        );
        for chart in &history.charts {
            assert!(chart.svg.contains(&chart.figures), "{}", chart.svg);
        }
        assert_eq!(history.charts[3].top, "4.0 GiB");
        assert_eq!(history.hours.len(), 24);
        assert_eq!(history.hours[0].from, "07:00 UTC");
        assert_eq!(
            history.hours[0].values,
            ["3", "0", "1, 2 failed", "2.0 GiB", "0.5", "6.0 s"]
        );
        assert_eq!(history.hours[5].values[0], "–");
        let none = draw(&[], at(0), &HOST);
        assert_eq!(none.charts[0].figures, "no data yet");
        assert!(!none.charts[0].svg.contains("class=\"line"));
    }
}
