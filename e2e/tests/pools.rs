//! Warm pools on real machines: a start is served by a staged tenant, and a dead one falls through to the next.
//!
//! Needs root and `scripts/build dev`, which `./test` runs first.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use faultline_domain::Clock;
use faultline_e2e::{
    Browser,
    installation::{Installation, step, text, workspace},
    student,
};
use serde_json::Value;

/// Waits until a pool has a warm tenant.
fn until_warm(here: &Installation, pool: &str, patience: Duration) {
    let began = Instant::now();
    loop {
        let all = here.ask(&["pool", "list"]);
        let pools = all["pools"].as_array().unwrap();
        let mine = pools.iter().find(|p| p["pool"] == pool);
        if mine.is_some_and(|p| p["warm"] == 1) {
            return;
        }
        assert!(began.elapsed() < patience, "{all:#}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Returns the number of a folder's entries.
fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

fn served(here: &Installation, by: &str) -> u64 {
    let all = here.ask(&["pool", "list"]);
    let waits = all["waits"].as_array().unwrap();
    let mine = waits.iter().find(|w| w["served_by"] == by);
    mine.map_or(0, |w| w["starts"].as_u64().unwrap())
}

/// Starts a lab on its page. Returns the address of the environment, and the time until its terminal shows a prompt.
async fn start(browser: &Browser, base: &str, lab: &str) -> (String, Duration) {
    browser.go(&format!("{base}/labs/{lab}")).await.unwrap();
    browser.find(".start-box .primary").await.unwrap();
    let began = Instant::now();
    browser.click(".start-box .primary").await.unwrap();
    browser
        .until_text(student::SCREEN, "root@node1")
        .await
        .unwrap();
    let took = began.elapsed();
    let place = browser.url().await.unwrap();
    let place = place.split('#').next().unwrap_or_default();
    (place.to_owned(), took)
}

/// Fills a lab's pool, starts the lab from it in the browser, and returns the time until the prompt.
async fn from_pool(here: &Installation, browser: &Browser, base: &str, lab: &str) -> Duration {
    here.ask(&["pool", "set", lab, "--floor", "1"]);
    until_warm(here, lab, Duration::from_secs(300));
    let before = served(here, "lab");
    let (place, took) = start(browser, base, lab).await;
    eprintln!("{lab}: {} ms from Start to the prompt", took.as_millis());
    assert_eq!(served(here, "lab"), before + 1, "it was staged");
    let id = place.rsplit('/').next().unwrap();
    let clock = here.run(&["ssh", id, "--", "date", "+%s"]);
    let clock: i64 = text(&clock.stdout).trim().parse().unwrap();
    let now = Clock::system().now().as_second();
    assert!((clock - now).abs() <= 2, "its clock is set: {clock} {now}");
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_are_served_from_pools() {
    const LAB: &str = "orders-api-upgrade";
    let mut here = Installation::new();
    // Pools aren't refilled while an image is being built, so no lab here needs one of a cluster.
    let labs = tempfile::tempdir().unwrap();
    let lab = workspace().join("labs").join(LAB);
    std::os::unix::fs::symlink(lab, labs.path().join(LAB)).unwrap();
    let config = labs.path().join("faultline.toml");
    std::fs::write(&config, format!("labs = {:?}\n", labs.path())).unwrap();
    here.config = Some(config);
    let link = here.up();
    let browser = Browser::open().await.unwrap();
    let base = student::sign_in(&browser, &link).await.unwrap();

    step("a start is served by a staged tenant");
    from_pool(&here, &browser, &base, LAB).await;
    let list = here.ask(&["env", "list"]);
    let id = list[0]["id"].as_str().unwrap().to_owned();
    let broken = here.run(&["ssh", &id, "--", "systemctl", "is-active", "orders-api"]);
    assert_ne!(text(&broken.stdout).trim(), "active", "its setup has run");
    let checked = here.run(&["env", "check", &id]);
    assert!(!checked.status.success() && text(&checked.stdout).contains('✗'));

    step("a pooled tenant that dies is replaced, and a reset gets another one");
    until_warm(&here, LAB, Duration::from_secs(120));
    let mine = here.tenant(&id).unwrap();
    let others = std::fs::read_dir(here.data.path().join("tenants")).unwrap();
    let pooled = others
        .map(|entry| entry.unwrap().path())
        .find(|path| *path != mine)
        .unwrap();
    let name = pooled.file_name().unwrap().to_str().unwrap().to_owned();
    let pid = std::fs::read_dir("/proc").unwrap().flatten().find(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = text(&line);
        line.contains("\0launch\0") && line.contains(&name)
    });
    let pid = pid.unwrap().file_name().into_string().unwrap();
    let killed = std::process::Command::new("kill")
        .args(["-KILL", &pid])
        .status();
    assert!(killed.unwrap().success());
    let reset = here.run(&["--output", "json", "env", "reset", &id]);
    assert!(reset.status.success(), "{}", text(&reset.stderr));
    here.until(&id, "active");
    assert_ne!(here.tenant(&id).unwrap(), pooled);
    until_warm(&here, LAB, Duration::from_secs(120));
    assert!(!pooled.exists(), "the dead one is freed");

    step("the command line sets up a group, and lists the queue");
    here.ask(&["group", "create", "Class of Monday"]);
    here.ask(&["group", "add", "Class of Monday", "local", "--instructor"]);
    let group = here.ask(&["group", "show", "Class of Monday"]);
    assert_eq!(group["progress"][0]["open"][0]["lab"], LAB, "{group:#}");
    here.ask(&["group", "invite", "Class of Monday", "--people", "2"]);
    here.ask(&["group", "remove", "Class of Monday", "local"]);
    here.ask(&["group", "delete", "Class of Monday"]);
    assert_eq!(here.ask(&["queue"]), Value::Array(Vec::new()));
    let event = here.ask(&["pool", "announce", LAB, "--at", "30m", "--people", "3"]);
    here.ask(&["pool", "cancel", event["id"].as_str().unwrap()]);

    step("a drained pool is on disk, survives the end of everything, and is filled from there");
    here.ask(&["env", "end", &id]);
    until_warm(&here, LAB, Duration::from_secs(120));
    let on_disk = || entries(&here.data.path().join("saves"));
    let others = on_disk();
    here.ask(&["maintenance", "on", "--end-environments-at", "5m"]);
    let tenants = here.data.path().join("tenants");
    let began = Instant::now();
    while entries(&tenants) > 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "one still runs");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(on_disk(), others + 1);
    here.down();
    here.up();
    assert_eq!(entries(&tenants), 0, "nothing is made in maintenance");
    here.ask(&["maintenance", "off"]);
    until_warm(&here, LAB, Duration::from_secs(60));
    let before = served(&here, "lab");
    let started = here.ask(&["env", "start", LAB]);
    let id = started["id"].as_str().unwrap();
    assert_eq!(served(&here, "lab"), before + 1, "it was staged");
    assert_ne!(here.on(id, "systemctl is-active orders-api"), "active");
    let clock: i64 = here.on(id, "date +%s").parse().unwrap();
    let now = Clock::system().now().as_second();
    assert!((clock - now).abs() <= 2, "its clock is set: {clock} {now}");
    here.ask(&["env", "end", id]);

    step("pools are drained when nobody is expected");
    here.ask(&["pool", "set", LAB, "--floor", "0", "--ceiling", "0"]);
    browser.go(&format!("{base}/operator/pools")).await.unwrap();
    browser.fits().await.unwrap();
    browser.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures the time from Start to the prompt of staged clusters"]
async fn starts_of_clusters() {
    let mut here = Installation::new();
    here.config = None;
    let link = here.up();
    let browser = Browser::open().await.unwrap();
    let base = student::sign_in(&browser, &link).await.unwrap();
    for lab in ["claim-pending", "claim-pending", "claim-pending"] {
        from_pool(&here, &browser, &base, lab).await;
        let list = here.ask(&["env", "list"]);
        let id = list[0]["id"].as_str().unwrap();
        here.ask(&["env", "end", id]);
    }
    browser.close().await.unwrap();
}
