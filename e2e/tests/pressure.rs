//! Real machines in a control group with little memory: pools give back theirs, an unused machine is suspended after a
//! notice, the next one starts, and nobody's work is lost.
//!
//! Needs root and `scripts/build dev`. Takes five minutes, since the notice alone takes two.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use faultline_e2e::installation::{Installation, step, text, workspace};
use serde_json::Value;

/// Labs on one machine.
const LABS: [&str; 3] = ["orders-api-upgrade", "inventory-name", "bridge-gone"];

fn ask(here: &Installation, args: &[&str]) -> Value {
    let out = here.run(&[&["--output", "json"], args].concat());
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn on(here: &Installation, id: &str, command: &str) -> String {
    let out = here.run(&["ssh", id, "--", command]);
    text(&out.stdout).trim().to_owned()
}

fn start(here: &Installation, lab: &str) -> String {
    ask(here, &["env", "start", lab])["id"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Uses memory that the host can't share or take back, and returns its checksum.
fn fill(here: &Installation, id: &str, mib: u32) -> String {
    let command = format!("head -c {mib}M /dev/urandom > /dev/shm/work; md5sum < /dev/shm/work");
    on(here, id, &command)
}

fn phase(here: &Installation, id: &str) -> (String, bool) {
    let e = ask(here, &["env", "show", id]);
    let phase = e["phase"].as_str().unwrap().to_owned();
    (phase, e["on_disk"] == true)
}

fn warm(here: &Installation) -> u64 {
    let pools = ask(here, &["pool", "list"]);
    let all = pools["pools"].as_array().unwrap();
    all.iter().map(|p| p["warm"].as_u64().unwrap()).sum()
}

fn until(what: &str, patience: u64, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(patience), "{what}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
#[ignore = "takes five minutes"]
fn under_pressure_pools_shrink_then_the_unused_are_suspended_and_nothing_is_lost() {
    // While images of clusters are built, pools are not filled.
    let labs = tempfile::tempdir().unwrap();
    for lab in LABS {
        let from = workspace().join("labs").join(lab);
        let mut copy = Command::new("cp");
        copy.arg("-r").arg(from).arg(labs.path());
        assert!(copy.status().unwrap().success());
    }
    let config = tempfile::NamedTempFile::new().unwrap();
    let limits = "memory_mib = 480\n[server]\nreserve_memory_mib = 60\nnode_memory_mib = 130\n\
                   unused_minutes = 0\n[server.pools]\nmax_tenants = 1\n";
    let settings = format!("labs = {:?}\n{limits}", labs.path());
    std::fs::write(config.path(), settings).unwrap();
    let mut here = Installation::new();
    here.config = Some(config.path().to_owned());
    here.up();

    step("a pool is filled while there is memory");
    ask(&here, &["pool", "set", LABS[2], "--floor", "1"]);
    until("the pool has no tenant", 120, || warm(&here) == 1);
    let unused = start(&here, LABS[0]);
    let work = fill(&here, &unused, 100);
    assert_eq!(work.len(), 35, "{work}");

    step("it gives its tenant back for the next start, and is not refilled");
    let used = start(&here, LABS[1]);
    fill(&here, &used, 100);
    until("the pool keeps its tenant", 60, || warm(&here) == 0);
    assert_eq!(phase(&here, &unused), ("active".to_owned(), false));

    step("the unused machine is suspended after a notice, and the waiting start gets its memory");
    let mut waiting = here
        .command()
        .args(["env", "start", LABS[2]])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("nobody gets notice", 60, || {
        on(&here, &used, "true");
        ask(&here, &["env", "show", &unused])["seconds_left"]
            .as_i64()
            .is_some_and(|left| left <= 120)
    });
    assert_eq!(
        phase(&here, &unused),
        ("active".to_owned(), false),
        "it has two minutes"
    );
    let began = Instant::now();
    let done = loop {
        on(&here, &used, "true");
        if let Some(status) = waiting.try_wait().unwrap() {
            break status;
        }
        assert!(began.elapsed() < Duration::from_secs(240), "it still waits");
        std::thread::sleep(Duration::from_secs(2));
    };
    assert!(done.success());
    assert_eq!(phase(&here, &unused), ("suspended".to_owned(), true));
    assert_eq!(phase(&here, &used), ("active".to_owned(), false));

    step("the kernel has killed nothing");
    let group = "/sys/fs/cgroup/memory/faultline/memory.oom_control";
    let oom = std::fs::read_to_string(group)
        .or_else(|_| std::fs::read_to_string("/sys/fs/cgroup/faultline/memory.events"))
        .unwrap();
    let kills = oom.lines().find(|l| l.starts_with("oom_kill ")).unwrap();
    assert_eq!(kills, "oom_kill 0");

    step("what was suspended comes back whole when there is room");
    ask(&here, &["env", "end", &used]);
    ask(&here, &["env", "resume", &unused]);
    assert_eq!(on(&here, &unused, "md5sum < /dev/shm/work"), work);
    here.down();
    // The limit is of all installations on this machine. A start without it removes it.
    here.config = None;
    here.up();
    here.down();
}
