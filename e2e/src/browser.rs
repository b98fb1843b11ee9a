//! A headless Chromium for tests.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use thirtyfour::{
    By, ChromiumLikeCapabilities, DesiredCapabilities, WebDriver, WebElement, WindowHandle,
};

use crate::installation::processes_with;

/// The time limit of anything on a page, under emulation on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A headless Chromium with its own driver and its own profile.
#[derive(Debug)]
pub struct Browser {
    driver: WebDriver,
    process: Child,
    profile: TempDir,
    shots: PathBuf,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // A killed driver leaves its browser behind, which is identified by the unique path of its profile.
        let profile = self.profile.path().to_string_lossy().into_owned();
        for id in processes_with(&profile) {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
        }
    }
}

impl Browser {
    /// Starts a browser.
    pub async fn open() -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let process = Command::new("/usr/bin/chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("chromedriver is missing: apt-get install chromium-driver")?;
        let profile = tempfile::tempdir()?;
        let mut caps = DesiredCapabilities::chrome();
        caps.set_binary("/usr/bin/chromium")?;
        for arg in [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--window-size=1600,1000",
        ] {
            caps.add_arg(arg)?;
        }
        caps.add_arg(&format!("--user-data-dir={}", profile.path().display()))?;
        let url = format!("http://127.0.0.1:{port}");
        let began = Instant::now();
        let driver = loop {
            match WebDriver::new(&url, caps.clone()).await {
                Ok(driver) => break driver,
                Err(e) if began.elapsed() > Duration::from_secs(30) => return Err(e.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        let shots = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e");
        std::fs::create_dir_all(&shots)?;
        Ok(Self {
            driver,
            process,
            profile,
            shots,
        })
    }

    /// Turns the emulation of a touch screen on or off.
    pub async fn touch(&self, on: bool) -> Result<()> {
        self.cdp("Emulation.setTouchEmulationEnabled", json!({"enabled": on}))
            .await
            .map(drop)
    }

    /// Opens an address.
    pub async fn go(&self, url: &str) -> Result<()> {
        Ok(self.driver.goto(url).await?)
    }

    /// Opens another window with this address and switches to it.
    pub async fn open_window(&self, url: &str) -> Result<WindowHandle> {
        let window = self.driver.new_tab().await?;
        self.switch_to(window.clone()).await?;
        self.go(url).await?;
        Ok(window)
    }

    /// Returns the current window.
    pub async fn window(&self) -> Result<WindowHandle> {
        Ok(self.driver.window().await?)
    }

    /// Returns all windows.
    pub async fn windows(&self) -> Result<Vec<WindowHandle>> {
        Ok(self.driver.windows().await?)
    }

    /// Switches to another window.
    pub async fn switch_to(&self, window: WindowHandle) -> Result<()> {
        Ok(self.driver.switch_to_window(window).await?)
    }

    /// Reloads the page.
    pub async fn reload(&self) -> Result<()> {
        Ok(self.driver.refresh().await?)
    }

    /// Reloads the page without the cache.
    pub async fn reload_without_cache(&self) -> Result<()> {
        self.cdp("Network.enable", json!({})).await?;
        self.cdp("Network.setCacheDisabled", json!({"cacheDisabled": true}))
            .await?;
        self.reload().await?;
        self.find("body").await?;
        self.cdp("Network.setCacheDisabled", json!({"cacheDisabled": false}))
            .await?;
        Ok(())
    }

    /// Returns the current address.
    pub async fn url(&self) -> Result<String> {
        Ok(self.driver.current_url().await?.to_string())
    }

    /// Waits for an element that matches, and returns the first.
    pub async fn find(&self, css: &str) -> Result<WebElement> {
        let began = Instant::now();
        loop {
            match self.driver.find(By::Css(css)).await {
                Ok(found) => return Ok(found),
                Err(_) if began.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(e) => return Err(e).with_context(|| format!("no {css}")),
            }
        }
    }

    /// Returns whether an element matches now.
    pub async fn has(&self, css: &str) -> bool {
        self.driver.find(By::Css(css)).await.is_ok()
    }

    /// Clicks on the first element that matches.
    pub async fn click(&self, css: &str) -> Result<()> {
        let began = Instant::now();
        loop {
            match self.find(css).await?.click().await {
                Ok(()) => return Ok(()),
                // The element may have been replaced or be moving.
                Err(_) if began.elapsed() < Duration::from_secs(10) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(e) => return Err(e).with_context(|| format!("{css} can't be clicked")),
            }
        }
    }

    /// Returns the text of the first element that matches.
    pub async fn text(&self, css: &str) -> Result<String> {
        Ok(self.find(css).await?.text().await?)
    }

    /// Waits until the first element that matches contains a text. Returns all its text.
    pub async fn until_text(&self, css: &str, wanted: &str) -> Result<String> {
        let began = Instant::now();
        let mut seen = String::new();
        while began.elapsed() < PATIENCE {
            if let Ok(text) = self.text(css).await {
                if text.contains(wanted) {
                    return Ok(text);
                }
                seen = text;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.shot("timeout").await?;
        bail!("{css} does not show {wanted:?} but {seen:?}")
    }

    /// Types into the focused element.
    pub async fn keys(&self, text: &str) -> Result<()> {
        self.driver.action_chain().send_keys(text).perform().await?;
        Ok(())
    }

    /// Presses a key while holding others.
    pub async fn chord(&self, with: &[thirtyfour::Key], key: char) -> Result<()> {
        let mut chain = self.driver.action_chain();
        for held in with {
            chain = chain.key_down(held.clone());
        }
        chain = chain.key_down(key).key_up(key);
        for held in with {
            chain = chain.key_up(held.clone());
        }
        chain.perform().await?;
        Ok(())
    }

    /// Double-clicks at a position in the window, which selects a word.
    pub async fn double_click(&self, x: i64, y: i64) -> Result<()> {
        let chain = self.driver.action_chain();
        chain.move_to(x, y).double_click().perform().await?;
        Ok(())
    }

    /// Runs a script and returns its result.
    pub async fn js(&self, script: &str) -> Result<Value> {
        let ret = self.driver.execute(script, Vec::new()).await?;
        Ok(ret.json().clone())
    }

    /// Runs an asynchronous script and returns its result, which it passes to its last argument.
    pub async fn js_async(&self, script: &str) -> Result<Value> {
        let ret = self.driver.execute_async(script, Vec::new()).await?;
        Ok(ret.json().clone())
    }

    async fn cdp(&self, method: &str, params: Value) -> Result<Value> {
        Ok(self.driver.cdp().send_raw(method, params).await?)
    }

    /// Sets the window's size, in pixels.
    pub async fn size(&self, width: u32, height: u32) -> Result<()> {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 800});
        self.cdp("Emulation.setDeviceMetricsOverride", metrics)
            .await?;
        Ok(())
    }

    /// Sets the preferred color scheme, `dark` or `light`, and reduces motion.
    pub async fn scheme(&self, scheme: &str) -> Result<()> {
        let features = json!({"features": [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]});
        self.cdp("Emulation.setEmulatedMedia", features).await?;
        Ok(())
    }

    /// Gives the page an authenticator for passkeys, which verifies its user without asking.
    pub async fn authenticator(&self) -> Result<()> {
        self.cdp("WebAuthn.enable", json!({})).await?;
        let options = json!({"options": {
            "protocol": "ctap2", "transport": "internal", "hasResidentKey": true,
            "hasUserVerification": true, "isUserVerified": true,
            "automaticPresenceSimulation": true,
        }});
        self.cdp("WebAuthn.addVirtualAuthenticator", options)
            .await?;
        Ok(())
    }

    /// Allows or forbids scripts on pages.
    pub async fn scripts(&self, on: bool) -> Result<()> {
        self.cdp(
            "Emulation.setScriptExecutionDisabled",
            json!({"value": !on}),
        )
        .await?;
        Ok(())
    }

    /// Saves a screenshot in `target/e2e`.
    pub async fn shot(&self, name: &str) -> Result<()> {
        let path = self.shots.join(format!("{name}.png"));
        Ok(self.driver.screenshot(&path).await?)
    }

    /// Fails if the page is wider than the window, a pane's content is wider than the pane, or the workspace is higher
    /// than the window.
    pub async fn fits(&self) -> Result<()> {
        let script = "const page = document.documentElement; \
             const sizes = [['the page', page.scrollWidth, innerWidth]]; \
             for (const pane of document.querySelectorAll('.pane')) \
               if (pane.clientWidth) sizes.push([pane.id, pane.scrollWidth, pane.clientWidth]); \
             if (document.body.matches('.work')) sizes.push(['its height', page.scrollHeight, innerHeight]); \
             return sizes.filter(([, is, room]) => is > room).map(([what, is, room]) => `${what} takes ${is} px of ${room}`)";
        let misfits = self.js(script).await?;
        if misfits.as_array().is_none_or(|found| !found.is_empty()) {
            self.shot("misfit").await?;
            bail!("{}: {misfits}", self.url().await?);
        }
        Ok(())
    }

    /// Closes the browser.
    pub async fn close(self) -> Result<()> {
        self.driver.clone().quit().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_dropped_browser_leaves_no_process() {
        let browser = Browser::open().await.unwrap();
        let profile = browser.profile.path().to_string_lossy().into_owned();
        assert!(!processes_with(&profile).is_empty());
        drop(browser);
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(processes_with(&profile), []);
    }
}
