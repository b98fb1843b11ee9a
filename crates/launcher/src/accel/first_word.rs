//! The quick test of KVM: boots a kernel alone until its first message on the serial console.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{Kvm, refused::refused};
use crate::qemu::KVM_CPU;

/// The time limit for a kernel's first message under KVM. It usually takes a tenth of a second.
const FIRST_WORD: Duration = Duration::from_secs(8);
/// The maximum length of a QEMU message in a reason, in characters.
const MAX_MESSAGE: usize = 300;

/// The result of a boot.
enum Outcome {
    Word,
    Nothing,
    /// QEMU exited with these messages.
    End(String),
}

/// Boots `kernel` with the QEMU at `program`. If QEMU exits because the host refuses processor features, it is started
/// again without them. `folder` is for temporary files.
pub(super) fn listen(program: &Path, kernel: &Path, folder: &Path) -> io::Result<Kvm> {
    let mut cpu = KVM_CPU.to_owned();
    loop {
        let said = match boot(program, kernel, folder, &cpu)? {
            Outcome::Word => return Ok(Kvm::FirstWord { cpu }),
            Outcome::Nothing => {
                let reason = format!(
                    "a kernel printed nothing within {} s (-cpu {cpu})",
                    FIRST_WORD.as_secs()
                );
                return Ok(Kvm::Fails { reason });
            }
            Outcome::End(said) => said,
        };
        let before = cpu.len();
        for feature in refused(&said) {
            let without = format!(",-{feature}");
            if !format!("{cpu},").contains(&format!("{without},")) {
                cpu.push_str(&without);
            }
        }
        if cpu.len() == before {
            let said: String = said.trim().chars().take(MAX_MESSAGE).collect();
            let reason = format!(
                "QEMU exited before a kernel printed anything (-cpu {cpu}): {}",
                said.replace('\n', " | ")
            );
            return Ok(Kvm::Fails { reason });
        }
    }
}

fn boot(program: &Path, kernel: &Path, folder: &Path, cpu: &str) -> io::Result<Outcome> {
    let name = format!("first-word-{:08x}", rand::random::<u32>());
    let (serial, messages) = (
        folder.join(format!("{name}.serial")),
        folder.join(format!("{name}.log")),
    );
    let outcome = run(program, kernel, cpu, &serial, &messages);
    let _ = fs::remove_file(serial);
    let _ = fs::remove_file(messages);
    outcome
}

fn run(
    program: &Path,
    kernel: &Path,
    cpu: &str,
    serial: &Path,
    messages: &Path,
) -> io::Result<Outcome> {
    let mut child = Command::new(program)
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args(["-machine", "q35,accel=kvm", "-cpu", cpu, "-m", "128M"])
        .args(["-append", "console=ttyS0 panic=-1", "-kernel"])
        .arg(kernel)
        .arg("-serial")
        .arg(format!("file:{}", serial.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(messages)?)
        .spawn()?;
    let spoke = || {
        fs::read(serial).is_ok_and(|text| String::from_utf8_lossy(&text).contains("Linux version"))
    };
    let began = Instant::now();
    let outcome = loop {
        std::thread::sleep(Duration::from_millis(50));
        let ended = child.try_wait()?.is_some();
        if spoke() {
            break Outcome::Word;
        }
        if ended {
            let said = fs::read(messages)?;
            break Outcome::End(String::from_utf8_lossy(&said).into_owned());
        }
        if began.elapsed() > FIRST_WORD {
            break Outcome::Nothing;
        }
    };
    let _ = child.kill();
    let _ = child.wait();
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the test with a script instead of QEMU; `$cpu` is the processor argument, `$serial` the console's file.
    fn outcome(script: &str) -> Kvm {
        let [dir, apart] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let (program, text) = (dir.path().join("qemu"), apart.path().join("qemu"));
        let head = "#!/bin/bash\n\
            while [ $# -gt 0 ]; do\n\
            case $1 in -cpu) cpu=$2 ;; -serial) serial=${2#file:} ;; esac; shift; done\n";
        fs::write(&text, format!("{head}{script}\n")).unwrap();
        // Written by another process: what another test starts meanwhile may still hold a file that this one wrote open,
        // and a program that is open for writing can't be run.
        let mut install = Command::new("install");
        let installed = install.args(["-m", "755"]).args([&text, &program]).status();
        assert!(installed.unwrap().success());
        let kvm = listen(&program, Path::new("/kernel"), dir.path()).unwrap();
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "files are left"
        );
        kvm
    }

    fn first_word(cpu: &str) -> Kvm {
        Kvm::FirstWord {
            cpu: cpu.to_owned(),
        }
    }

    const REFUSES: &str = "\
        refuses() { case $cpu, in *,-$1,*) ;; *) echo \"qemu: error: failed to set MSR $2 to 0x69\" >&2; exit 134 ;; esac; }\n";

    #[test]
    fn features_that_the_host_refuses_are_left_out() {
        let speaks = "echo 'Linux version 6.1' > $serial; sleep 9";
        assert_eq!(outcome(speaks), first_word("host"));
        let one = format!("{REFUSES}refuses arch-capabilities 0x10a; {speaks}");
        assert_eq!(outcome(&one), first_word("host,-arch-capabilities"));
        let two = format!("{REFUSES}refuses arch-capabilities 0x10a; refuses vmx 0x48b; {speaks}");
        assert_eq!(outcome(&two), first_word("host,-arch-capabilities,-vmx"));
    }

    #[test]
    fn a_qemu_that_ends_for_another_reason_or_all_the_same_is_a_failure() {
        let fails = |script: &str, why: &str| match outcome(script) {
            Kvm::Fails { reason } => assert!(reason.contains(why), "{reason}"),
            other => panic!("{other}"),
        };
        fails("echo no memory >&2; exit 1", "(-cpu host): no memory");
        fails("exit 1", "QEMU exited");
        fails("echo 'failed to set MSR 0x1b to 0x0' >&2; exit 134", "0x1b");
        let stubborn = "echo 'failed to set MSR 0x10a to 0x69' >&2; exit 134";
        fails(stubborn, "(-cpu host,-arch-capabilities)");
    }
}
