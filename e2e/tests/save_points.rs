//! Save points on a real machine: made and restored on the page while its terminal stays, undone, forked, and kept
//! through a kill of the server. A suspended machine is one on disk.
//!
//! Needs root and `scripts/build dev`, which `./test` runs first.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use faultline_e2e::{
    Browser,
    installation::{Installation, step, text},
    student::{self, SCREEN, until_output},
};
use serde_json::Value;
use thirtyfour::Key;

const LAB: &str = "orders-api-upgrade";

async fn type_in(browser: &Browser, line: &str) {
    let screen = ".terminal-box:not([hidden]) .xterm-screen";
    browser.click(screen).await.unwrap();
    browser.keys(line).await.unwrap();
}

async fn confirm(browser: &Browser) {
    let yes = "#confirm-dialog button[value=yes]";
    browser.click(yes).await.unwrap();
}

/// Waits until the page shows another tenant, with a connected terminal.
async fn until_other_tenant(browser: &Browser, before: &Value) {
    let began = Instant::now();
    let tenant = "return document.querySelector('#workspace[data-phase=active]')?.dataset.tenant";
    loop {
        // The page may be loading.
        let now = browser.js(tenant).await.unwrap_or_default();
        if now.is_string() && now != *before {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{before} {now}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    browser.find(".tabs .mark.on").await.unwrap();
}

/// Returns the folders of tenants that exist.
fn tenants(here: &Installation) -> usize {
    std::fs::read_dir(here.data.path().join("tenants")).map_or(0, Iterator::count)
}

async fn suspend_and_resume(here: &mut Installation, browser: &Browser, place: &str, id: &str) {
    browser.go(place).await.unwrap();
    browser.find(".tabs .mark.on").await.unwrap();
    type_in(browser, "kept=43; sleep 100000 & echo started-$kept\n").await;
    until_output(browser, "started-43").await.unwrap();
    browser.click(".menu summary").await.unwrap();
    browser
        .click(".menu form[action$='/suspend'] button")
        .await
        .unwrap();
    browser
        .until_text(".machine-box", "It is on disk")
        .await
        .unwrap();
    browser.shot("suspended-1600").await.unwrap();
    browser.size(390, 844).await.unwrap();
    browser.click(".panes a[href='#pane-right']").await.unwrap();
    browser.fits().await.unwrap();
    browser.shot("suspended-390").await.unwrap();
    browser.size(1600, 1000).await.unwrap();
    let began = Instant::now();
    while tenants(here) > 0 {
        assert!(began.elapsed() < Duration::from_secs(30), "it is not freed");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let listed = here.run(&["env", "list"]);
    assert!(text(&listed.stdout).contains("days on disk"));
    let entered = here.run(&["ssh", id]);
    assert!(text(&entered.stderr).contains("is paused"));
    here.kill_server();
    here.up();

    browser.go(place).await.unwrap();
    browser
        .click(".machine-box form[action$='/resume'] button")
        .await
        .unwrap();
    browser.find(".tabs .mark.on").await.unwrap();
    browser.until_text(SCREEN, "was paused for").await.unwrap();
    browser.shot("resumed-1600").await.unwrap();
    type_in(browser, "echo $((kept + 1))-$(jobs -r | wc -l)\n").await;
    until_output(browser, "44-1").await.unwrap();
    let clock: i64 = here.on(id, "date +%s").parse().unwrap();
    let now = faultline_domain::Clock::system().now().as_second();
    assert!((clock - now).abs() <= 2, "its clock is set: {clock} {now}");
    // By the command line.
    here.ask(&["env", "suspend", id]);
    let began = Instant::now();
    while here.ask(&["env", "show", id]).get("on_disk") != Some(&Value::Bool(true)) {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "it stays in memory"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    here.ask(&["env", "resume", id]);
    assert_eq!(here.on(id, "cat /root/note"), "after-the-save");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_goes_back_to_its_save_point() {
    let mut here = Installation::new();
    let link = here.up();
    let browser = Browser::open().await.unwrap();
    let base = student::sign_in(&browser, &link).await.unwrap();
    let place = student::start(&browser, &base, LAB).await.unwrap();
    let id = place.rsplit('/').next().unwrap().to_owned();
    let tenant = async || {
        let script = "return document.getElementById('workspace').dataset.tenant";
        browser.js(script).await.unwrap()
    };

    step("a machine is saved with one key, and runs on");
    browser
        .until_text("#saves", "Save before a risky step")
        .await
        .unwrap();
    type_in(
        &browser,
        "counter=41; echo before-the-save > /root/note; cat /root/note\n",
    )
    .await;
    until_output(&browser, "before-the-save").await.unwrap();
    browser.chord(&[Key::Alt], 's').await.unwrap();
    browser.until_text(".save", "Save point 1").await.unwrap();
    browser
        .find(".save form[action$='/restore']")
        .await
        .unwrap();
    type_in(
        &browser,
        "echo after-the-save > /root/note; cat /root/note; systemctl stop ssh.socket\n",
    )
    .await;
    until_output(&browser, "after-the-save").await.unwrap();
    browser.shot("saves-1600").await.unwrap();
    browser.scheme("dark").await.unwrap();
    browser.size(390, 844).await.unwrap();
    browser.click(".panes a[href='#incident']").await.unwrap();
    browser
        .js("document.getElementById('saves').scrollIntoView({ block: 'center' })")
        .await
        .unwrap();
    browser.fits().await.unwrap();
    browser.shot("saves-390-dark").await.unwrap();
    browser.scheme("light").await.unwrap();
    browser.size(1600, 1000).await.unwrap();

    step("it goes back: file, shell and screen are those of the save point");
    let first = tenant().await;
    browser
        .click(".save form[action$='/restore'] button")
        .await
        .unwrap();
    confirm(&browser).await;
    until_other_tenant(&browser, &first).await;
    browser.until_text(SCREEN, "continues from").await.unwrap();
    browser.shot("restored-1600").await.unwrap();
    let screen = browser.text(SCREEN).await.unwrap();
    assert!(!screen.contains("after-the-save"), "{screen}");
    type_in(&browser, "echo $((counter + 1)); cat /root/note\n").await;
    until_output(&browser, "42").await.unwrap();
    assert_eq!(here.on(&id, "cat /root/note"), "before-the-save");
    let clock: i64 = here.on(&id, "date +%s").parse().unwrap();
    let now = faultline_domain::Clock::system().now().as_second();
    assert!((clock - now).abs() <= 2, "its clock is set: {clock} {now}");

    step("that is undone");
    let second = tenant().await;
    browser
        .until_text("#saves", "Before going back to")
        .await
        .unwrap();
    let undo = ".save:first-child form[action$='/restore'] button";
    browser.until_text(undo, "Undo").await.unwrap();
    browser.click(undo).await.unwrap();
    confirm(&browser).await;
    until_other_tenant(&browser, &second).await;
    assert_eq!(here.on(&id, "cat /root/note"), "after-the-save");

    step("two forks share neither disk nor randomness");
    let forks: Vec<String> = (0..2)
        .map(|n| {
            let fork = here.ask(&["env", "fork", "Save point 1"]);
            let fork = fork.get("id").and_then(Value::as_str).unwrap().to_owned();
            assert_eq!(here.on(&fork, "cat /root/note"), "before-the-save", "{n}");
            fork
        })
        .collect();
    let random = |id: &str| here.on(id, "od -An -N16 -tx1 /dev/urandom");
    let drawn: Vec<String> = forks.iter().map(|id| random(id)).collect();
    assert!(drawn.iter().all(|bytes| bytes.len() == 47), "{drawn:?}");
    assert!(
        drawn.windows(2).all(|pair| pair.first() != pair.last()),
        "{drawn:?}"
    );
    let fork = forks.first().unwrap();
    here.on(fork, "echo elsewhere > /root/note");
    assert_eq!(here.on(&id, "cat /root/note"), "after-the-save");
    for fork in &forks {
        here.ask(&["env", "end", fork]);
    }

    step("a killed server loses no save point, and a reset is undone by the command line");
    here.ask(&["env", "save", &id, "--name", "before the reset by hand"]);
    here.kill_server();
    here.up();
    let reset = here.run(&["env", "reset", &id]);
    assert!(reset.status.success(), "{}", text(&reset.stderr));
    assert_eq!(here.on(&id, "cat /root/note"), "");
    let list = here.run(&["env", "saves"]);
    assert!(text(&list.stdout).contains("before the reset by hand"));
    let began = Instant::now();
    loop {
        let undone = here.run(&["env", "restore", "Before the reset"]);
        if undone.status.success() {
            break;
        }
        // It is made while the new machine starts.
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "{}",
            text(&undone.stderr)
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(here.on(&id, "cat /root/note"), "after-the-save");

    step("a suspended machine leaves nothing running, and goes on after a restart of everything");
    suspend_and_resume(&mut here, &browser, &place, &id).await;

    step("a damaged save point is refused, and the machine is brought back");
    let saves = here.ask(&["env", "saves"]);
    let all = saves.as_array().unwrap();
    let named = |name: &str| all.iter().find(|s| s.get("name").unwrap() == name).unwrap();
    let damaged = named("Save point 1").get("id").unwrap().as_str().unwrap();
    let pages = here
        .data
        .path()
        .join("saves")
        .join(damaged)
        .join("nodes/node1.pages");
    let mut bytes = std::fs::read(&pages).unwrap();
    *bytes.get_mut(5000).unwrap() ^= 1;
    std::fs::remove_file(&pages).unwrap();
    std::fs::write(&pages, bytes).unwrap();
    let refused = here.run(&["env", "restore", "Save point 1"]);
    assert!(
        !refused.status.success() && text(&refused.stderr).contains("checksum"),
        "{}",
        text(&refused.stderr)
    );
    here.ask(&["env", "restore", "before the reset by hand"]);
    assert_eq!(here.on(&id, "cat /root/note"), "after-the-save");
    for save in all {
        let save = save.get("id").unwrap().as_str().unwrap();
        let _ = here.run(&["env", "delete-save", save]);
    }
    browser.close().await.unwrap();
    here.down();
}
