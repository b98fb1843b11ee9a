//! Starting programs in the guest: a clean environment, a process group of their own, a pty or pipes.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::Stdio,
};

use faultline_guest::wire::{Exec, Pty};
use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use tokio::process::{Child, Command};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const TRUSTED_PATH: &str = "/usr/sbin:/usr/bin";

/// The command for an order, without its standard streams.
pub fn command(order: &Exec) -> io::Result<Command> {
    let shell = ["/bin/bash".to_owned(), "-l".to_owned()];
    let argv: &[String] = if order.argv.is_empty() {
        &shell
    } else {
        &order.argv
    };
    let (program, args) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = if order.trusted {
        let mut command = Command::new("/proc/self/exe");
        command.arg("trusted").arg("--").arg(program);
        command
    } else {
        Command::new(program)
    };
    command
        .args(args)
        .env_clear()
        .env("PATH", if order.trusted { TRUSTED_PATH } else { PATH })
        .env("HOME", "/root")
        .env("USER", "root")
        .env("LOGNAME", "root")
        .env("SHELL", "/bin/bash")
        .env("LANG", "C.UTF-8")
        .envs(&order.env)
        .current_dir(order.cwd.as_deref().unwrap_or("/root"));
    if std::fs::metadata(order.cwd.as_deref().unwrap_or("/root")).is_err() {
        command.current_dir("/");
    }
    Ok(command)
}

/// Spawns with pipes, as the leader of a new process group.
pub fn with_pipes(mut command: Command) -> io::Result<Child> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    command.spawn()
}

/// Spawns on a new terminal, as the leader of a new session. Gives the terminal's master, non-blocking.
pub fn with_pty(mut command: Command, pty: &Pty) -> io::Result<(Child, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    resize(&master, pty.rows, pty.cols)?;
    let slave = rustix::fs::open(
        ptsname(&master, Vec::new())?,
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rustix::io::ioctl_fionbio(&master, true)?;
    command
        .env("TERM", &pty.term)
        .stdin(Stdio::from(slave.try_clone()?))
        .stdout(Stdio::from(slave.try_clone()?))
        .stderr(Stdio::from(slave));
    // SAFETY: between fork and exec only the two async-signal-safe system calls below are made.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        });
    }
    let child = command.spawn()?;
    Ok((child, master))
}

/// Tells a terminal its size; zero means the usual 24 by 80.
pub fn resize(master: &impl AsFd, rows: u16, cols: u16) -> io::Result<()> {
    let size = Winsize {
        ws_row: if rows == 0 { 24 } else { rows },
        ws_col: if cols == 0 { 80 } else { cols },
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(master, size)?)
}

/// Sends a signal to a child's process group. On a terminal the group in the foreground gets it.
pub fn signal(pid: u32, master: Option<&OwnedFd>, number: i32) {
    let foreground = master.and_then(|m| {
        let mut group: libc::pid_t = 0;
        // SAFETY: TIOCGPGRP writes one pid_t to the pointer, which is valid for the call.
        (unsafe { libc::ioctl(m.as_raw_fd(), libc::TIOCGPGRP, &mut group) } == 0 && group > 0)
            .then_some(group)
    });
    let group = foreground.or_else(|| libc::pid_t::try_from(pid).ok());
    if let Some(group) = group.filter(|g| *g > 1) {
        // SAFETY: killpg takes two integers.
        unsafe { libc::killpg(group, number) };
    }
}

/// The exit code as a shell gives it.
pub fn code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
