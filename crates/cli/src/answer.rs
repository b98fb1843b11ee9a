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

/// Returns an empty table with these headings.
pub fn table<const N: usize>(headings: [&str; N]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table
        .load_preset(comfy_table::presets::NOTHING)
        .set_header(headings);
    table
}
