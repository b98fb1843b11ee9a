//! KVM or emulation, found out by booting.
//!
//! `/dev/kvm` can open, make a VM, and still be unable to run a stock kernel (nested virtualisation that lacks a
//! feature). So a kernel is booted once under KVM until it says its first word; the verdict is kept by QEMU,
//! kernel and processor.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

use crate::{
    qemu::{PROGRAM, version},
    spec::Accelerator,
};

/// How long a kernel may take to say its first word under KVM; it needs a tenth of a second.
const FIRST_WORD: Duration = Duration::from_secs(8);

/// What was found, and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    /// What to use.
    pub accelerator: Accelerator,
    /// Why, for people.
    pub reason: String,
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

/// Finds out what this machine can do, by booting `kernel` unless it was done before with the same parts.
pub fn detect(kernel: &Path, cache: &Path) -> io::Result<Verdict> {
    let tcg = |reason: &str| Verdict {
        accelerator: Accelerator::Tcg,
        reason: reason.to_owned(),
    };
    if fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(tcg("there is no /dev/kvm, or it may not be opened"));
    }
    let size = fs::metadata(kernel)?.len();
    let key = hex::encode(Sha256::digest(format!("{} {size}", machine_identity()?)));
    let kept = cache.join(format!("kvm-{}", key.get(..16).unwrap_or_default()));
    let works = match fs::read_to_string(&kept) {
        Ok(text) => text.trim() == "works",
        Err(_) => {
            let works = boots_under_kvm(kernel)?;
            fs::create_dir_all(cache)?;
            fs::write(&kept, if works { "works\n" } else { "fails\n" })?;
            works
        }
    };
    Ok(if works {
        Verdict {
            accelerator: Accelerator::Kvm,
            reason: "a kernel booted under KVM".to_owned(),
        }
    } else {
        tcg("/dev/kvm opens, but a kernel does not boot under it")
    })
}

fn boots_under_kvm(kernel: &Path) -> io::Result<bool> {
    let log = tempfile_path();
    let mut child = Command::new(PROGRAM)
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args([
            "-machine",
            "q35,accel=kvm",
            "-cpu",
            "host",
            "-m",
            "128M",
            "-append",
            "console=ttyS0 panic=-1",
        ])
        .arg("-kernel")
        .arg(kernel)
        .arg("-serial")
        .arg(format!("file:{}", log.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let began = Instant::now();
    let mut spoke = false;
    while !spoke && began.elapsed() < FIRST_WORD {
        std::thread::sleep(Duration::from_millis(50));
        spoke = fs::read_to_string(&log).is_ok_and(|text| text.contains("Linux version"));
        if child.try_wait()?.is_some() {
            spoke =
                spoke || fs::read_to_string(&log).is_ok_and(|text| text.contains("Linux version"));
            break;
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    let _ = fs::remove_file(log);
    Ok(spoke)
}

fn tempfile_path() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("faultline-kvm-{}.log", std::process::id()))
}
