//! Tests the API with a property-based client and the fake provider: responses match `docs/openapi.json`.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Result, ensure};
use faultline_e2e::{pypi, serving::Serving};

/// The client, from PyPI.
const CLIENT: &str = "schemathesis==4.32.5";
/// The checks that it makes. Without the one that other methods are refused, because a WebSocket's handshake looks like
/// one.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "installs a program with pip; ./test --all runs it"]
async fn a_property_based_client_finds_no_deviation_from_the_description() -> Result<()> {
    let folder = pypi::package(CLIENT)?;
    let serving = Serving::begin(Duration::ZERO).await?;
    let description = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    // It writes files into its working folder.
    let notes = tempfile::tempdir()?;
    let mut run = Command::new("python3");
    run.current_dir(notes.path())
        .env("PYTHONPATH", &folder)
        .arg(folder.join("bin/schemathesis"))
        .arg("run")
        .arg(description)
        .args(["--url", &serving.base])
        .args([
            "--header",
            &format!("Authorization: Bearer {}", serving.token),
        ])
        .args(["--checks", CHECKS])
        .args(["--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", "30", "--workers", "1"])
        .args(["--request-timeout", "20", "--generation-deterministic"])
        // An event stream doesn't end, and a terminal is a WebSocket.
        .args(["--exclude-operation-id", "watch_environment"])
        .args(["--exclude-operation-id", "open_terminal"])
        .arg("--continue-on-failure");
    let done = tokio::task::spawn_blocking(move || run.status()).await??;
    serving.end().await?;
    ensure!(done.success(), "the client found a deviation, see above");
    Ok(())
}
