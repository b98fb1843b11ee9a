//! Takes the README's screenshots on real machines: a machine that is being repaired, and a cluster of three nodes.
//!
//! ```sh
//! cargo test -p faultline-e2e --test pictures -- --ignored
//! ```
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use faultline_e2e::{
    Browser,
    installation::{Installation, step, text},
    student,
};
use serde_json::Value;

/// Types a line and waits until the terminal shows `said`.
async fn line(browser: &Browser, typed: &str, said: &str) -> Result<()> {
    browser.keys(&format!("{typed}\n")).await?;
    browser.until_text(student::SCREEN, said).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok(())
}

/// Ends an environment.
fn end(here: &Installation, id: &str) {
    let ended = here.run(&["env", "end", id]);
    assert!(ended.status.success(), "{}", text(&ended.stderr));
}

/// Starts a lab and opens its page.
async fn open(here: &Installation, browser: &Browser, base: &str, lab: &str) -> Result<String> {
    let started = here.run(&["--output", "json", "env", "start", lab]);
    assert!(started.status.success(), "{}", text(&started.stderr));
    let started: Value = serde_json::from_slice(&started.stdout)?;
    let id = started.get("id").and_then(Value::as_str);
    let id = id.unwrap().to_owned();
    browser.go(&format!("{base}/environments/{id}")).await?;
    browser.find(".tabs .mark.on").await?;
    browser.click(".xterm-screen").await?;
    browser.until_text(student::SCREEN, "root@node1").await?;
    Ok(id)
}

/// Takes a screenshot and copies it to `docs/images`.
async fn keep(browser: &Browser, name: &str) -> Result<()> {
    tokio::time::sleep(Duration::from_secs(1)).await;
    browser.shot(name).await?;
    let images = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/images");
    let shot = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../target/e2e/{name}.png"));
    std::fs::copy(shot, images.join(format!("{name}.png")))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "updates the README's screenshots"]
async fn pictures() -> Result<()> {
    let mut here = Installation::new();
    let link = here.up();
    let browser = Browser::open().await?;
    browser.size(1440, 900).await?;
    let base = student::sign_in(&browser, &link).await?;

    step("a machine that is being repaired");
    let id = open(&here, &browser, &base, "orders-api-upgrade").await?;
    let status = "systemctl status orders-api --no-pager | head -4";
    line(&browser, status, "Active:").await?;
    let journal = "journalctl -u orders-api -n 3 --no-pager -o cat; echo";
    line(&browser, journal, "orders-api").await?;
    browser.click("#check-button").await?;
    browser
        .find("#check-results .results[aria-busy=false] .result.fail, #check-results .result.fail")
        .await?;
    keep(&browser, "workspace").await?;
    end(&here, &id);

    step("a cluster of three nodes");
    let id = open(&here, &browser, &base, "three-replicas-one-node").await?;
    line(&browser, "kubectl get nodes", "node3").await?;
    let pods =
        "kubectl get pods -A -o wide | awk '{print $1, $2, $4, $(NF-2)}' | column -t | head -14";
    line(&browser, pods, "NAMESPACE").await?;
    keep(&browser, "cluster").await?;
    end(&here, &id);
    browser.close().await?;
    here.down();
    Ok(())
}
