//! Save points: making, listing and deleting them, and continuing from them.

use std::time::{Duration, Instant};

use anyhow::Context;
use faultline_domain::{EnvironmentId, limits};
use serde::Deserialize;
use serde_json::{Value, json};

use super::start;
use crate::{
    Output,
    answer::{local, say, table},
    api::Api,
};

/// A save point, as the API returns it.
#[derive(Debug, Deserialize)]
struct Save {
    id: String,
    environment: String,
    lab: String,
    name: String,
    created_at: String,
    expires_at: String,
    state: String,
    reason: Option<String>,
    bytes: Option<u64>,
    paused_millis: Option<u64>,
}

impl Save {
    fn size(&self) -> String {
        match self.bytes {
            Some(bytes) => limits::size(bytes),
            None => self.state.clone(),
        }
    }
}

/// Saves an environment and waits until the save point is complete.
pub(super) fn save(
    api: &Api,
    id: &EnvironmentId,
    name: &str,
    output: Output,
) -> anyhow::Result<()> {
    let path = format!("/environments/{id}/save-points");
    let answer = api.post(&path, Some(json!({ "name": name })))?;
    let (made, answer) = wait(api, answer, output)?;
    let text = format!(
        "{id} is saved as “{}”: {}; its machines stood still for {} ms.\n\n  faultline env restore {}",
        made.name,
        made.size(),
        made.paused_millis.unwrap_or_default(),
        made.id
    );
    say(&answer, output, &text)
}

/// Copies somebody's environment, and starts another one that continues from the copy.
pub(super) fn copy(api: &Api, id: &EnvironmentId, output: Output) -> anyhow::Result<()> {
    let answer = api.post(&format!("/environments/{id}/copies"), None)?;
    let (made, _) = wait(api, answer, output)?;
    start(api, &format!("/save-points/{}/fork", made.id), None, output)
}

/// Waits until a requested save point is complete, and returns it, also as the API's answer.
fn wait(api: &Api, mut answer: Value, output: Output) -> anyhow::Result<(Save, Value)> {
    let began = Instant::now();
    if output == Output::Text {
        eprintln!("… saving");
    }
    loop {
        let made: Save = serde_json::from_value(answer.clone())?;
        match made.state.as_str() {
            "complete" => return Ok((made, answer)),
            "saving" => {}
            _ => anyhow::bail!(
                "it could not be saved: {}",
                made.reason.unwrap_or(made.state)
            ),
        }
        // The server itself ends it if it takes too long; this timeout is a backstop.
        anyhow::ensure!(
            began.elapsed() < Duration::from_secs(900),
            "it is still being saved after 15 minutes; `faultline env saves` shows when it is complete"
        );
        std::thread::sleep(Duration::from_millis(200));
        answer = api.get(&format!("/save-points/{}", made.id))?;
    }
}

/// Lists the caller's save points.
pub(super) fn list(api: &Api, output: Output) -> anyhow::Result<()> {
    let answer: Value = api.get("/save-points")?;
    if output == Output::Json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    let all: Vec<Save> = serde_json::from_value(answer)?;
    if all.is_empty() {
        println!("You have no save points. `faultline env save` makes one.");
        return Ok(());
    }
    let mut table = table([
        "SAVE POINT",
        "NAME",
        "ENVIRONMENT",
        "LAB",
        "SAVED",
        "KEPT UNTIL",
        "SIZE",
    ]);
    for save in all {
        let size = save.size();
        table.add_row([
            save.id,
            save.name,
            save.environment,
            save.lab,
            local(&save.created_at),
            local(&save.expires_at),
            size,
        ]);
    }
    println!("{table}");
    Ok(())
}

/// Returns the save point with this id, or the latest one with this name.
fn find(api: &Api, named: &str) -> anyhow::Result<Save> {
    let all: Vec<Save> = api.get("/save-points")?;
    let matches = |save: &Save| save.id == named || save.name == named;
    let found = all.into_iter().rev().find(matches);
    found.with_context(|| {
        format!("you have no save point “{named}”; `faultline env saves` shows those that you have")
    })
}

/// Restores an environment to a save point, and waits until it runs.
pub(super) fn restore(api: &Api, named: &str, output: Output) -> anyhow::Result<()> {
    let save = find(api, named)?;
    let path = format!("/environments/{}/restore", save.environment);
    start(api, &path, Some(json!({ "save_point": save.id })), output)
}

/// Starts another environment that continues from a save point, and waits until it runs.
pub(super) fn fork(api: &Api, named: &str, output: Output) -> anyhow::Result<()> {
    let save = find(api, named)?;
    start(api, &format!("/save-points/{}/fork", save.id), None, output)
}

/// Deletes a save point.
pub(super) fn delete(api: &Api, named: &str, output: Output) -> anyhow::Result<()> {
    let save = find(api, named)?;
    let answer = api.delete(&format!("/save-points/{}", save.id))?;
    say(
        &answer,
        output,
        &format!("The save point “{}” is deleted.", save.name),
    )
}
