//! Tests of judgements on made-up readings.

use std::net::TcpListener;

use faultline_domain::memory::Memory;
use faultline_launcher::accel::{Kvm, Verdict};

use super::{
    findings::{MIN_DISK_MIB, MIN_ENVIRONMENT_DISK_MIB, MIN_MEMORY_MIB, judge},
    readings::{ControlGroups, Disk, Held, Images, Port},
    *,
};

/// Returns the readings of a machine without problems.
fn good() -> Readings {
    let disk = |folder: &str| Disk {
        folder: folder.into(),
        free: Some(MIN_DISK_MIB),
    };
    Readings {
        root: true,
        missing: Vec::new(),
        parts: Vec::new(),
        accelerator: Some(Ok(Verdict::of(works("host")))),
        go: Some("go version go1.26.4 linux/amd64".to_owned()),
        control_groups: groups(2, true),
        tun: true,
        memory: Some(memory(MIN_MEMORY_MIB)),
        merging: false,
        cache: disk("/cache"),
        data: disk("/data"),
        images: Images {
            recipes: "images".into(),
            any: true,
            ready: vec!["debian-12".to_owned()],
        },
        ports: vec![port(Held::Free), port(Held::Ours)],
    }
}

fn works(cpu: &str) -> Kvm {
    Kvm::Works {
        cpu: cpu.to_owned(),
        image: "debian-12, shape 1+0,".to_owned(),
    }
}

/// Returns the finding for a verdict on KVM that was made at the epoch.
fn found_of(kvm: Kvm) -> Finding {
    let mut seen = good();
    seen.accelerator = Some(Ok(Verdict {
        kvm,
        since: Some(std::time::SystemTime::UNIX_EPOCH),
    }));
    let mut found = judge(&seen);
    found.retain(|f| f.what == "virtualisation");
    found.remove(0)
}

fn memory(available_mib: u64) -> Memory {
    Memory {
        total_mib: 4096,
        available_mib,
    }
}

fn groups(version: u8, writable: bool) -> ControlGroups {
    ControlGroups {
        version,
        folder: "/sys/fs/cgroup",
        writable,
    }
}

fn port(held: Held) -> Port {
    Port {
        who: "web page",
        number: 7890,
        held,
    }
}

/// Changes the good machine's readings and returns the only finding that is a problem.
fn lacking(change: impl FnOnce(&mut Readings)) -> Finding {
    let mut seen = good();
    change(&mut seen);
    let mut bad = judge(&seen);
    bad.retain(|f| f.grade != Grade::Good);
    assert_eq!(bad.len(), 1, "{bad:?}");
    bad.remove(0)
}

#[test]
fn a_machine_that_lacks_nothing_is_told_so() {
    for finding in judge(&good()) {
        assert_eq!(finding.grade, Grade::Good, "{finding:?}");
        assert!(!finding.seen.is_empty() && !finding.consequence.is_empty());
        assert!(finding.cure.is_empty(), "{finding:?}");
    }
}

#[test]
fn each_lack_has_its_grade_a_consequence_and_a_cure() {
    use Grade::{Fatal, Warning};
    type Lack = (Grade, &'static str, &'static str, fn(&mut Readings));
    let lacks: [Lack; 23] = [
        (Fatal, "user", "sudo", |s| s.root = false),
        (
            Fatal,
            "programs",
            "apt-get install iproute2 nftables",
            |s| {
                s.missing = vec![("ip", "iproute2"), ("tc", "iproute2"), ("nft", "nftables")];
            },
        ),
        (Fatal, "parts of the program", "scripts/build", |s| {
            s.parts = vec!["faultline-guest.static"];
        }),
        (Warning, "virtualisation", "image build", |s| {
            s.accelerator = None;
        }),
        (Warning, "virtualisation", "machine with KVM", |s| {
            s.accelerator = Some(Ok(Verdict::of(Kvm::Missing)));
        }),
        (Warning, "virtualisation", "--try-kvm-again", |s| {
            let reason = "it stops".to_owned();
            s.accelerator = Some(Ok(Verdict::of(Kvm::Fails { reason })));
        }),
        (Warning, "virtualisation", "qemu-system-x86", |s| {
            s.accelerator = Some(Err("no such file".to_owned()));
        }),
        (Warning, "Go", "install-go", |s| s.go = None),
        (Warning, "Go", "1.26.4 or newer", |s| {
            s.go = Some("go version go1.19.8 linux/amd64".to_owned());
        }),
        (Fatal, "control groups", "mount", |s| {
            s.control_groups = groups(2, false);
        }),
        (Fatal, "control groups", "mount", |s| {
            s.control_groups = groups(1, false);
        }),
        (Warning, "control groups", "unified", |s| {
            s.control_groups = groups(1, true);
        }),
        (Fatal, "network device", "modprobe tun", |s| s.tun = false),
        (Fatal, "memory", "larger machine", |s| {
            s.memory = Some(memory(MIN_MEMORY_MIB - 1));
        }),
        (Warning, "memory", "mount /proc", |s| s.memory = None),
        (Warning, "page merging", "ksm", |s| s.merging = true),
        (Warning, "disk", "FAULTLINE_CACHE", |s| {
            s.cache.free = Some(MIN_DISK_MIB - 1);
        }),
        (Warning, "disk", "df /cache", |s| s.cache.free = None),
        (Fatal, "disk", "FAULTLINE_DATA", |s| {
            s.data.free = Some(MIN_ENVIRONMENT_DISK_MIB - 1);
        }),
        (Warning, "disk", "df /data", |s| s.data.free = None),
        (Fatal, "images", "--images", |s| s.images.any = false),
        (Warning, "images", "image build", |s| s.images.ready.clear()),
        (Fatal, "port", "(nginx)", |s| {
            let name = Some("nginx".to_owned());
            s.ports = vec![port(Held::Other(name, "address in use".to_owned()))];
        }),
    ];
    for (grade, what, cure, change) in lacks {
        let found = lacking(change);
        assert_eq!((found.grade, found.what), (grade, what), "{found:?}");
        assert!(found.cure.contains(cure), "{found:?}");
        assert!(!found.seen.is_empty() && !found.consequence.is_empty());
    }
}

#[test]
fn what_is_known_of_kvm_is_told_with_its_date_and_how_far_it_was_tried() {
    let found = found_of(works("host,-arch-capabilities,-vmx"));
    assert_eq!(
        found.seen,
        "KVM without arch-capabilities, vmx, which this host refuses, tried on 1970-01-01 at 00:00 UTC: \
         image debian-12, shape 1+0, was booted and frozen"
    );
    let cpu = "host".to_owned();
    let found = found_of(Kvm::FirstWord { cpu });
    assert_eq!(found.grade, Grade::Good);
    assert!(
        found.seen.starts_with("KVM, tried in part on 1970"),
        "{found:?}"
    );
    assert!(found.consequence.contains("emulation"), "{found:?}");
    let reason = "it stops".to_owned();
    let found = found_of(Kvm::Fails { reason });
    assert_eq!(
        found.seen,
        "software emulation, since KVM failed on 1970-01-01 at 00:00 UTC: it stops"
    );
}

#[test]
fn a_port_s_holder_without_a_name_is_still_to_be_found() {
    let found = lacking(|s| s.ports.push(port(Held::Other(None, "in use".to_owned()))));
    assert!(found.cure.contains("ss -ltnp"), "{found:?}");
    assert!(found.seen.contains("7890 for the web page: in use"));
}

#[test]
fn without_an_image_too_little_disk_for_one_is_fatal() {
    let mut seen = good();
    seen.images.ready.clear();
    seen.cache.free = Some(MIN_DISK_MIB - 1);
    assert!(
        judge(&seen)
            .iter()
            .any(|f| f.what == "disk" && f.grade == Grade::Fatal)
    );
}

#[test]
fn a_folder_that_is_still_to_be_made_is_asked_where_it_will_be() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::of(&dir.path().join("not/yet"));
    assert!(disk.free.is_some_and(|mib| mib > 0), "{disk:?}");
}

#[test]
fn a_port_is_free_or_held() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = taken.local_addr().unwrap().port();
    let held = || Port::ask("web page", number).held;
    assert!(matches!(held(), Held::Other(_, e) if e.contains("in use")));
    drop(taken);
    assert!(matches!(held(), Held::Free));
}
