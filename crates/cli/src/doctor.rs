//! `faultline doctor`: what this machine can do, each finding with its consequence and its cure.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Args;
use faultline_domain::Shape;
use faultline_image::{
    cache::Cache,
    recipe::Recipe,
    sources::{Choice, Sources},
};
use faultline_launcher::{accel, cgroup, spec::Accelerator};
use serde::Serialize;

use crate::{Output, sources::SourceArgs};

/// What the doctor looks at.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The recipes' folder
    #[arg(long, env = "FAULTLINE_IMAGES", default_value = "images")]
    recipes: PathBuf,
    #[command(flatten)]
    sources: SourceArgs,
    /// The web page's port
    #[arg(long, default_value_t = crate::config::HTTP_PORT)]
    http_port: u16,
    /// The SSH gateway's port
    #[arg(long, default_value_t = crate::config::SSH_PORT)]
    ssh_port: u16,
    /// The port of the gateway of API servers
    #[arg(long, default_value_t = crate::config::KUBE_PORT)]
    kube_port: u16,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// As it should be.
    Good,
    /// It works, with less comfort.
    Warning,
    /// Nothing can start until it is mended.
    Fatal,
}

/// One finding.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// How it stands.
    pub grade: Grade,
    /// What was seen.
    pub seen: String,
    /// What follows from it.
    pub consequence: String,
    /// What to do about it; empty when nothing.
    pub cure: String,
}

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

/// Programs that Faultline runs, with the Debian packages that bring them.
const PROGRAMS: [(&str, &str); 10] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-img", "qemu-utils"),
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("nft", "nftables"),
    ("tar", "tar"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
];

/// Memory below which nothing is started, in MiB: an environment and the server.
const MIN_MEMORY_MIB: u64 = 1024;
/// Disk below which no image is built, in MiB.
const MIN_DISK_MIB: u64 = 6 * 1024;
/// Disk below which no environment of an image that is there is started, in MiB.
const MIN_ENVIRONMENT_DISK_MIB: u64 = 1024;

/// Looks at everything, prints it; fails when a finding is fatal.
pub fn run(args: &DoctorArgs, output: Output) -> anyhow::Result<()> {
    let findings = examine(
        &args.recipes,
        &args.sources.sources(),
        &ports(args.http_port, args.ssh_port, args.kube_port),
    );
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&findings)?),
        Output::Text => print_all(&findings),
    }
    let fatal = findings.iter().filter(|f| f.grade == Grade::Fatal).count();
    anyhow::ensure!(
        fatal == 0,
        "{fatal} finding(s) keep Faultline from starting on this machine"
    );
    Ok(())
}

/// The ports that the server listens on, with what each is for.
pub const fn ports(http: u16, ssh: u16, kube: u16) -> [(&'static str, u16); 3] {
    [
        ("web page", http),
        ("SSH gateway", ssh),
        ("gateway of API servers", kube),
    ]
}

/// Prints findings for people.
pub fn print_all(findings: &[Finding]) {
    for finding in findings {
        let mark = match finding.grade {
            Grade::Good => "✓",
            Grade::Warning => "!",
            Grade::Fatal => "✗",
        };
        println!("{mark} {}: {}", finding.what, finding.seen);
        println!("    {}", finding.consequence);
        if !finding.cure.is_empty() {
            println!("    → {}", finding.cure);
        }
    }
}

/// All findings. Ports are tried by binding them on loopback.
pub fn examine(recipes: &Path, sources: &Sources, ports: &[(&'static str, u16)]) -> Vec<Finding> {
    let mut findings = vec![
        root(),
        programs(),
        accelerator(recipes),
        go(sources),
        control_groups(),
        devices(),
    ];
    let cache = Cache::of_user();
    let image = image(recipes, sources, &cache);
    findings.push(memory());
    findings.extend(merging());
    findings.push(disk(cache.folder(), image.grade == Grade::Good));
    findings.push(image);
    findings.extend(ports.iter().map(|(who, port)| self::port(who, *port)));
    findings
}

fn root() -> Finding {
    if rustix::process::geteuid().is_root() {
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

fn programs() -> Finding {
    let paths: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|p| std::env::split_paths(&p).collect())
        .unwrap_or_default();
    let missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, _)| !paths.iter().any(|p| p.join(program).exists()))
        .collect();
    if missing.is_empty() {
        return Finding::good(
            "programs",
            "all are here",
            "Images can be built and environments started.",
        );
    }
    let names: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    Finding::bad(
        "programs",
        Grade::Fatal,
        format!("missing: {}", names.join(", ")),
        "Images can't be built or environments not started.",
        format!("apt-get install {}", packages.join(" ")),
    )
}

fn accelerator(recipes: &Path) -> Finding {
    let cache = Cache::of_user();
    let kernel = Recipe::names(recipes)
        .iter()
        .filter_map(|name| Recipe::load(recipes, name).ok())
        .filter_map(|recipe| faultline_image::build::image_key(&recipe).ok())
        .filter_map(|key| cache.get("disk", &key))
        .map(|folder| folder.join("kernel"))
        .chain(newest_kernel())
        .find(|path| path.exists());
    let slow = "Guests run about ten times slower than on bare metal; everything works.";
    let Some(kernel) = kernel else {
        return Finding::bad(
            "virtualisation",
            Grade::Warning,
            "not known yet: no kernel is here to boot",
            slow,
            "build an image first (faultline image build debian-12), then ask again",
        );
    };
    match accel::detect(&kernel, &cache.folder().join("accelerator")) {
        Ok(verdict) if verdict.accelerator == Accelerator::Kvm => Finding::good(
            "virtualisation",
            format!("KVM: {}", verdict.reason),
            "Guests run at the machine's own speed.",
        ),
        Ok(verdict) => Finding::bad(
            "virtualisation",
            Grade::Warning,
            format!("software emulation: {}", verdict.reason),
            slow,
            "use a machine with KVM, or turn on (nested) virtualisation in its firmware or hypervisor",
        ),
        Err(e) => Finding::bad(
            "virtualisation",
            Grade::Warning,
            format!("could not be tried: {e}"),
            slow,
            "install qemu-system-x86",
        ),
    }
}

fn newest_kernel() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir("/boot")
        .ok()?
        .flatten()
        .map(|e| e.path())
        .filter(|p| {
            p.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-"))
        })
        .collect();
    found.sort();
    found.pop()
}

fn control_groups() -> Finding {
    let version = cgroup::version();
    let writable = |path: &str| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
    let root = if version == 2 {
        "/sys/fs/cgroup"
    } else {
        "/sys/fs/cgroup/memory"
    };
    if !Path::new(root).exists() || !writable(root) {
        return Finding::bad(
            "control groups",
            Grade::Fatal,
            format!("{root} is missing or can't be written"),
            "Nothing bounds what an environment uses.",
            "mount the cgroup2 file system, or run outside a container that hides it",
        );
    }
    if version == 2 {
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

/// Clusters are built from Go modules unless official releases are wanted; plain machines never are.
fn go(sources: &Sources) -> Finding {
    if sources.from == Choice::Official {
        return Finding::good(
            "Go",
            "not asked for",
            "Images of clusters are made of official releases.",
        );
    }
    let found = std::process::Command::new("go")
        .arg("version")
        .env("GOTOOLCHAIN", "local")
        .output();
    match found {
        Ok(out) if out.status.success() => Finding::good(
            "Go",
            String::from_utf8_lossy(&out.stdout).trim().to_owned(),
            "Images of clusters can be built.",
        ),
        _ => Finding::bad(
            "Go",
            Grade::Warning,
            "not installed",
            "Labs with a cluster can't be prepared; all others work.",
            "install Go 1.26 or newer and put its bin folder into PATH, or have official releases fetched (--source official)",
        ),
    }
}

fn devices() -> Finding {
    if Path::new("/dev/net/tun").exists() {
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

fn memory() -> Finding {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| -> u64 {
        text.lines()
            .find_map(|l| l.strip_prefix(name))
            .and_then(|l| l.split_whitespace().next())
            .and_then(|n| n.parse().ok())
            .unwrap_or(0)
            / 1024
    };
    let (total, free) = (field("MemTotal:"), field("MemAvailable:"));
    let seen = format!("{free} MiB free of {total}");
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

/// Only when the kernel merges pages: guests could find out what others hold (`docs/security.md`).
fn merging() -> Option<Finding> {
    let run = fs::read_to_string("/sys/kernel/mm/ksm/run").ok()?;
    (run.trim() == "1").then(|| {
        Finding::bad(
            "page merging",
            Grade::Warning,
            "the kernel merges identical pages (KSM)",
            "A guest may find out, by timing, what another guest's memory holds.",
            "echo 2 > /sys/kernel/mm/ksm/run, unless all guests trust each other",
        )
    })
}

/// Whether images can be built in this cache, and environments written; `built` when no image is missing.
fn disk(folder: &Path, built: bool) -> Finding {
    let existing = folder
        .ancestors()
        .find(|p| p.exists())
        .unwrap_or(Path::new("/"));
    let Ok(stat) = rustix::fs::statvfs(existing) else {
        return Finding::bad(
            "disk",
            Grade::Warning,
            "could not be asked",
            "Free space is not known.",
            "",
        );
    };
    let free = stat.f_bavail * stat.f_frsize / (1 << 20);
    let seen = format!("{free} MiB free for the cache in {}", folder.display());
    let (least, consequence) = if built {
        (
            MIN_ENVIRONMENT_DISK_MIB,
            "No environment has room for what is written in it.",
        )
    } else {
        (MIN_DISK_MIB, "No image can be built.")
    };
    let cure = |mib: u64| {
        format!(
            "free some (`faultline image prune` removes what images no longer need), or set FAULTLINE_CACHE to a folder with {mib} MiB"
        )
    };
    if free < least {
        return Finding::bad("disk", Grade::Fatal, seen, consequence, cure(least));
    }
    if free < MIN_DISK_MIB {
        let consequence = "Environments start; no further image can be built.";
        return Finding::bad(
            "disk",
            Grade::Warning,
            seen,
            consequence,
            cure(MIN_DISK_MIB),
        );
    }
    Finding::good("disk", seen, "Images and environments fit.")
}

fn image(recipes: &Path, sources: &Sources, cache: &Cache) -> Finding {
    let names = Recipe::names(recipes);
    if names.is_empty() {
        return Finding::bad(
            "images",
            Grade::Fatal,
            format!("no recipe in {}", recipes.display()),
            "No lab can start.",
            "give the folder with --recipes",
        );
    }
    let ready: Vec<_> = names
        .iter()
        .filter(|name| {
            sources
                .template(recipes, name, Shape::SINGLE, cache)
                .is_ok_and(|t| t.is_some())
        })
        .cloned()
        .collect();
    if ready.is_empty() {
        Finding::bad(
            "images",
            Grade::Warning,
            "none is baked yet",
            "The first start takes a few minutes.",
            "faultline image build debian-12 does it ahead of time",
        )
    } else {
        Finding::good(
            "images",
            format!("ready: {}", ready.join(", ")),
            "Labs start at once.",
        )
    }
}

fn port(who: &'static str, port: u16) -> Finding {
    match TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Finding::good(
            "port",
            format!("{port} for the {who} is free"),
            "It can be served.",
        ),
        Err(_) if holder(port) == "faultline" => Finding::good(
            "port",
            format!("{port} for the {who} is Faultline's own"),
            "The server runs.",
        ),
        Err(e) => Finding::bad(
            "port",
            Grade::Fatal,
            format!("{port} for the {who}: {e}"),
            "The server can't listen there.",
            format!(
                "end what uses it ({}), or choose another port",
                holder(port)
            ),
        ),
    }
}

fn holder(port: u16) -> String {
    let out = Command::new("ss")
        .args(["-Hltnp", &format!("sport = :{port}")])
        .output();
    out.ok()
        .and_then(|out| {
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            text.split("users:((\"")
                .nth(1)
                .and_then(|t| t.split('"').next())
                .map(str::to_owned)
        })
        .unwrap_or_else(|| "`ss -ltnp` says what".to_owned())
}
