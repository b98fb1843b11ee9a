//! `faultline capacity`: what uses the host, and how many more environments fit; for operators.

use clap::Args;
use faultline_domain::limits::size;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Output,
    answer::{local, print, table},
    api::Api,
    env::Where,
};

/// The options of `faultline capacity`.
#[derive(Debug, Args)]
pub struct CapacityArgs {
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, Deserialize)]
struct Capacity {
    memory: Share,
    disk: Share,
    processors: Processors,
    max_environments: u32,
    environments: Vec<Environment>,
    templates: Vec<Template>,
}

#[derive(Debug, Deserialize)]
struct Share {
    total_mib: u64,
    reserve_mib: u64,
    environments_mib: u64,
    pools_mib: u64,
    others_mib: u64,
    free_mib: u64,
}

#[derive(Debug, Deserialize)]
struct Processors {
    total: u32,
    load: f64,
    environments: f64,
}

#[derive(Debug, Deserialize)]
struct Environment {
    environment: String,
    lab: String,
    person: String,
    phase: String,
    created_at: String,
    memory_mib: Option<u64>,
    disk_mib: Option<u64>,
    processors: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Template {
    template: String,
    nodes: u32,
    memory_mib: u64,
    disk_mib: u64,
    more: u32,
}

/// Shows the capacity.
pub fn run(args: &CapacityArgs, output: Output) -> anyhow::Result<()> {
    let api = Api::load(&args.place.data())?;
    let answer: Value = api.get("/operator/capacity")?;
    print(&answer, output, |answer| {
        Ok(text(&Capacity::deserialize(answer)?))
    })
}

fn mib(mib: u64) -> String {
    size(mib.saturating_mul(1 << 20))
}

fn text(of: &Capacity) -> String {
    let headings = [
        "RESOURCE",
        "TOTAL",
        "RESERVE",
        "ENVIRONMENTS",
        "POOLS",
        "OTHERS",
        "FREE",
    ];
    let mut resources = table(headings);
    for (name, share) in [("memory", &of.memory), ("disk", &of.disk)] {
        resources.add_row([
            name.to_owned(),
            mib(share.total_mib),
            mib(share.reserve_mib),
            mib(share.environments_mib),
            mib(share.pools_mib),
            mib(share.others_mib),
            mib(share.free_mib),
        ]);
    }
    let none = || "-".to_owned();
    resources.add_row([
        "processors".to_owned(),
        of.processors.total.to_string(),
        none(),
        format!("{:.2}", of.processors.environments),
        none(),
        none(),
        format!("load {:.2}", of.processors.load),
    ]);
    let mut templates = table([
        "ONE MORE OF",
        "NODES",
        "NEEDS MEMORY",
        "NEEDS DISK",
        "FIT NOW",
    ]);
    for t in &of.templates {
        templates.add_row([
            t.template.clone(),
            t.nodes.to_string(),
            mib(t.memory_mib),
            mib(t.disk_mib),
            t.more.to_string(),
        ]);
    }
    let count = format!(
        "{} of {} environments have machines.",
        of.environments.len(),
        of.max_environments
    );
    if of.environments.is_empty() {
        return format!("{resources}\n\n{templates}\n\n{count}");
    }
    let mut environments = table([
        "ENVIRONMENT",
        "LAB",
        "PERSON",
        "PHASE",
        "SINCE",
        "MEMORY",
        "DISK",
        "CPU",
    ]);
    for e in &of.environments {
        environments.add_row([
            e.environment.clone(),
            e.lab.clone(),
            e.person.clone(),
            e.phase.clone(),
            local(&e.created_at),
            e.memory_mib.map_or_else(none, mib),
            e.disk_mib.map_or_else(none, mib),
            e.processors
                .map_or_else(none, |cores| format!("{:.0} %", cores * 100.0)),
        ]);
    }
    format!("{resources}\n\n{templates}\n\n{environments}\n\n{count}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_answer_is_shown_as_tables() {
        let share = json!({
            "total_mib": 16000, "reserve_mib": 512, "environments_mib": 900, "pools_mib": 0,
            "others_mib": 3000, "free_mib": 12100,
        });
        let mut answer = json!({
            "memory": share, "disk": share,
            "processors": { "total": 2, "load": 0.5, "environments": 0.25 },
            "max_environments": 40,
            "environments": [],
            "templates": [{
                "template": "kubernetes-1.36@1+2", "nodes": 3, "labs": 4, "memory_mib": 3000,
                "disk_mib": 768, "more": 2,
            }],
        });
        let shown = |answer: &Value| text(&Capacity::deserialize(answer).unwrap());
        let empty = shown(&answer);
        assert!(
            empty.contains("kubernetes-1.36@1+2") && empty.contains("3.0 GiB"),
            "{empty}"
        );
        assert!(
            empty.ends_with("0 of 40 environments have machines."),
            "{empty}"
        );
        answer["environments"] = json!([{
            "environment": "k7f3q9xw2m", "lab": "full-disk", "person": "Ann", "phase": "active",
            "created_at": "today", "nodes": 1, "memory_mib": 96, "disk_mib": null, "processors": 0.125,
        }]);
        let one = shown(&answer);
        assert!(one.contains("96 MiB") && one.contains("12 %"), "{one}");
    }
}
