//! The processes `hold` and `init` of a member: its namespaces, and the first process in them.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::{
    process::{Pid, Signal, WaitOptions, kill_process, wait},
    thread::{UnshareFlags, unshare_unsafe},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    groups::hierarchies,
    place::Member,
    process::{self, SUBCOMMAND, Service, ServiceState, Services},
    root,
};

/// The file with the process ID of a member's first process, in the cluster's folder.
pub(crate) fn pid_file(folder: &Path, member: Member) -> PathBuf {
    folder.join(format!("{member}.pid"))
}

/// Makes the namespaces of a member and starts its first process in them. Runs before any thread was started.
pub(crate) fn hold(folder: &Path, member: Member) -> io::Result<()> {
    process::wait_for_group()?;
    let root = folder.join(member.as_str());
    if let Some(store) = process::read_spec(&root)?.store {
        fill(&store, &root.join("var/lib/containerd"))?;
    }
    let all = UnshareFlags::NEWCGROUP
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWPID;
    leave(all)?;
    let mut first = Command::new("/proc/self/exe")
        .args([SUBCOMMAND, "init"])
        .arg(folder)
        .arg(member.as_str())
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let mut ready = [0; 1];
    let pipe = first.stdout.as_mut();
    let told = pipe.map_or(Ok(0), |pipe| pipe.read(&mut ready))?;
    if told == 0 {
        let status = first.wait()?;
        return Err(io::Error::other(format!(
            "the first process of {member} ended with {status}"
        )));
    }
    // Seen from here, which is the machine.
    process::write(&pid_file(folder, member), &first.id())
}

/// Leaves namespaces for new ones.
fn leave(namespaces: UnshareFlags) -> io::Result<()> {
    #[expect(
        unsafe_code,
        reason = "unshare of namespaces, before any thread was started"
    )]
    // SAFETY: no flag that is used here concerns file descriptors or memory.
    unsafe { unshare_unsafe(namespaces) }?;
    Ok(())
}

/// The folders of containerd whose files are never written to once they are there.
const IMMUTABLE: [&str; 2] = ["blobs", "snapshots"];

/// Fills a node's containerd folder from the one in the cache. Files that containerd never writes to are linked, since
/// copying takes minutes while others write to the disk.
fn fill(from: &Path, to: &Path) -> io::Result<()> {
    let copy = |how: &str| -> io::Result<bool> {
        let mut command = Command::new("cp");
        command.args([how, "--force"]).arg(from.join(".")).arg(to);
        Ok(command.stderr(Stdio::null()).status()?.success())
    };
    if copy("-al")? {
        return unlink(to);
    }
    // On another file system, or on one without hard links.
    if copy("-a")? {
        return Ok(());
    }
    let what = format!("copying {} to {} failed", from.display(), to.display());
    Err(io::Error::other(what))
}

/// Replaces links by copies, except in the folders whose files are never written to.
fn unlink(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() && !IMMUTABLE.iter().any(|name| entry.file_name() == *name) {
            unlink(&path)?;
        } else if kind.is_file() {
            let copy = path.with_extension("copy");
            fs::copy(&path, &copy)?;
            fs::rename(copy, path)?;
        }
    }
    Ok(())
}

/// Is the first process of a member: prepares the root file system, and starts programs at each SIGHUP.
pub(crate) fn init(folder: &Path, member: Member) -> io::Result<()> {
    let root = folder.join(member.as_str());
    let spec = process::read_spec(&root)?;
    // Not in `hold`, whose root would change too.
    leave(UnshareFlags::NEWNS)?;
    root::enter(&root, &spec, &hierarchies()?)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve())
}

async fn serve() -> io::Result<()> {
    let mut told = signal(SignalKind::hangup())?;
    let mut ended = signal(SignalKind::child())?;
    let mut stop = signal(SignalKind::terminate())?;
    io::stdout().write_all(b"\n")?;
    io::stdout().flush()?;
    // Nobody reads from here on.
    let nowhere = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(nowhere.as_fd())?;
    let log = File::create("/var/log/init.log")?;
    rustix::stdio::dup2_stderr(log.as_fd())?;
    let mut services = Services::new();
    loop {
        tokio::select! {
            _ = told.recv() => start_missing(&mut services).await?,
            _ = ended.recv() => reap(&mut services)?,
            _ = stop.recv() => return Ok(()),
        }
    }
}

async fn start_missing(services: &mut Services) -> io::Result<()> {
    let spec = process::read_spec(Path::new("/"))?;
    let mut started: Vec<String> = Vec::new();
    for service in &spec.services {
        let again = service.with.as_ref().is_some_and(|w| started.contains(w));
        if let Some(ServiceState::Running { pid }) = services.get(&service.name).copied() {
            if !again {
                continue;
            }
            end(pid, &service.name, services).await?;
        }
        services.insert(service.name.clone(), ServiceState::Waiting);
        process::write_status(Path::new("/"), services)?;
        if let Some(socket) = &service.after {
            for _ in 0..600 {
                if socket.exists() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                reap(services)?;
            }
        }
        let state = match spawn(service) {
            Ok(pid) => ServiceState::Running { pid },
            Err(e) => {
                eprintln!("cannot start {}: {e}", service.name);
                ServiceState::Ended { status: 127 }
            }
        };
        services.insert(service.name.clone(), state);
        started.push(service.name.clone());
        process::write_status(Path::new("/"), services)?;
    }
    reap(services)
}

/// Starts a program. Its end is noticed by [`reap`], which waits for all processes of the namespace.
fn spawn(service: &Service) -> io::Result<i32> {
    let log = Path::new("/var/log").join(format!("{}.log", service.name));
    let log = File::options().create(true).append(true).open(log)?;
    let (program, arguments) = service
        .argv
        .split_first()
        .ok_or_else(|| io::Error::other("it has no program"))?;
    if service.name == "containerd" {
        // Sockets of the previous one would let others start too early.
        let _ = fs::remove_file("/run/containerd/containerd.sock");
        let _ = fs::remove_file("/run/nri/nri.sock");
    }
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env(
            "PATH",
            "/opt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/root")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()?;
    Ok(child.id().cast_signed())
}

async fn end(pid: i32, name: &str, services: &mut Services) -> io::Result<()> {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
    for _ in 0..100 {
        reap(services)?;
        if !matches!(services.get(name), Some(ServiceState::Running { .. })) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Waits for all processes that have ended: the programs, and what others left to the first process.
fn reap(services: &mut Services) -> io::Result<()> {
    let mut changed = false;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        let pid = pid.as_raw_nonzero().get();
        let status = status
            .exit_status()
            .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
            .unwrap_or(-1);
        for state in services.values_mut() {
            if *state == (ServiceState::Running { pid }) {
                *state = ServiceState::Ended { status };
                changed = true;
            }
        }
    }
    if changed {
        process::write_status(Path::new("/"), services)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_containerd_writes_to_is_not_shared_with_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let (store, node) = (dir.path().join("store"), dir.path().join("node"));
        let files = [
            "meta/meta.db",
            "content/blobs/sha256/a",
            "overlayfs/snapshots/1/fs/b",
        ];
        for file in files {
            fs::create_dir_all(store.join(file).parent().unwrap()).unwrap();
            fs::write(store.join(file), "as built").unwrap();
        }
        fs::create_dir(&node).unwrap();
        fill(&store, &node).unwrap();
        for file in files {
            assert_eq!(fs::read(node.join(file)).unwrap(), b"as built", "{file}");
        }
        fs::write(node.join(files[0]), "changed").unwrap();
        assert_eq!(fs::read(store.join(files[0])).unwrap(), b"as built");
    }
}
