//! The local provider against real VMs: conformance, what only a machine has, isolation, and faults.
//!
//! It is a single test, since two cores can run only one VM test at a time. Its parts run one after another and print
//! what they do. Needs root, QEMU, and a build by `scripts/build dev` (`./test` does that).
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test: a broken expectation ends it"
)]

use std::{
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use faultline_domain::{NodeName, Shape, TemplateRef, TenantId, progress::Progress};
use faultline_guest::{
    client,
    wire::{Exec, HostKey, Pty, Refresh},
};
use faultline_image::{bake, cache::Cache, recipe::Recipe};
use faultline_launcher::{cgroup, client as launcher, protocol::Phase, spec::LaunchSpec};
use faultline_provider::{
    Observed, Provider, Target,
    conformance::{self, expect_output, guest, tenant},
};
use faultline_tenancy_local::Local;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const IMAGE: &str = "debian-12";

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// The program that is run as the launcher, built by `scripts/build dev` into the folder above this test's.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("faultline");
    assert!(
        program.exists(),
        "run scripts/build dev first: {} is missing",
        program.display()
    );
    program
}

async fn shell(provider: &dyn Provider, id: &TenantId, script: &str) -> client::Finished {
    run(provider, id, script, false).await
}

async fn run(
    provider: &dyn Provider,
    id: &TenantId,
    script: &str,
    trusted: bool,
) -> client::Finished {
    let exec = Exec {
        argv: vec!["/usr/bin/bash".into(), "-c".into(), script.into()],
        timeout_seconds: Some(60),
        trusted,
        ..Exec::default()
    };
    client::run(guest(provider, id).await, exec, 64 * 1024)
        .await
        .unwrap()
}

async fn out(provider: &dyn Provider, id: &TenantId, script: &str) -> String {
    let done = shell(provider, id, script).await;
    assert_eq!(
        done.code,
        0,
        "{script}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn local_provider() {
    let data = tempfile::tempdir().unwrap();
    let recipes = workspace().join("images");
    let cache = Cache::of_user();
    let recipe = Recipe::load(&recipes, IMAGE).unwrap();
    let single = TemplateRef::plain("debian-12", Shape::SINGLE);
    bake::bake(&recipe, &single, &cache, &program(), &Progress::ignored())
        .await
        .unwrap();
    let provider = Local::new(data.path(), &recipes, cache, &program()).unwrap();

    // Left by a failed run.
    for id in ["conformance", "twin-a", "twin-b", "open", "trio"] {
        provider.destroy(&id.parse().unwrap()).await.unwrap();
    }
    step("conformance");
    conformance::run(&provider, IMAGE).await;

    let (a, b) = (tenant("twin-a", IMAGE, 1), tenant("twin-b", IMAGE, 1));
    a.create(&provider, &Progress::ignored()).await.unwrap();
    b.create(&provider, &Progress::ignored()).await.unwrap();
    step("twins differ where they must");
    twins_differ(&provider, &a.id, &b.id).await;
    step("nothing is reachable from inside");
    is_isolated(&provider, &a.id, &b.id).await;
    step("limits hold");
    limits_hold(&provider, &a.id, data.path()).await;
    step("memory that is freed comes back");
    freed_memory_comes_back(&provider, &a.id, data.path()).await;
    step("trusted tools can't be replaced");
    trusted_tools(&provider, &a.id).await;
    step("services stand still from the freeze to the refresh");
    services_are_held(&provider, &a.id).await;
    step("a line for all terminals reaches those of SSH too");
    announcement_reaches_a_passing_terminal(&provider, &a.id).await;
    step("the link comes back, the console stays");
    link_recovers(&provider, &a.id).await;
    step("a port is reached from outside");
    port_from_outside(&provider, &a.id).await;
    step("a clone that fails its probe is not handed out");
    failing_probe(&recipes).await;
    step("only what a lab opens is reached");
    egress_is_an_allowlist(&provider).await;
    step("bandwidth is bounded both ways");
    bandwidth_is_bounded(&provider).await;
    step("another provider process adopts what runs");
    let second = Local::new(data.path(), &recipes, Cache::of_user(), &program()).unwrap();
    assert_eq!(out(&second, &a.id, "echo adopted").await, "adopted");
    step("a dead QEMU and a dead launcher are seen, and freed");
    deaths_are_seen(&provider, &a.id, &b.id, data.path()).await;
    step("machines whose folder was taken away are seen, and freed");
    let lost = tenant("twin-a", IMAGE, 1);
    lost.create(&provider, &Progress::ignored()).await.unwrap();
    std::fs::remove_dir_all(data.path().join("tenants/twin-a")).unwrap();
    until_broken(&provider, &lost.id).await;
    provider.destroy(&lost.id).await.unwrap();
    assert_eq!(provider.list().await.unwrap(), []);
    assert!(
        std::fs::read_dir(data.path().join("tenants"))
            .unwrap()
            .next()
            .is_none()
    );
    assert!(
        cgroup::list()
            .iter()
            .all(|id| !["twin-a", "twin-b"].contains(&id.as_str()))
    );
}

fn step(text: &str) {
    eprintln!("· {text}");
}

async fn twins_differ(provider: &Local, a: &TenantId, b: &TenantId) {
    for script in [
        "cat /etc/machine-id",
        "head -c 32 /dev/urandom | base64",
        "cat /proc/sys/kernel/random/uuid",
        "cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub",
    ] {
        assert_ne!(
            out(provider, a, script).await,
            out(provider, b, script).await,
            "{script}"
        );
    }
    for script in [
        "hostname",
        "cat /proc/sys/kernel/random/boot_id",
        "ip -4 -o addr show eth0 | awk '{print $4}'",
    ] {
        assert_eq!(
            out(provider, a, script).await,
            out(provider, b, script).await,
            "{script}"
        );
    }
    let guest: i64 = out(provider, a, "date +%s").await.parse().unwrap();
    let host = faultline_domain::Clock::system().now().as_second();
    assert!(
        (guest - host).abs() <= 3,
        "the clock was stepped: {guest} against {host}"
    );
    assert_eq!(
        out(provider, a, "systemctl is-system-running").await,
        "running"
    );
}

async fn is_isolated(provider: &Local, a: &TenantId, b: &TenantId) {
    // Both have the same address: each reaches only itself.
    out(provider, a, "echo a > /tmp/who; cd /tmp && (python3 -m http.server 8000 > /dev/null 2>&1 &) ; for i in $(seq 50); do curl -fs -m 2 10.77.0.11:8000/who && break; sleep 0.2; done").await;
    let other = shell(provider, b, "curl -s -m 3 http://10.77.0.11:8000/who").await;
    assert_ne!(
        other.code,
        0,
        "a twin's server answered: {}",
        String::from_utf8_lossy(&other.stdout)
    );
    // Other networks, and services that the launcher's side of the bridge might offer. All at once, since a guest is
    // slow.
    let tries: String = [
        "169.254.169.254:80",
        "10.77.0.12:80",
        "192.168.1.1:80",
        "172.17.0.1:2375",
        "1.1.1.1:53",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain([22, 53, 80, 2222, 7890, 15001].map(|port| format!("10.77.0.1:{port}")))
    .map(|to| {
        let (host, port) = to.split_once(':').unwrap();
        format!("(timeout 4 bash -c '</dev/tcp/{host}/{port}' 2> /dev/null && echo {to}) & ")
    })
    .collect();
    let reached = out(provider, a, &format!("{tries} wait")).await;
    assert_eq!(reached, "", "reached from inside");
}

async fn limits_hold(provider: &Local, id: &TenantId, data: &Path) {
    let dir = data.join("tenants").join(id.as_str());
    let status = launcher::status(&dir).await.unwrap();
    let qemu = status.nodes.first().unwrap();
    let proc = format!("/proc/{}", qemu.pid);
    let text = std::fs::read_to_string(format!("{proc}/status")).unwrap();
    let field = |name: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(name))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let uid: u32 = field("Uid:")
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(uid >= 0x7000_0000, "QEMU runs as user {uid}");
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("Seccomp:"), "2", "QEMU's seccomp filter is on");
    assert_eq!(field("NoNewPrivs:"), "1");
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_ne!(
        std::fs::read_link(format!("{proc}/ns/net")).unwrap(),
        own,
        "a network namespace of its own"
    );
    for fd in std::fs::read_dir(format!("{proc}/fd")).unwrap().flatten() {
        let target = std::fs::read_link(fd.path()).unwrap_or_default();
        if target.extension().is_some_and(|e| e == "mem") {
            let info = std::fs::read_to_string(format!(
                "{proc}/fdinfo/{}",
                fd.file_name().to_string_lossy()
            ))
            .unwrap();
            let flags = info
                .lines()
                .find_map(|l| l.strip_prefix("flags:"))
                .unwrap()
                .trim();
            assert_eq!(
                u32::from_str_radix(flags, 8).unwrap() & 3,
                0,
                "the template's memory is open for reading only"
            );
        }
    }
    assert!(cgroup::is_populated(id));
    let limit = |v1: &str, v2: &str| {
        let group = |hierarchy: &str| {
            Path::new("/sys/fs/cgroup")
                .join(hierarchy)
                .join("faultline")
                .join(id.as_str())
        };
        let (hierarchy, file) = v1.split_once('/').unwrap();
        let path = if cgroup::version() == 2 {
            group("").join(v2)
        } else {
            group(hierarchy).join(file)
        };
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    };
    // The requested limits, or what its machines may use if that is more.
    let promised = LaunchSpec::load(&dir).unwrap().limits.memory_mib;
    assert!((1024..1200).contains(&promised), "{promised} MiB");
    assert_eq!(
        limit("memory/memory.limit_in_bytes", "memory.max"),
        (u64::from(promised) << 20).to_string()
    );
    assert_eq!(limit("pids/pids.max", "pids.max"), "256");
    assert!(limit("cpu/cpu.cfs_quota_us", "cpu.max").starts_with("100000"));
    let usage = provider.usage(id).await.unwrap();
    assert!(
        usage.private_bytes > 0 && usage.cpu_millis > 0 && usage.disk_bytes > 0,
        "{usage:?}"
    );
    // The disk has the size of the overlay.
    let full = shell(
        provider,
        id,
        "fallocate -l 16G /var/tmp/big; code=$?; rm -f /var/tmp/big; exit $code",
    )
    .await;
    assert_ne!(full.code, 0);
    // Its reads and writes are limited: 150 MiB at the 100 MiB/s of the conformance suite's environments.
    for disk in [
        "$(findmnt -no SOURCE /)",
        "/dev/$(lsblk -ndo NAME,SERIAL | awk '$2==\"faultline-base\"{print $1}')",
    ] {
        let began = Instant::now();
        let read = format!("dd if={disk} of=/dev/null bs=1M count=150 iflag=direct 2>&1");
        out(provider, id, &read).await;
        assert!(
            began.elapsed() > Duration::from_secs(1),
            "{disk}: {:?}",
            began.elapsed()
        );
    }
}

async fn freed_memory_comes_back(provider: &Local, id: &TenantId, data: &Path) {
    let dir = data.join("tenants").join(id.as_str());
    let mib = async || {
        let usage = launcher::usage(&dir).await.unwrap();
        usage.nodes.first().unwrap().guest_private_bytes >> 20
    };
    let before = mib().await;
    let used = out(
        provider,
        id,
        "head -c 150M /dev/zero | tail -c 150M | wc -c",
    )
    .await;
    assert_eq!(used, "157286400");
    let began = Instant::now();
    loop {
        let now = mib().await;
        if now < before + 40 {
            return;
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{now} MiB are private, {before} were"
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn trusted_tools(provider: &Local, id: &TenantId) {
    out(provider, id, "for t in ls cat systemctl bash; do mkdir -p /opt/real; cp -f /usr/bin/$t /opt/real/; done; \
        printf '#!/bin/sh\\necho fooled\\n' > /opt/fake; chmod +x /opt/fake; \
        cp /opt/fake /usr/local/bin/systemctl; mount --bind /opt/fake /usr/bin/systemctl; mount --bind /opt/fake /usr/bin/ls").await;
    assert_eq!(
        out(provider, id, "systemctl is-active dbus").await,
        "fooled"
    );
    let done = run(
        provider,
        id,
        "systemctl is-active dbus; ls -d /etc; cat /etc/hostname",
        true,
    )
    .await;
    assert_eq!(
        (done.code, String::from_utf8_lossy(&done.stdout).as_ref()),
        (0, "active\n/etc\nnode1\n"),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    out(
        provider,
        id,
        "umount /usr/bin/systemctl /usr/bin/ls; rm /usr/local/bin/systemctl",
    )
    .await;
    // Other ways to make the tools lie: preloaded code, settings, and fake files of the kernel.
    out(
        provider,
        id,
        "ln -s /.guest-usr/local/x /etc/ld.so.preload; \
         mkdir -p /opt/p/self /opt/etc; cp /opt/fake /opt/p/self/exe; echo 1 > /opt/p/uptime; \
         printf 'import os\\nos.write(1, b\"fooled\\\\n\")\\n' > /etc/python3.11/sitecustomize.py; \
         echo 'user-agent = fooled' > /root/.curlrc; echo fooled > /opt/cpus; \
         mount --bind /opt/p /proc; mount --bind /opt/cpus /sys/devices/system/cpu/online",
    )
    .await;
    let done = run(
        provider,
        id,
        "readlink /proc/self/exe; python3 -I -c 'print(1)'; ls -d /etc/ld.so.preload 2>&1 | tail -c 28; \
         ls -a ~; cat /sys/devices/system/cpu/online; echo $HOME; stat -c %a /etc/shadow",
        true,
    )
    .await;
    assert_eq!(
        (done.code, String::from_utf8_lossy(&done.stdout).as_ref()),
        (
            0,
            "/usr/bin/readlink\n1\n: No such file or directory\n.\n..\n0\n/.home\n640\n"
        ),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    // The helper isn't fooled either: with the fake uptime, the link would be lost every few seconds.
    assert!(client::ping(guest(provider, id).await).await.unwrap() > 1);
    out(
        provider,
        id,
        "python3 -c 'import ctypes; c = ctypes.CDLL(None); exit(c.umount2(b\"/proc\", 0))' > /dev/null && \
         umount /sys/devices/system/cpu/online && rm /etc/ld.so.preload /root/.curlrc /etc/python3.11/sitecustomize.py",
    )
    .await;
    // The helper is the last process to be killed for lack of memory; its children are not protected.
    let score = "cat /proc/self/oom_score_adj; cat /proc/$(pidof faultline-guest)/oom_score_adj";
    assert_eq!(out(provider, id, score).await, "0\n-1000");
    // No private mounts are left.
    assert_eq!(
        out(provider, id, "grep -c faultline-check /proc/mounts || true").await,
        "0"
    );
    // The original disk can't be written to, not even by root.
    let write = shell(provider, id, "d=$(lsblk -ndo NAME,SERIAL | awk '$2==\"faultline-base\"{print $1}'); dd if=/dev/zero of=/dev/$d bs=4096 count=1 conv=fsync").await;
    assert_ne!(write.code, 0);
}

/// A template's services are stopped until their clone is refreshed. The helper answers meanwhile.
async fn services_are_held(provider: &Local, id: &TenantId) {
    out(
        provider,
        id,
        "systemd-run -q --unit ticker bash -c 'while :; do echo >> /run/ticks; sleep 0.02; done'; \
         until [ -s /run/ticks ]; do sleep 0.1; done",
    )
    .await;
    client::hold(guest(provider, id).await).await.unwrap();
    let ticks = "wc -l < /run/ticks";
    let before = out(provider, id, ticks).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(out(provider, id, ticks).await, before);
    // A refused refresh changes nothing, and the services still continue.
    let machine = out(provider, id, "cat /etc/machine-id").await;
    let refused = Refresh {
        seed: String::new(),
        unix_nanos: 0,
        machine_id: String::new(),
        hostname: String::new(),
        host_key: HostKey {
            private: String::new(),
            public: String::new(),
        },
    };
    let answer = client::refresh(guest(provider, id).await, refused).await;
    assert!(answer.unwrap_err().to_string().contains("seed"));
    assert_eq!(out(provider, id, "cat /etc/machine-id").await, machine);
    let goes_on =
        format!("until [ $({ticks}) -gt {before} ]; do sleep 0.1; done; systemctl stop ticker");
    out(provider, id, &goes_on).await;
}

/// The probe's steps are not part of a template's key, so this clones an existing template.
async fn failing_probe(recipes: &Path) {
    let (own, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let recipe = std::fs::read_to_string(recipes.join(format!("{IMAGE}.yaml"))).unwrap();
    let probe = "probe:\n  - {text: Asking, on: first, run: 'echo the answer is no; exit 7'}\n";
    std::fs::write(
        own.path().join(format!("{IMAGE}.yaml")),
        format!("{recipe}{probe}"),
    )
    .unwrap();
    let provider = Local::new(data.path(), own.path(), Cache::of_user(), &program()).unwrap();
    let closed = tenant("open", IMAGE, 1);
    let error = closed
        .create(&provider, &Progress::ignored())
        .await
        .unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, faultline_provider::Error::Failed { stage, .. } if stage == "probe"));
    assert!(said.contains("the answer is no"), "{said}");
    provider.destroy(&closed.id).await.unwrap();
}

async fn announcement_reaches_a_passing_terminal(provider: &Local, id: &TenantId) {
    let shell = Exec {
        pty: Some(Pty {
            term: "xterm".to_owned(),
            rows: 24,
            cols: 80,
        }),
        ..Exec::default()
    };
    let mut session = client::exec(guest(provider, id).await, shell)
        .await
        .unwrap();
    session.input.stdin("echo here\r".into()).await.unwrap();
    expect_output(&mut session.output, "here").await;
    client::announce(guest(provider, id).await, "two minutes left")
        .await
        .unwrap();
    expect_output(&mut session.output, "two minutes left").await;
    session.input.stdin("exit\r".into()).await.unwrap();
    while session.output.next().await.unwrap().is_some() {}
}

/// Waits until the guest's helper answers, and still answers a moment later.
async fn answers_again(provider: &Local, id: &TenantId) {
    let node = "node1".parse().unwrap();
    let began = Instant::now();
    let mut in_a_row = 0;
    while in_a_row < 3 {
        let answered = match provider.open(id, &node, Target::Guest).await {
            Ok(stream) => client::ping(stream).await.is_ok(),
            Err(_) => false,
        };
        in_a_row = if answered { in_a_row + 1 } else { 0 };
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "the link did not come back"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn link_recovers(provider: &Local, id: &TenantId) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let node = "node1".parse().unwrap();
    let _ = client::run(
        guest(provider, id).await,
        Exec {
            argv: vec![
                "/usr/bin/bash".into(),
                "-c".into(),
                "kill -9 $(systemctl show -p MainPID --value faultline-guest)".into(),
            ],
            ..Exec::default()
        },
        1024,
    )
    .await;
    answers_again(provider, id).await;
    // Without the helper the console still gives a root shell.
    out(
        provider,
        id,
        "systemd-run --on-active=1 --timer-property=AccuracySec=100ms systemctl stop faultline-guest",
    )
    .await;
    let began = Instant::now();
    let refused = loop {
        match provider.open(id, &node, Target::Guest).await {
            Err(e) => break e.to_string(),
            Ok(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "the link outlived its helper"
        );
    };
    assert!(refused.contains("console"), "{refused}");
    let mut console = provider.open(id, &node, Target::Console).await.unwrap();
    console
        .write_all(b"\rsystemctl start faultline-guest; echo ba''ck\r")
        .await
        .unwrap();
    let mut seen = Vec::new();
    let read = async {
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&seen).contains("back") {
            let n = console.read(&mut buffer).await.unwrap();
            seen.extend_from_slice(&buffer[..n]);
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read)
        .await
        .expect("the console gives a shell");
    answers_again(provider, id).await;
}

async fn port_from_outside(provider: &Local, id: &TenantId) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let node = "node1".parse().unwrap();
    let mut port = provider.open(id, &node, Target::Port(8000)).await.unwrap();
    port.write_all(b"GET /who HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    port.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("a\n"), "{text}");
    assert!(provider.open(id, &node, Target::Port(9)).await.is_err());
    // From inside the guest: its own loopback.
    let mut inside = client::forward(guest(provider, id).await, "127.0.0.1", 8000)
        .await
        .unwrap();
    inside
        .write_all(b"GET /who HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    inside.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("a\n"), "{text}");
}

/// 8 Mbit/s transfer 6 MB in six seconds, minus an initial burst of up to one second's worth and half a megabyte. Only
/// a lower bound of the time is checked, so that a loaded machine can't fail the test.
async fn bandwidth_is_bounded(provider: &Local) {
    const BYTES: usize = 6_000_000;
    let mut narrow = tenant("open", IMAGE, 1);
    narrow.spec.allowance.limits.bandwidth_mbit = 8;
    narrow.create(provider, &Progress::ignored()).await.unwrap();
    out(
        provider,
        &narrow.id,
        &format!("(nc -lN 7001 < <(head -c {BYTES} /dev/zero) > /dev/null 2>&1 &); (nc -l 7002 > /tmp/taken 2>&1 &); sleep 1"),
    )
    .await;
    let node = "node1".parse().unwrap();
    let began = Instant::now();
    let mut from = provider
        .open(&narrow.id, &node, Target::Port(7001))
        .await
        .unwrap();
    let mut taken = Vec::new();
    from.read_to_end(&mut taken).await.unwrap();
    assert_eq!(taken.len(), BYTES);
    assert!(
        began.elapsed() > Duration::from_secs(3),
        "out of the guest in {:?}",
        began.elapsed()
    );
    let began = Instant::now();
    let mut to = provider
        .open(&narrow.id, &node, Target::Port(7002))
        .await
        .unwrap();
    to.write_all(&vec![0; BYTES]).await.unwrap();
    to.shutdown().await.unwrap();
    while out(provider, &narrow.id, "stat -c %s /tmp/taken").await != BYTES.to_string() {
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "the bytes did not arrive"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        began.elapsed() > Duration::from_secs(3),
        "into the guest in {:?}",
        began.elapsed()
    );
    provider.destroy(&narrow.id).await.unwrap();
}

/// A decoy of the outside world, including the metadata address, in a namespace of the test. The other end of its link
/// represents the host.
struct Decoy {
    server: std::process::Child,
    host: Vec<tokio::task::JoinHandle<()>>,
}

impl Decoy {
    const NAME: &str = "faultline-decoy";
    const HOST: &str = "203.0.113.1";
    const ADDRESS: &str = "203.0.113.2";
    const METADATA: &str = "169.254.169.254";
    const HOST_PORTS: [u16; 2] = [2222, 8000];

    fn ip(args: &str) -> bool {
        std::process::Command::new("ip")
            .args(args.split(' '))
            .output()
            .unwrap()
            .status
            .success()
    }

    async fn start() -> Self {
        Self::ip(&format!("netns del {}", Self::NAME));
        let (name, host, address, metadata) =
            (Self::NAME, Self::HOST, Self::ADDRESS, Self::METADATA);
        for command in [
            format!("netns add {name}"),
            format!("link add fl-decoy type veth peer name eth0 netns {name}"),
            format!("addr add {host}/30 dev fl-decoy"),
            "link set fl-decoy up".to_owned(),
            format!("-n {name} addr add {address}/30 dev eth0"),
            format!("-n {name} link set eth0 up"),
            format!("-n {name} addr add {metadata}/32 dev eth0"),
            format!("route add {metadata}/32 via {address} dev fl-decoy"),
        ] {
            assert!(Self::ip(&command), "ip {command}");
        }
        let server = "import http.server, socketserver, threading\n\
            class H(http.server.BaseHTTPRequestHandler):\n  def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(b'decoy')\n  def log_message(self, *a): pass\n\
            for port in (80, 8001): threading.Thread(target=http.server.HTTPServer(('0.0.0.0', port), H).serve_forever).start()\n\
            http.server.HTTPServer(('0.0.0.0', 8000), H).serve_forever()";
        let server = std::process::Command::new("ip")
            .args(["netns", "exec", name, "python3", "-c", server])
            .spawn()
            .unwrap();
        let mut host = Vec::new();
        for port in Self::HOST_PORTS {
            let listener = tokio::net::TcpListener::bind((Self::HOST, port))
                .await
                .unwrap();
            host.push(tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhost").await;
                }
            }));
        }
        // All destinations answer permitted requests.
        for to in [
            (Self::ADDRESS, 8000),
            (Self::ADDRESS, 8001),
            (Self::METADATA, 80),
            (Self::HOST, 8000),
        ] {
            let began = Instant::now();
            while tokio::net::TcpStream::connect(to).await.is_err() {
                assert!(
                    began.elapsed() < Duration::from_secs(20),
                    "{to:?} of the decoy"
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Self { server, host }
    }
}

impl Drop for Decoy {
    fn drop(&mut self) {
        for listener in &self.host {
            listener.abort();
        }
        let _ = self.server.kill();
        let _ = self.server.wait();
        Self::ip(&format!("netns del {}", Self::NAME));
    }
}

async fn egress_is_an_allowlist(provider: &Local) {
    use faultline_domain::lab::Egress;
    let _decoy = Decoy::start().await;
    let mut open = tenant("open", IMAGE, 1);
    open.spec.allowance.egress = vec![
        Egress {
            to: format!("{}/32", Decoy::ADDRESS),
            port: 8000,
        },
        Egress {
            to: Decoy::HOST.to_owned(),
            port: 2222,
        },
        Egress {
            to: Decoy::METADATA.to_owned(),
            port: 80,
        },
    ];
    open.create(provider, &Progress::ignored()).await.unwrap();
    let get = |to: String| async move {
        shell(
            provider,
            &"open".parse().unwrap(),
            &format!("curl -s -m 10 http://{to}/"),
        )
        .await
    };
    let allowed = get(format!("{}:8000", Decoy::ADDRESS)).await;
    assert_eq!(
        (allowed.code, allowed.stdout.as_slice()),
        (0, b"decoy".as_slice())
    );
    for refused in [
        format!("{}:8001", Decoy::ADDRESS),
        format!("{}:8000", Decoy::HOST),
        format!("{}:2222", Decoy::HOST),
        format!("{}:80", Decoy::METADATA),
        "127.0.0.1:8000".to_owned(),
    ] {
        let tried = get(refused.clone()).await;
        assert_ne!(
            tried.code,
            0,
            "{refused} answered {}",
            String::from_utf8_lossy(&tried.stdout)
        );
    }
    let many =
        "curl -s -m 60 -Z --parallel-max 40 'http://ADDRESS:8000/?[1-400]' | grep -o decoy | wc -l";
    let began = std::time::Instant::now();
    let counted = shell(provider, &open.id, &many.replace("ADDRESS", Decoy::ADDRESS)).await;
    let served: u64 = String::from_utf8_lossy(&counted.stdout)
        .trim()
        .parse()
        .unwrap();
    let most = 100 + 10 * (began.elapsed().as_secs() + 1);
    step(&format!(
        "{served} of 400 connections at once, at most {most}"
    ));
    assert!((1..=most).contains(&served));
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let later = get(format!("{}:8000", Decoy::ADDRESS)).await;
    assert_eq!(later.code, 0, "after a pause there is room again");
    let name = shell(provider, &open.id, "getent ahostsv4 not-allowed.example").await;
    assert_ne!(
        name.code, 0,
        "a name that the lab does not list is not answered"
    );
    provider.destroy(&open.id).await.unwrap();
}

/// Three nodes that were frozen together are restored together, with names, addresses and network. If one of them dies,
/// the environment is broken, and all of it is freed.
#[tokio::test(flavor = "multi_thread")]
async fn local_provider_with_three_nodes() {
    let data = tempfile::tempdir().unwrap();
    let provider = Local::new(
        data.path(),
        &workspace().join("images"),
        Cache::of_user(),
        &program(),
    )
    .unwrap();
    let trio = tenant("trio", IMAGE, 3);
    provider.destroy(&trio.id).await.unwrap();
    trio.create(&provider, &Progress::ignored()).await.unwrap();
    let say = async |node: &NodeName, script: &str| {
        let stream = provider.open(&trio.id, node, Target::Guest).await.unwrap();
        let exec = Exec {
            argv: ["/usr/bin/bash", "-c", script].map(Into::into).to_vec(),
            ..Exec::default()
        };
        let done = client::run(stream, exec, 1024).await.unwrap();
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    };
    let names = trio.spec.template.shape.node_names();
    for node in &names {
        let all =
            "hostname; for n in 1 2 3; do ping -c 1 -W 5 node$n > /dev/null && echo reached; done";
        assert_eq!(
            say(node, all).await,
            format!("{node}\nreached\nreached\nreached")
        );
    }
    step("each has an identity of its own, and all have the same time");
    for script in [
        "cat /etc/machine-id",
        "cat /etc/ssh/ssh_host_ed25519_key.pub",
        "od -An -N16 -tx1 /dev/urandom",
    ] {
        let mut seen = std::collections::BTreeSet::new();
        for node in &names {
            assert!(seen.insert(say(node, script).await), "{script}");
        }
    }
    for node in &names {
        let there: i64 = say(node, "date +%s").await.parse().unwrap();
        let apart = faultline_domain::Clock::system().now().as_second() - there;
        assert!(apart.abs() < 5, "{node} is {apart} s apart");
    }
    step("one of three QEMUs dies");
    let dir = data.path().join("tenants/trio");
    let nodes = launcher::status(&dir).await.unwrap().nodes;
    let mut told = provider.changes();
    kill(nodes[2].pid);
    let death =
        async { while told.recv().await.unwrap() != (trio.id.clone(), Observed::Broken) {} };
    let in_time = tokio::time::timeout(Duration::from_secs(10), death).await;
    assert!(in_time.is_ok(), "it is told, and nobody asked");
    until_broken(&provider, &trio.id).await;
    assert_eq!(say(&names[0], "echo still here").await, "still here");
    for refused in [
        provider.pause(&trio.id).await,
        provider.resume(&trio.id).await,
    ] {
        let broken = faultline_provider::Error::WrongState(Observed::Broken);
        assert_eq!(refused.unwrap_err().to_string(), broken.to_string());
    }
    let phase = launcher::status(&dir).await.unwrap().phase;
    assert!(
        matches!(&phase, Phase::Broken { node: Some(node), reason } if *node == names[2] && reason.contains("ended")),
        "{phase:?}"
    );
    provider.destroy(&trio.id).await.unwrap();
    assert!(!dir.exists() && !cgroup::list().contains(&trio.id));
    for node in nodes {
        assert!(has_ended(node.pid), "{node:?}");
    }
}

/// Returns true if the process has ended, even if it was not reaped yet.
fn has_ended(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
        || !Path::new(&format!("/proc/{pid}")).exists()
}

fn kill(pid: u32) {
    let status = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Waits until the provider observes that an environment is broken.
async fn until_broken(provider: &Local, id: &TenantId) {
    let began = Instant::now();
    loop {
        let seen = provider.list().await.unwrap();
        if seen.contains(&(id.clone(), Observed::Broken)) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{seen:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A cache on a separate file system of this size, with links to the user's disk images.
struct SmallCache(tempfile::TempDir);

impl SmallCache {
    fn new(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(mounted.success());
        let own = Cache::of_user();
        std::fs::create_dir(dir.path().join("disk")).unwrap();
        for (key, folder) in own.list("disk") {
            std::os::unix::fs::symlink(folder, dir.path().join("disk").join(key)).unwrap();
        }
        std::os::unix::fs::symlink(
            own.folder().join("accelerator"),
            dir.path().join("accelerator"),
        )
        .unwrap();
        Self(dir)
    }

    fn cache(&self) -> Cache {
        Cache::at(self.0.path())
    }
}

impl Drop for SmallCache {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg(self.0.path())
            .status();
    }
}

/// Baking: a full disk is reported immediately and nothing is left, and two simultaneous builds build once.
#[tokio::test(flavor = "multi_thread")]
async fn local_provider_bakes() {
    let recipe = Recipe::load(&workspace().join("images"), IMAGE).unwrap();
    let single = TemplateRef::plain("debian-12", Shape::SINGLE);
    let (program, ignored) = (program(), Progress::ignored());

    step("no room for a template");
    let small = SmallCache::new("64m");
    let error = bake::bake(&recipe, &single, &small.cache(), &program, &ignored)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("MiB") && error.contains("free"), "{error}");
    assert!(small.cache().list("bake").is_empty());
    drop(small);

    step("two builds at once");
    let roomy = SmallCache::new("3g");
    let cache = roomy.cache();
    let build = || bake::bake(&recipe, &single, &cache, &program, &ignored);
    let (one, other) = tokio::join!(build(), build());
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one.snapshot, other.snapshot);
    assert_eq!(
        one.manifest.files, other.manifest.files,
        "the second found what the first had made"
    );
    assert!(one.verify(true).is_ok());
    let left: Vec<_> = std::fs::read_dir(cache.folder().join("bake"))
        .unwrap()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().ends_with(".draft"))
        .collect();
    assert!(left.is_empty(), "{left:?}");

    step("a damaged snapshot is never handed out: it is built again");
    let data = tempfile::tempdir().unwrap();
    let recipes = workspace().join("images");
    let provider = Local::new(data.path(), &recipes, cache.clone(), &program).unwrap();
    let memory = one.snapshot.join("node1.mem");
    // Changes one byte in the middle, as a failing disk does.
    let mut file = std::fs::File::options()
        .write(true)
        .read(true)
        .open(&memory)
        .unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(middle)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(middle)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
    drop(file);
    let fresh = tenant("sound", IMAGE, 1);
    provider.destroy(&fresh.id).await.unwrap();
    fresh.create(&provider, &ignored).await.unwrap();
    assert_eq!(out(&provider, &fresh.id, "echo sound").await, "sound");
    let again = bake::bake(&recipe, &single, &cache, &program, &ignored)
        .await
        .unwrap();
    assert!(again.verify(true).is_ok());
    assert_ne!(
        again.manifest.files, one.manifest.files,
        "it is another one"
    );

    step("a machine that dies while it is made ends the bake");
    provider.destroy(&fresh.id).await.unwrap();
    std::fs::remove_dir_all(&again.snapshot).unwrap();
    let killing = async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            for id in cgroup::list() {
                let dir = Path::new(bake::RUN).join(id.as_str());
                if let Ok(status) = launcher::status(&dir).await
                    && let Some(node) = status.nodes.first().filter(|node| node.linked)
                {
                    return kill(node.pid);
                }
            }
        }
    };
    let (baked, ()) = tokio::join!(build(), killing);
    let error = baked.unwrap_err().to_string();
    assert!(error.contains("node1 has died"), "{error}");
    assert!(cache.list("bake").is_empty());

    step("a disk that fills up while it is frozen ends the bake, and leaves nothing");
    let filler = cache.folder().join("filler");
    let filling = async {
        // The draft's folder exists while the machine is being made.
        let drafts = || {
            std::fs::read_dir(cache.folder().join("bake"))
                .unwrap()
                .count()
        };
        while drafts() == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut file = std::fs::File::create(&filler).unwrap();
        while file.write_all(&[0; 1 << 20]).is_ok() {}
    };
    let (baked, ()) = tokio::join!(build(), filling);
    let error = baked.unwrap_err().to_string();
    assert!(error.contains("MiB free: make room"), "{error}");
    std::fs::remove_file(&filler).unwrap();
    assert!(cache.list("bake").is_empty());
    assert!(
        cgroup::list()
            .iter()
            .all(|id| !id.as_str().starts_with("bake-"))
    );
    build().await.unwrap();

    step("an environment is what it was when its recipe is another, and its template goes with it");
    let (older, newer) = (tenant("older", IMAGE, 1), tenant("newer", IMAGE, 1));
    for id in [&older.id, &newer.id] {
        provider.destroy(id).await.unwrap();
    }
    older.create(&provider, &ignored).await.unwrap();
    let changed = tempfile::tempdir().unwrap();
    let file = format!("{IMAGE}.yaml");
    let text = std::fs::read_to_string(recipes.join(&file)).unwrap();
    let text = text.replace("\nwarm:\n", "\nwarm:\n  - \"true\"\n");
    let join = "join:\n  - {text: Joining, on: workers, run: 'echo nobody joins here; exit 7'}\n";
    std::fs::write(changed.path().join(&file), text + join).unwrap();
    let restarted = Local::new(data.path(), changed.path(), cache.clone(), &program).unwrap();
    newer.create(&restarted, &ignored).await.unwrap();
    assert_eq!(cache.list("bake").len(), 2);
    let two = "node2".parse().unwrap();
    let joined = restarted.add_node(&newer.id, &two, &ignored).await;
    let error = joined.unwrap_err().to_string();
    assert!(error.contains("nobody joins here"), "{error}");
    restarted.sweep().await.unwrap();
    restarted.add_node(&older.id, &two, &ignored).await.unwrap();
    restarted.destroy(&older.id).await.unwrap();
    restarted.sweep().await.unwrap();
    assert_eq!(cache.list("bake").len(), 1);
    assert_eq!(out(&restarted, &newer.id, "echo here").await, "here");
    restarted.destroy(&newer.id).await.unwrap();
}

/// An added node is a machine like the others, is found by a new provider, and leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn local_provider_adds_and_removes_a_node() {
    let data = tempfile::tempdir().unwrap();
    let new = || {
        let recipes = workspace().join("images");
        Local::new(data.path(), &recipes, Cache::of_user(), &program()).unwrap()
    };
    let provider = new();
    let grown = tenant("grown", IMAGE, 1);
    let (id, quiet) = (&grown.id, Progress::ignored());
    provider.destroy(id).await.unwrap();
    grown.create(&provider, &quiet).await.unwrap();
    let dir = data.path().join("tenants").join(id.as_str());
    let files = || {
        let all = std::fs::read_dir(&dir).unwrap().flatten();
        let of_node = all.filter(|e| e.file_name().to_string_lossy().starts_with("node2"));
        of_node.count()
    };
    let memory = |id: &TenantId, what: [&str; 2]| {
        let group = Path::new("/sys/fs/cgroup");
        let name = format!("faultline/{id}");
        let now = group.join(&name).join(what[0]);
        let former = group.join("memory").join(&name).join(what[1]);
        let text = std::fs::read_to_string(now).or_else(|_| std::fs::read_to_string(former));
        text.unwrap().trim().parse::<u64>().unwrap()
    };
    let limit = ["memory.max", "memory.limit_in_bytes"];
    let before = memory(id, limit);

    // Lines that a student wrote stay.
    let written = "echo '10.77.0.12 db' >> /etc/hosts; mkdir -p /root/.ssh; \
        printf 'ssh-ed25519 AAAA mine' > /root/.ssh/authorized_keys";
    out(&provider, id, written).await;

    step("it is added");
    let two: faultline_domain::NodeName = "node2".parse().unwrap();
    let began = Instant::now();
    provider.add_node(id, &two, &quiet).await.unwrap();
    eprintln!("    after {:.1} s", began.elapsed().as_secs_f64());
    let status = launcher::status(&dir).await.unwrap();
    let pid = status.nodes.iter().find(|n| n.name == two).unwrap().pid;
    assert!(memory(id, limit) > before, "the group's limits have grown");

    step("another provider process knows it");
    let second = new();
    assert_eq!(
        second.list().await.unwrap(),
        [(id.clone(), Observed::Running)]
    );
    assert!(matches!(
        second.add_node(id, &two, &quiet).await,
        Err(faultline_provider::Error::NodeExists(_))
    ));
    let on = async |node: &faultline_domain::NodeName, script: &str| {
        let stream = second.open(id, node, Target::Guest).await.unwrap();
        let exec = Exec {
            argv: vec!["/usr/bin/bash".into(), "-c".into(), script.into()],
            timeout_seconds: Some(60),
            ..Exec::default()
        };
        let done = client::run(stream, exec, 4096).await.unwrap();
        assert_eq!(done.code, 0, "{script} on {node}");
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    };
    let one: faultline_domain::NodeName = "node1".parse().unwrap();
    step("they reach each other by name");
    assert_eq!(
        on(
            &two,
            "hostname; ping -c 1 -W 5 node1 > /dev/null && echo reached"
        )
        .await,
        "node2\nreached"
    );
    on(&one, "ping -c 1 -W 5 node2").await;
    step("root of each enters the other by ssh");
    let enter = "ssh -o BatchMode=yes -o ConnectTimeout=30";
    let enters = async |from: &NodeName, to: &NodeName| {
        let name = on(from, &format!("{enter} {to} hostname")).await;
        assert_eq!(name, to.as_str());
    };
    enters(&one, &two).await;
    enters(&two, &one).await;
    step("it has an identity of its own, and the time");
    for script in [
        "cat /etc/machine-id",
        "cat /etc/ssh/ssh_host_ed25519_key.pub",
        "cat /proc/sys/kernel/random/boot_id",
        "od -An -N16 -tx1 /dev/urandom",
    ] {
        assert_ne!(on(&one, script).await, on(&two, script).await, "{script}");
    }
    let (a, b): (i64, i64) = (
        on(&one, "date +%s").await.parse().unwrap(),
        on(&two, "date +%s").await.parse().unwrap(),
    );
    assert!((a - b).abs() < 30, "{a} {b}");
    assert_eq!(on(&two, "systemctl is-system-running").await, "running");
    on(&two, "journalctl -n 1 -q | grep .").await;
    assert!(files() >= 2);
    let held = || memory(id, ["memory.current", "memory.usage_in_bytes"]) >> 20;
    let idle = held();
    on(&two, "head -c 150M /dev/zero > /dev/shm/filled").await;
    let filled = held() - idle;
    assert!((130..230).contains(&filled), "{filled} MiB for 150");
    let usage = launcher::usage(&dir).await.unwrap();
    let second_node = usage.nodes.iter().find(|n| n.name == two).unwrap();
    assert!(
        second_node.guest_private_bytes > 150 << 20,
        "{second_node:?}"
    );
    on(&two, "rm /dev/shm/filled").await;

    step("one that is not waited for leaves nothing");
    let three = "node3".parse().unwrap();
    let given_up = provider.add_node(id, &three, &quiet);
    let given_up = tokio::time::timeout(Duration::from_secs(4), given_up).await;
    assert!(given_up.is_err(), "it boots still");
    provider.remove_node(id, &three, &quiet).await.unwrap();
    let status = launcher::status(&dir).await.unwrap();
    assert_eq!(status.nodes.len(), 2);
    assert!(!dir.join("node3.qcow2").exists());

    step("it is removed");
    second.remove_node(id, &two, &quiet).await.unwrap();
    assert!(second.open(id, &two, Target::Guest).await.is_err());
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "its QEMU");
    assert_eq!(files(), 0, "its disk and memory");
    assert_eq!(memory(id, limit), before);
    let net = format!(
        "/proc/{}/net/dev",
        launcher::status(&dir).await.unwrap().nodes[0].pid
    );
    let cables = std::fs::read_to_string(net).unwrap();
    assert!(
        cables.contains("tap1") && !cables.contains("tap2"),
        "{cables}"
    );
    assert_eq!(
        second.list().await.unwrap(),
        [(id.clone(), Observed::Running)]
    );
    let left = "grep -h node2 /etc/hosts /root/.ssh/authorized_keys /root/.ssh/known_hosts || true";
    assert_eq!(on(&one, left).await, "");
    on(&one, "grep -x '10.77.0.12 db' /etc/hosts").await;
    on(
        &one,
        "grep -x 'ssh-ed25519 AAAA mine' /root/.ssh/authorized_keys",
    )
    .await;

    step("its number is free again, and all goes with the environment");
    second.add_node(id, &two, &quiet).await.unwrap();
    enters(&one, &two).await;
    enters(&two, &one).await;

    step("what root has broken keeps no node from being added");
    on(&one, "rm -r /root/.ssh && touch /root/.ssh").await;
    second.add_node(id, &three, &quiet).await.unwrap();
    on(&one, "getent hosts node3").await;
    enters(&two, &three).await;
    enters(&three, &two).await;
    second.destroy(id).await.unwrap();
    assert!(!dir.exists() && !cgroup::is_populated(id));
}

async fn deaths_are_seen(provider: &Local, a: &TenantId, b: &TenantId, data: &Path) {
    let dir = |id: &TenantId| data.join("tenants").join(id.as_str());
    let qemu_a = launcher::status(&dir(a))
        .await
        .unwrap()
        .nodes
        .first()
        .unwrap()
        .pid;
    kill(qemu_a);
    let qemu_b = launcher::status(&dir(b))
        .await
        .unwrap()
        .nodes
        .first()
        .unwrap()
        .pid;
    let launcher_b: u32 = std::fs::read_to_string(format!("/proc/{qemu_b}/status"))
        .unwrap()
        .lines()
        .find_map(|l| l.strip_prefix("PPid:"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    kill(launcher_b);
    let began = Instant::now();
    until_broken(provider, a).await;
    until_broken(provider, b).await;
    while Path::new(&format!("/proc/{qemu_b}")).exists() {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "a QEMU outlived its launcher"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    provider.destroy(a).await.unwrap();
    provider.destroy(b).await.unwrap();
}
