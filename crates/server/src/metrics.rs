//! Prometheus metrics, served at `/metrics`.

use std::sync::atomic::AtomicU64;

use faultline_domain::environment::Phase;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::pools::PoolStatus;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub method: &'static str,
    pub route: String,
    pub status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Outcome {
    pub outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StageLabel {
    pub stage: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PhaseLabel {
    pub phase: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PoolLabel {
    pub pool: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReconcilerLabel {
    pub reconciler: &'static str,
}

type Seconds = Gauge<f64, AtomicU64>;

#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub requests: Family<RequestLabels, Counter>,
    pub request_seconds: Histogram,
    pub starts: Family<Outcome, Counter>,
    pub start_failures: Family<StageLabel, Counter>,
    pub start_seconds: Histogram,
    pub checks: Family<Outcome, Counter>,
    pub terminals: Gauge,
    pub environments: Family<PhaseLabel, Gauge>,
    pub queued: Gauge,
    pub maintenance: Gauge,
    pub slowed: Gauge,
    pub draining: Gauge,
    pub pool_sizes: Family<PoolLabel, Gauge>,
    pub pool_warm: Family<PoolLabel, Gauge>,
    pub orphans: Counter,
    pub mail: Family<Outcome, Counter>,
    pub mail_waiting: Gauge,
    pub reconcile_seconds: Family<ReconcilerLabel, Seconds>,
    pub reconcile_errors: Family<ReconcilerLabel, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("faultline");
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("http_requests", "HTTP requests", requests.clone());
        let request_seconds = Histogram::new(exponential_buckets(0.0005, 2.0, 14));
        registry.register_with_unit(
            "http_request",
            "Time until the response to a request",
            Unit::Seconds,
            request_seconds.clone(),
        );
        let starts = Family::<Outcome, Counter>::default();
        registry.register(
            "starts",
            "Starts of environments by outcome",
            starts.clone(),
        );
        let start_failures = Family::<StageLabel, Counter>::default();
        registry.register(
            "start_failures",
            "Failures of starts by stage, including those that were retried",
            start_failures.clone(),
        );
        let start_seconds = Histogram::new(exponential_buckets(0.1, 2.0, 12));
        registry.register_with_unit(
            "start",
            "Time from the start of cloning to a usable environment",
            Unit::Seconds,
            start_seconds.clone(),
        );
        let checks = Family::<Outcome, Counter>::default();
        registry.register("checks", "Check runs by outcome", checks.clone());
        let terminals = Gauge::default();
        registry.register("terminals", "Terminals open in browsers", terminals.clone());
        let environments = Family::<PhaseLabel, Gauge>::default();
        registry.register(
            "environments",
            "Environments by phase",
            environments.clone(),
        );
        let queued = Gauge::default();
        registry.register(
            "queued",
            "Environments that wait for room on the host",
            queued.clone(),
        );
        let slowed = Gauge::default();
        registry.register(
            "slowed",
            "Environments whose CPU is limited to its baseline after a long full load",
            slowed.clone(),
        );
        let maintenance = Gauge::default();
        registry.register(
            "maintenance",
            "1 while the server is in maintenance and starts nothing",
            maintenance.clone(),
        );
        let draining = Gauge::default();
        registry.register(
            "draining",
            "1 while the server is drained: environments end at an announced time",
            draining.clone(),
        );
        let pool_sizes = Family::<PoolLabel, Gauge>::default();
        registry.register(
            "pool_size",
            "Tenants that a pool should hold",
            pool_sizes.clone(),
        );
        let pool_warm = Family::<PoolLabel, Gauge>::default();
        registry.register(
            "pool_warm",
            "Tenants of a pool that can be claimed",
            pool_warm.clone(),
        );
        let orphans = Counter::default();
        registry.register(
            "orphans",
            "Tenants freed because no environment owned them",
            orphans.clone(),
        );
        let mail = Family::<Outcome, Counter>::default();
        registry.register(
            "mails",
            "Attempts to send mail by outcome: sent, to be retried, or failed for good",
            mail.clone(),
        );
        let mail_waiting = Gauge::default();
        registry.register(
            "mail_waiting",
            "Mail that waits to be sent",
            mail_waiting.clone(),
        );
        let reconcile_seconds = Family::<ReconcilerLabel, Seconds>::default();
        registry.register_with_unit(
            "reconcile",
            "Duration of a reconciler's last run",
            Unit::Seconds,
            reconcile_seconds.clone(),
        );
        let reconcile_errors = Family::<ReconcilerLabel, Counter>::default();
        registry.register(
            "reconcile_errors",
            "Failed runs of reconcilers",
            reconcile_errors.clone(),
        );
        Self {
            registry,
            requests,
            request_seconds,
            starts,
            start_failures,
            start_seconds,
            checks,
            terminals,
            environments,
            queued,
            maintenance,
            slowed,
            draining,
            pool_sizes,
            pool_warm,
            orphans,
            mail,
            mail_waiting,
            reconcile_seconds,
            reconcile_errors,
        }
    }
}

impl Metrics {
    pub(crate) fn started(&self, outcome: &'static str) {
        self.starts.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn start_failed(&self, stage: &str) {
        let stage = stage.to_owned();
        self.start_failures
            .get_or_create(&StageLabel { stage })
            .inc();
    }

    pub(crate) fn checked(&self, outcome: &'static str) {
        self.checks.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts mail with this outcome.
    pub(crate) fn mailed(&self, outcome: &'static str, count: u64) {
        self.mail.get_or_create(&Outcome { outcome }).inc_by(count);
    }

    pub(crate) fn phases(&self, counts: &[(Phase, i64)]) {
        self.environments.clear();
        for (phase, n) in counts {
            let label = PhaseLabel {
                phase: phase.as_str().to_owned(),
            };
            self.environments.get_or_create(&label).set(*n);
        }
    }

    pub(crate) fn pools(&self, all: &[PoolStatus]) {
        self.pool_sizes.clear();
        self.pool_warm.clear();
        for status in all {
            let label = PoolLabel {
                pool: status.pool.to_string(),
            };
            self.pool_sizes
                .get_or_create(&label)
                .set(status.size.into());
            self.pool_warm.get_or_create(&label).set(status.warm.into());
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string doesn't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Returns the names that Prometheus has for the metrics.
    fn names() -> BTreeSet<String> {
        let metrics = Metrics::default();
        // A family without a sample isn't listed.
        let pool = PoolLabel {
            pool: String::new(),
        };
        let reconciler = ReconcilerLabel { reconciler: "" };
        let request = RequestLabels {
            method: "GET",
            route: String::new(),
            status: 200,
        };
        metrics.started("");
        metrics.start_failed("");
        metrics.checked("");
        metrics.mailed("", 1);
        metrics.phases(&[(Phase::Active, 1)]);
        metrics.requests.get_or_create(&request).inc();
        metrics.pool_sizes.get_or_create(&pool).set(1);
        metrics.pool_warm.get_or_create(&pool).set(1);
        metrics
            .reconcile_seconds
            .get_or_create(&reconciler)
            .set(1.0);
        metrics.reconcile_errors.get_or_create(&reconciler).inc();
        let text = metrics.text();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let mut names = BTreeSet::new();
        for (name, kind) in types.filter_map(|line| line.split_once(' ')) {
            let suffixes: &[&str] = match kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            names.extend(suffixes.iter().map(|suffix| format!("{name}{suffix}")));
        }
        names
    }

    #[test]
    fn the_dashboard_and_the_alerts_use_metrics_that_exist() {
        let names = names();
        assert!(names.len() > 12, "{names:?}");
        let mut used = BTreeSet::new();
        for text in [
            include_str!("../../../docs/monitoring/alerts.yaml"),
            include_str!("../../../docs/monitoring/grafana.json"),
        ] {
            let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            used.extend(words.filter(|word| word.starts_with("faultline_")));
        }
        for name in &used {
            assert!(names.contains(*name), "{name} is not one of {names:?}");
        }
        assert!(used.len() > 10, "{used:?}");
    }
}
