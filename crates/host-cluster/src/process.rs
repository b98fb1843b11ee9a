//! The processes that a host cluster consists of besides Kubernetes' own: what [`mod@crate::up`] starts, their
//! instructions, and how they begin.
//!
//! Each is this program again, as `faultline host-cluster-process JOB FOLDER [MEMBER]`:
//!
//! | job | what it does |
//! |---|---|
//! | `prepare` | builds programs and container images, unless they are in the cache |
//! | `hold` | makes a member's namespaces and starts `init` in them |
//! | `init` | is the first process in a member's namespaces: mounts, starts programs, reaps |
//! | `forward` | forwards a port of the machine's loopback to the API server |

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Error, Result,
    groups::Groups,
    place::{Member, Place},
};

/// The hidden subcommand of `faultline`.
pub const SUBCOMMAND: &str = "host-cluster-process";
const SPEC: &str = "etc/faultline-spec.json";
const STATUS: &str = "var/lib/faultline-status.json";

/// What a member consists of: a file in its root folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// The host name.
    pub(crate) name: String,
    /// The files of the cache to mount, by their path in the member.
    pub(crate) programs: BTreeMap<String, PathBuf>,
    /// The folder of a containerd that a node's is filled from.
    pub(crate) store: Option<PathBuf>,
    /// The programs to run, in the order in which they are started.
    pub(crate) services: Vec<Service>,
}

/// A program that runs in a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Service {
    /// The name, which is also that of its log.
    pub(crate) name: String,
    /// The program and its arguments.
    pub(crate) argv: Vec<String>,
    /// A socket that must exist before it is started.
    #[serde(default)]
    pub(crate) after: Option<PathBuf>,
    /// The service with which it is started again.
    #[serde(default)]
    pub(crate) with: Option<String>,
}

/// The state of a program that runs in a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum ServiceState {
    /// It runs.
    Running {
        /// Its process ID in the member.
        pid: i32,
    },
    /// It has ended.
    Ended {
        /// The exit status, or 128 plus the number of the signal that killed it.
        status: i32,
    },
    /// It was not started yet.
    Waiting,
}

/// The states of all programs of a member.
pub type Services = BTreeMap<String, ServiceState>;

pub(crate) fn read_spec(root: &Path) -> io::Result<Spec> {
    read(&root.join(SPEC))
}

pub(crate) fn write_spec(root: &Path, spec: &Spec) -> io::Result<()> {
    write(&root.join(SPEC), spec)
}

pub(crate) fn read_status(root: &Path) -> io::Result<Services> {
    read(&root.join(STATUS))
}

pub(crate) fn write_status(root: &Path, services: &Services) -> io::Result<()> {
    write(&root.join(STATUS), services)
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Writes a file that readers see either as it was or complete.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, serde_json::to_vec_pretty(value)?)?;
    fs::rename(draft, path)
}

/// A job, as on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    Prepare,
    Hold(Member),
    Forward,
}

impl Job {
    /// The control group of the job's process.
    pub(crate) const fn group(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Hold(member) => member.as_str(),
            Self::Forward => "forward",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Hold(_) => "hold",
            Self::Forward => "forward",
        }
    }
}

/// Starts a job in its control group. Its standard output is a pipe.
///
/// The process waits for a byte before it does anything, and ends if there is none. So whenever this program is killed,
/// a process that isn't in the group yet ends, and [`crate::down()`] finds all others.
pub(crate) fn start(program: &Path, place: &Place, groups: &Groups, job: Job) -> Result<Child> {
    let failed = |source| Error::Io {
        what: format!("cannot start {program:?} as {}", job.word()),
        source,
    };
    groups.create(job.group()).map_err(|source| Error::Io {
        what: "cannot make the cluster's control groups".to_owned(),
        source,
    })?;
    let mut command = Command::new(program);
    command
        .args([SUBCOMMAND, job.word()])
        .arg(place.folder())
        .env("TMPDIR", place.scratch())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Job::Hold(member) = job {
        command.arg(member.as_str());
    }
    if job != Job::Prepare {
        // Ctrl-C in the terminal is not for what stays.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
    }
    let mut child = command.spawn().map_err(failed)?;
    let begun = groups.add(job.group(), child.id()).and_then(|()| {
        let pipe = child.stdin.take();
        pipe.map_or(Ok(()), |mut pipe| pipe.write_all(b"\n"))
    });
    if let Err(source) = begun {
        let _ = child.kill();
        let _ = child.wait();
        return Err(failed(source));
    }
    Ok(child)
}

/// Waits in a new process until it is in its control group.
pub(crate) fn wait_for_group() -> io::Result<()> {
    io::stdin().read_exact(&mut [0])
}
