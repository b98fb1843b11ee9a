//! A node's QEMU: its command line and its process.
//!
//! Disks, memory, kernel, tap and sockets are opened here and inherited as file descriptors, so QEMU runs as a user
//! that owns no files and needs no paths. The arguments of a template and its clones are the same, except for the
//! overlay and `-incoming`.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Stdio,
};

use faultline_domain::limits::Limits;
use tokio::process::{Child, Command};

use crate::{
    net::Tap,
    snapshot,
    spec::{Accelerator, LaunchSpec, Machine, NodeSpec, Start},
};

/// The program.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// Raised when the arguments change, so that snapshots are not restored with other arguments than they were made with.
pub const GENERATION: &str = "9";
/// The processor that guests see under emulation, with the features that QEMU 7.2 emulates well and Debian needs.
pub const TCG_CPU: &str = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt";
/// The processor that guests see under KVM: the host's. Features may be removed, see [`LaunchSpec::kvm_cpu`].
pub const KVM_CPU: &str = "host";
/// The serial number of the original disk, by which the guest's helper finds it.
pub const PRISTINE_SERIAL: &str = "faultline-base";

/// The host's ends of a started QEMU.
#[derive(Debug)]
pub struct Started {
    /// The process. Its standard error is a pipe.
    pub child: Child,
    /// The log for its messages.
    pub log: File,
    /// The control channel.
    pub monitor: UnixStream,
    /// The serial console.
    pub console: UnixStream,
    /// The guest link.
    pub link: UnixStream,
    /// The guest's memory, if it shares nothing with a template.
    pub memory: Option<File>,
    /// True if the node is to be frozen into a template.
    pub to_be_frozen: bool,
    /// The file of the device state, which a clone reads and a freeze writes.
    pub state: File,
}

/// The file descriptors that QEMU inherits. They are kept open until it was started.
#[derive(Default)]
struct Inherited(Vec<OwnedFd>);

impl Inherited {
    fn give(&mut self, fd: impl Into<OwnedFd>) -> RawFd {
        let fd = fd.into();
        let number = fd.as_raw_fd();
        self.0.push(fd);
        number
    }
}

fn open(path: &Path, write: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(write)
        .open(path)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot open {}: {e}", path.display())))
}

/// The library that passes the memory file to QEMU.
pub const SHIM: &str = "libfaultline_qemu_shim.so";

/// Returns the path of that library: next to this program, or in the folder above (in tests).
pub fn shim() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    program
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(SHIM))
        .find(|path| path.exists())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!(
                    "{SHIM} is not next to the faultline program; build or install both together"
                ),
            )
        })
}

/// Returns the size of the buffer for translated code. When the buffer is full, it is emptied and running code is
/// translated again, which takes most of the time of a cluster that wakes up. A control plane of 2 GiB fills 0.9 GB of
/// it until it is probed.
fn translation_buffer_mib(machine: &Machine) -> u32 {
    (machine.memory_mib / 2).clamp(96, 1024)
}

/// Returns the memory that QEMU needs besides its guest's, in MiB.
#[must_use]
pub fn overhead_mib(machine: &Machine) -> u32 {
    const OWN: u32 = 160;
    match machine.accelerator {
        Accelerator::Kvm => OWN,
        Accelerator::Tcg => OWN + translation_buffer_mib(machine),
    }
}

/// Returns the arguments that a template's machine and its clones share.
fn machine_arguments(machine: &Machine, kvm_cpu: &str) -> Vec<String> {
    let accelerator = match machine.accelerator {
        Accelerator::Kvm => "kvm".to_owned(),
        Accelerator::Tcg => format!(
            "tcg,thread=multi,tb-size={}",
            translation_buffer_mib(machine)
        ),
    };
    let cpu = match machine.accelerator {
        Accelerator::Kvm => kvm_cpu,
        Accelerator::Tcg => TCG_CPU,
    };
    [
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-shutdown",
        "-machine",
        "q35,memory-backend=mem,vmport=off,smm=off,graphics=off",
        "-accel",
        &accelerator,
        "-cpu",
        cpu,
        "-smp",
        &machine.vcpus.to_string(),
        "-m",
        &format!("{}M", machine.memory_mib),
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Returns the kernel command line of a node. Huge pages are disabled: a clone would copy a whole huge page when it
/// writes to any part of it.
///
/// Under emulation, a kernel assumes that the time stamp counters of two processors are not synchronized, since it
/// doesn't know the processor vendor to do so, and reads the time from a device. Each read of the clock then takes a
/// system call and the emulator's lock, and Go's runtime reads it often. QEMU's counters are synchronized, hence
/// `tsc=reliable`.
///
/// The emulator caches translations by the address of the code, so a library that each process maps at another address
/// is translated for each of them. Hence `norandmaps` under emulation.
fn kernel_command_line(spec: &LaunchSpec, node: &NodeSpec, index: usize) -> String {
    let emulated = match node.machine.accelerator {
        Accelerator::Tcg => " tsc=reliable norandmaps",
        Accelerator::Kvm => "",
    };
    let (node, count, planes) = (&node.name, spec.nodes.len().max(index), spec.control_planes);
    format!(
        "root=/dev/vda rw console=ttyS0,115200 quiet loglevel=3 systemd.show_status=false net.ifnames=0 \
         panic=5 mitigations=off transparent_hugepage=never faultline.node={node} faultline.index={index} faultline.nodes={count} \
         faultline.control_planes={planes}{emulated}"
    )
}

/// Starts a node's QEMU. `index` is counted from 1; `dir` is the environment's folder.
pub fn start(
    spec: &LaunchSpec,
    dir: &Path,
    node_spec: &NodeSpec,
    index: usize,
    tap: Tap,
) -> io::Result<Started> {
    let (node, machine) = (node_spec.name.as_str(), &node_spec.machine);
    let mut inherited = Inherited::default();
    let mut args = machine_arguments(machine, &spec.kvm_cpu);
    let mut arg = |name: &str, value: String| args.extend([name.to_owned(), value]);

    let (memory, own_memory, kernel, initrd) = match &spec.start {
        Start::Clone { snapshot } => {
            let memory = open(&snapshot.join(format!("{node}.mem")), false)?;
            (
                memory,
                None,
                snapshot.join("kernel"),
                snapshot.join("initrd"),
            )
        }
        Start::Boot { kernel, initrd, .. } => {
            let memory = snapshot::new_memory(u64::from(machine.memory_mib) << 20)?;
            let own = memory.try_clone()?;
            (memory, Some(own), kernel.clone(), initrd.clone())
        }
    };
    let state_of = |folder: &Path| folder.join(format!("{node}.state"));
    let state = match (&spec.saved, &spec.start) {
        (Some(saved), _) => open(&state_of(saved), false)?,
        (None, Start::Clone { snapshot }) => open(&state_of(snapshot), false)?,
        (None, Start::Boot { freeze_to, .. }) => OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(state_of(freeze_to.as_deref().unwrap_or(dir)))?,
    };
    let memory_fd = inherited.give(memory);
    // A machine that boots writes to its memory file, since privately mapped pages would exist twice. A clone's file is
    // read-only, so the shim maps it privately, see `qemu-shim`.
    arg(
        "-object",
        format!(
            "memory-backend-file,id=mem,size={}M,mem-path=/faultline/memory,share=on,merge=off",
            machine.memory_mib
        ),
    );

    // The kernel is needed again if the guest is rebooted.
    arg(
        "-kernel",
        format!("/proc/self/fd/{}", inherited.give(open(&kernel, false)?)),
    );
    arg(
        "-initrd",
        format!("/proc/self/fd/{}", inherited.give(open(&initrd, false)?)),
    );
    arg("-append", kernel_command_line(spec, node_spec, index));

    let mut sockets = Vec::new();
    for name in ["monitor", "console", "link"] {
        let (ours, theirs) = UnixStream::pair()?;
        arg(
            "-chardev",
            format!("socket,id={name},fd={}", inherited.give(theirs)),
        );
        ours.set_nonblocking(true)?;
        sockets.push(ours);
    }
    arg("-mon", "chardev=monitor,mode=control".to_owned());
    arg("-serial", "chardev:console".to_owned());
    arg(
        "-device",
        "virtio-serial-pci,id=serial,max_ports=2".to_owned(),
    );
    // With an id, QEMU reports when the guest opens and closes its side.
    arg(
        "-device",
        "virtserialport,id=link0,bus=serial.0,nr=1,chardev=link,name=faultline.0".to_owned(),
    );

    let mut blockdev = |set: usize,
                        name: &str,
                        file: File,
                        driver: &str,
                        backing: Option<&str>,
                        ro: bool| {
        let fd = inherited.give(file);
        let ro = if ro { "on" } else { "off" };
        args.extend([
            "-add-fd".to_owned(), format!("fd={fd},set={set}"),
            "-blockdev".to_owned(), format!("driver=file,node-name={name}-file,filename=/dev/fdset/{set},read-only={ro},locking=off,discard=unmap"),
            "-blockdev".to_owned(), match backing {
                Some(backing) => format!("driver={driver},node-name={name},file={name}-file,read-only={ro},backing={backing},discard=unmap"),
                None => format!("driver={driver},node-name={name},file={name}-file,read-only={ro}"),
            },
        ]);
    };
    blockdev(1, "base", open(&spec.base_disk, false)?, "raw", None, true);
    blockdev(
        2,
        "pristine",
        open(&spec.base_disk, false)?,
        "raw",
        None,
        true,
    );
    match &spec.start {
        Start::Clone { snapshot } => {
            blockdev(
                3,
                "frozen",
                open(&snapshot.join(format!("{node}.qcow2")), false)?,
                "qcow2",
                Some("base"),
                true,
            );
            blockdev(
                4,
                "root",
                open(&dir.join(format!("{node}.qcow2")), true)?,
                "qcow2",
                Some("frozen"),
                false,
            );
        }
        Start::Boot { freeze_to, .. } => {
            let folder = freeze_to.as_deref().unwrap_or(dir);
            blockdev(
                4,
                "root",
                open(&folder.join(format!("{node}.qcow2")), true)?,
                "qcow2",
                Some("base"),
                false,
            );
        }
    }
    let tap_fd = inherited.give(tap.fd);
    let mut arg = |name: &str, value: String| args.extend([name.to_owned(), value]);
    let Limits {
        disk_mib_s,
        disk_iops,
        ..
    } = spec.limits;
    arg(
        "-object",
        format!(
            "throttle-group,id=disks,x-bps-total={},x-iops-total={disk_iops}",
            u64::from(disk_mib_s) << 20
        ),
    );
    for (disk, ro) in [("root", "off"), ("pristine", "on")] {
        arg(
            "-blockdev",
            format!(
                "driver=throttle,node-name={disk}-limited,throttle-group=disks,file={disk},read-only={ro}"
            ),
        );
    }
    arg(
        "-device",
        "virtio-blk-pci,id=disk0,drive=root-limited,serial=root,bootindex=1".to_owned(),
    );
    arg(
        "-device",
        format!("virtio-blk-pci,id=disk1,drive=pristine-limited,serial={PRISTINE_SERIAL}"),
    );
    arg("-netdev", format!("tap,id=net0,fd={tap_fd}"));
    arg(
        "-device",
        format!(
            "virtio-net-pci,id=nic0,netdev=net0,mac={},romfile=",
            tap.guest_mac
        ),
    );
    arg("-object", "rng-builtin,id=rng0".to_owned());
    arg("-device", "virtio-rng-pci,id=rng,rng=rng0".to_owned());
    arg("-device", "vmgenid,guid=auto,id=generation".to_owned());
    // Memory that the guest frees is given back: a clone's page becomes the template's again
    // (`docs/decisions/0012-freed-memory.md`). Page poisoning is off, so a kernel that relies on zeros in freed pages
    // doesn't report them. The host never inflates the balloon.
    arg(
        "-device",
        "virtio-balloon-pci,id=memory,free-page-reporting=on,page-poison=off".to_owned(),
    );
    if spec.continues() {
        arg("-incoming", "defer".to_owned());
    }

    // Also a descriptor, since the library may be in a folder that QEMU's user can't access.
    let shim = inherited.give(open(&shim()?, false)?);
    let uid = spec.uid();
    let group = match machine.accelerator {
        Accelerator::Kvm => Some(std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(
            "/dev/kvm",
        )?)),
        Accelerator::Tcg => None,
    };
    let numbers: Vec<RawFd> = inherited.0.iter().map(AsRawFd::as_raw_fd).collect();
    let mut command = Command::new(PROGRAM);
    command
        .args(&args)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LD_PRELOAD", format!("/proc/self/fd/{shim}"))
        .env("FAULTLINE_MEMORY_FD", memory_fd.to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    // SAFETY: only async-signal-safe system calls are made between fork and exec; the vector was allocated before.
    unsafe {
        command.pre_exec(move || {
            for number in &numbers {
                rustix::io::fcntl_setfd(
                    BorrowedFd::borrow_raw(*number),
                    rustix::io::FdFlags::empty(),
                )?;
            }
            if set_groups(group) != 0 || libc::setgid(uid) != 0 || libc::setuid(uid) != 0 {
                return Err(io::Error::last_os_error());
            }
            // Makes sure that no QEMU outlives its launcher. This is after the change of user, which resets it.
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            Ok(())
        });
    }
    let child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => io::Error::new(
            e.kind(),
            format!("{PROGRAM} is not installed; run `faultline doctor` to see what to install"),
        ),
        _ => e,
    })?;
    let mut sockets = sockets.into_iter();
    match (sockets.next(), sockets.next(), sockets.next()) {
        (Some(monitor), Some(console), Some(link)) => Ok(Started {
            log: log(dir, node)?,
            child,
            monitor,
            console,
            link,
            memory: own_memory,
            to_be_frozen: spec.freezes(),
            state,
        }),
        _ => Err(io::ErrorKind::Other.into()),
    }
}

/// Drops all groups except, under KVM, the one that may open its device. Async-signal-safe.
fn set_groups(group: Option<libc::gid_t>) -> libc::c_int {
    // SAFETY: the kernel reads as many ids as given, from a pointer that is valid for the call.
    unsafe {
        match group {
            Some(group) => libc::setgroups(1, &raw const group),
            None => libc::setgroups(0, std::ptr::null()),
        }
    }
}

fn log(dir: &Path, node: &str) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join(format!("{node}.qemu.log")))
}

/// Returns QEMU's version: the first line of its output.
pub fn version() -> io::Result<String> {
    let out = std::process::Command::new(PROGRAM)
        .arg("--version")
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Makes an empty overlay of this size in MiB.
pub fn make_overlay(path: &Path, size_mib: u32) -> io::Result<()> {
    let out = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on"])
        .arg(path)
        .arg(format!("{size_mib}M"))
        .output()?;
    if out.status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "qemu-img: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_qemus_own_under_emulation_and_the_spec_s_under_kvm() {
        let cpu = |accelerator| {
            let machine = Machine {
                accelerator,
                vcpus: 1,
                memory_mib: 512,
                disk_mib: 4096,
            };
            let args = machine_arguments(&machine, "host,-vmx");
            let at = args.iter().position(|arg| arg == "-cpu").unwrap();
            args[at + 1].clone()
        };
        assert_eq!(cpu(Accelerator::Tcg), TCG_CPU);
        assert_eq!(cpu(Accelerator::Kvm), "host,-vmx");
    }
}
