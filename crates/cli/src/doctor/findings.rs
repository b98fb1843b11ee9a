//! Judges the readings: what follows from them and what to do. Reads nothing itself.

use faultline_domain::memory::Memory;
use faultline_image::go;
use faultline_launcher::accel::{Kvm, Verdict};
use jiff::Timestamp;

use super::{
    Finding, Grade,
    readings::{ControlGroups, Disk, Held, Images, Port, Readings},
};

/// The minimum of memory, in MiB: for one environment and the server.
pub const MIN_MEMORY_MIB: u64 = 1024;
/// The minimum of disk space for building an image, in MiB.
pub const MIN_DISK_MIB: u64 = 6 * 1024;
/// The minimum of disk space for starting an environment, in MiB.
pub const MIN_ENVIRONMENT_DISK_MIB: u64 = 1024;

impl Finding {
    fn good(what: &'static str, seen: impl Into<String>, consequence: impl Into<String>) -> Self {
        Self {
            what,
            grade: Grade::Good,
            seen: seen.into(),
            consequence: consequence.into(),
            cure: String::new(),
        }
    }

    fn bad(
        what: &'static str,
        grade: Grade,
        seen: impl Into<String>,
        consequence: &str,
        cure: impl Into<String>,
    ) -> Self {
        Self {
            what,
            grade,
            seen: seen.into(),
            consequence: consequence.to_owned(),
            cure: cure.into(),
        }
    }
}

/// Returns a finding for each reading.
pub fn judge(seen: &Readings) -> Vec<Finding> {
    let mut findings = vec![
        root(seen.root),
        programs(&seen.missing),
        accelerator(seen),
        go(seen.go.as_ref()),
        control_groups(&seen.control_groups),
        devices(seen.tun),
        memory(seen.memory),
    ];
    findings.extend(parts(&seen.parts));
    findings.extend(merging(seen.merging));
    findings.push(cache(&seen.cache, !seen.images.ready.is_empty()));
    findings.push(data(&seen.data));
    findings.push(images(&seen.images));
    findings.extend(seen.ports.iter().map(port));
    findings
}

/// Judges whether the configured mail server answers.
pub fn mail(host: &str, port: u16, probed: Result<(), String>) -> Finding {
    let what = "mail server";
    match probed {
        Ok(()) => Finding::good(
            what,
            format!("{host}, port {port}, answers"),
            "Invitations, links and notices can be mailed.",
        ),
        Err(problem) => Finding::bad(
            what,
            Grade::Warning,
            format!("{host}, port {port}: {problem}"),
            "Mail waits for a day, and is then given up.",
            "Check the section [server.mail] of the configuration, and that this machine may connect to the mail server.",
        ),
    }
}

fn root(is_root: bool) -> Finding {
    if is_root {
        Finding::good(
            "user",
            "root",
            "Network namespaces, control groups and QEMU's own users can be made.",
        )
    } else {
        Finding::bad(
            "user",
            Grade::Fatal,
            "not root",
            "Namespaces, control groups and unprivileged QEMU users can't be made.",
            "run it as root: sudo faultline …",
        )
    }
}

fn programs(missing: &[(&str, &str)]) -> Finding {
    if missing.is_empty() {
        return Finding::good(
            "programs",
            "all are here",
            "Images can be built and environments started.",
        );
    }
    let (names, mut packages): (Vec<_>, Vec<_>) = missing.iter().copied().unzip();
    packages.dedup();
    Finding::bad(
        "programs",
        Grade::Fatal,
        format!("missing: {}", names.join(", ")),
        "Images can't be built or environments not started.",
        format!("apt-get install {}", packages.join(" ")),
    )
}

/// Reports missing parts of the installation.
fn parts(missing: &[&str]) -> Option<Finding> {
    (!missing.is_empty()).then(|| {
        Finding::bad(
            "parts of the program",
            Grade::Fatal,
            format!("not beside it: {}", missing.join(", ")),
            "Images can't be built or environments not started.",
            "run scripts/build, which makes them; copy them together with the program",
        )
    })
}

fn accelerator(seen: &Readings) -> Finding {
    let bad = |seen: String, cure: &str| {
        Finding::bad(
            "virtualisation",
            Grade::Warning,
            seen,
            "Guests run about ten times slower than on bare metal; everything works.",
            cure,
        )
    };
    let verdict = match &seen.accelerator {
        None => {
            return bad(
                "not known yet: no kernel is here to boot".to_owned(),
                "build an image first (faultline image build debian-12), then ask again",
            );
        }
        Some(Err(e)) => {
            return bad(
                format!("could not be tried: {e}"),
                "install qemu-system-x86",
            );
        }
        Some(Ok(verdict)) => verdict,
    };
    let (kvm, since) = (&verdict.kvm, since(verdict));
    match kvm {
        Kvm::Missing => bad(
            format!("software emulation: {kvm}"),
            "use a machine with KVM, or turn on (nested) virtualisation in its firmware or hypervisor",
        ),
        Kvm::Fails { .. } => bad(
            format!("software emulation, since KVM failed{since}: {kvm}"),
            "use a machine with KVM, or turn on (nested) virtualisation in its firmware or hypervisor; \
             then `faultline doctor --try-kvm-again`",
        ),
        Kvm::FirstWord { cpu } => Finding::good(
            "virtualisation",
            format!("KVM{}, tried in part{since}: {kvm}", without(cpu)),
            "The next image that is baked boots under KVM; should that fail, it is baked under emulation.",
        ),
        Kvm::Works { cpu, .. } => Finding::good(
            "virtualisation",
            format!("KVM{}, tried{since}: {kvm}", without(cpu)),
            "Guests run at the machine's own speed.",
        ),
    }
}

/// Formats the time of a verdict.
fn since(verdict: &Verdict) -> String {
    let at = verdict.since.and_then(|at| Timestamp::try_from(at).ok());
    at.map_or_else(String::new, |at| {
        format!(" on {}", at.strftime("%Y-%m-%d at %H:%M UTC"))
    })
}

/// Names the features of the host's processor that guests don't get.
fn without(cpu: &str) -> String {
    let refused: Vec<&str> = cpu.split(",-").skip(1).collect();
    if refused.is_empty() {
        return String::new();
    }
    format!(" without {}, which this host refuses", refused.join(", "))
}

fn go(seen: Option<&String>) -> Finding {
    let seen = match seen {
        Some(version) if go::is_new_enough(version) => {
            return Finding::good("Go", version.as_str(), "Images of clusters can be built.");
        }
        Some(old) => old,
        None => "not installed",
    };
    Finding::bad(
        "Go",
        Grade::Warning,
        seen,
        "Labs with a cluster can't be prepared; all others work.",
        "scripts/install-go installs it for Faultline alone; or put Go 1.26.4 or newer into PATH",
    )
}

fn control_groups(seen: &ControlGroups) -> Finding {
    if !seen.writable {
        return Finding::bad(
            "control groups",
            Grade::Fatal,
            format!("{} is missing or can't be written", seen.folder),
            "Nothing bounds what an environment uses.",
            "mount the cgroup2 file system, or run outside a container that hides it",
        );
    }
    if seen.version == 2 {
        Finding::good(
            "control groups",
            "version 2",
            "CPU, memory, processes and I/O of environments are limited.",
        )
    } else {
        Finding::bad(
            "control groups",
            Grade::Warning,
            "version 1",
            "CPU, memory and processes are limited; I/O only by weight where the kernel has it.",
            "boot with systemd.unified_cgroup_hierarchy=1 for version 2",
        )
    }
}

fn devices(tun: bool) -> Finding {
    if tun {
        Finding::good("network device", "/dev/net/tun", "Nodes can be cabled.")
    } else {
        Finding::bad(
            "network device",
            Grade::Fatal,
            "/dev/net/tun is missing",
            "Nodes have no network.",
            "modprobe tun",
        )
    }
}

fn memory(memory: Option<Memory>) -> Finding {
    let Some(memory) = memory else {
        return Finding::bad(
            "memory",
            Grade::Warning,
            "/proc/meminfo doesn't say how much there is",
            "Environments may be started that don't fit.",
            "mount /proc, and ask again",
        );
    };
    let free = memory.available_mib;
    let seen = format!("{free} MiB free of {}", memory.total_mib);
    if free < MIN_MEMORY_MIB {
        return Finding::bad(
            "memory",
            Grade::Fatal,
            seen,
            "Not one environment fits.",
            "end other programs, or use a larger machine",
        );
    }
    Finding::good(
        "memory",
        seen,
        format!(
            "Room for about {} small environments at once.",
            free.saturating_sub(512) / 320
        ),
    )
}

/// Warns if the kernel merges pages: guests could find out what others hold (`docs/security.md`).
fn merging(merges: bool) -> Option<Finding> {
    merges.then(|| {
        Finding::bad(
            "page merging",
            Grade::Warning,
            "the kernel merges identical pages (KSM)",
            "A guest may find out, by timing, what another guest's memory holds.",
            "echo 2 > /sys/kernel/mm/ksm/run, unless all guests trust each other",
        )
    })
}

/// What a folder needs space for, and the consequence of too little.
struct Room {
    of: &'static str,
    least: u64,
    enough: &'static str,
    grade: Grade,
    lacking: &'static str,
    cure: &'static str,
}

impl Room {
    fn judge(&self, disk: &Disk) -> Finding {
        let folder = disk.folder.display();
        let Some(free) = disk.free else {
            return Finding::bad(
                "disk",
                Grade::Warning,
                format!("the free space of {folder} could not be read"),
                "It is unknown whether there is enough space.",
                format!("see what `df {folder}` says"),
            );
        };
        let seen = format!("{free} MiB free for {} in {folder}", self.of);
        if free >= self.least {
            return Finding::good("disk", seen, self.enough);
        }
        Finding::bad(
            "disk",
            self.grade,
            seen,
            self.lacking,
            format!("{} with {} MiB", self.cure, self.least),
        )
    }
}

/// Judges the space for building images. If some images are `built`, their labs start even without it.
fn cache(disk: &Disk, built: bool) -> Finding {
    let (grade, lacking) = if built {
        (Grade::Warning, "No further image can be built.")
    } else {
        (Grade::Fatal, "No image can be built.")
    };
    let room = Room {
        of: "the cache",
        least: MIN_DISK_MIB,
        enough: "Images can be built.",
        grade,
        lacking,
        cure: "free some (`faultline image prune` removes what images no longer need), or set FAULTLINE_CACHE to a folder",
    };
    room.judge(disk)
}

/// Judges the space that environments write to, which may be on another file system than the cache.
fn data(disk: &Disk) -> Finding {
    let room = Room {
        of: "environments",
        least: MIN_ENVIRONMENT_DISK_MIB,
        enough: "Environments have room for what is written in them.",
        grade: Grade::Fatal,
        lacking: "No environment has room for what is written in it.",
        cure: "free some, or set FAULTLINE_DATA to a folder",
    };
    room.judge(disk)
}

fn images(seen: &Images) -> Finding {
    if !seen.any {
        return Finding::bad(
            "images",
            Grade::Fatal,
            format!("no recipe in {}", seen.recipes.display()),
            "No lab can start.",
            "name a folder of recipes with --images, or none: the program has its own",
        );
    }
    if seen.ready.is_empty() {
        return Finding::bad(
            "images",
            Grade::Warning,
            "none is baked yet",
            "The first start takes a few minutes.",
            "faultline image build debian-12 does it ahead of time",
        );
    }
    Finding::good(
        "images",
        format!("ready: {}", seen.ready.join(", ")),
        "Labs start at once.",
    )
}

fn port(Port { who, number, held }: &Port) -> Finding {
    match held {
        Held::Free => Finding::good(
            "port",
            format!("{number} for the {who} is free"),
            "It can be served.",
        ),
        Held::Ours => Finding::good(
            "port",
            format!("{number} for the {who} is Faultline's own"),
            "The server runs.",
        ),
        Held::Other(name, error) => Finding::bad(
            "port",
            Grade::Fatal,
            format!("{number} for the {who}: {error}"),
            "The server can't listen there.",
            format!(
                "end what uses it ({}), or choose another port",
                name.as_deref().unwrap_or("`ss -ltnp` says what")
            ),
        ),
    }
}
