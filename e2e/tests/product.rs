//! The whole product on real machines: `faultline up`, a browser, the stock OpenSSH client, faults, and nothing left
//! behind. It is one test whose parts run one after another, because two cores can run only one machine at a time.
//!
//! Needs root and `scripts/build dev`, which `./test` runs first.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use faultline_e2e::{
    Browser,
    installation::{Installation, program, step, text},
    student::{self, Plan},
};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn product() {
    let mut here = Installation::new();
    let before = traces();
    step("a start that can't work fails with a reason, before anything is started");
    bad_starts(&here);
    let link = here.up();

    step("a student solves a lab in the browser");
    let browser = Browser::open().await.unwrap();
    let base = student::sign_in(&browser, &link).await.unwrap();
    let plan = Plan {
        slug: "orders-api-upgrade".to_owned(),
        repair: [
            "sed -i 's/^port *=.*/listen = 0.0.0.0:8080/' /etc/orders-api/orders-api.ini",
            "chgrp orders /etc/orders-api/orders-api.ini; chmod 640 /etc/orders-api/orders-api.ini",
            "systemctl reset-failed orders-api; systemctl start orders-api",
        ]
        .map(str::to_owned)
        .to_vec(),
        settle: Duration::from_secs(12),
    };
    let place = student::solve(&browser, &base, &plan).await.unwrap();
    let solved = place.rsplit('/').next().unwrap().to_owned();

    step("the command line starts a lab; the stock ssh client enters it");
    let started = here.run(&["--output", "json", "env", "start", "orders-api-upgrade"]);
    assert!(started.status.success(), "{}", text(&started.stderr));
    let id = serde_json::from_slice::<Value>(&started.stdout).unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    with_ssh(&here, &id);
    let unrepaired = here.run(&["env", "check", &id]);
    assert!(!unrepaired.status.success() && text(&unrepaired.stdout).contains('✗'));
    let tried = [solved.as_str(), &id];
    let so_far = progress(&here, tried);
    assert!(
        so_far[0]["solved"] == true && so_far[0]["points"].is_u64() && so_far[1]["checks_run"] == 1,
        "{so_far:?}"
    );

    step("the command line on another machine logs in, enters, and logs out");
    from_another_machine(&here, &id);

    step("the shell's terminal has the browser's size and follows it");
    let page = format!("{base}/environments/{id}");
    browser.go(&page).await.unwrap();
    browser.find(".tabs .mark.on").await.unwrap();
    let large = student::size_in_the_guest(&browser).await.unwrap();
    browser.size(1100, 600).await.unwrap();
    let small = student::size_in_the_guest(&browser).await.unwrap();
    assert!(
        small.0 < large.0 && small.1 < large.1,
        "{large:?} {small:?}"
    );

    step("a terminal query gets one response, with two windows and after a reload");
    let first = browser.window().await.unwrap();
    browser.open_window(&page).await.unwrap();
    browser.find(".tabs .mark.on").await.unwrap();
    student::query_is_answered_once(&browser).await.unwrap();
    browser.switch_to(first).await.unwrap();
    student::query_is_answered_once(&browser).await.unwrap();
    browser.reload().await.unwrap();
    browser.find(".tabs .mark.on").await.unwrap();
    student::query_is_answered_once(&browser).await.unwrap();
    browser.close().await.unwrap();

    step("read-only commands print one JSON document with --output json");
    documents(&here, &id);

    step("a reset gives the same address a fresh machine");
    let login = |command: &str| here.run(&["ssh", &id, "--", command]).status.success();
    assert!(login("touch /root/of-before") && login("test -e /root/of-before"));
    let old = here.tenant(&id);
    let reset = here.run(&["env", "reset", &id]);
    assert!(reset.status.success(), "{}", text(&reset.stderr));
    assert_ne!(here.tenant(&id), old);
    assert!(login("test ! -e /root/of-before"));
    freed(&here);
    assert_eq!(progress(&here, tried), so_far);

    step("a backup while the server runs");
    let copy = here.data.path().join("copy.db");
    let backed = here.run(&["backup", copy.to_str().unwrap()]);
    assert!(
        backed.status.success() && copy.exists(),
        "{}",
        text(&backed.stderr)
    );
    let refused = here.run(&["restore", copy.to_str().unwrap()]);
    assert!(
        !refused.status.success(),
        "the database of a running server is not replaced"
    );

    step("kill -9 of the server loses nothing");
    assert!(
        here.run(&["ssh", &id, "--", "touch /root/still-here"])
            .status
            .success()
    );
    here.kill_server();
    here.up();
    here.until(&id, "active");
    assert!(
        here.run(&["ssh", &id, "--", "test -e /root/still-here"])
            .status
            .success()
    );
    assert_eq!(progress(&here, tried), so_far);

    step("kill -9 of the server during a start: the start is retried");
    let other = start_and_kill(&mut here);
    here.up();
    here.until(&other, "active");
    assert_eq!(progress(&here, tried), so_far);

    step(
        "kill -9 of a launcher: its environment fails with a reason and is freed; the other continues",
    );
    kill(&launcher_of(&here, &other).unwrap());
    let failed = here.until(&other, "failed");
    assert!(
        failed["failed_reason"]
            .as_str()
            .is_some_and(|r| r.len() > 10),
        "{failed}"
    );
    freed(&here);
    here.until(&id, "active");
    assert_eq!(progress(&here, tried), so_far);

    for (phase, what) in [
        ("requested", "launcher"),
        ("requested", "QEMU"),
        ("preparing", "launcher"),
        ("preparing", "QEMU"),
    ] {
        step(&format!(
            "kill -9 of a {what} while {phase}: retried, or failed with a reason and freed"
        ));
        killed_while(&here, phase, what == "QEMU");
    }
    here.until(&id, "active");
    assert_eq!(progress(&here, tried), so_far);

    step("an orphaned environment is removed");
    swept(&here).await;

    step("a backup is restored while the server is stopped: later environments are unknown");
    here.down();
    let restored = here.run(&["restore", copy.to_str().unwrap()]);
    assert!(restored.status.success(), "{}", text(&restored.stderr));
    assert!(copy.exists(), "a backup can be used again");
    let kept = here.data.path().join("faultline.before-restore");
    assert!(kept.exists(), "the old database is kept");
    here.up();
    here.until(&id, "active");
    assert_eq!(progress(&here, tried), so_far);
    let unknown = here.run(&["env", "show", &other]);
    assert!(!unknown.status.success(), "{}", text(&unknown.stdout));

    step("down keeps environments, and --purge leaves nothing behind");
    let tenant = here.tenant(&id).unwrap();
    here.down();
    assert!(
        tenant.join("launcher.sock").exists(),
        "the environment outlives the server"
    );
    // The remains of a killed `lab run`.
    let cache = tempfile::tempdir().unwrap();
    let images = cache.path().join("images-that-are-kept");
    std::fs::create_dir_all(cache.path().join("lab/4194304")).unwrap();
    std::fs::create_dir(&images).unwrap();
    let purge = |more: &[&str]| {
        let mut command = here.command();
        command.env("FAULTLINE_CACHE", cache.path());
        command.args(["down", "--purge", "--yes"]).args(more);
        command.output().unwrap()
    };
    let purge_all = || purge(&[]);
    let purge = purge(&["--keep-images"]);
    assert!(purge.status.success(), "{}", text(&purge.stderr));
    // Only the test's own files are left, which Faultline must not remove.
    let own = [
        "bad.toml",
        "batch",
        "up.txt",
        "down.txt",
        "wrong_key",
        "wrong_key.pub",
        "copy.db",
        "known",
    ];
    let left: Vec<_> = std::fs::read_dir(here.data.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !own.contains(&name.as_str()))
        .collect();
    assert!(left.is_empty(), "{left:?} is left");
    for hierarchy in ["memory", "pids", "cpu", ""] {
        let group = Path::new("/sys/fs/cgroup")
            .join(hierarchy)
            .join("faultline")
            .join(tenant.file_name().unwrap());
        assert!(!group.exists(), "{} is left", group.display());
    }
    let left = Command::new("pgrep")
        .args(["-f", here.data.path().to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(text(&left.stdout), "", "processes are left");
    let left = &traces() - &before;
    assert!(left.is_empty(), "{left:?} is left");
    assert!(images.exists() && !cache.path().join("lab/4194304").exists());
    assert!(purge_all().status.success());
    assert!(
        !cache.path().exists(),
        "without --keep-images, images are removed too"
    );
}

/// Returns what Faultline might leave on a machine outside its folders: mounts, named network namespaces, nftables
/// tables, folders in `/run`.
fn traces() -> BTreeSet<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let mut found: BTreeSet<String> = points.map(|point| format!("mount {point}")).collect();
    for folder in ["/run/netns", "/run"] {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        found.extend(entries.map(|e| e.path().display().to_string()));
    }
    let tables = Command::new("nft")
        .args(["list", "tables"])
        .output()
        .unwrap();
    found.extend(text(&tables.stdout).lines().map(str::to_owned));
    found
}

/// Uses the command line as a student does on a laptop that has only the program.
fn from_another_machine(here: &Installation, id: &str) {
    let laptop = tempfile::tempdir().unwrap();
    let file = laptop.path().join("token");
    let run = |args: &[&str]| {
        let mut command = here.command();
        command.env("FAULTLINE_DATA", laptop.path()).args(args);
        command.output().unwrap()
    };
    let url = format!("http://127.0.0.1:{}", here.http);
    let login = ["login", &url, "--token-file", file.to_str().unwrap()];
    let logged_out = run(&["env", "list"]);
    assert!(!logged_out.status.success() && text(&logged_out.stderr).contains("faultline login"));
    std::fs::write(&file, "flt_wrong").unwrap();
    let wrong = run(&login);
    assert!(
        !wrong.status.success() && text(&wrong.stderr).contains("cannot log in"),
        "{}",
        text(&wrong.stderr)
    );
    assert!(!laptop.path().join("cli.json").exists());
    let own = std::fs::read(here.data.path().join("cli.json")).unwrap();
    let own: Value = serde_json::from_slice(&own).unwrap();
    std::fs::write(&file, own["token"].as_str().unwrap()).unwrap();
    let right = run(&login);
    assert!(right.status.success(), "{}", text(&right.stderr));
    let listed = run(&["env", "list"]);
    assert!(
        text(&listed.stdout).contains(id),
        "{}",
        text(&listed.stderr)
    );
    let entered = run(&["ssh", id, "--", "id -un"]);
    assert_eq!(
        text(&entered.stdout).trim(),
        "root",
        "{}",
        text(&entered.stderr)
    );
    assert!(run(&["logout"]).status.success());
    assert!(!run(&["env", "list"]).status.success());
    assert!(!laptop.path().join("ssh_key").exists());
    let over_the_server = here.run(&login);
    assert!(
        !over_the_server.status.success() && text(&over_the_server.stderr).contains("--data"),
        "the server's own token is not replaced"
    );
}

fn bad_starts(here: &Installation) {
    // Uses a copy that everyone can read, because the checkout may be in a private folder.
    let copy = std::env::temp_dir().join(format!("faultline-of-nobody-{}", std::process::id()));
    std::fs::copy(program(), &copy).unwrap();
    let nobody = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&copy)
        .arg("up")
        .current_dir("/")
        .output()
        .unwrap();
    std::fs::remove_file(copy).unwrap();
    assert!(
        !nobody.status.success() && text(&nobody.stderr).contains("root"),
        "{}",
        text(&nobody.stderr)
    );
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (at, what) in ["web page", "SSH gateway", "gateway of API servers"]
        .into_iter()
        .enumerate()
    {
        let mut ports = here.ports();
        ports[at] = port;
        let said = here.up_on(ports).output().unwrap();
        let words = format!("{}{}", text(&said.stdout), text(&said.stderr));
        let finding = format!("{port} for the {what}: ");
        assert!(
            !said.status.success() && words.contains(&finding) && words.contains("in use"),
            "{words}"
        );
    }
    let config = here.data.path().join("bad.toml");
    std::fs::write(&config, "[server]\nmax_environments = \"many\"\n").unwrap();
    let said = here.run(&["up", "--config", config.to_str().unwrap()]);
    let words = text(&said.stderr);
    assert!(
        !said.status.success() && words.contains("max_environments"),
        "{words}"
    );
    let said = here
        .up_on(here.ports())
        .args(["--labs", "/nonexistent"])
        .output()
        .unwrap();
    assert!(
        !said.status.success() && text(&said.stderr).contains("no usable lab"),
        "{}",
        text(&said.stderr)
    );
    let said = here.run(&["env", "list"]);
    assert!(
        !said.status.success() && text(&said.stderr).contains("faultline up"),
        "{}",
        text(&said.stderr)
    );
    let said = here.run(&["image", "build", "../etc/passwd"]);
    assert!(
        !said.status.success() && text(&said.stderr).contains("no recipe"),
        "{}",
        text(&said.stderr)
    );
}

/// Returns the student's progress in each of these environments.
fn progress(here: &Installation, of: [&str; 2]) -> [Value; 2] {
    of.map(|id| {
        let said = here.run(&["--output", "json", "env", "show", id]);
        let shown: Value = serde_json::from_slice(&said.stdout).unwrap();
        assert!(shown["progress"].is_object(), "{shown}");
        shown["progress"].clone()
    })
}

/// Runs all read-only commands.
fn documents(here: &Installation, id: &str) {
    let [http, ssh, kube] = here.ports().map(|port| port.to_string());
    let doctor = [
        "doctor",
        "--http-port",
        &http,
        "--ssh-port",
        &ssh,
        "--kube-port",
        &kube,
    ];
    let looks: [&[&str]; 8] = [
        &doctor,
        &["lab", "list"],
        &["lab", "lint"],
        &["image", "list"],
        &["image", "addresses", "kubernetes-1.36"],
        &["image", "prune", "--dry-run"],
        &["env", "list"],
        &["env", "show", id],
    ];
    for look in looks {
        let said = here.run(&[&["--output", "json"], look].concat());
        let words = text(&said.stdout);
        assert!(said.status.success(), "{look:?}: {words}");
        let document = serde_json::from_str::<Value>(&words);
        assert!(
            document.is_ok_and(|d| d.is_array() || d.is_object()),
            "{look:?}: {words}"
        );
    }
    // `doctor` checks the disk that has this installation's environments.
    let said = here.run(&[&["--output", "json"], doctor.as_slice()].concat());
    let seen = format!("for environments in {}", here.data.path().display());
    assert!(text(&said.stdout).contains(&seen), "{}", text(&said.stdout));
}

fn with_ssh(here: &Installation, id: &str) {
    let said = here.run(&["ssh", id, "--", "echo from-inside; exit 7"]);
    assert_eq!(
        (said.status.code(), text(&said.stdout).as_str()),
        (Some(7), "from-inside\n"),
        "{}",
        text(&said.stderr)
    );
    // OpenSSH's client, with the key that `faultline ssh` registered.
    let key = here.data.path().join("ssh_key");
    let said = here.ssh(&key, &format!("node1.{id}"), &[], "hostname");
    assert_eq!(text(&said.stdout), "node1\n", "{}", text(&said.stderr));
    let said = here.ssh(&key, id, &["-tt"], "tput cols; exit");
    assert!(said.status.success(), "a pty: {}", text(&said.stderr));

    let batch = here.data.path().join("batch");
    let (up, down) = (
        here.data.path().join("up.txt"),
        here.data.path().join("down.txt"),
    );
    std::fs::write(&up, "carried by sftp\n").unwrap();
    std::fs::write(
        &batch,
        format!(
            "put {} /root/up.txt\nget /root/up.txt {}\n",
            up.display(),
            down.display()
        ),
    )
    .unwrap();
    let moved = Command::new("sftp")
        .arg("-i")
        .arg(&key)
        .args(here.ssh_options())
        .args(["-P", &here.ssh.to_string(), "-b"])
        .arg(&batch)
        .arg(format!("{id}@127.0.0.1"))
        .output()
        .unwrap();
    assert!(moved.status.success(), "{}", text(&moved.stderr));
    assert_eq!(std::fs::read_to_string(down).unwrap(), "carried by sftp\n");

    // To the machine's own sshd, over a forward of the gateway, as -J does.
    let proxy = format!(
        "ProxyCommand=ssh -i {} {} -p {} -W %h:%p {id}@127.0.0.1",
        key.display(),
        here.ssh_options().join(" "),
        here.ssh
    );
    let jumped = Command::new("ssh")
        .arg("-i")
        .arg(&key)
        .args(here.ssh_options())
        .args(["-o", &proxy, "root@node1", "echo by-its-own-sshd"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(
        text(&jumped.stdout),
        "by-its-own-sshd\n",
        "{}",
        text(&jumped.stderr)
    );

    let refused = here.ssh(
        &key,
        id,
        &["-o", "ExitOnForwardFailure=yes", "-R", "9999:127.0.0.1:22"],
        "true",
    );
    assert!(!refused.status.success(), "-R is refused");

    // A wrong key, an unknown environment and a malformed name look alike.
    let wrong = here.data.path().join("wrong_key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&wrong)
        .status()
        .unwrap();
    assert!(made.success());
    let words: Vec<String> = [
        (&wrong, id),
        (&key, "nosuchenvi"),
        (&key, "node9.nosuchenvi"),
        (&wrong, ".."),
    ]
    .into_iter()
    .map(|(key, login)| {
        let said = here.ssh(key, login, &[], "true");
        assert!(!said.status.success());
        text(&said.stderr).replace(login, "LOGIN")
    })
    .collect();
    assert!(words.iter().all(|w| *w == words[0]), "{words:?}");
}

/// Starts another lab. Returns the environment's ID, and the command that waits until it is active.
fn begin(here: &Installation) -> (String, Child) {
    let listed = || -> Vec<String> {
        let out = here.run(&["--output", "json", "env", "list", "--all"]);
        let all: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap_or_default();
        all.iter()
            .filter(|e| e["lab"] == "disk-full")
            .map(|e| e["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let before = listed();
    let starting = here
        .command()
        .args(["env", "start", "disk-full"])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let id = loop {
        if let Some(id) = listed().into_iter().find(|id| !before.contains(id)) {
            break id;
        }
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "no environment appeared"
        );
    };
    (id, starting)
}

/// Starts another lab and immediately kills the server. Returns the environment's ID.
fn start_and_kill(here: &mut Installation) -> String {
    let (id, mut starting) = begin(here);
    here.kill_server();
    starting.wait().unwrap();
    id
}

/// Starts another lab, and kills its launcher or its QEMU as soon as it runs in this phase.
fn killed_while(here: &Installation, phase: &str, qemu: bool) {
    let (id, mut starting) = begin(here);
    let shown = || -> Value {
        let out = here.run(&["--output", "json", "env", "show", &id]);
        serde_json::from_slice(&out.stdout).unwrap_or_default()
    };
    let victim = || {
        let launcher = launcher_of(here, &id)?;
        if qemu {
            // By name, because a launcher also has short-lived children.
            pgrep(&["-P", &launcher, "qemu-system"])
        } else {
            Some(launcher)
        }
    };
    let began = Instant::now();
    loop {
        let seen = shown();
        assert!(
            seen["phase"] != "active" && began.elapsed() < Duration::from_secs(60),
            "nothing was killed while {phase}: {seen}"
        );
        if seen["phase"] == phase
            && let Some(pid) = victim()
        {
            kill(&pid);
            break;
        }
    }
    let settled = loop {
        let seen = shown();
        if seen["phase"] == "active" || seen["phase"] == "failed" {
            break seen;
        }
        assert!(began.elapsed() < Duration::from_secs(180), "{seen}");
        std::thread::sleep(Duration::from_millis(200));
    };
    starting.wait().unwrap();
    if settled["phase"] == "failed" {
        let reason = settled["failed_reason"].as_str();
        assert!(reason.is_some_and(|r| r.len() > 10), "{settled}");
    } else {
        assert!(here.run(&["env", "end", &id]).status.success());
    }
    freed(here);
}

/// Waits until the only tenants are those of listed environments.
fn freed(here: &Installation) {
    let tenants = || -> BTreeSet<String> {
        let entries = std::fs::read_dir(here.data.path().join("tenants")).unwrap();
        let name = |e: std::io::Result<std::fs::DirEntry>| e.unwrap().file_name().into_string();
        entries.map(|e| name(e).unwrap()).collect()
    };
    let owned = || -> BTreeSet<String> {
        let out = here.run(&["--output", "json", "env", "list"]);
        let all: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap_or_default();
        let tenant = |e: &Value| e["tenant"].as_str().map(str::to_owned);
        all.iter().filter_map(tenant).collect()
    };
    let began = Instant::now();
    while tenants() != owned() {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "the tenants are {:?} instead of {:?}",
            tenants(),
            owned()
        );
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Returns the first process that `pgrep` finds.
fn pgrep(how: &[&str]) -> Option<String> {
    let found = Command::new("pgrep").args(how).output().unwrap();
    text(&found.stdout).lines().next().map(str::to_owned)
}

fn launcher_of(here: &Installation, id: &str) -> Option<String> {
    let folder = here.tenant(id)?;
    pgrep(&["-f", &format!("launch {}", folder.display())])
}

fn kill(pid: &str) {
    let killed = Command::new("kill").args(["-9", pid]).status().unwrap();
    assert!(killed.success(), "there is no process {pid}");
}

/// Creates a tenant's folder without a row, and waits until it is removed.
async fn swept(here: &Installation) {
    let folder = here.data.path().join("tenants/orphan");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("spec.json"), "{}").unwrap();
    let began = Instant::now();
    while folder.exists() {
        assert!(
            began.elapsed() < Duration::from_secs(40),
            "the orphan is still there"
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
