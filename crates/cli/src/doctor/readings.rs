//! Reads the state of a machine. Judges nothing.

use std::{
    fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use faultline_domain::{memory::Memory, template::Form};
use faultline_image::{
    bake, build,
    cache::{Cache, free},
    go,
    recipe::Recipe,
    sources::Sources,
};
use faultline_launcher::{
    accel::{self, Verdict},
    cgroup, qemu,
    spec::Accelerator,
};

/// All readings.
#[derive(Debug, Clone)]
pub struct Readings {
    /// True if this program runs as root.
    pub root: bool,
    /// Missing programs, each with the Debian package that has it.
    pub missing: Vec<(&'static str, &'static str)>,
    /// Missing files of this installation.
    pub parts: Vec<&'static str>,
    /// The verdict on KVM; `None` if there is no kernel to boot.
    pub accelerator: Option<Result<Verdict, String>>,
    /// The version of the Go compiler, as it prints it.
    pub go: Option<String>,
    /// Control groups.
    pub control_groups: ControlGroups,
    /// True if `/dev/net/tun` exists.
    pub tun: bool,
    /// The memory of this machine, if its kernel reports it.
    pub memory: Option<Memory>,
    /// True if the kernel merges identical pages.
    pub merging: bool,
    /// The folder in which images are built.
    pub cache: Disk,
    /// The folder of environments.
    pub data: Disk,
    /// The recipes and their images.
    pub images: Images,
    /// The server's ports.
    pub ports: Vec<Port>,
}

/// The control groups of this machine.
#[derive(Debug, Clone)]
pub struct ControlGroups {
    /// The version: 1 or 2.
    pub version: u8,
    /// The mount point.
    pub folder: &'static str,
    /// True if groups can be created there.
    pub writable: bool,
}

/// A folder's file system.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The folder, which may not exist yet.
    pub folder: PathBuf,
    /// The free space in MiB, if it is known.
    pub free: Option<u64>,
}

/// The recipes and their images.
#[derive(Debug, Clone)]
pub struct Images {
    /// The folder of recipes.
    pub recipes: PathBuf,
    /// True if it contains recipes.
    pub any: bool,
    /// The images that are built.
    pub ready: Vec<String>,
}

/// A port of the server.
#[derive(Debug, Clone)]
pub struct Port {
    /// The purpose.
    pub who: &'static str,
    /// The port number.
    pub number: u16,
    /// The process that holds the port.
    pub held: Held,
}

/// The process that holds a port.
#[derive(Debug, Clone)]
pub enum Held {
    /// Nobody.
    Free,
    /// A Faultline server.
    Ours,
    /// Another program, by name if known, and the error of binding the port.
    Other(Option<String>, String),
}

/// The programs that Faultline runs, each with the Debian package that has it.
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

impl Readings {
    /// Reads everything. Ports are tried by binding them on loopback.
    pub fn take(
        recipes: &Path,
        sources: &Sources,
        data: &Path,
        ports: &[(&'static str, u16)],
    ) -> Self {
        let cache = Cache::of_user();
        Self {
            root: rustix::process::geteuid().is_root(),
            missing: missing(),
            parts: parts(),
            accelerator: accelerator(recipes, &cache),
            go: go::version().ok(),
            control_groups: control_groups(),
            tun: Path::new("/dev/net/tun").exists(),
            memory: fs::read_to_string("/proc/meminfo")
                .ok()
                .as_deref()
                .and_then(Memory::parse),
            merging: fs::read_to_string("/sys/kernel/mm/ksm/run").is_ok_and(|t| t.trim() == "1"),
            cache: Disk::of(cache.folder()),
            data: Disk::of(data),
            images: images(recipes, sources, &cache),
            ports: ports.iter().map(|(who, n)| Port::ask(who, *n)).collect(),
        }
    }
}

impl Disk {
    /// Reads the file system of a folder, which may not exist yet.
    pub fn of(folder: &Path) -> Self {
        let existing = folder
            .ancestors()
            .find(|p| p.exists())
            .unwrap_or(Path::new("/"));
        Self {
            folder: folder.to_owned(),
            free: free(existing).ok().map(|bytes| bytes >> 20),
        }
    }
}

impl Port {
    /// Tries to bind the port on loopback.
    pub fn ask(who: &'static str, number: u16) -> Self {
        let held = match TcpListener::bind(("127.0.0.1", number)) {
            Ok(_) => Held::Free,
            Err(e) => match holder(number) {
                Some(name) if name == "faultline" => Held::Ours,
                name => Held::Other(name, e.to_string()),
            },
        };
        Self { who, number, held }
    }
}

fn missing() -> Vec<(&'static str, &'static str)> {
    let paths: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|p| std::env::split_paths(&p).collect())
        .unwrap_or_default();
    PROGRAMS
        .into_iter()
        .filter(|(program, _)| !paths.iter().any(|p| p.join(program).exists()))
        .collect()
}

fn parts() -> Vec<&'static str> {
    let helper = build::helper().is_err().then_some(build::HELPER);
    let shim = qemu::shim().is_err().then_some(qemu::SHIM);
    helper.into_iter().chain(shim).collect()
}

fn accelerator(recipes: &Path, cache: &Cache) -> Option<Result<Verdict, String>> {
    let folder = bake::accelerator(cache);
    let names = Recipe::names(recipes);
    let images = names
        .iter()
        .filter_map(|name| Recipe::load(recipes, name).ok())
        .filter_map(|recipe| build::image_key(&recipe).ok())
        .filter_map(|key| cache.get("disk", &key))
        .map(|folder| folder.join("kernel"))
        .filter(|path| path.exists());
    let mut kernels: Vec<PathBuf> = images.collect();
    if kernels.is_empty() {
        kernels.extend(newest_kernel());
    }
    let found = kernels.iter().map(|kernel| accel::detect(kernel, &folder));
    // Images may have different kernels; a failure with any of them is reported.
    let worst = |a: Result<Verdict, _>, b: Result<Verdict, _>| match &a {
        Ok(verdict) if verdict.accelerator() == Accelerator::Kvm => b,
        _ => a,
    };
    Some(found.reduce(worst)?.map_err(|e: io::Error| e.to_string()))
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

fn control_groups() -> ControlGroups {
    let version = cgroup::version();
    let folder = if version == 2 {
        "/sys/fs/cgroup"
    } else {
        "/sys/fs/cgroup/memory"
    };
    ControlGroups {
        version,
        folder,
        writable: rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok(),
    }
}

fn images(recipes: &Path, sources: &Sources, cache: &Cache) -> Images {
    let names = Recipe::names(recipes);
    Images {
        recipes: recipes.to_owned(),
        any: !names.is_empty(),
        ready: names
            .into_iter()
            .filter(|name| {
                crate::sources::template(recipes, name, Form::default())
                    .is_ok_and(|of| matches!(sources.template(recipes, &of, cache), Ok(Some(_))))
            })
            .collect(),
    }
}

fn holder(port: u16) -> Option<String> {
    let out = Command::new("ss")
        .args(["-Hltnp", &format!("sport = :{port}")])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    // A child that was just forked holds the port too, under the name of the thread that forked it.
    if text.contains("(\"faultline\",") {
        return Some("faultline".to_owned());
    }
    let name = text.split("users:((\"").nth(1)?.split('"').next()?;
    Some(name.to_owned())
}
