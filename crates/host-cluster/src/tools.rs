//! Running kubeadm, kubectl and `ip` for a cluster.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    Error, Result, failed,
    groups::Groups,
    place::{Member, Place},
    prepare::Prepared,
    process::Job,
};

/// What tools are run for.
pub(crate) struct Tools<'a> {
    pub(crate) place: &'a Place,
    pub(crate) groups: &'a Groups,
    pub(crate) prepared: &'a Prepared,
}

impl Tools<'_> {
    fn command(&self, program: &str) -> Command {
        let file = self.prepared.programs.get(program);
        let mut command = Command::new(file.map_or_else(|| Path::new(program), |p| p.as_path()));
        // kubectl keeps a cache in the home folder.
        command
            .env("HOME", self.place.scratch())
            .env("TMPDIR", self.place.scratch())
            .env_remove("KUBECONFIG");
        command
    }

    fn run(&self, mut command: Command, what: &str, input: &str) -> Result<String> {
        let io = || {
            failed(format!(
                "cannot run {:?} for {what}",
                command_name(&command)
            ))
        };
        let (spawn, write, wait) = (io(), io(), io());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(spawn)?;
        // So that it ends with the cluster if this program is killed.
        let _ = self.groups.add(Job::Prepare.group(), child.id());
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(input.as_bytes())
                .or_else(|e| match e.kind() {
                    std::io::ErrorKind::BrokenPipe => Ok(()),
                    _ => Err(e),
                })
                .map_err(write)?;
        }
        let done = child.wait_with_output().map_err(wait)?;
        if done.status.success() {
            return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
        }
        Err(Error::Step {
            what: what.to_owned(),
            reason: end_of(&String::from_utf8_lossy(&done.stderr)),
        })
    }

    /// Runs kubeadm and returns its output.
    pub(crate) fn kubeadm(&self, arguments: &[&str], what: &str) -> Result<String> {
        let mut command = self.command("kubeadm");
        command.args(arguments).current_dir(self.place.folder());
        self.run(command, what, "")
    }

    /// Runs kubectl as the administrator and returns its output.
    pub(crate) fn kubectl(&self, arguments: &[&str], what: &str) -> Result<String> {
        let mut command = self.command("kubectl");
        command
            .arg("--kubeconfig")
            .arg(self.place.kubeconfig())
            .arg("--request-timeout=15s")
            .args(arguments)
            .current_dir(self.place.folder());
        self.run(command, what, "")
    }

    /// Returns objects as kubectl prints them.
    pub(crate) fn get(&self, arguments: &[&str]) -> Result<Value> {
        let what = format!("kubectl get {}", arguments.join(" "));
        let arguments: Vec<&str> = ["get"].iter().chain(arguments).copied().collect();
        let text = self.kubectl(&arguments, &what)?;
        serde_json::from_str(&text).map_err(|e| failed(what)(e.into()))
    }

    /// Runs `ip` commands in a member's network namespace.
    pub(crate) fn ip(&self, member: Member, pid: u32, commands: &str) -> Result<()> {
        let mut command = self.command("nsenter");
        command
            .arg(format!("--net=/proc/{pid}/ns/net"))
            .args(["ip", "-batch", "-"]);
        let what = format!("connecting {member} to the cluster's network");
        self.run(command, &what, commands).map(|_| ())
    }
}

fn command_name(command: &Command) -> String {
    let path = Path::new(command.get_program());
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Returns the last lines of a text.
pub(crate) fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|l| !l.is_empty())
        .collect();
    let tail = lines
        .get(lines.len().saturating_sub(12)..)
        .unwrap_or_default();
    if tail.len() > 1 {
        format!("\n  {}", tail.join("\n  "))
    } else {
        tail.concat()
    }
}

/// Returns the last lines of a log.
pub(crate) fn end_of_log(path: &Path) -> String {
    end_of(&fs::read_to_string(path).unwrap_or_default())
}
