//! Runs every benchmark of `faultline bench`, as briefly as possible, and checks that it reports its metrics, not how
//! fast they are. Needs `scripts/build dev` and the image of plain machines.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::process::Command;

use faultline_e2e::installation::{program, step, text, workspace};
use serde_json::Value;

/// The report of a benchmark.
struct Measured(Value);

impl Measured {
    fn of(name: &str, args: &[&str]) -> Self {
        step(&format!("bench {name}"));
        let done = Command::new(program())
            .current_dir(workspace())
            .args(["--output", "json", "bench", name])
            .args(args)
            .output()
            .unwrap();
        assert!(done.status.success(), "{name}: {}", text(&done.stderr));
        let report: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(report["name"], name);
        assert!(report["machine"]["cpus"].as_u64().unwrap() > 0, "{report}");
        Self(report)
    }

    fn metrics(&self) -> &Vec<Value> {
        self.0["metrics"].as_array().unwrap()
    }

    fn median(&self, metric: &str) -> f64 {
        let found = self.metrics().iter().find(|m| m["metric"] == metric);
        let found = found.unwrap_or_else(|| panic!("no {metric:?} in {}", self.0));
        found["p50"].as_f64().unwrap()
    }
}

#[test]
fn every_benchmark_reports_its_metrics() {
    let clone = Measured::of("clone", &["--rounds", "1"]);
    let cold = clone.median("cold boot to shell");
    let usable = clone.median("clone to usable, 1");
    let ratio = &clone.0["ratios"][0];
    assert_eq!(ratio["of"], "cold boot to shell");
    assert!((ratio["value"].as_f64().unwrap() - cold / usable).abs() < 0.1);
    for at_once in [4, 8] {
        let name = format!("clone to usable, {at_once} at once");
        let all = clone.metrics().iter().find(|m| m["metric"] == name);
        assert_eq!(all.unwrap()["samples"].as_array().unwrap().len(), at_once);
    }

    let density = Measured::of("density", &["--clones", "2", "--rest", "2"]);
    let private = density.median("guest memory private to a clone");
    assert!(private > 0.0 && private < density.median("template memory"));
    assert!(density.median("QEMU's own memory") > 0.0);

    let idle = Measured::of("idle", &["--rounds", "1", "--rest", "2"]);
    assert!(idle.median("CPU of an idle clone") < 100.0);
    assert!(idle.median("CPU of an idle clone that a server looks after") < 100.0);
    assert!(idle.median("CPU of the server that looks after it") < 100.0);
    assert!(idle.median("CPU of a suspended clone") < 100.0);

    let pages = Measured::of("pages", &["--seconds", "1"]);
    let named = |page: &str| {
        pages
            .metrics()
            .iter()
            .any(|m| m["metric"].as_str().unwrap().starts_with(page))
    };
    for page in ["catalogue", "lab page", "catalogue with 100 idle terminals"] {
        assert!(named(page), "no {page:?} in {}", pages.0);
    }
}
