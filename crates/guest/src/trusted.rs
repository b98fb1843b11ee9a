//! Runs a program with the tools of the original image.
//!
//! The image's original disk is attached a second time. The device itself is read-only, so not even root in the guest can
//! change it. In a mount namespace of its own, the program gets a root folder where `/usr` (and so `/bin`, `/lib`, the
//! dynamic linker) and the linker's cache come from that disk, and the rest from the guest. A student who replaces
//! `systemctl`, `ls`, a library or `ld.so.preload` doesn't affect it.
//!
//! `/proc`, `/sys` and the control groups are mounted again, without what the guest mounted over them. `/etc` is the
//! guest's, except for files that make programs load code, and the home folder is empty. The kernel is the guest's: a
//! student who changes it can fake anything.

use std::{
    ffi::{CString, OsStr, OsString},
    fs, io,
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
};

/// The serial number of the device with the original disk.
const SERIAL: &str = "faultline-base";
/// An empty home folder, because the guest's may contain the student's settings.
const HOME: &str = "/.home";
const STAGE: &str = "/run/faultline-check";
/// The maximum number of entries of a folder of the guest, so that building the root folder ends.
const MOST: usize = 4096;
/// The entries of `/etc` that come from the original image, because programs find code to load through them.
const ETC_FROM_IMAGE: [&str; 8] = [
    "alternatives",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "ld.so.preload",
    "perl",
    "python3",
    "python3.11",
];
/// The entries of the root folder that come from the original image.
const FROM_IMAGE: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Executes the program. Returns only if that fails.
pub fn run(argv: &[OsString]) -> io::Error {
    let Some((program, args)) = argv.split_first() else {
        return io::Error::new(io::ErrorKind::InvalidInput, "trusted: no program is given");
    };
    match enter() {
        // Otherwise systemctl does nothing, because the root folder isn't that of process 1.
        Ok(()) => Command::new(program)
            .args(args)
            .env("FAULTLINE_GUEST_USR", "/.guest-usr")
            .env("SYSTEMD_IGNORE_CHROOT", "1")
            .env("HOME", HOME)
            // OpenSSL's configuration could name an engine to load.
            .env("OPENSSL_CONF", "/dev/null")
            .exec(),
        Err(e) => e,
    }
}

fn at<T>(step: &str, result: rustix::io::Result<T>) -> io::Result<T> {
    result.map_err(|e| io::Error::other(format!("trusted tools: {step}: {}", io::Error::from(e))))
}

fn enter() -> io::Result<()> {
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    #[expect(
        unsafe_code,
        reason = "unshare of the mount namespace, before any thread was started"
    )]
    // SAFETY: this process has one thread and no file descriptor table is unshared.
    let unshared = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) };
    at("unshare", unshared)?;
    at(
        "private",
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        ),
    )?;
    fs::create_dir_all(STAGE)?;
    let options = CString::new("mode=0755,size=1m").unwrap_or_default();
    at(
        "stage",
        mount(
            "tmpfs",
            STAGE,
            "tmpfs",
            MountFlags::NOSUID,
            options.as_c_str(),
        ),
    )?;
    let stage = Path::new(STAGE);
    let (base, root) = (stage.join("base"), stage.join("root"));
    fs::create_dir(&base)?;
    fs::create_dir(&root)?;
    // The root folder must be a mount, because tools that make mounts private start at `/`.
    at("root folder", mount_bind(&root, &root))?;
    // A new mount of sysfs, because a student may have mounted something over `/sys`.
    let sys = stage.join("sys");
    fs::create_dir(&sys)?;
    at(
        "sysfs",
        mount("sysfs", &sys, "sysfs", MountFlags::RDONLY, None),
    )?;
    let device = pristine_device(&sys.join("block"))?;
    let node = stage.join("disk");
    at(
        "device",
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &node,
            rustix::fs::FileType::BlockDevice,
            rustix::fs::Mode::RUSR,
            device,
        ),
    )?;
    let options = CString::new("noload").unwrap_or_default();
    at(
        "pristine disk",
        mount(&node, &base, "ext4", MountFlags::RDONLY, options.as_c_str()),
    )?;
    for name in FROM_IMAGE {
        let (from, to) = (base.join(name), root.join(name));
        match fs::symlink_metadata(&from) {
            Ok(meta) if meta.is_symlink() => symlink(fs::read_link(&from)?, &to)?,
            Ok(meta) if meta.is_dir() => {
                fs::create_dir(&to)?;
                at(name, mount_bind(&from, &to))?;
            }
            _ => {}
        }
    }
    for entry in fs::read_dir("/")?.take(MOST) {
        let entry = entry?;
        let name = entry.file_name();
        let own = FROM_IMAGE.iter().chain(&["etc", "proc", "sys"]);
        if !own.into_iter().any(|n| OsStr::new(n) == name) {
            mirror(&entry.path(), &root.join(&name))?;
        }
    }
    etc(&base.join("etc"), &root.join("etc"))?;
    kernel(&root)?;
    fs::create_dir(root.join(HOME.trim_start_matches('/')))?;
    let guest_usr = root.join(".guest-usr");
    fs::create_dir(&guest_usr)?;
    at("guest's usr", mount_bind_recursive("/usr", &guest_usr))?;
    at("chroot", rustix::process::chroot(&root))?;
    std::env::set_current_dir(&cwd).or_else(|_| std::env::set_current_dir("/"))
}

/// Builds `/etc` entry by entry, so that the folder itself isn't the guest's.
fn etc(pristine: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    let own = |name: &OsStr| ETC_FROM_IMAGE.iter().any(|n| OsStr::new(n) == name);
    for entry in fs::read_dir("/etc")?.take(MOST) {
        let entry = entry?;
        if !own(&entry.file_name()) {
            mirror(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    for name in ETC_FROM_IMAGE {
        let from = pristine.join(name);
        if fs::symlink_metadata(&from).is_ok() {
            mirror(&from, &to.join(name))?;
        }
    }
    Ok(())
}

/// Mounts the kernel's views of processes, devices and control groups again.
fn kernel(root: &Path) -> io::Result<()> {
    let (proc, sys) = (root.join("proc"), root.join("sys"));
    fs::create_dir(&proc)?;
    fs::create_dir(&sys)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let read_only = flags | MountFlags::RDONLY;
    at("proc", mount("proc", &proc, "proc", flags, None))?;
    at("sysfs", mount("sysfs", &sys, "sysfs", read_only, None))?;
    at(
        "control groups",
        mount("cgroup2", sys.join("fs/cgroup"), "cgroup2", read_only, None),
    )
}

/// Makes an entry of a guest's folder appear in the new root folder.
fn mirror(from: &Path, to: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    if meta.is_symlink() {
        symlink(fs::read_link(from)?, to)
    } else if meta.is_dir() {
        fs::create_dir(to)?;
        at("root folder", mount_bind_recursive(from, to))
    } else {
        fs::write(to, "")?;
        at("root file", mount_bind(from, to))
    }
}

/// Returns the device number of the original disk, found by its serial number in sysfs.
fn pristine_device(blocks: &Path) -> io::Result<rustix::fs::Dev> {
    for entry in fs::read_dir(blocks)? {
        let folder = entry?.path();
        if fs::read_to_string(folder.join("serial")).is_ok_and(|s| s.trim_end() == SERIAL) {
            let numbers = fs::read_to_string(folder.join("dev"))?;
            if let Some((major, minor)) = numbers.trim().split_once(':')
                && let (Ok(major), Ok(minor)) = (major.parse(), minor.parse())
            {
                return Ok(rustix::fs::makedev(major, minor));
            }
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        "trusted tools: the pristine disk is not attached",
    ))
}

#[cfg(test)]
mod tests;
