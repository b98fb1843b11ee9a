//! The root file system of a member, in its own mount namespace.
//!
//! `/usr` and the device nodes are the machine's, programs come from the cache, and everything else is the member's own
//! folder. So a pod with a `hostPath` sees the member and not the machine, and whatever kubelet and containerd write is
//! gone with the folder. No mount is visible outside of the namespace, and all of them end with it.

use std::{
    ffi::CString,
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
    mount_change, mount_remount, unmount,
};

use crate::{
    groups::{self, Hierarchy},
    process::Spec,
};

/// The folders of the machine's programs and libraries. On some systems all but the first are symbolic links.
const SYSTEM: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Files that programs of the machine need, if it has them.
const SETTINGS: [&str; 4] = ["alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d"];
/// Device nodes. `kvm`, `fuse` and `net/tun` are for pods that are given them.
const DEVICES: [&str; 11] = [
    "null",
    "zero",
    "full",
    "random",
    "urandom",
    "tty",
    "kmsg",
    "kvm",
    "fuse",
    "net/tun",
    "loop-control",
];
const FOLDERS: [&str; 16] = [
    "dev",
    "etc/cni/net.d",
    "etc/kubernetes",
    "opt/bin",
    "opt/cni/bin",
    "proc",
    "root",
    "run",
    "srv",
    "sys",
    "tmp",
    "var/lib/containerd",
    "var/lib/etcd",
    "var/lib/kubelet",
    "var/log/pods",
    "var/tmp",
];
/// Settings of the kernel that the kubelet changes for the whole machine. In a member they are files of its own.
const PRIVATE_SYSCTLS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Writes the parts of a member's root folder that need no mounts.
pub(crate) fn prepare(root: &Path, name: &str) -> io::Result<()> {
    for folder in FOLDERS {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    symlink("/run", root.join("var/run"))?;
    for folder in SYSTEM {
        let of_machine = Path::new("/").join(folder);
        if let Ok(target) = fs::read_link(&of_machine) {
            symlink(target, root.join(folder))?;
        } else if of_machine.is_dir() {
            fs::create_dir(root.join(folder))?;
        }
    }
    let hosts = crate::place::Member::ALL
        .map(|member| format!("{} {member}\n", member.address()))
        .concat();
    // Nobody answers at this address, so that names outside of the cluster fail at once.
    let resolver = format!(
        "nameserver {}\n",
        crate::place::Member::ControlPlane.address()
    );
    let files = [
        (
            "passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/false\n",
        ),
        ("group", "root:x:0:\nnogroup:x:65534:\n"),
        (
            "nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\n",
        ),
        ("hosts", &format!("127.0.0.1 localhost\n{hosts}")),
        ("hostname", &format!("{name}\n")),
        ("resolv.conf", &resolver),
        (
            "os-release",
            "ID=faultline\nNAME=Faultline\nPRETTY_NAME=\"Node of a Faultline host cluster\"\n",
        ),
    ];
    for (file, content) in files {
        fs::write(root.join("etc").join(file), content)?;
    }
    Ok(())
}

/// Makes `root` the root of this process's mount namespace. The caller is in new namespaces for mounts, processes,
/// network and control groups.
pub(crate) fn enter(root: &Path, spec: &Spec, hierarchies: &[Hierarchy]) -> io::Result<()> {
    // Nothing that is mounted from here on is seen outside.
    let all = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", all).map_err(|e| at("making mounts private", e))?;
    bind(root, root)?;
    for folder in SYSTEM {
        let (from, to) = (Path::new("/").join(folder), root.join(folder));
        if from.is_dir() && !from.is_symlink() {
            mount_bind_recursive(&from, &to).map_err(|e| at(&from.display().to_string(), e))?;
            read_only(&to)?;
        }
    }
    for file in SETTINGS {
        let from = Path::new("/etc").join(file);
        bind_if_any(&from, &root.join("etc").join(file))?;
    }
    for (to, from) in &spec.programs {
        program(root, to, from)?;
    }
    kernel(root)?;
    sysctls(root, &spec.name)?;
    groups(root, hierarchies)?;
    devices(root)?;
    std::env::set_current_dir(root)?;
    rustix::process::pivot_root(".", ".").map_err(|e| at("changing the root", e))?;
    // Both roots are at the same place now, the machine's on top.
    unmount(".", UnmountFlags::DETACH).map_err(|e| at("leaving the machine's root", e))?;
    std::env::set_current_dir("/")?;
    // Volumes that the kubelet mounts must reach pods.
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    mount_change("/", shared).map_err(|e| at("sharing mounts", e))
}

/// Makes a program of the cache available. Its folder is mounted, not the file alone: runc seals its own executable by an
/// overlay of the folder that it is in, where a mounted file would not be seen.
fn program(root: &Path, to: &str, from: &Path) -> io::Result<()> {
    let folder = from.parent().unwrap_or(from);
    let inside = Path::new("/opt/programs").join(folder.file_name().unwrap_or_default());
    let mounted = root.join(inside.strip_prefix("/").unwrap_or(&inside));
    if !mounted.exists() {
        bind_if_any(folder, &mounted)?;
        read_only(&mounted)?;
    }
    let link = root.join(to.trim_start_matches('/'));
    symlink(inside.join(from.file_name().unwrap_or_default()), link)
}

fn kernel(root: &Path) -> io::Result<()> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let to = |folder: &str| root.join(folder);
    let mounted = |what: &str, result: rustix::io::Result<()>| result.map_err(|e| at(what, e));
    mounted("/proc", mount("proc", to("proc"), "proc", safe, None))?;
    mounted("/sys", mount("sysfs", to("sys"), "sysfs", safe, None))?;
    let few = c"mode=755,size=16m";
    mounted(
        "/run",
        mount("tmpfs", to("run"), "tmpfs", safe - MountFlags::NOEXEC, few),
    )?;
    fs::create_dir_all(root.join("run/lock"))
}

/// Hides the settings that the kubelet would change for the machine behind files with the present values.
fn sysctls(root: &Path, name: &str) -> io::Result<()> {
    let files = root.join("run/sysctl");
    fs::create_dir_all(&files)?;
    for setting in PRIVATE_SYSCTLS {
        let real = root.join("proc/sys").join(setting);
        if real.exists() {
            let own = files.join(setting.replace('/', "."));
            fs::write(&own, fs::read(&real)?)?;
            bind(&own, &real)?;
        }
    }
    // These belong to the network namespace.
    let network = root.join("proc/sys/net");
    fs::write(network.join("ipv4/ip_forward"), "1")?;
    for scope in ["all", "default"] {
        // Pods have IPv4 addresses only; what isn't there can't get around a policy.
        let _ = fs::write(network.join(format!("ipv6/conf/{scope}/disable_ipv6")), "1");
    }
    rustix::system::sethostname(name.as_bytes()).map_err(|e| at("setting the host name", e))
}

/// Mounts the control groups. In the member's cgroup namespace, their root is the member's group.
fn groups(root: &Path, hierarchies: &[Hierarchy]) -> io::Result<()> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let base = root.join("sys/fs/cgroup");
    if hierarchies.iter().any(|h| h.controllers.is_some()) {
        mount("tmpfs", &base, "tmpfs", safe, c"mode=755").map_err(|e| at("/sys/fs/cgroup", e))?;
    }
    for hierarchy in hierarchies {
        let Some(controllers) = &hierarchy.controllers else {
            mount("cgroup2", &base, "cgroup2", safe, None).map_err(|e| at("cgroup2", e))?;
            continue;
        };
        let name = hierarchy.at.file_name().unwrap_or_default();
        let to = base.join(name);
        fs::create_dir_all(&to)?;
        let options = CString::new(controllers.as_str())?;
        mount("cgroup", &to, "cgroup", safe, options.as_c_str())
            .map_err(|e| at(&format!("control groups {controllers}"), e))?;
        for controller in controllers.split(',') {
            let link = base.join(controller);
            if !controller.contains("name=") && controller != "none" && !link.exists() {
                symlink(name, link)?;
            }
        }
    }
    // A group with processes can't have controllers for the groups below it, in version 2.
    for hierarchy in hierarchies {
        let version_1 = hierarchy.controllers.is_some();
        let here = match hierarchy.at.file_name() {
            Some(name) if version_1 => base.join(name),
            _ => base.clone(),
        };
        let services = here.join(groups::SERVICES);
        fs::create_dir_all(&services)?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if version_1 && here.join(file).exists() {
                let value = fs::read_to_string(here.join(file))?;
                fs::write(services.join(file), value.trim())?;
            }
        }
        fs::write(services.join("cgroup.procs"), "0")?;
    }
    Ok(())
}

fn devices(root: &Path) -> io::Result<()> {
    let dev = root.join("dev");
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("tmpfs", &dev, "tmpfs", flags, c"mode=755,size=1m").map_err(|e| at("/dev", e))?;
    for device in DEVICES {
        bind_if_any(&Path::new("/dev").join(device), &dev.join(device))?;
    }
    for folder in ["pts", "shm", "mqueue"] {
        fs::create_dir(dev.join(folder))?;
    }
    let own = c"newinstance,ptmxmode=0666,mode=0620";
    mount("devpts", dev.join("pts"), "devpts", flags, own).map_err(|e| at("/dev/pts", e))?;
    mount(
        "tmpfs",
        dev.join("shm"),
        "tmpfs",
        flags | MountFlags::NODEV,
        c"mode=1777,size=64m",
    )
    .map_err(|e| at("/dev/shm", e))?;
    mount(
        "mqueue",
        dev.join("mqueue"),
        "mqueue",
        flags | MountFlags::NODEV,
        None,
    )
    .map_err(|e| at("/dev/mqueue", e))?;
    symlink("pts/ptmx", dev.join("ptmx"))?;
    for (n, name) in ["stdin", "stdout", "stderr"].iter().enumerate() {
        symlink(format!("/proc/self/fd/{n}"), dev.join(name))?;
    }
    symlink("/proc/self/fd", dev.join("fd"))
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    mount_bind(from, to).map_err(|e| at(&from.display().to_string(), e))
}

/// Mounts a file or folder at a place that is made for it, unless the machine lacks it.
fn bind_if_any(from: &Path, to: &Path) -> io::Result<()> {
    let Ok(found) = fs::metadata(from) else {
        return Ok(());
    };
    if found.is_dir() {
        fs::create_dir_all(to)?;
    } else if !to.exists() {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(to, "")?;
    }
    bind(from, to)
}

fn read_only(path: &Path) -> io::Result<()> {
    let flags = MountFlags::BIND | MountFlags::RDONLY;
    mount_remount(path, flags, c"").map_err(|e| at(&path.display().to_string(), e))
}

fn at(what: &str, e: rustix::io::Errno) -> io::Error {
    let e = io::Error::from(e);
    io::Error::new(e.kind(), format!("{what}: {e}"))
}

/// Returns the mount points below a folder in this process's namespace. There are none unless something went wrong.
pub(crate) fn mounts_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let points = text.lines().filter_map(|l| l.split(' ').nth(4));
    let points = points.map(|point| PathBuf::from(point.replace("\\040", " ")));
    Ok(points.filter(|point| point.starts_with(&folder)).collect())
}
