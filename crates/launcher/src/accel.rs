//! KVM or emulation, found out by booting.
//!
//! `/dev/kvm` can open, make a VM, and still be unable to run a guest (nested virtualisation that lacks a feature). KVM is
//! tried in two steps. First a kernel is booted until it says its first word: that takes a moment, and finds the
//! processor features that the host refuses. The full boot is the first bake; `image/src/bake.rs` records how it went.
//!
//! ```text
//! first word ─┬─► FirstWord ─┬─ a bake succeeds ───────────────────────► Works
//!             │              └─ a bake fails, and not under emulation ─► Fails   (from Works too)
//!             └─► Fails
//! ```
//!
//! What was found is kept by QEMU, both kernels and the processor, until [`forget`].

mod first_word;
mod refused;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    qemu::{KVM_CPU, PROGRAM, version},
    spec::Accelerator,
};

/// What is known of KVM on this machine. `cpu` is the `-cpu` argument that it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kvm", rename_all = "snake_case")]
pub enum Kvm {
    /// `/dev/kvm` does not exist, or can't be opened. Never kept.
    Missing,
    /// A kernel says its first word. No image was booted yet.
    FirstWord {
        /// QEMU's processor argument.
        cpu: String,
    },
    /// An image was booted, settled and frozen.
    Works {
        /// QEMU's processor argument.
        cpu: String,
        /// The image and its shape, for people.
        image: String,
    },
    /// It can't be used.
    Fails {
        /// Why, for people.
        reason: String,
    },
}

impl fmt::Display for Kvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("/dev/kvm does not exist, or can't be opened"),
            Self::FirstWord { .. } => {
                f.write_str("a kernel says its first word; no image was booted yet")
            }
            Self::Works { image, .. } => write!(f, "image {image} was booted and frozen"),
            Self::Fails { reason } => f.write_str(reason),
        }
    }
}

/// Whether KVM is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What it follows from.
    pub kvm: Kvm,
    /// When that was found out, if it is kept.
    pub since: Option<SystemTime>,
}

impl Verdict {
    /// A verdict that is not kept.
    #[must_use]
    pub const fn of(kvm: Kvm) -> Self {
        Self { kvm, since: None }
    }

    /// What to use.
    #[must_use]
    pub const fn accelerator(&self) -> Accelerator {
        match self.kvm {
            Kvm::FirstWord { .. } | Kvm::Works { .. } => Accelerator::Kvm,
            Kvm::Missing | Kvm::Fails { .. } => Accelerator::Tcg,
        }
    }

    /// QEMU's processor argument under KVM.
    #[must_use]
    pub fn kvm_cpu(&self) -> &str {
        match &self.kvm {
            Kvm::FirstWord { cpu } | Kvm::Works { cpu, .. } => cpu,
            Kvm::Missing | Kvm::Fails { .. } => KVM_CPU,
        }
    }

    /// True when an image was booted under KVM.
    #[must_use]
    pub const fn is_proven(&self) -> bool {
        matches!(self.kvm, Kvm::Works { .. })
    }
}

/// What distinguishes this machine's processor and QEMU; a snapshot taken under KVM is of use only where it is
/// the same.
pub fn machine_identity() -> io::Result<String> {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut hash = Sha256::new();
    for line in info.lines().take_while(|l| !l.is_empty()) {
        if ["vendor_id", "model name", "stepping", "flags"]
            .iter()
            .any(|key| line.starts_with(key))
        {
            hash.update(line.as_bytes());
        }
    }
    Ok(format!(
        "{} / {}",
        version()?,
        hex::encode(hash.finalize()).get(..16).unwrap_or_default()
    ))
}

/// The processor's name, which says how fast its time stamp counter counts. A guest under emulation sees that counter as
/// it is, and goes on counting seconds by it for as long as it lives.
pub fn processor_name() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name"));
    name.unwrap_or_default()
        .trim_start_matches(['\t', ' ', ':'])
        .to_owned()
}

/// Finds out whether this machine can run `kernel` under KVM. Boots it until its first word, unless something is kept in
/// the folder `cache`.
pub fn detect(kernel: &Path, cache: &Path) -> io::Result<Verdict> {
    if fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(Verdict::of(Kvm::Missing));
    }
    let path = path(kernel, cache)?;
    if let Some(kept) = load(&path) {
        return Ok(kept);
    }
    fs::create_dir_all(cache)?;
    let kvm = first_word::listen(Path::new(PROGRAM), kernel, cache)?;
    save(&path, &kvm)?;
    Ok(load(&path).unwrap_or(Verdict::of(kvm)))
}

/// Keeps what a bake has found out of KVM.
pub fn record(kernel: &Path, cache: &Path, kvm: &Kvm) -> io::Result<()> {
    fs::create_dir_all(cache)?;
    save(&path(kernel, cache)?, kvm)
}

/// Removes all that is kept, so that KVM is tried again.
pub fn forget(cache: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(cache) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("kvm-") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Where it is kept what is known of KVM with this kernel. The host's kernel has a part, since KVM is a part of it.
fn path(kernel: &Path, cache: &Path) -> io::Result<PathBuf> {
    let size = fs::metadata(kernel)?.len();
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let key = format!("{} {size} {}", machine_identity()?, host.trim());
    let key = hex::encode(Sha256::digest(key));
    Ok(cache.join(format!("kvm-{}.json", key.get(..16).unwrap_or_default())))
}

fn load(path: &Path) -> Option<Verdict> {
    let kvm = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let since = fs::metadata(path).and_then(|m| m.modified()).ok();
    Some(Verdict { kvm, since })
}

fn save(path: &Path, kvm: &Kvm) -> io::Result<()> {
    let draft = path.with_extension(format!("{:08x}", rand::random::<u32>()));
    fs::write(&draft, serde_json::to_vec_pretty(kvm)?)?;
    fs::rename(draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kvm-0123.json");
        assert_eq!(load(&path), None);
        for kvm in [
            Kvm::FirstWord {
                cpu: "host".to_owned(),
            },
            Kvm::Works {
                cpu: "host,-vmx".to_owned(),
                image: "debian-12".to_owned(),
            },
            Kvm::Fails {
                reason: "it does".to_owned(),
            },
        ] {
            save(&path, &kvm).unwrap();
            let kept = load(&path).unwrap();
            assert_eq!(kept.kvm, kvm);
            assert!(kept.since.is_some());
        }
        // As a version before this one kept it.
        fs::write(dir.path().join("kvm-4567"), "works\n").unwrap();
        assert_eq!(load(&dir.path().join("kvm-4567")), None);
        fs::write(dir.path().join("other"), "").unwrap();
        forget(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        forget(&dir.path().join("missing")).unwrap();
    }

    #[test]
    fn kvm_is_used_from_the_first_word_on_and_proven_by_an_image() {
        let cpu = "host,-vmx".to_owned();
        let heard = Verdict::of(Kvm::FirstWord { cpu: cpu.clone() });
        let works = Verdict::of(Kvm::Works {
            cpu,
            image: String::new(),
        });
        let fails = Verdict::of(Kvm::Fails {
            reason: String::new(),
        });
        let seen = |v: &Verdict| (v.accelerator(), v.is_proven());
        assert_eq!(seen(&heard), (Accelerator::Kvm, false));
        assert_eq!(seen(&works), (Accelerator::Kvm, true));
        assert_eq!(seen(&fails), (Accelerator::Tcg, false));
        assert_eq!(seen(&Verdict::of(Kvm::Missing)), (Accelerator::Tcg, false));
        assert_eq!(
            (heard.kvm_cpu(), works.kvm_cpu()),
            ("host,-vmx", "host,-vmx")
        );
    }
}
