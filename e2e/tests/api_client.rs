//! A property-based client against the API, on the fake provider: what `docs/openapi.json` says is what is answered.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use faultline_e2e::serving::Serving;

/// The client, from PyPI.
const CLIENT: &str = "schemathesis==4.32.5";
/// What it may find fault with. Left out: that other methods are refused, since a WebSocket's handshake looks like one.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance";

/// The folder of the client; installed once.
fn client() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
        PathBuf::from,
    );
    let folder = cache.join("faultline-tests").join(CLIENT);
    if !folder.join("bin/schemathesis").exists() {
        let installed = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--target"])
            .arg(&folder)
            .arg(CLIENT)
            .status()
            .context("python3 is missing")?;
        ensure!(installed.success(), "{CLIENT} could not be installed");
    }
    Ok(folder)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "installs a program by pip: ./test --all"]
async fn a_property_based_client_finds_nothing_that_is_not_described() -> Result<()> {
    let folder = client()?;
    let serving = Serving::begin(Duration::ZERO).await?;
    let description = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    // It keeps notes where it runs.
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
        // An event stream does not end, and a terminal is no answer to read.
        .args(["--exclude-operation-id", "watch_environment"])
        .args(["--exclude-operation-id", "open_terminal"])
        .arg("--continue-on-failure");
    let done = tokio::task::spawn_blocking(move || run.status()).await??;
    serving.end().await?;
    ensure!(done.success(), "the client found something: see above");
    Ok(())
}
