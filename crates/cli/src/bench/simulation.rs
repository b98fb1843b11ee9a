//! `bench simulation`: days of thousands of people within minutes, against the real server and a real database, with
//! machines that are only pretended. The server crashes at random moments, and the provider fails now and then.
//!
//! ```text
//! people ──► agenda ──► requests ──► server (a runtime of its own) ──► SQLite file
//!              ▲                        │                └──► fake provider
//!              └── clock jumps ◄── nothing in progress
//! ```
//!
//! The clock runs as fast as the real one while anything is in progress, so that durations and deadlines are real. When
//! nothing is, it jumps to what people do next. A crash drops the server's runtime with all its tasks; the database and the
//! fake provider stay.
//!
//! | module | holds |
//! |---|---|
//! | [`people`] | who starts which lab when, and what they do with it |
//! | [`host`] | the server, its requests, and its crashes |
//! | [`driver`] | the agenda and the clock |
//! | [`whole`] | the checks that nothing is lost, doubled or left behind |
//! | [`figures`] | what is measured |

mod driver;
mod figures;
mod host;
mod people;
mod whole;

use clap::Args;

use self::driver::Driver;
use super::Report;

/// The options of the simulation.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Number of people
    #[arg(long, default_value_t = 3000)]
    people: usize,
    /// Number of environments that they start
    #[arg(long, default_value_t = 10_000)]
    environments: usize,
    /// Number of environments that can run at once [default: a third of the people]
    #[arg(long)]
    places: Option<u32>,
    /// Simulated days, beginning with a Monday
    #[arg(long, default_value_t = 3)]
    days: u32,
    /// Seed of everything random, except for the moments within a step at which the server crashes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Minutes of real time that it should take; the fewer, the coarser its steps. Peaks take as long as they do in
    /// reality
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// Number of crashes of the server
    #[arg(long, default_value_t = 12)]
    crashes: u32,
    /// Starts per second at the beginning of a class
    #[arg(long, default_value_t = 200)]
    peak: u32,
}

impl Settings {
    fn places(&self) -> u32 {
        let third = u32::try_from(self.people / 3).unwrap_or(u32::MAX);
        self.places.unwrap_or_else(|| third.max(1))
    }
}

/// Runs `bench simulation`.
pub async fn run(settings: Settings) -> anyhow::Result<Report> {
    // The driver starts and drops runtimes, which only a thread may that isn't driven by one.
    tokio::task::spawn_blocking(move || Driver::new(settings)?.run()).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_small_class_loses_doubles_and_starves_nobody() {
        let settings = Settings {
            people: 24,
            environments: 60,
            places: Some(8),
            days: 1,
            seed: 7,
            minutes: 0,
            crashes: 3,
            peak: 20,
        };
        let report = run(settings).await.unwrap();
        let found = |name: &str| {
            let metric = report.metrics.iter().find(|m| m.metric == name);
            metric.unwrap_or_else(|| panic!("no {name:?}")).p50
        };
        assert!(found("environments started") >= 40.0);
        assert!(found("crashes of the server") >= 3.0);
        assert!(found("claim at other times") < 5000.0);
        assert!(found("pass of the reconciler environments") > 0.0);
        assert!(found("transactions") > 0.0);
    }
}
