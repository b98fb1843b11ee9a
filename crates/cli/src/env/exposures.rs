//! What an environment exposes, and links by which it is shared.

use faultline_domain::EnvironmentId;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Output,
    answer::{local, print, say, table, text},
    api::Api,
};

#[derive(Debug, Deserialize)]
struct Exposures {
    exposures: Vec<Exposure>,
    left_out: u32,
    trouble: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Exposure {
    name: String,
    source: String,
    port: u16,
    open: String,
    status: Option<u16>,
    listens: bool,
}

impl Exposure {
    fn answer(&self) -> String {
        match (self.status, self.listens) {
            (Some(status), _) => status.to_string(),
            (None, true) => "no HTTP".to_owned(),
            (None, false) => "nothing listens".to_owned(),
        }
    }
}

/// Lists what an environment exposes.
pub(super) fn list(api: &Api, id: &EnvironmentId, output: Output) -> anyhow::Result<()> {
    let answer: Value = api.get(&format!("/environments/{id}/exposures"))?;
    print(&answer, output, |answer| {
        let all: Exposures = serde_json::from_value(answer.clone())?;
        let mut lines = Vec::new();
        if all.exposures.is_empty() {
            lines.push(format!(
                "{id} exposes nothing. In a cluster, a Service of type NodePort or LoadBalancer, or an Ingress, appears \
                 here within seconds."
            ));
        } else {
            let mut table = table(["NAME", "FROM", "PORT", "ANSWER", "OPEN IN YOUR BROWSER"]);
            for e in &all.exposures {
                let (port, answer) = (e.port.to_string(), e.answer());
                table.add_row([&e.name, &e.source, &port, &answer, &e.open]);
            }
            lines.push(table.to_string());
        }
        if all.left_out > 0 {
            lines.push(format!("{} more are not exposed.", all.left_out));
        }
        if let Some(trouble) = all.trouble {
            lines.push(format!(
                "The cluster can't be observed, so this is what it exposed last: {trouble}."
            ));
        }
        Ok(lines.join("\n"))
    })
}

/// Makes a link that opens an exposure to everybody who has it.
pub(super) fn share(
    api: &Api,
    id: &EnvironmentId,
    name: &str,
    minutes: u32,
    output: Output,
) -> anyhow::Result<()> {
    let new = json!({ "name": name, "minutes": minutes });
    let made = api.post(&format!("/environments/{id}/shares"), Some(new))?;
    let until = local(text(&made, "expires_at")?);
    let lines = format!("{}\nIt is valid until {until}.", text(&made, "link")?);
    say(&made, output, &lines)
}
