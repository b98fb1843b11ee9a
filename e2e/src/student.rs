//! What a student does. Takes the link of any server, so that the same walk goes over the fake provider and over
//! real machines.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use thirtyfour::Key;

use crate::Browser;

/// A lab, and how it is solved by typing.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The lab.
    pub slug: String,
    /// What to type to repair it, line by line.
    pub repair: Vec<String>,
    /// How long the repair may take to show, after the last line.
    pub settle: Duration,
}

/// Signs in by a one-time link; gives the server's address.
pub async fn sign_in(browser: &Browser, link: &str) -> Result<String> {
    let base = link
        .split("/sign-in")
        .next()
        .context("not a sign-in link")?;
    browser.go(link).await?;
    browser.find("nav[aria-label=Main]").await?;
    Ok(base.to_owned())
}

/// Starts a lab from its page and waits until its terminal is there.
pub async fn start(browser: &Browser, base: &str, slug: &str) -> Result<String> {
    browser.go(&format!("{base}/labs/{slug}")).await?;
    browser.click(".start-box .primary").await?;
    browser.find("#workspace").await?;
    browser
        .find("#workspace[data-phase=active] .tabs .mark.on")
        .await?;
    Ok(browser
        .url()
        .await?
        .split('#')
        .next()
        .unwrap_or_default()
        .to_owned())
}

/// What the visible terminal shows.
pub const SCREEN: &str = ".terminal-box:not([hidden]) .xterm-rows";

async fn focus_terminal(browser: &Browser) -> Result<()> {
    browser
        .click(".terminal-box:not([hidden]) .xterm-screen")
        .await
}

/// Checks, by the keyboard, from within the terminal; waits for the end.
async fn check(browser: &Browser) -> Result<()> {
    focus_terminal(browser).await?;
    browser
        .js(
            "document.getElementById('check-results').dataset.old = 'yes'; \
             document.querySelector('#check-results .results').dataset.old = 'yes'",
        )
        .await?;
    let enter = char::from(Key::Enter);
    browser.chord(Key::Control, enter).await?;
    browser
        .find("#check-results .results:not([data-old])[aria-busy=false]")
        .await?;
    Ok(())
}

/// From Start to the solved lab: terminal, reload, another terminal, checks, a hint, the repair.
pub async fn solve(browser: &Browser, base: &str, plan: &Plan) -> Result<()> {
    let place = start(browser, base, &plan.slug).await?;
    focus_terminal(browser).await?;
    browser.keys("echo written-before-the-reload\n").await?;
    until_output(browser, "written-before-the-reload").await?;
    browser.reload().await?;
    browser.find(".tabs .mark.on").await?;
    until_output(browser, "written-before-the-reload").await?;

    browser.chord(Key::Alt, 't').await?;
    browser
        .find(".tablist button:nth-child(2)[aria-selected=true] .mark.on")
        .await?;
    browser.chord(Key::Alt, '1').await?;
    browser
        .find(".tablist button:nth-child(1)[aria-selected=true]")
        .await?;

    check(browser).await?;
    ensure!(
        browser.has(".result.fail").await,
        "an unrepaired machine passes"
    );

    browser.click(".hint button").await?;
    browser.click("#confirm-dialog button[value=yes]").await?;
    browser.find(".hint.opened").await?;

    focus_terminal(browser).await?;
    for line in &plan.repair {
        browser.keys(&format!("{line}\n")).await?;
    }
    tokio::time::sleep(plan.settle).await;
    check(browser).await?;
    browser.until_text(".outcome", "Repaired").await?;
    browser.shot(&format!("solved-{}", plan.slug)).await?;

    browser.go(&format!("{base}/progress")).await?;
    browser.until_text("table", "solved").await?;
    browser.go(&place).await?;
    browser.click("details.menu summary").await?;
    browser.click("details.menu .danger").await?;
    browser.click("#confirm-dialog button[value=yes]").await?;
    browser
        .until_text("#pane-right", "You ended this machine")
        .await?;
    Ok(())
}

/// Waits until a line of the terminal is this text alone: output, not the typing of it.
pub async fn until_output(browser: &Browser, wanted: &str) -> Result<()> {
    let script = format!(
        "return [...document.querySelectorAll('{SCREEN} > div')].some(r => r.textContent.trim() === '{wanted}')"
    );
    let began = std::time::Instant::now();
    while began.elapsed() < crate::browser::PATIENCE {
        if browser.js(&script).await? == true {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    browser.shot("no-output").await?;
    anyhow::bail!("the terminal does not show {wanted:?}")
}
