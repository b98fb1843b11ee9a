//! `faultline up` with its own folder and ports, for tests of the whole product.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test helpers fail by panicking"
)]

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Returns the root folder of the repository.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

/// Returns the path of the program that `scripts/build dev` built.
#[must_use]
pub fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("faultline");
    assert!(program.exists(), "run scripts/build dev first");
    program
}

/// Returns a free TCP port.
#[must_use]
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Converts bytes to text, lossily.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads a program's output in the background. The returned text grows as it prints.
#[must_use]
pub fn reading(mut from: impl std::io::Read + Send + 'static) -> Arc<Mutex<String>> {
    let seen = Arc::new(Mutex::new(String::new()));
    let shared = Arc::clone(&seen);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            shared.lock().unwrap().push_str(&text(&buffer[..n]));
        }
    });
    seen
}

/// An installation with its own folder. Dropping it removes everything from the machine, also if the test fails.
#[derive(Debug)]
pub struct Installation {
    /// The data folder.
    pub data: tempfile::TempDir,
    /// The port of the pages.
    pub http: u16,
    /// The port of the SSH gateway.
    pub ssh: u16,
    /// The port of the gateway to API servers.
    pub kube: u16,
    /// The server's process, if it is running.
    pub server: Option<Child>,
    /// The configuration file, if any.
    pub config: Option<PathBuf>,
    /// The default configuration file: without warm pools, because they would compete with the test for the CPU.
    _without_pools: tempfile::NamedTempFile,
}

impl Default for Installation {
    fn default() -> Self {
        Self::new()
    }
}

impl Installation {
    /// Creates an installation without starting it.
    #[must_use]
    pub fn new() -> Self {
        let without_pools = tempfile::NamedTempFile::new().unwrap();
        let text = "[server.pools]\nmax_tenants = 0\n";
        std::fs::write(without_pools.path(), text).unwrap();
        Self {
            config: Some(without_pools.path().to_owned()),
            _without_pools: without_pools,
            data: tempfile::tempdir().unwrap(),
            http: free_port(),
            ssh: free_port(),
            kube: free_port(),
            server: None,
        }
    }

    /// Returns a command that runs the program with this installation's data folder.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(program());
        command
            .current_dir(workspace())
            .env("FAULTLINE_DATA", self.data.path());
        command
    }

    /// Runs the program, which must succeed, and returns its answer.
    pub fn ask(&self, args: &[&str]) -> Value {
        let out = self.run(&[&["--output", "json"], args].concat());
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        let answer = serde_json::from_slice(&out.stdout);
        assert!(answer.is_ok(), "{args:?}: {}", text(&out.stdout));
        answer.unwrap_or_default()
    }

    /// Runs a command in an environment and returns what it prints.
    pub fn on(&self, id: &str, command: &str) -> String {
        let out = self.run(&["ssh", id, "--", command]);
        text(&out.stdout).trim().to_owned()
    }

    /// Runs the program and waits until it ends.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Output {
        self.command().args(args).output().unwrap()
    }

    /// Returns the ports of the pages, the SSH gateway and the gateway to API servers.
    #[must_use]
    pub const fn ports(&self) -> [u16; 3] {
        [self.http, self.ssh, self.kube]
    }

    /// Returns the command `faultline up` on these ports.
    #[must_use]
    pub fn up_on(&self, [http, ssh, kube]: [u16; 3]) -> Command {
        let mut command = self.command();
        command
            .args(["--output", "json", "up", "--no-browser"])
            .args(["--listen", &format!("127.0.0.1:{http}")])
            .args(["--ssh-listen", &format!("127.0.0.1:{ssh}")])
            .args(["--kube-listen", &format!("127.0.0.1:{kube}")])
            .args(
                self.config
                    .iter()
                    .flat_map(|path| ["--config".as_ref(), path.as_os_str()]),
            );
        command
    }

    /// Starts the server and returns the link that it prints.
    pub fn up(&mut self) -> String {
        use std::io::{BufRead, BufReader, Read};
        let mut child = self
            .up_on(self.ports())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let Ok(said) = serde_json::from_str::<Value>(&line) else {
            out.read_to_string(&mut line).unwrap();
            panic!("it did not print a link but:\n{line}");
        };
        self.server = Some(child);
        said["link"].as_str().unwrap().to_owned()
    }

    /// Stops the server with `faultline down`. Environments keep running.
    pub fn down(&mut self) {
        let said = self.run(&["down"]);
        assert!(said.status.success(), "{}", text(&said.stderr));
        self.server.take().unwrap().wait().unwrap();
    }

    /// Kills the server with SIGKILL.
    pub fn kill_server(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// Returns the folder of an environment's tenant.
    #[must_use]
    pub fn tenant(&self, id: &str) -> Option<PathBuf> {
        let out = self.run(&["--output", "json", "env", "show", id]);
        let seen: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        Some(
            self.data
                .path()
                .join("tenants")
                .join(seen["tenant"].as_str()?),
        )
    }

    /// Waits until an environment is in a phase.
    pub fn until(&self, id: &str, phase: &str) -> Value {
        let began = Instant::now();
        loop {
            let out = self.run(&["--output", "json", "env", "show", id]);
            let seen: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
            if seen["phase"] == phase {
                return seen;
            }
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "{id} is not {phase}: {}",
                text(&out.stdout)
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Runs a command with OpenSSH's client, with this key.
    pub fn ssh(&self, key: &Path, login: &str, extra: &[&str], command: &str) -> Output {
        Command::new("ssh")
            .arg("-i")
            .arg(key)
            .args(self.ssh_options())
            .args(["-p", &self.ssh.to_string()])
            .args(extra)
            .arg(format!("{login}@127.0.0.1"))
            .arg(command)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Returns the options of every call of OpenSSH's client.
    #[must_use]
    pub fn ssh_options(&self) -> [String; 10] {
        [
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            &format!(
                "UserKnownHostsFile={}",
                self.data.path().join("known").display()
            ),
            "-o",
            "LogLevel=ERROR",
        ]
        .map(str::to_owned)
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
        if self.data.path().join("tenants").exists() {
            let _ = self
                .command()
                .args(["down", "--purge", "--keep-images", "--yes"])
                .output();
        }
    }
}

/// Prints what a test does next.
pub fn step(text: &str) {
    eprintln!("· {text}");
}

/// Returns the processes whose command line contains this text.
#[must_use]
pub fn processes_with(argument: &str) -> Vec<rustix::process::Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(argument))
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(rustix::process::Pid::from_raw)
        .collect()
}
