//! Decides between KVM and emulation, by booting.
//!
//! `/dev/kvm` may open and make a VM, but still be unable to run a guest, such as in nested virtualisation that lacks a
//! feature. So KVM is tested in two steps. First, a kernel is booted until its first message: this is quick, and finds
//! the processor features that the host refuses. The second step is the first bake, which boots fully;
//! `image/src/bake.rs` records the result.
//!
//! ```text
//! first word ─┬─► FirstWord ─┬─ a bake succeeds ───────────────────────► Works
//!             │              └─ a bake fails, and not under emulation ─► Fails   (from Works too)
//!             └─► Fails
//! ```
//!
//! The result is stored per QEMU version, host kernel, guest kernel and processor, until [`forget`].

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

/// What is known about KVM on this machine. `cpu` is the `-cpu` argument that works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kvm", rename_all = "snake_case")]
pub enum Kvm {
    /// `/dev/kvm` does not exist or can't be opened. This is never stored.
    Missing,
    /// A kernel prints its first message. No image was booted yet.
    FirstWord {
        /// QEMU's processor argument.
        cpu: String,
    },
    /// An image was booted, settled and frozen.
    Works {
        /// QEMU's processor argument.
        cpu: String,
        /// The image and its shape, as a message for people.
        image: String,
    },
    /// KVM can't be used.
    Fails {
        /// The reason, as a message for people.
        reason: String,
    },
}

impl fmt::Display for Kvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("/dev/kvm does not exist or can't be opened"),
            Self::FirstWord { .. } => {
                f.write_str("a kernel prints its first message; no image was booted yet")
            }
            Self::Works { image, .. } => write!(f, "image {image} was booted and frozen"),
            Self::Fails { reason } => f.write_str(reason),
        }
    }
}

/// Whether KVM is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What is known about KVM.
    pub kvm: Kvm,
    /// When the result was stored, if it is.
    pub since: Option<SystemTime>,
}

impl Verdict {
    /// Returns a verdict that is not stored.
    #[must_use]
    pub const fn of(kvm: Kvm) -> Self {
        Self { kvm, since: None }
    }

    /// Returns the accelerator to use.
    #[must_use]
    pub const fn accelerator(&self) -> Accelerator {
        match self.kvm {
            Kvm::FirstWord { .. } | Kvm::Works { .. } => Accelerator::Kvm,
            Kvm::Missing | Kvm::Fails { .. } => Accelerator::Tcg,
        }
    }

    /// Returns QEMU's processor argument under KVM.
    #[must_use]
    pub fn kvm_cpu(&self) -> &str {
        match &self.kvm {
            Kvm::FirstWord { cpu } | Kvm::Works { cpu, .. } => cpu,
            Kvm::Missing | Kvm::Fails { .. } => KVM_CPU,
        }
    }

    /// Returns true if an image was booted under KVM.
    #[must_use]
    pub const fn is_proven(&self) -> bool {
        matches!(self.kvm, Kvm::Works { .. })
    }
}

/// Returns an identifier of this machine's processor and QEMU. A snapshot taken under KVM can only be used if it is the
/// same.
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

/// Returns the processor's name, which determines the rate of its time stamp counter. A guest under emulation sees that
/// counter directly, and keeps time by the rate that it measured when it booted.
pub fn processor_name() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name"));
    name.unwrap_or_default()
        .trim_start_matches(['\t', ' ', ':'])
        .to_owned()
}

/// Finds out whether this machine can run `kernel` under KVM. Boots it until its first message, unless a result is
/// stored in the folder `cache`.
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

/// Stores what a bake found out about KVM.
pub fn record(kernel: &Path, cache: &Path, kvm: &Kvm) -> io::Result<()> {
    fs::create_dir_all(cache)?;
    save(&path(kernel, cache)?, kvm)
}

/// Removes the stored results, so that KVM is tested again.
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

/// Returns the file with the result for this guest kernel. Its name also depends on the host's kernel, which KVM is
/// part of.
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
        // The format of an earlier version.
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
