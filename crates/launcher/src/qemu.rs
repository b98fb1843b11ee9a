//! A node's QEMU: its command line and its process.
//!
//! QEMU is started by descriptor: disks, memory, kernel, tap and sockets are opened here and inherited, so it runs
//! as a user that owns nothing and needs no path. The argument list is the same for a template and its
//! clones, but for `share`, the overlay and `-incoming`.

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

/// The emulator.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// Raised when the argument list changes, so that snapshots of the old one are not restored with the new.
pub const GENERATION: &str = "9";
/// The processor that guests see under emulation: the most that QEMU 7.2 emulates well and Debian needs.
pub const TCG_CPU: &str = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt";
/// The processor that guests see under KVM: the host's, of which features may be left out
/// ([`LaunchSpec::kvm_cpu`]).
pub const KVM_CPU: &str = "host";
/// The serial number of the pristine disk, by which the guest's helper finds it.
pub const PRISTINE_SERIAL: &str = "faultline-base";

/// The host's ends of a started QEMU.
#[derive(Debug)]
pub struct Started {
    /// The process; its standard error is a pipe.
    pub child: Child,
    /// Where what it says is kept.
    pub log: File,
    /// Control channel.
    pub monitor: UnixStream,
    /// Serial console.
    pub console: UnixStream,
    /// Guest link.
    pub link: UnixStream,
    /// The guest's memory, where it will be frozen.
    pub memory: Option<File>,
    /// The file of the device state: read for a clone, written by a freeze.
    pub state: File,
}

/// Everything that QEMU inherits; kept open until it was started.
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

/// The library that gives QEMU its memory file.
pub const SHIM: &str = "libfaultline_qemu_shim.so";

/// Where that library lies: beside this program, or a folder above it (tests).
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
                    "{SHIM} is not beside the faultline program; build or install both together"
                ),
            )
        })
}

/// The buffer for translated code. When it is full it is emptied, and what runs is translated anew: a cluster that wakes
/// up then does little else. A control plane of 2 GiB fills nine tenths of a gigabyte of it until it was probed.
fn translation_buffer_mib(machine: &Machine) -> u32 {
    (machine.memory_mib / 2).clamp(96, 1024)
}

/// What QEMU needs beside its guest's memory, in MiB.
#[must_use]
pub fn overhead_mib(machine: &Machine) -> u32 {
    const OWN: u32 = 160;
    match machine.accelerator {
        Accelerator::Kvm => OWN,
        Accelerator::Tcg => OWN + translation_buffer_mib(machine),
    }
}

/// Arguments that a machine's template and clones share.
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

/// The kernel's command line of a node. Large pages would be private to a clone as a whole, whatever part of them is used.
///
/// Under emulation a kernel takes the time stamp counters of two processors for out of step, since their maker is not
/// known for keeping them in step, and reads the time from a device: a system call and the emulator's lock for every look
/// at the clock, and Go's runtime looks often. QEMU's counters are one.
///
/// The emulator keeps its translations by the address that code runs at, so a library that each process has elsewhere is
/// translated for each of them: addresses are not random under emulation.
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

/// Starts a node's QEMU. `index` counts from 1; `dir` is the environment's folder.
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

    let (memory, frozen, kernel, initrd, state) = match &spec.start {
        Start::Clone { snapshot } => {
            let memory = open(&snapshot.join(format!("{node}.mem")), false)?;
            let state = open(&snapshot.join(format!("{node}.state")), false)?;
            (
                memory,
                None,
                snapshot.join("kernel"),
                snapshot.join("initrd"),
                state,
            )
        }
        Start::Boot {
            kernel,
            initrd,
            freeze_to,
        } => {
            let folder = freeze_to.as_deref().unwrap_or(dir);
            let memory = snapshot::new_memory(u64::from(machine.memory_mib) << 20)?;
            let frozen = freeze_to.as_ref().map(|_| memory.try_clone());
            let state = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(folder.join(format!("{node}.state")))?;
            let (kernel, initrd) = (kernel.clone(), initrd.clone());
            (memory, frozen.transpose()?, kernel, initrd, state)
        }
    };
    let memory_fd = inherited.give(memory);
    // What a clone writes is its own. A machine that boots writes to what it was given: pages of memory that is mapped
    // privately would be there twice.
    let share = match spec.start {
        Start::Clone { .. } => "off",
        Start::Boot { .. } => "on",
    };
    arg(
        "-object",
        format!(
            "memory-backend-file,id=mem,size={}M,mem-path=/faultline/memory,share={share},merge=off",
            machine.memory_mib
        ),
    );

    // The kernel is needed again when somebody reboots the guest.
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
    // With an id QEMU tells when the guest's side is opened and closed.
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
    // (`docs/decisions/0012-freed-memory.md`). A kernel that relies on finding zeros in it doesn't report, for it is told
    // that it must not rely on that. The host asks for none.
    arg(
        "-device",
        "virtio-balloon-pci,id=memory,free-page-reporting=on,page-poison=off".to_owned(),
    );
    if matches!(spec.start, Start::Clone { .. }) {
        arg("-incoming", "defer".to_owned());
    }

    // By descriptor too: the program may lie in a folder that QEMU's user can't enter.
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
    // SAFETY: between fork and exec only async-signal-safe system calls are made; the vector was made before.
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
            // After the change of user, which clears it: no QEMU outlives its launcher.
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            Ok(())
        });
    }
    let child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => io::Error::new(
            e.kind(),
            format!("{PROGRAM} is not installed; `faultline doctor` says what to install"),
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
            memory: frozen,
            state,
        }),
        _ => Err(io::ErrorKind::Other.into()),
    }
}

/// No group but, under KVM, the one that may open its device. Async-signal-safe.
fn set_groups(group: Option<libc::gid_t>) -> libc::c_int {
    // SAFETY: the kernel reads as many ids as it is told, from a pointer that is valid for the call.
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

/// QEMU's version as its own first line says it.
pub fn version() -> io::Result<String> {
    let out = std::process::Command::new(PROGRAM)
        .arg("--version")
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Makes an empty overlay of a size in MiB.
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
