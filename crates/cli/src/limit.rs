//! Limits: `faultline env limits` shows the caller's, and `faultline person limit` and `faultline group limit` show and
//! change those of others.

use clap::Args;
use faultline_domain::quota::Quota;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Output,
    answer::{local, print, table},
    api::Api,
};

/// The options that change limits. Each takes a number, `none` for no limit, or `default`.
#[derive(Debug, Args)]
pub struct Change {
    /// Environments at once
    #[arg(long, value_name = "NUMBER|none|default", value_parser = limit)]
    environments: Option<Limit>,
    /// Starts and resets within an hour
    #[arg(long, value_name = "NUMBER|none|default", value_parser = limit)]
    starts_per_hour: Option<Limit>,
    /// Hours of running environments in a calendar month (UTC)
    #[arg(long, value_name = "NUMBER|none|default", value_parser = limit)]
    hours_per_month: Option<Limit>,
    /// Nodes of all open environments together
    #[arg(long, value_name = "NUMBER|none|default", value_parser = limit)]
    nodes: Option<Limit>,
}

/// A limit as the API takes it: 0 is no limit, and none is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit(Option<u32>);

fn limit(text: &str) -> Result<Limit, String> {
    match text {
        "default" => Ok(Limit(None)),
        "none" => Ok(Limit(Some(0))),
        number => match number.parse() {
            Ok(most) if (1..=Quota::MAX).contains(&most) => Ok(Limit(Some(most))),
            _ => Err(format!(
                "give a whole number from 1 to {}, `none` for no limit, or `default`",
                Quota::MAX
            )),
        },
    }
}

impl Change {
    /// Changes the exceptions. Returns false if no option was given.
    fn apply(&self, overrides: &mut Value) -> bool {
        let options = [
            ("environments", self.environments),
            ("starts_per_hour", self.starts_per_hour),
            ("hours_per_month", self.hours_per_month),
            ("nodes", self.nodes),
        ];
        let mut changed = false;
        for (name, Limit(most)) in options.into_iter().filter_map(|(n, o)| Some((n, o?))) {
            if let Some(slot) = overrides.get_mut(name) {
                *slot = json!(most);
                changed = true;
            }
        }
        changed
    }
}

/// Shows the limits at this path of the API, after a change if options ask for one.
pub fn change(api: &Api, path: &str, wanted: &Change, output: Output) -> anyhow::Result<()> {
    let mut answer: Value = api.get(path)?;
    if let Some(overrides) = answer.get_mut("overrides")
        && wanted.apply(overrides)
    {
        let overrides = overrides.clone();
        answer = api.put(path, overrides)?;
    }
    print(&answer, output, |answer| {
        text(answer.get("limits").unwrap_or(&Value::Null))
    })
}

/// Shows the caller's limits.
pub fn mine(api: &Api, output: Output) -> anyhow::Result<()> {
    let answer: Value = api.get("/limits")?;
    print(&answer, output, text)
}

/// A limit, as the API returns it.
#[derive(Debug, Deserialize)]
struct Row {
    holder: String,
    group: Option<String>,
    resource: String,
    used: u32,
    limit: u32,
    frees_at: Option<String>,
}

fn text(limits: &Value) -> anyhow::Result<String> {
    let rows: Vec<Row> = Vec::deserialize(limits)?;
    if rows.is_empty() {
        return Ok("Nothing is limited.".to_owned());
    }
    let mut table = table(["LIMIT", "SHARED BY", "USED", "OF", "FREE AGAIN"]);
    for row in rows {
        let shared = match (row.group, row.holder.as_str()) {
            (Some(group), _) => group,
            (None, "everyone") => "everyone".to_owned(),
            _ => "-".to_owned(),
        };
        let frees = match (&row.frees_at, row.used) {
            (_, 0) => "-".to_owned(),
            (Some(at), _) => local(at),
            (None, _) => "when one ends".to_owned(),
        };
        table.add_row([
            row.resource.replace('_', " "),
            shared,
            row.used.to_string(),
            row.limit.to_string(),
            frees,
        ]);
    }
    Ok(table.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_numbers_or_words() {
        assert_eq!(limit("3"), Ok(Limit(Some(3))));
        assert_eq!(limit("none"), Ok(Limit(Some(0))));
        assert_eq!(limit("default"), Ok(Limit(None)));
        for bad in ["", "0", "-1", "many", "100001", "1.5"] {
            assert!(limit(bad).unwrap_err().contains("whole number"), "{bad}");
        }
    }

    #[test]
    fn only_the_given_limits_change() {
        let mut overrides = json!({ "environments": 3, "starts_per_hour": null, "hours_per_month": 5, "nodes": null });
        let none = Change {
            environments: None,
            starts_per_hour: None,
            hours_per_month: None,
            nodes: None,
        };
        assert!(!none.apply(&mut overrides));
        let some = Change {
            environments: Some(Limit(None)),
            nodes: Some(Limit(Some(0))),
            ..none
        };
        assert!(some.apply(&mut overrides));
        assert_eq!(
            overrides,
            json!({ "environments": null, "starts_per_hour": null, "hours_per_month": 5, "nodes": 0 })
        );
    }
}
