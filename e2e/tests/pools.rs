//! Warm pools on real machines: a start is served by a staged tenant, and a dead one falls through to the next.
//!
//! Needs root and `scripts/build dev`, which `./test` runs first.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::time::{Duration, Instant};

use faultline_domain::Clock;
use faultline_e2e::{
    Browser,
    installation::{Installation, step, text, workspace},
    student,
};
use serde_json::Value;

fn ask(here: &Installation, args: &[&str]) -> Value {
    let out = here.run(&[&["--output", "json"], args].concat());
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Waits until a pool has a warm tenant.
fn until_warm(here: &Installation, pool: &str, patience: Duration) {
    let began = Instant::now();
    loop {
        let all = ask(here, &["pool", "list"]);
        let pools = all["pools"].as_array().unwrap();
        let mine = pools.iter().find(|p| p["pool"] == pool);
        if mine.is_some_and(|p| p["warm"] == 1) {
            return;
        }
        assert!(began.elapsed() < patience, "{all:#}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn served(here: &Installation, by: &str) -> u64 {
    let all = ask(here, &["pool", "list"]);
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
    ask(here, &["pool", "set", lab, "--floor", "1"]);
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
    let list = ask(&here, &["env", "list"]);
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
    ask(&here, &["group", "create", "Class of Monday"]);
    ask(
        &here,
        &["group", "add", "Class of Monday", "local", "--instructor"],
    );
    let group = ask(&here, &["group", "show", "Class of Monday"]);
    assert_eq!(group["progress"][0]["open"][0]["lab"], LAB, "{group:#}");
    ask(
        &here,
        &["group", "invite", "Class of Monday", "--people", "2"],
    );
    ask(&here, &["group", "remove", "Class of Monday", "local"]);
    ask(&here, &["group", "delete", "Class of Monday"]);
    assert_eq!(ask(&here, &["queue"]), Value::Array(Vec::new()));
    let event = ask(
        &here,
        &["pool", "announce", LAB, "--at", "30m", "--people", "3"],
    );
    ask(&here, &["pool", "cancel", event["id"].as_str().unwrap()]);

    step("pools are drained when nobody is expected");
    ask(&here, &["env", "end", &id]);
    ask(
        &here,
        &["pool", "set", LAB, "--floor", "0", "--ceiling", "0"],
    );
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
        let list = ask(&here, &["env", "list"]);
        let id = list[0]["id"].as_str().unwrap();
        ask(&here, &["env", "end", id]);
    }
    browser.close().await.unwrap();
}
