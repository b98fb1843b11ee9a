//! The host's disk is full: new work is refused before it starts, and running machines continue once there is space
//! again. Needs root, `scripts/build dev` and the image of plain machines.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use faultline_e2e::installation::{Installation, text};
use serde_json::{Value, json};

/// A data folder on its own file system, which is unmounted on drop.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path, options: &str) -> Self {
        let disk = Self(folder.to_owned());
        disk.set(options);
        disk
    }

    fn set(&self, options: &str) {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&self.0)
            .status()
            .unwrap();
        assert!(mounted.success(), "{options}");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_reported_and_survived() {
    let mut here = Installation::new();
    let disk = SmallDisk::mount(here.data.path(), "size=400m");
    let config = here.data.path().join("small.toml");
    std::fs::write(
        &config,
        "[server]\nreserve_disk_mib = 50\nnode_disk_mib = 100\n",
    )
    .unwrap();
    here.config = Some(config);
    let said = here.up_on(here.ports()).output().unwrap();
    let words = text(&said.stdout);
    assert!(
        !said.status.success() && words.contains("for environments in"),
        "{words}"
    );
    // The disk becomes small once the server runs.
    disk.set("remount,size=1200m");
    here.up();
    disk.set("remount,size=400m");
    let ballast = here.data.path().join("ballast");
    std::fs::write(&ballast, vec![0; 300 << 20]).unwrap();
    let refused = here.run(&["env", "start", "orders-api-upgrade"]);
    assert!(
        !refused.status.success() && text(&refused.stderr).contains("disk"),
        "{}",
        text(&refused.stderr)
    );
    // With no space at all, starts are refused, nothing hangs, and no data is lost.
    let more = here.data.path().join("more");
    let _ = std::fs::write(&more, vec![0; 200 << 20]);
    let full = here.run(&["env", "start", "orders-api-upgrade"]);
    assert!(!full.status.success(), "{}", text(&full.stdout));
    std::fs::remove_file(more).unwrap();
    std::fs::remove_file(ballast).unwrap();
    let began = Instant::now();
    let id = loop {
        let started = here.run(&["--output", "json", "env", "start", "orders-api-upgrade"]);
        if started.status.success() {
            let said: Value = serde_json::from_slice(&started.stdout).unwrap();
            break said["id"].as_str().unwrap().to_owned();
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{}",
            text(&started.stderr)
        );
        std::thread::sleep(Duration::from_secs(1));
    };
    saving_needs_space(&here, &id);
    continues_after_a_full_disk(&mut here, &disk, &id);
    // Purging can't remove the folder itself, because it is a mount point, but removes everything in it.
    let _ = here.run(&["down", "--purge", "--keep-images", "--yes"]);
    here.server.take().unwrap().wait().unwrap();
    assert!(
        !here.data.path().join("tenants").exists(),
        "tenants are left"
    );
}

/// Leaves this many MiB free on the small disk. Returns the file that fills it.
fn fill(here: &Installation, leave_mib: u64) -> PathBuf {
    let ballast = here.data.path().join("ballast");
    let disk = rustix::fs::statvfs(here.data.path()).unwrap();
    let free = disk.f_bavail * disk.f_frsize;
    let bytes = free.saturating_sub(leave_mib << 20);
    std::fs::write(&ballast, vec![0; usize::try_from(bytes).unwrap()]).unwrap();
    ballast
}

/// Sends a request to an environment's launcher, as the server does, and returns its answer.
fn ask_launcher(tenant: &Path, request: &Value) -> String {
    let mut socket = UnixStream::connect(tenant.join("launcher.sock")).unwrap();
    socket.write_all(format!("{request}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(socket).read_line(&mut answer).unwrap();
    answer
}

/// Saving is refused without enough space. If the disk fills up meanwhile, nothing is left of the save point, and the
/// machine runs on.
fn saving_needs_space(here: &Installation, id: &str) {
    let ballast = fill(here, 51);
    let refused = here.run(&["env", "save", id]);
    let words = text(&refused.stderr);
    assert!(
        !refused.status.success() && words.contains("too little disk space"),
        "{words}"
    );
    std::fs::remove_file(&ballast).unwrap();
    let ballast = fill(here, 4);
    let (tenant, folder) = (here.tenant(id).unwrap(), here.data.path().join("nodes"));
    let request = json!({ "version": 1, "ask": { "op": "save", "folder": folder } });
    let answer = ask_launcher(&tenant, &request);
    assert!(
        answer.contains("refused") && answer.contains("No space left"),
        "{answer}"
    );
    assert!(!folder.exists() && !tenant.join("save").exists());
    let runs = here.run(&["ssh", id, "--", "echo", "it runs"]);
    assert!(
        text(&runs.stdout).contains("it runs"),
        "{}",
        text(&runs.stderr)
    );
    std::fs::remove_file(ballast).unwrap();
    let saved = here.run(&["env", "save", id, "--name", "with space"]);
    assert!(saved.status.success(), "{}", text(&saved.stderr));
    let deleted = here.run(&["env", "delete-save", "with space"]);
    assert!(deleted.status.success(), "{}", text(&deleted.stderr));
}

/// A machine that writes while the host's disk is full is stopped, even if the server is killed. Once there is space
/// again, it continues, and its write succeeds.
fn continues_after_a_full_disk(here: &mut Installation, disk: &SmallDisk, id: &str) {
    let write = "sleep 4; dd if=/dev/urandom of=/root/big bs=1M count=48 conv=fsync && sha256sum /root/big >/root/sum";
    let begun = here.run(&[
        "ssh",
        id,
        "--",
        &format!("nohup sh -c '{write}' >/root/log 2>&1 &"),
    ]);
    assert!(begun.status.success(), "{}", text(&begun.stderr));
    let ballast = here.data.path().join("ballast");
    let filled = std::fs::write(&ballast, vec![0; 400 << 20]);
    assert!(filled.is_err(), "the disk is not full");
    std::thread::sleep(Duration::from_secs(10));
    // The machine is stopped, because its disk has no space for the rest of the write.
    let overlay = here.tenant(id).unwrap().join("node1.qcow2");
    let written = overlay.metadata().unwrap().len();
    assert!(written < 48 << 20, "it wrote all: {written} bytes");
    here.kill_server();
    std::fs::remove_file(ballast).unwrap();
    disk.set("remount,size=1200m");
    here.up();
    here.until(id, "active");
    let began = Instant::now();
    loop {
        let whole = here.run(&[
            "ssh",
            id,
            "--",
            "sha256sum --check /root/sum; cat /root/log",
        ]);
        let words = text(&whole.stdout);
        if words.contains("/root/big: OK") {
            break;
        }
        assert!(
            began.elapsed() < Duration::from_secs(90),
            "{words}{}",
            text(&whole.stderr)
        );
        std::thread::sleep(Duration::from_secs(1));
    }
}
