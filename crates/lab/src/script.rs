//! Runs scripts in a guest without leaving a trace there.
//!
//! A script is sent through the interpreter's standard input, complete, before its first line runs. It is never written
//! to a file in the guest, and appears in no shell history and in no process arguments, so a student who searches for
//! it finds nothing.

use std::{collections::BTreeMap, ffi::OsString, time::Duration};

use bytes::Bytes;
use faultline_domain::{NodeName, TenantId};
use faultline_guest::{
    client,
    wire::{Exec, Frame},
};
use faultline_provider::{Provider, Target};

/// An interpreter that a lab's script may name in its first line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpreter {
    /// `#!/bin/bash`, `#!/usr/bin/env bash`, `#!/bin/sh`
    Bash,
    /// `#!/usr/bin/python3`, `#!/usr/bin/env python3`
    Python,
}

impl Interpreter {
    /// Returns the interpreter that a script's first line names.
    #[must_use]
    pub fn of(script: &[u8]) -> Option<Self> {
        let line = script.split(|b| *b == b'\n').next()?.strip_prefix(b"#!")?;
        let line = std::str::from_utf8(line).ok()?.trim();
        match line {
            "/bin/bash" | "/usr/bin/bash" | "/usr/bin/env bash" | "/bin/sh" | "/usr/bin/sh"
            | "/bin/bash -eu" | "/bin/sh -eu" => Some(Self::Bash),
            "/usr/bin/python3" | "/usr/bin/env python3" => Some(Self::Python),
            _ => None,
        }
    }

    /// Returns the arguments that make the interpreter read the whole script before running it, so that a script that
    /// reads standard input doesn't consume its own text.
    fn argv(self) -> Vec<OsString> {
        let argv: &[&str] = match self {
            Self::Bash => &[
                "/usr/bin/bash",
                "--noprofile",
                "--norc",
                "-c",
                "mapfile -d '' -t script; exec </dev/null; eval \"${script[0]}\"",
                "lab",
            ],
            Self::Python => &[
                "/usr/bin/python3",
                "-I",
                "-c",
                "import os,sys; text=sys.stdin.read(); os.dup2(os.open('/dev/null',0),0); exec(compile(text,'lab','exec'))",
            ],
        };
        argv.iter().map(Into::into).collect()
    }
}

/// Returns the script's first comment below the interpreter line, with its lines joined.
pub(crate) fn first_comment(script: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(script).ok()?;
    let lines: Vec<&str> = text
        .lines()
        .skip(1)
        .map_while(|line| line.strip_prefix('#'))
        .map(str::trim)
        .collect();
    Some(lines.join(" ")).filter(|said| !said.is_empty())
}

/// How a script runs.
#[derive(Debug, Clone)]
pub struct Run {
    /// Use the image's own, unmodified `/usr`.
    pub trusted: bool,
    /// The time after which the script is ended.
    pub timeout: Duration,
}

/// The result of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// The exit code; 124 if the script ran into its time limit.
    pub code: i32,
    /// The beginning of its standard output, at most [`MAX_HEAD`] bytes.
    pub stdout: Vec<u8>,
    /// The end of both outputs in the order in which they arrived, at most [`MAX_TAIL`] bytes.
    pub tail: Vec<u8>,
}

/// The maximum of standard output that is kept, in bytes.
pub const MAX_HEAD: usize = 16 * 1024;
/// The maximum of the end of both outputs that is kept, in bytes.
pub const MAX_TAIL: usize = 16 * 1024;
/// The extra time that the host waits beyond the script's own limit, for a guest that doesn't enforce it.
const MARGIN: Duration = Duration::from_secs(15);

/// An error that kept a script from running to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No stream to the guest could be opened.
    #[error("the guest link of {node} can't be opened")]
    Open {
        /// The node.
        node: NodeName,
        /// The cause.
        source: faultline_provider::Error,
    },
    /// The link broke, or the guest refused.
    #[error("{node} did not run the script")]
    Guest {
        /// The node.
        node: NodeName,
        /// The cause.
        source: client::Error,
    },
    /// The guest neither ended the script nor answered in time.
    #[error("{node} did not answer any more after {} s", .after.as_secs())]
    Silent {
        /// The node.
        node: NodeName,
        /// The time waited.
        after: Duration,
    },
}

/// Runs a script to its end on one node, as root, with a clean environment.
pub async fn run(
    provider: &dyn Provider,
    env: &TenantId,
    node: &NodeName,
    script: &[u8],
    how: &Run,
) -> Result<Ran, Error> {
    let after = how.timeout + MARGIN;
    tokio::time::timeout(after, talk(provider, env, node, script, how))
        .await
        .map_err(|_| Error::Silent {
            node: node.clone(),
            after,
        })?
}

async fn talk(
    provider: &dyn Provider,
    env: &TenantId,
    node: &NodeName,
    script: &[u8],
    how: &Run,
) -> Result<Ran, Error> {
    let stream = provider
        .open(env, node, Target::Guest)
        .await
        .map_err(|source| Error::Open {
            node: node.clone(),
            source,
        })?;
    let request = Exec {
        argv: Interpreter::of(script).unwrap_or(Interpreter::Bash).argv(),
        env: BTreeMap::from([
            (
                "PATH".to_owned(),
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            ),
            ("LC_ALL".to_owned(), "C.UTF-8".to_owned()),
            ("HOME".to_owned(), "/root".to_owned()),
            ("SYSTEMD_PAGER".to_owned(), String::new()),
            ("FAULTLINE_NODE".to_owned(), node.to_string()),
        ]),
        cwd: Some("/".to_owned()),
        pty: None,
        timeout_seconds: Some(
            u32::try_from(how.timeout.as_secs())
                .unwrap_or(u32::MAX)
                .max(1),
        ),
        trusted: how.trusted,
    };
    let guest = |source| Error::Guest {
        node: node.clone(),
        source,
    };
    let session = client::exec(stream, request).await.map_err(guest)?;
    let (mut input, mut output) = (session.input, session.output);
    let send = async {
        // A program may end before it has read all of its input; that is not an error of the link.
        if input.stdin(Bytes::copy_from_slice(script)).await.is_ok() {
            let _ = input.send(Frame::StdinEnd).await;
        }
        std::future::pending::<()>().await;
    };
    let receive = async {
        let mut ran = Ran {
            code: -1,
            stdout: Vec::new(),
            tail: Vec::new(),
        };
        loop {
            match output.next().await? {
                Some(Frame::Stdout(bytes)) => {
                    let room = MAX_HEAD.saturating_sub(ran.stdout.len()).min(bytes.len());
                    ran.stdout
                        .extend_from_slice(bytes.get(..room).unwrap_or_default());
                    keep_tail(&mut ran.tail, &bytes);
                }
                Some(Frame::Stderr(bytes)) => keep_tail(&mut ran.tail, &bytes),
                Some(Frame::Exit(code)) => {
                    ran.code = code;
                    return Ok(ran);
                }
                Some(_) => return Err(client::Error::Protocol),
                None => {
                    return Err(client::Error::Io(std::io::ErrorKind::UnexpectedEof.into()));
                }
            }
        }
    };
    tokio::select! {
        ran = receive => ran.map_err(guest),
        () = send => Err(guest(client::Error::Protocol)),
    }
}

fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    tail.extend_from_slice(bytes);
    if tail.len() > MAX_TAIL {
        tail.drain(..tail.len() - MAX_TAIL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_says_what_runs_it() {
        assert_eq!(
            Interpreter::of(b"#!/bin/bash\nset -e\n"),
            Some(Interpreter::Bash)
        );
        assert_eq!(
            Interpreter::of(b"#!/usr/bin/env python3\n"),
            Some(Interpreter::Python)
        );
        assert_eq!(Interpreter::of(b"#!/usr/bin/perl\n"), None);
        assert_eq!(Interpreter::of(b"echo"), None);
    }

    #[test]
    fn the_first_comment_is_the_one_below_the_first_line() {
        for (script, said) in [
            (
                "#!/bin/sh\n# Too wide: all may\n# write.\nls\n# x\n",
                Some("Too wide: all may write."),
            ),
            ("#!/bin/sh\n\n# Late.\n", None),
            ("#!/bin/sh\n#\nls\n", None),
            ("", None),
        ] {
            assert_eq!(first_comment(script.as_bytes()).as_deref(), said);
        }
    }

    #[test]
    fn bash_and_python_read_all_of_it_before_they_begin() {
        use std::{io::Write, process};
        for (script, interpreter) in [
            (
                "#!/bin/bash\nread -r line || echo nothing\necho \"$0 is $((6*7))\"\n",
                Interpreter::Bash,
            ),
            (
                "#!/usr/bin/python3\nimport sys\nprint(sys.stdin.read() or 'nothing')\nprint('lab is', 6*7)\n",
                Interpreter::Python,
            ),
        ] {
            let argv = interpreter.argv();
            let mut child = process::Command::new(&argv[0])
                .args(&argv[1..])
                .env_clear()
                .stdin(process::Stdio::piped())
                .stdout(process::Stdio::piped())
                .spawn()
                .unwrap();
            child
                .stdin
                .take()
                .unwrap()
                .write_all(script.as_bytes())
                .unwrap();
            let out = child.wait_with_output().unwrap();
            assert_eq!(String::from_utf8_lossy(&out.stdout), "nothing\nlab is 42\n");
        }
    }
}
