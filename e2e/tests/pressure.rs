//! Real machines in a control group with little memory: pools give back theirs first, an unused machine is suspended after
//! a notice, the next one starts, and nobody's work is lost.
//!
//! How much memory there is follows from what the machines were measured to use, so that each step is reached. Needs root
//! and `scripts/build dev`. Takes five minutes, since the notice alone takes two.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use faultline_e2e::installation::{Installation, step, workspace};

/// Labs on one machine.
const LABS: [&str; 3] = ["orders-api-upgrade", "inventory-name", "bridge-gone"];
/// What stays free, and what a start is assumed to need, in MiB.
const RESERVE: u64 = 60;
const NEED: u64 = 130;

/// Starts a lab and fills memory that the host can't share or take back. Returns the environment and the checksum of
/// what is in its memory.
fn busy(here: &Installation, lab: &str) -> (String, String) {
    let id = here.ask(&["env", "start", lab])["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let fill = "head -c 100M /dev/urandom > /dev/shm/work; md5sum < /dev/shm/work";
    let work = here.on(&id, fill);
    assert_eq!(work.len(), 35, "{work}");
    (id, work)
}

fn phase(here: &Installation, id: &str) -> (String, bool) {
    let e = here.ask(&["env", "show", id]);
    let phase = e["phase"].as_str().unwrap().to_owned();
    (phase, e["on_disk"] == true)
}

fn warm(here: &Installation) -> u64 {
    let pools = here.ask(&["pool", "list"]);
    let all = pools["pools"].as_array().unwrap();
    all.iter().map(|p| p["warm"].as_u64().unwrap()).sum()
}

/// Returns the free memory and what pools use, in MiB.
fn memory(here: &Installation) -> (u64, u64) {
    let of = here.ask(&["capacity"])["memory"].clone();
    let mib = |name: &str| of[name].as_u64().unwrap();
    (mib("free_mib"), mib("pools_mib"))
}

/// The same once it has stayed so for a while: machines give back what their start needed.
fn settled(here: &Installation) -> (u64, u64) {
    let mut all = vec![memory(here)];
    until("the machines settle", 60, || {
        std::thread::sleep(Duration::from_secs(3));
        all.push(memory(here));
        matches!(all.as_slice(), [.., before, now] if now.0.abs_diff(before.0) <= 2)
    });
    all[all.len() - 1]
}

fn until(what: &str, patience: u64, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(patience), "{what}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Serves with this much memory for all machines; those that run go on.
fn serve_with(here: &mut Installation, config: &Path, labs: &Path, memory_mib: u64) {
    let settings = format!(
        "labs = {labs:?}\nmemory_mib = {memory_mib}\n[server]\nreserve_memory_mib = {RESERVE}\n\
         node_memory_mib = {NEED}\nunused_minutes = 0\n[server.pools]\nmax_tenants = 1\n"
    );
    std::fs::write(config, settings).unwrap();
    here.config = Some(config.to_owned());
    if here.server.is_some() {
        here.down();
    }
    here.up();
}

/// The kernel has killed nothing in the group of all machines.
fn nothing_was_killed() {
    let oom = std::fs::read_to_string("/sys/fs/cgroup/memory/faultline/memory.oom_control")
        .or_else(|_| std::fs::read_to_string("/sys/fs/cgroup/faultline/memory.events"))
        .unwrap();
    let kills = oom.lines().find(|l| l.starts_with("oom_kill ")).unwrap();
    assert_eq!(kills, "oom_kill 0");
}

#[test]
#[ignore = "takes five minutes"]
fn under_pressure_pools_shrink_then_the_unused_are_suspended_and_nothing_is_lost() {
    const PLENTY: u64 = 2000;
    // While images of clusters are built, pools are not filled.
    let labs = tempfile::tempdir().unwrap();
    for lab in LABS {
        let from = workspace().join("labs").join(lab);
        let mut copy = Command::new("cp");
        copy.arg("-r").arg(from).arg(labs.path());
        assert!(copy.status().unwrap().success());
    }
    let config = tempfile::NamedTempFile::new().unwrap();
    let (config, labs) = (config.path(), labs.path());
    let mut here = Installation::new();
    serve_with(&mut here, config, labs, PLENTY);
    let (unused, work) = busy(&here, LABS[0]);
    let (used, _) = busy(&here, LABS[1]);
    step("with enough memory, a pool is filled");
    here.ask(&["pool", "set", LABS[2], "--floor", "1"]);
    until("the pool has no tenant", 200, || warm(&here) == 1);
    let (free, pools) = settled(&here);
    let all = PLENTY - free;
    assert!(pools > 20, "a paused tenant has {pools} MiB of its own");

    step("if there is less memory than in use, the pool gives its tenant back");
    let limit = all - pools / 2 + RESERVE;
    serve_with(&mut here, config, labs, limit);
    step(&format!(
        "{all} MiB were in use, {pools} of them by the pool; now there are {limit}"
    ));
    until("the pool keeps its tenant", 60, || warm(&here) == 0);
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(warm(&here), 0, "it is not refilled");
    let left = |id: &str| here.ask(&["env", "show", id])["seconds_left"].as_i64();
    for id in [&unused, &used] {
        assert_eq!(phase(&here, id), ("active".to_owned(), false));
        assert!(left(id).is_some_and(|left| left > 120), "nobody has notice");
    }

    step("a start waits, and the unused machine gets notice");
    let mut waiting = here
        .command()
        .args(["env", "start", LABS[2]])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("nobody gets notice", 60, || {
        here.on(&used, "true");
        left(&unused).is_some_and(|left| left <= 120)
    });
    assert_eq!(warm(&here), 0, "pools gave back theirs before");
    assert_eq!(
        phase(&here, &unused),
        ("active".to_owned(), false),
        "it has two minutes"
    );

    step("it is suspended, and the start gets its memory");
    let began = Instant::now();
    let done = loop {
        here.on(&used, "true");
        if let Some(status) = waiting.try_wait().unwrap() {
            break status;
        }
        assert!(began.elapsed() < Duration::from_secs(300), "it still waits");
        std::thread::sleep(Duration::from_secs(2));
    };
    assert!(done.success());
    assert_eq!(phase(&here, &unused), ("suspended".to_owned(), true));
    assert_eq!(phase(&here, &used), ("active".to_owned(), false));
    nothing_was_killed();

    step("what was suspended comes back whole when there is room");
    here.ask(&["env", "end", &used]);
    here.ask(&["env", "resume", &unused]);
    assert_eq!(here.on(&unused, "md5sum < /dev/shm/work"), work);
    nothing_was_killed();
    here.down();
    // The limit is of all installations on this machine. A start without it removes it.
    here.config = None;
    here.up();
    here.down();
}
