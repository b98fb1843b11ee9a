//! An automated accessibility check: axe-core, vendored in `e2e/vendor` for tests only.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::Browser;

const AXE: &str = include_str!("../vendor/axe-core/axe.min.js");

/// Checks the page that the browser shows, except the terminal's rows, which xterm.js draws.
pub async fn check(browser: &Browser, what: &str) -> Result<()> {
    browser.js(AXE).await?;
    let script = "const done = arguments[arguments.length - 1]; \
        axe.run({exclude: [['.xterm']]}, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice']}) \
        .then(r => done(r.violations.map(v => [v.id, v.help, v.nodes.map(n => n.html + ' — ' + n.failureSummary)])), e => done(String(e)))";
    let found = browser.js_async(script).await?;
    match found.as_array() {
        Some(none) if none.is_empty() => Ok(()),
        _ => {
            browser.shot("access").await?;
            bail!("{what}: {}", pretty(&found))
        }
    }
}

/// Takes screenshots of the page in both sizes and both schemes, and checks that it fits and is accessible.
pub async fn finished(browser: &Browser, name: &str) -> Result<()> {
    for scheme in ["dark", "light"] {
        browser.scheme(scheme).await?;
        for (width, height) in [(390, 844), (1600, 1000)] {
            browser.size(width, height).await?;
            // A terminal's font follows the width.
            tokio::time::sleep(Duration::from_millis(400)).await;
            browser.fits().await?;
            let what = format!("{name}-{width}-{scheme}");
            browser.shot(&what).await?;
            check(browser, &what).await?;
        }
    }
    Ok(())
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
