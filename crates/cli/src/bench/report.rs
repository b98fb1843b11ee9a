//! The format of results. `docs/bench.schema.json` is generated from these types.

use faultline_domain::memory::Memory;
use schemars::JsonSchema;
use serde::Serialize;

/// A measurement and the machine that it was made on.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Report {
    /// The measurement: `clone`, `density`, `idle`, `pages`, `door`, `claim`, `save`, `pools` or
    /// `simulation`.
    pub name: String,
    /// The machine.
    pub machine: Machine,
    /// The figures.
    pub metrics: Vec<Metric>,
    /// Ratios of figures of this run.
    pub ratios: Vec<Ratio>,
}

/// The machine.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Machine {
    /// The number of processors.
    pub cpus: usize,
    /// The memory in MiB.
    pub memory_mib: u64,
    /// `kvm`, `tcg`, or `none` if no machine was run.
    pub accelerator: String,
    /// QEMU's version.
    pub qemu: String,
}

/// One figure.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Metric {
    /// The name.
    pub metric: String,
    /// The unit: `ms`, `s`, `MiB`, `%`, `1/s`, or `1` for a number.
    pub unit: String,
    /// The samples in the order of their measurement. Of many samples, an even selection.
    pub samples: Vec<f64>,
    /// The median.
    pub p50: f64,
    /// The 95th percentile.
    pub p95: f64,
    /// The 99th percentile, if there are at least a hundred samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
}

/// The ratio of two figures of the same run.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Ratio {
    /// The name.
    pub metric: String,
    /// `of` divided by `to`.
    pub value: f64,
    /// The name of the numerator's figure.
    pub of: String,
    /// The name of the denominator's figure.
    pub to: String,
}

fn percentile(sorted: &[f64], p: f64) -> f64 {
    if sorted.is_empty() {
        return 0.0;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index within the samples"
    )]
    let index = ((sorted.len() - 1) as f64 * p).round() as usize;
    sorted.get(index).copied().unwrap_or(0.0)
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

impl Report {
    /// Creates an empty report of this machine.
    pub fn new(name: &str, accelerator: &str) -> Self {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            name: name.to_owned(),
            machine: Machine {
                cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
                memory_mib: Memory::parse(&meminfo).map_or(0, |m| m.total_mib),
                accelerator: accelerator.to_owned(),
                qemu: faultline_launcher::qemu::version().unwrap_or_else(|_| "none".to_owned()),
            },
            metrics: Vec::new(),
            ratios: Vec::new(),
        }
    }

    /// Adds a figure.
    pub fn add(&mut self, metric: &str, unit: &str, samples: &[f64]) {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let step = samples.len().div_ceil(100).max(1);
        self.metrics.push(Metric {
            metric: metric.to_owned(),
            unit: unit.to_owned(),
            samples: samples.iter().step_by(step).copied().map(round).collect(),
            p50: round(percentile(&sorted, 0.5)),
            p95: round(percentile(&sorted, 0.95)),
            p99: (samples.len() >= 100).then(|| round(percentile(&sorted, 0.99))),
        });
    }

    /// Adds the ratio of two figures' medians.
    pub fn ratio(&mut self, metric: &str, of: &str, to: &str) {
        let p50 = |name: &str| {
            self.metrics
                .iter()
                .find(|m| m.metric == name)
                .map_or(0.0, |m| m.p50)
        };
        let (a, b) = (p50(of), p50(to));
        if b > 0.0 {
            self.ratios.push(Ratio {
                metric: metric.to_owned(),
                value: round(a / b),
                of: of.to_owned(),
                to: to.to_owned(),
            });
        }
    }

    /// Formats the report for people.
    pub fn table(&self) -> String {
        let machine = &self.machine;
        let mut table = comfy_table::Table::new();
        table
            .load_preset(comfy_table::presets::NOTHING)
            .set_header(["METRIC", "P50", "P95", "P99", "UNIT", "SAMPLES"]);
        for m in &self.metrics {
            table.add_row([
                m.metric.clone(),
                m.p50.to_string(),
                m.p95.to_string(),
                m.p99.map_or_else(String::new, |p| p.to_string()),
                m.unit.clone(),
                m.samples.len().to_string(),
            ]);
        }
        let mut text = format!(
            "{}: {} CPUs, {} MiB, {}, {}\n\n{table}\n",
            self.name, machine.cpus, machine.memory_mib, machine.accelerator, machine.qemu
        );
        for r in &self.ratios {
            text.push_str(&format!(
                "\n{}: {} ({} / {})",
                r.metric, r.value, r.of, r.to
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_schema_is_the_types_schema() {
        let schema = serde_json::to_string_pretty(&schemars::schema_for!(Report)).unwrap() + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/bench.schema.json");
        if std::env::var_os("FAULTLINE_BLESS").is_some() {
            std::fs::write(path, &schema).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap_or_default(),
            schema,
            "FAULTLINE_BLESS=1 cargo test writes it anew"
        );
    }

    #[test]
    fn ratios_are_of_medians() {
        let mut report = Report::new("x", "none");
        report.add("slow", "ms", &[10.0, 30.0, 20.0]);
        report.add("fast", "ms", &[2.0]);
        report.ratio("times faster", "slow", "fast");
        assert_eq!(report.ratios.first().unwrap().value, 10.0);
        assert!(report.table().contains("times faster: 10"));
    }
}
