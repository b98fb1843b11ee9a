//! Starts programs in the guest with a clean environment, their own process group, and a pty or pipes.

use std::{
    collections::BTreeMap,
    ffi::{CString, OsStr, OsString},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    process::Stdio,
    sync::OnceLock,
};

use faultline_guest::wire::{Exec, Pty};
use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use tokio::process::{Child, Command};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const TRUSTED_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";

/// This program's file, opened at its start, because a student may change what `/proc` shows later.
static SELF: OnceLock<OwnedFd> = OnceLock::new();

/// Opens this program's file. Must be called before a student has access to the guest.
pub fn remember_self() -> io::Result<()> {
    let own = rustix::fs::open(
        "/proc/self/exe",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let _ = SELF.set(own);
    Ok(())
}

/// Makes a command execute this program by descriptor, with these arguments and variables.
fn become_self(command: &mut Command, argv: &[&OsStr], env: &[(&OsStr, &OsStr)]) -> io::Result<()> {
    let own = SELF.get().ok_or(io::ErrorKind::NotFound)?.as_raw_fd();
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| io::ErrorKind::InvalidInput);
    let argv: Vec<CString> = argv
        .iter()
        .map(|a| text(a.as_bytes()))
        .collect::<Result<_, _>>()?;
    let env: Vec<CString> = env
        .iter()
        .map(|(name, value)| text(&[name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect::<Result<_, _>>()?;
    let pointers = |all: &[CString]| -> Vec<usize> {
        let each = all.iter().map(|c| c.as_ptr().addr());
        each.chain([0]).collect()
    };
    // Addresses, because pointers aren't `Send`. What they point to is moved into the closure.
    let (argv_at, env_at) = (pointers(&argv), pointers(&env));
    // SAFETY: one async-signal-safe system call; its arguments live in the closure, which outlives it.
    unsafe {
        command.pre_exec(move || {
            let _kept = (&argv, &env);
            libc::syscall(
                libc::SYS_execveat,
                own,
                c"".as_ptr(),
                argv_at.as_ptr(),
                env_at.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
            Err(io::Error::last_os_error())
        });
    }
    Ok(())
}

/// Resets the priority for being killed when memory runs out: the helper's own is the lowest, and programs that it starts
/// must not inherit it.
fn reset_oom_score(command: &mut Command) {
    // SAFETY: three async-signal-safe system calls.
    unsafe {
        command.pre_exec(|| {
            let file = libc::open(
                c"/proc/self/oom_score_adj".as_ptr(),
                libc::O_WRONLY | libc::O_CLOEXEC,
            );
            if file >= 0 {
                libc::write(file, c"0".as_ptr().cast(), 1);
                libc::close(file);
            }
            Ok(())
        });
    }
}

/// Returns the command for an order, without its standard streams.
pub fn command(order: &Exec) -> io::Result<Command> {
    let shell = ["/bin/bash".into(), "-l".into()];
    let argv: &[OsString] = if order.argv.is_empty() {
        &shell
    } else {
        &order.argv
    };
    let (program, args) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut env: BTreeMap<String, String> = [
        ("PATH", if order.trusted { TRUSTED_PATH } else { PATH }),
        ("HOME", "/root"),
        ("USER", "root"),
        ("LOGNAME", "root"),
        ("SHELL", "/bin/bash"),
        ("LANG", "C.UTF-8"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    env.extend(order.env.clone());
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .envs(&env)
        .current_dir(order.cwd.as_deref().unwrap_or("/root"));
    if std::fs::metadata(order.cwd.as_deref().unwrap_or("/root")).is_err() {
        command.current_dir("/");
    }
    Ok(command)
}

/// Makes a command execute the order's program. Must be the last setup of the command, so that earlier setup takes effect.
fn finish(command: &mut Command, order: &Exec) -> io::Result<()> {
    reset_oom_score(command);
    if !order.trusted {
        return Ok(());
    }
    let std = command.as_std();
    let (program, args) = (std.get_program().to_owned(), std.get_args());
    let args: Vec<OsString> = args.map(OsStr::to_owned).collect();
    let env: Vec<(OsString, OsString)> = std
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    let argv = ["faultline-guest", "trusted", "--"].map(OsStr::new);
    let argv: Vec<&OsStr> = argv
        .into_iter()
        .chain([program.as_os_str()])
        .chain(args.iter().map(OsString::as_os_str))
        .collect();
    let env: Vec<(&OsStr, &OsStr)> = env.iter().map(|(n, v)| (&**n, &**v)).collect();
    become_self(command, &argv, &env)
}

/// Spawns with pipes, as the leader of a new process group.
pub fn with_pipes(mut command: Command, order: &Exec) -> io::Result<Child> {
    finish(&mut command, order)?;
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    command.spawn()
}

/// Spawns on a new terminal, as the leader of a new session. Returns the terminal's non-blocking master.
pub fn with_pty(mut command: Command, order: &Exec, pty: &Pty) -> io::Result<(Child, OwnedFd)> {
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
    finish(&mut command, order)?;
    let child = command.spawn()?;
    Ok((child, master))
}

/// Sets a terminal's size. Zero means the default of 24 by 80.
pub fn resize(master: &impl AsFd, rows: u16, cols: u16) -> io::Result<()> {
    let size = Winsize {
        ws_row: if rows == 0 { 24 } else { rows },
        ws_col: if cols == 0 { 80 } else { cols },
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(master, size)?)
}

/// Sends a signal to a child's process group or, on a terminal, to the foreground process group.
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

/// Returns the exit code in a shell's convention.
pub fn code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
