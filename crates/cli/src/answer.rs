//! Prints the server's answers.

use anyhow::Context;
use serde_json::Value;

use crate::Output;

/// Prints an answer as JSON, or as the text that is made of it.
pub fn print(
    answer: &Value,
    output: Output,
    of: impl FnOnce(&Value) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(answer)?),
        Output::Text => println!("{}", of(answer)?),
    }
    Ok(())
}

/// Prints an answer as JSON, or a text instead of it.
pub fn say(answer: &Value, output: Output, text: &str) -> anyhow::Result<()> {
    print(answer, output, |_| Ok(text.to_owned()))
}

/// Returns a text of an answer.
pub fn text<'a>(answer: &'a Value, key: &str) -> anyhow::Result<&'a str> {
    answer
        .get(key)
        .and_then(Value::as_str)
        .with_context(|| format!("the server's answer has no {key}"))
}

/// Formats a time of the server in the local time zone, to the minute. A text that isn't a time stays as it is.
pub fn local(time: &str) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(at) => in_zone(at, jiff::tz::TimeZone::system()),
        Err(_) => time.to_owned(),
    }
}

fn in_zone(at: jiff::Timestamp, zone: jiff::tz::TimeZone) -> String {
    at.to_zoned(zone).strftime("%Y-%m-%d %H:%M").to_string()
}

/// Returns an empty table with these headings.
pub fn table<const N: usize>(headings: [&str; N]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table
        .load_preset(comfy_table::presets::NOTHING)
        .set_header(headings);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_local_and_short() {
        let at = "2026-11-30T23:05:09.123456Z".parse().unwrap();
        let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(in_zone(at, zone), "2026-12-01 01:05");
        assert_eq!(local("never"), "never");
    }
}
