//! A student's actions. They work on any server, so the same test runs with the fake provider and with real machines.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use thirtyfour::Key;

use crate::Browser;

/// A lab and its repair.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The lab.
    pub slug: String,
    /// The lines to type that repair it.
    pub repair: Vec<String>,
    /// The time that the repair takes to have effect, after the last line.
    pub settle: Duration,
}

/// Signs in with a one-time link. Returns the server's address.
pub async fn sign_in(browser: &Browser, link: &str) -> Result<String> {
    let base = link
        .split("/sign-in")
        .next()
        .context("not a sign-in link")?;
    browser.go(link).await?;
    browser.find("nav[aria-label=Main]").await?;
    Ok(base.to_owned())
}

/// Starts a lab from its page and waits until its terminal is connected. Returns the address of the environment's page.
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

/// The CSS selector of the visible terminal's rows.
pub const SCREEN: &str = ".terminal-box:not([hidden]) .xterm-rows";

async fn focus_terminal(browser: &Browser) -> Result<()> {
    browser
        .click(".terminal-box:not([hidden]) .xterm-screen")
        .await
}

/// Starts a check with the keyboard while the terminal has the focus, and waits until it ends.
async fn check(browser: &Browser) -> Result<()> {
    focus_terminal(browser).await?;
    browser
        .js(
            "document.getElementById('check-results').dataset.old = 'yes'; \
             document.querySelector('#check-results .results').dataset.old = 'yes'",
        )
        .await?;
    let enter = char::from(Key::Enter);
    browser.chord(&[Key::Control], enter).await?;
    browser
        .find("#check-results .results:not([data-old])[aria-busy=false]")
        .await?;
    Ok(())
}

/// Starts a lab and solves it: terminal, reload, another terminal, checks, a hint, the repair. Then ends the
/// environment. Returns the address of its page.
pub async fn solve(browser: &Browser, base: &str, plan: &Plan) -> Result<String> {
    let place = start(browser, base, &plan.slug).await?;
    focus_terminal(browser).await?;
    browser.keys("echo written-before-the-reload\n").await?;
    until_output(browser, "written-before-the-reload").await?;
    browser.reload().await?;
    browser.find(".tabs .mark.on").await?;
    until_output(browser, "written-before-the-reload").await?;

    browser.chord(&[Key::Alt], 't').await?;
    browser
        .find(".tablist button:nth-child(2)[aria-selected=true] .mark.on")
        .await?;
    browser.chord(&[Key::Alt], '1').await?;
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
    browser.click("#solution summary").await?;
    browser.fits().await?;
    browser.size(390, 844).await?;
    browser.fits().await?;
    browser.shot(&format!("solution-{}-390", plan.slug)).await?;
    browser.size(1600, 1000).await?;

    browser.go(&format!("{base}/progress")).await?;
    browser.until_text("table", "solved").await?;
    browser.go(&place).await?;
    browser.click("details.menu summary").await?;
    browser.click("details.menu .danger").await?;
    browser.click("#confirm-dialog button[value=yes]").await?;
    browser
        .until_text("#pane-right", "You ended this machine")
        .await?;
    Ok(place)
}

/// Waits until a line of the terminal is exactly this text, so it is output and not the typed command.
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

/// Waits until the shell reports as many rows as the page shows. Returns the rows and columns that it reports.
pub async fn size_in_the_guest(browser: &Browser) -> Result<(u64, u64)> {
    focus_terminal(browser).await?;
    let script = format!(
        "const rows = [...document.querySelectorAll('{SCREEN} > div')]; \
         const said = rows.map(r => r.textContent.trim()).filter(t => /^\\d+ \\d+$/.test(t)); \
         return [rows.length, ...(said.pop() ?? '').split(' ').map(Number)]"
    );
    let began = std::time::Instant::now();
    let mut seen = serde_json::Value::Null;
    while began.elapsed() < crate::browser::PATIENCE {
        browser.keys("clear; stty size\n").await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        seen = browser.js(&script).await?;
        let number = |at: usize| seen.get(at).and_then(serde_json::Value::as_u64);
        if let (Some(shown), Some(rows), Some(cols)) = (number(0), number(1), number(2))
            && shown == rows
        {
            return Ok((rows, cols));
        }
    }
    browser.shot("wrong-size").await?;
    anyhow::bail!("shown rows, and the shell's rows and columns: {seen}")
}

/// Checks that a terminal query of the shell (DA1) gets exactly one response.
pub async fn query_is_answered_once(browser: &Browser) -> Result<()> {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    // What another window has asked may still be on the screen.
    let n = ASKED.fetch_add(1, Ordering::Relaxed);
    focus_terminal(browser).await?;
    let query = "clear; printf '\\e[c'; IFS= read -rsd c -t 9 a; IFS= read -rs -t 3 -n 1 b";
    browser
        .keys(&format!("{query}; echo \"${{a#*[}}-${{b}}end{n}\"\n"))
        .await?;
    until_output(browser, &format!("?1;2-end{n}")).await
}

/// Copies a word that is alone on a line of the terminal, with a double click and Ctrl+Shift+C.
pub async fn copy_line(browser: &Browser, word: &str) -> Result<()> {
    let script = format!(
        "const box = [...document.querySelectorAll('{SCREEN} > div')] \
           .find(r => r.textContent.trim() === '{word}').getBoundingClientRect(); \
         return [Math.round(box.left + 20), Math.round(box.top + box.height / 2)]"
    );
    let at = browser.js(&script).await?;
    let number = |n: usize| at.get(n).and_then(serde_json::Value::as_i64);
    let (x, y) = number(0).zip(number(1)).context("no such line")?;
    browser.double_click(x, y).await?;
    browser
        .find(".terminal-box:not([hidden]) .xterm-selection > div")
        .await?;
    browser.chord(&[Key::Control, Key::Shift], 'c').await?;
    // Another process handles the clipboard.
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(())
}

/// Pastes into the focused element with Ctrl+Shift+V.
pub async fn paste(browser: &Browser) -> Result<()> {
    browser.chord(&[Key::Control, Key::Shift], 'v').await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(())
}
