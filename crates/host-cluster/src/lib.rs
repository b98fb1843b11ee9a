//! A Kubernetes cluster of two nodes on one machine, as processes in their own namespaces: a host for tenancies that live
//! on Kubernetes, in tests and for whoever tries them.
//!
//! ```text
//! machine's network namespace          control plane's                       node1's, node2's
//! 127.0.0.1:PORT ◄── forward ──┐
//!                   (enters) ──┼──► 172.30.0.1:6443  API server,
//!                              │    etcd, controllers, scheduler
//!                              │    cluster0 ═══ node1 ─────────────────── eth0 172.30.0.11
//!  no interface connects       │             ═══ node2                     containerd, kubelet, kube-proxy,
//!  the machine with these      │                                           network-policies
//!                                                                          pods, a link each: 10.244.1.0/24
//! ```
//!
//! [`up()`] builds and starts, [`down()`] removes, [`status()`] tells what runs. The files: [`place`] has names and paths,
//! [`process`] the processes that hold everything together, [`mod@up`] the order of a start.
//!
//! Three properties make that nothing is left, whatever is killed in the middle of a start:
//!
//! - Every process is in a control group of the cluster ([`groups`]) before it does anything.
//! - Namespaces have no names. Interfaces, mounts and nftables rules belong to them and end with their last process.
//! - Files are in the cluster's folder only ([`root`]), and the kubelet changes copies of the kernel's settings.

mod addons;
mod configure;
pub mod down;
mod forward;
mod groups;
mod keys;
mod member;
pub mod place;
mod prepare;
pub mod process;
mod root;
mod state;
pub mod status;
mod tools;
pub mod up;
mod watch;
mod wire;

use std::{fs, io, path::Path, path::PathBuf};

use rustix::fs::{FlockOperation, flock};

pub use crate::{
    down::{down, leftovers},
    place::{Member, Name, Place},
    status::status,
    up::{Options, Up, up},
};

/// The error when a host cluster can't be started, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another command holds the cluster's lock.
    #[error(
        "another command is starting or removing the host cluster {0}; wait until it has ended"
    )]
    Busy(Name),
    /// The cluster runs with other settings.
    #[error("the host cluster {} runs {running}; remove it first with `{}`", .place.name(), .place.command("down"))]
    Different {
        /// The cluster.
        place: Place,
        /// The setting that it runs with.
        running: String,
    },
    /// A member of the cluster has ended.
    #[error(
        "{member} of the host cluster {} has ended; remove the cluster with `{}`, and start it again",
        .place.name(), .place.command("down")
    )]
    Incomplete {
        /// The cluster.
        place: Place,
        /// The member.
        member: Member,
    },
    /// There is no such cluster.
    #[error("there is no host cluster {} in {}; start it with `{}`", .0.name(), .0.parent().display(), .0.command("up"))]
    Missing(Place),
    /// A step of the start failed.
    #[error("{what} failed: {reason}")]
    Step {
        /// The step.
        what: String,
        /// The reason, with the end of the log.
        reason: String,
    },
    /// The machine refused something.
    #[error("{what}")]
    Io {
        /// What failed.
        what: String,
        /// Why.
        source: io::Error,
    },
}

/// The result of changing a host cluster.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}

/// Runs one of the processes of a host cluster, see [`mod@process`]. Call it before any thread was started.
pub fn run_process(job: &str, folder: &Path, member: Option<Member>) -> io::Result<()> {
    match (job, member) {
        ("prepare", None) => prepare::run(folder),
        ("hold", Some(member)) => member::hold(folder, member),
        ("init", Some(member)) => member::init(folder, member),
        ("forward", None) => forward::run(folder),
        _ => Err(io::Error::other(format!("there is no job {job:?}"))),
    }
}

/// The lock of a cluster, held by a command that changes it.
struct Lock {
    file: fs::File,
    path: PathBuf,
}

impl Lock {
    fn take(place: &Place) -> Result<Self> {
        let path = place.lock();
        let lock = || -> io::Result<Option<fs::File>> {
            fs::create_dir_all(place.parent())?;
            loop {
                let file = fs::File::create(&path)?;
                match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                    Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                    result => result?,
                }
                // Its holder may have removed it meanwhile.
                let (ours, current) = (rustix::fs::fstat(&file)?, rustix::fs::stat(&path));
                if current.is_ok_and(|c| c.st_ino == ours.st_ino && c.st_dev == ours.st_dev) {
                    return Ok(Some(file));
                }
            }
        };
        let file = lock().map_err(failed(format!("cannot lock {}", path.display())))?;
        let file = file.ok_or_else(|| Error::Busy(place.name().clone()))?;
        Ok(Self { file, path })
    }

    /// Removes the file and gives the lock back.
    fn remove(self) {
        let _ = fs::remove_file(&self.path);
        drop(self.file);
    }
}
