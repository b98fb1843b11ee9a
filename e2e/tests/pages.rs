//! The pages in a real browser, on the fake provider.

use std::{sync::LazyLock, time::Duration};

use anyhow::Result;
use faultline_domain::TenantId;
use faultline_e2e::{
    Browser, access,
    serving::Serving,
    student::{self, Plan},
};
use thirtyfour::Key;
use tokio::sync::{Mutex, MutexGuard};

/// Lets only one browser run at a time, because there may be only two cores.
static ALONE: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);

/// Starts a server on which creating a machine takes `latency`, and a browser that is signed in. Returns the lock that
/// keeps other tests waiting, the server, the browser, and the server's address.
async fn signed_in(
    latency: Duration,
) -> Result<(MutexGuard<'static, ()>, Serving, Browser, String)> {
    let alone = ALONE.lock().await;
    let serving = Serving::begin(latency).await?;
    let browser = Browser::open().await?;
    let base = student::sign_in(&browser, &serving.link).await?;
    Ok((alone, serving, browser, base))
}

fn plan() -> Plan {
    Plan {
        slug: "stale-flag".to_owned(),
        repair: vec![
            "rm /var/lib/orders/maintenance".to_owned(),
            "touch /var/lib/orders/released".to_owned(),
        ],
        settle: Duration::from_millis(300),
    }
}

/// Returns the tenant of the workspace that is shown.
async fn tenant(browser: &Browser) -> Result<TenantId> {
    let script = "return document.getElementById('workspace').dataset.tenant";
    let tenant = browser.js(script).await?;
    Ok(tenant.as_str().unwrap_or_default().parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_student_solves_a_lab() -> Result<()> {
    let (_alone, serving, browser, base) = signed_in(Duration::from_secs(2)).await?;
    student::solve(&browser, &base, &plan()).await?;
    browser.close().await?;
    serving.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn terminals_reconnect_and_show_when_they_are_the_console() -> Result<()> {
    let (_alone, serving, browser, base) = signed_in(Duration::ZERO).await?;
    student::start(&browser, &base, "two-nodes").await?;
    let id = tenant(&browser).await?;
    browser.click(".xterm-screen").await?;
    browser.keys("echo before-the-drop\n").await?;
    student::until_output(&browser, "before-the-drop").await?;
    serving.provider.drop_streams(&id);
    browser.find(".tabs .mark.off").await?;
    browser.find(".tabs .mark.on").await?;
    student::until_output(&browser, "before-the-drop").await?;
    serving.provider.silence(&id, &"node2".parse()?, true);
    browser.click(".tablist button:nth-child(2)").await?;
    browser
        .until_text(student::SCREEN, "This is the serial console")
        .await?;
    serving.provider.crash(&id);
    browser
        .until_text("#pane-right", "a part of the machine has died")
        .await?;
    browser.close().await?;
    serving.end().await
}

/// The network fails silently: no connection is closed, and nothing arrives any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_network_is_detected_and_input_refused_meanwhile() -> Result<()> {
    let (_alone, serving, browser, base) = signed_in(Duration::ZERO).await?;
    student::start(&browser, &base, "stale-flag").await?;
    browser.click(".xterm-screen").await?;
    browser.keys("echo before\n").await?;
    student::until_output(&browser, "before").await?;
    browser
        .js("window.real = [WebSocket, WebSocket.prototype.send]; \
             WebSocket.prototype.send = () => {}; \
             window.WebSocket = class { \
               static OPEN = 1; \
               readyState = 0; \
               constructor() { setTimeout(() => this.onclose?.({ code: 1006, reason: '' }), 1000); } \
               close() {} \
             };")
        .await?;
    browser
        .until_text(".terminal-line", "Connection lost")
        .await?;
    browser.keys("touch /tmp/late\n").await?;
    browser
        .until_text(".terminal-line", "what you type is not sent")
        .await?;
    // The network is back.
    browser
        .js("[window.WebSocket, window.real[0].prototype.send] = window.real")
        .await?;
    browser.find(".tabs .mark.on").await?;
    student::until_output(&browser, "before").await?;
    browser.click(".xterm-screen").await?;
    browser.keys("echo after\n").await?;
    student::until_output(&browser, "after").await?;
    let id = tenant(&browser).await?;
    let late = serving.provider.file(&id, &"node1".parse()?, "/tmp/late");
    anyhow::ensure!(late.is_none(), "refused input was run");
    browser.close().await?;
    serving.end().await
}

/// Over plain HTTP, a browser opens at most six connections to a host. If each page kept one open, further pages could
/// not load.
#[tokio::test(flavor = "multi_thread")]
async fn eight_windows_of_a_workspace_load_and_show_a_terminal() -> Result<()> {
    let (_alone, serving, browser, base) = signed_in(Duration::ZERO).await?;
    let place = student::start(&browser, &base, "stale-flag").await?;
    let mut windows = vec![browser.window().await?];
    while windows.len() < 8 {
        windows.push(browser.open_window(&place).await?);
        browser.find(".tabs .mark.on").await?;
    }
    for (n, window) in windows.into_iter().enumerate() {
        browser.switch_to(window).await?;
        browser.click(".xterm-screen").await?;
        let word = format!("typed-in-window-{n}");
        browser.keys(&format!("echo {word}\n")).await?;
        student::until_output(&browser, &word).await?;
    }
    // Events arrive in all windows.
    browser.click("#check-button").await?;
    for window in browser.windows().await? {
        browser.switch_to(window).await?;
        browser.until_text("#checks", "0 of 2 passed").await?;
    }
    browser.close().await?;
    serving.end().await
}

/// More output than the server's send window arrives completely, and another terminal responds meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_output_arrives_and_does_not_block_other_terminals() -> Result<()> {
    let (_alone, serving, browser, base) = signed_in(Duration::ZERO).await?;
    student::start(&browser, &base, "stale-flag").await?;
    let id = tenant(&browser).await?;
    let lines = "0123456789\n".repeat(5000);
    serving
        .provider
        .put_file(&id, &"node1".parse()?, "/run/lines", lines.as_bytes());
    browser.click(".xterm-screen").await?;
    browser.keys(&"cat /run/lines\n".repeat(30)).await?;
    browser.keys("echo after-the-flood\n").await?;
    browser.chord(&[Key::Alt], 't').await?;
    browser
        .find(".tablist button:nth-child(2)[aria-selected=true] .mark.on")
        .await?;
    browser.keys("echo quiet\n").await?;
    student::until_output(&browser, "quiet").await?;
    browser.chord(&[Key::Alt], '1').await?;
    student::until_output(&browser, "after-the-flood").await?;
    browser.close().await?;
    serving.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_closed_with_its_tab() -> Result<()> {
    let (_alone, serving, browser, base) = signed_in(Duration::ZERO).await?;
    student::start(&browser, &base, "stale-flag").await?;
    let second = ".tablist button:nth-child(2)";
    for how in ["by its cross", "by a key"] {
        browser.chord(&[Key::Alt], 't').await?;
        browser
            .find(&format!("{second}[aria-selected=true] .mark.on"))
            .await?;
        browser
            .keys(&format!("echo {}\n", how.replace(' ', "-")))
            .await?;
        student::until_output(&browser, &how.replace(' ', "-")).await?;
        if how == "by its cross" {
            browser.click(&format!("{second} .close")).await?;
        } else {
            browser
                .js("document.querySelector('.tablist button:nth-child(2)').focus()")
                .await?;
            browser.chord(&[], char::from(Key::Delete)).await?;
        }
        browser.click("#confirm-dialog button[value=yes]").await?;
        browser
            .find(".tablist button:nth-child(1)[aria-selected=true]")
            .await?;
        anyhow::ensure!(!browser.has(second).await, "{how}: the tab should close");
    }
    // Its shell has ended too: the next terminal with that number is a new one.
    browser.chord(&[Key::Alt], 't').await?;
    browser
        .find(&format!("{second}[aria-selected=true] .mark.on"))
        .await?;
    browser.keys("echo fresh\n").await?;
    student::until_output(&browser, "fresh").await?;
    let shown = browser.text(student::SCREEN).await?;
    anyhow::ensure!(!shown.contains("by-a-key"), "{shown}");
    // A terminal whose shell has ended is closed without confirmation.
    browser.keys("exit\n").await?;
    browser
        .until_text(student::SCREEN, "or close this tab")
        .await?;
    browser.click(&format!("{second} .close")).await?;
    browser
        .find(".tablist button:nth-child(1)[aria-selected=true]")
        .await?;
    anyhow::ensure!(!browser.has(second).await, "the ended tab should close");
    anyhow::ensure!(
        !browser.has(".tablist button:nth-child(1) .close").await,
        "a node's first tab can't be closed"
    );
    browser.close().await?;
    serving.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn terminal_output_is_copied_and_pasted() -> Result<()> {
    let (_alone, serving, browser, base) = signed_in(Duration::ZERO).await?;
    student::start(&browser, &base, "stale-flag").await?;
    browser.click(".xterm-screen").await?;
    browser.keys("echo to-be-copied\n").await?;
    student::until_output(&browser, "to-be-copied").await?;
    student::copy_line(&browser, "to-be-copied").await?;
    // Copying sent no input to the shell, so the next input starts a new line.
    browser.keys("echo it-was-").await?;
    student::paste(&browser).await?;
    browser.keys("\n").await?;
    student::until_output(&browser, "it-was-to-be-copied").await?;
    browser.close().await?;
    serving.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_but_the_terminal_works_without_scripts() -> Result<()> {
    let _alone = ALONE.lock().await;
    let serving = Serving::begin(Duration::ZERO).await?;
    let browser = Browser::open().await?;
    browser.scripts(false).await?;
    browser.go(&serving.link).await?;
    browser.click(".sheet button").await?;
    browser.click("a[href='/labs/stale-flag']").await?;
    browser.click(".start-box button").await?;
    browser.find("#workspace").await?;
    while !browser.has("#workspace[data-phase=active]").await {
        browser.reload().await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    browser
        .until_text("#pane-right", "needs JavaScript")
        .await?;
    browser.click(".hint button").await?;
    browser.find(".hint.opened").await?;
    browser.click("#check-button").await?;
    browser.until_text("#checks", "0 of 2 passed").await?;
    browser.click("details.menu summary").await?;
    browser.click(".menu-box .danger").await?;
    browser
        .until_text("#pane-right", "You ended this machine")
        .await?;
    browser.shot("without-scripts").await?;
    browser.scripts(true).await?;
    browser.close().await?;
    serving.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_fit_are_small_and_accessible() -> Result<()> {
    let _alone = ALONE.lock().await;
    let serving = Serving::begin(Duration::from_millis(100)).await?;
    let browser = Browser::open().await?;
    browser.go(&format!("{}/", serving.base)).await?;
    access::check(&browser, "signed out").await?;
    let base = student::sign_in(&browser, &serving.link).await?;
    browser.reload_without_cache().await?;
    let weight = browser
        .js("return performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation')).reduce((n, e) => n + e.transferSize, 0)")
        .await?;
    assert!(
        weight.as_u64().is_some_and(|n| n > 20_000 && n < 80 * 1024),
        "{weight}"
    );
    // A search changes the address.
    browser.click("#q").await?;
    browser.keys("nothing like this").await?;
    browser.until_text("#results", "No labs found").await?;
    assert!(browser.url().await?.contains("q=nothing"));

    let place = student::start(&browser, &base, "stale-flag").await?;
    browser.click("#check-button").await?;
    browser.until_text("#checks", "0 of 2 passed").await?;
    let mut found = Vec::new();
    for scheme in ["dark", "light"] {
        browser.scheme(scheme).await?;
        for (width, height) in [(1600, 1000), (390, 844)] {
            browser.size(width, height).await?;
            for (name, path) in [
                ("catalogue", "/"),
                ("lab", "/labs/stale-flag"),
                ("workspace", place.trim_start_matches(base.as_str())),
                ("progress", "/progress"),
                ("keys", "/keys"),
                ("account", "/account"),
                ("people", "/people"),
                ("operator", "/operator"),
                ("pools", "/operator/pools"),
                ("nowhere", "/nowhere"),
            ] {
                browser.go(&format!("{base}{path}")).await?;
                if name == "workspace" {
                    browser.find(".tablist button").await?;
                }
                browser.fits().await?;
                let what = format!("{name}-{width}-{scheme}");
                browser.shot(&what).await?;
                if let Err(e) = access::check(&browser, &what).await {
                    found.push(e.to_string());
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    browser.go(&place).await?;
    browser.click(".panes a[data-pane=right]").await?;
    browser.find(".tabs .mark.on").await?;
    browser.shot("terminal-390-light").await?;
    browser.touch(true).await?;
    browser.reload().await?;
    browser.click(".panes a[data-pane=right]").await?;
    browser.find(".tabs .mark.on").await?;
    browser.fits().await?;
    browser.click(".terminal-box:not([hidden])").await?;
    browser.keys("cat\n").await?;
    browser.click(".touch-keys [aria-pressed]").await?;
    browser.keys("c").await?;
    browser.keys("echo over").await?;
    browser.click(".touch-keys [aria-label$=Slash]").await?;
    browser.keys("\n").await?;
    student::until_output(&browser, "over/").await?;
    browser.shot("terminal-390-touch").await?;
    access::check(&browser, "terminal-390-touch").await?;
    browser.close().await?;
    serving.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_start_says_why_and_offers_a_retry() -> Result<()> {
    let _alone = ALONE.lock().await;
    let serving = Serving::begin(Duration::from_millis(300)).await?;
    for _ in 0..2 {
        serving
            .provider
            .fail_next("network", "the bridge could not be made");
    }
    let browser = Browser::open().await?;
    let base = student::sign_in(&browser, &serving.link).await?;
    browser.go(&format!("{base}/labs/stale-flag")).await?;
    browser.click(".start-box button").await?;
    browser
        .until_text("#pane-right", "the bridge could not be made")
        .await?;
    browser.shot("failed").await?;
    browser.click("#pane-right button.primary").await?;
    browser.find("#workspace[data-phase=active]").await?;
    browser.close().await?;
    serving.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn lab_texts_show_pictures_and_copy_code() -> Result<()> {
    let (_alone, serving, browser, base) = signed_in(Duration::ZERO).await?;
    student::start(&browser, &base, "stale-flag").await?;
    browser.find("#incident img").await?;
    browser
        .js("return document.querySelector('#incident img').decode().then(() => true)")
        .await?;
    // Links within the text stay on the page.
    browser.click("#incident .footnote-ref a").await?;
    browser.find("#incident-fn-1:target").await?;
    browser.click("form[action$='/give-up'] button").await?;
    browser.click("#confirm-yes").await?;
    browser.find(".outcome .copy-code").await?;
    browser
        .js("document.querySelector('.copy-code').focus()")
        .await?;
    browser.keys("\n").await?;
    browser.until_text(".copy-code", "Copied").await?;
    browser.close().await?;
    serving.end().await
}

/// Types into a field of a form.
async fn fill(browser: &Browser, field: &str, text: &str) -> Result<()> {
    browser.click(field).await?;
    browser.keys(text).await
}

/// Two people in two browsers: the owner invites, a student joins, signs in again, and is disabled.
#[tokio::test(flavor = "multi_thread")]
async fn a_student_joins_by_invitation_and_is_disabled() -> Result<()> {
    let (_alone, serving, owner, base) = signed_in(Duration::ZERO).await?;
    owner.go(&format!("{base}/people")).await?;
    fill(&owner, "[name=note]", "Class of Monday").await?;
    owner.click(".fields .primary").await?;
    let link = owner.text(".note.good code").await?;

    let student = Browser::open().await?;
    for (width, height) in [(390, 844), (1600, 1000)] {
        student.size(width, height).await?;
        student.go(&link).await?;
        student.fits().await?;
        student.shot(&format!("invitation-{width}")).await?;
        access::check(&student, "invitation").await?;
    }
    fill(&student, "#name", "Ann Example").await?;
    fill(&student, "#login", "ann").await?;
    fill(&student, "#password", "correct horse battery\n").await?;
    student.find("nav[aria-label=Main]").await?;
    anyhow::ensure!(!student.has("nav a[href='/people']").await);
    let place = student::start(&student, &base, "stale-flag").await?;

    // The environment is the student's alone.
    owner.go(&place).await?;
    owner.until_text("h1", "Not found").await?;
    owner.go(&format!("{base}/people")).await?;
    owner.until_text("table", "Ann Example").await?;
    for (width, height) in [(390, 844), (1600, 1000)] {
        owner.size(width, height).await?;
        owner.fits().await?;
        owner.shot(&format!("people-of-two-{width}")).await?;
        access::check(&owner, "people of two").await?;
    }

    student.go(&format!("{base}/labs/stale-flag")).await?;
    student.click("form[action='/sign-out'] button").await?;
    fill(&student, "#login", "ann").await?;
    fill(&student, "#password", "wrong horse battery\n").await?;
    student.until_text(".note.bad", "is wrong").await?;
    student.shot("sign-in-wrong").await?;
    access::check(&student, "sign-in").await?;
    fill(&student, "#password", "correct horse battery\n").await?;
    student.find("nav[aria-label=Main]").await?;
    student.go(&place).await?;
    student.find(".tabs .mark.on").await?;

    owner.click("button[value=disable]").await?;
    owner.click("#confirm-yes").await?;
    owner.until_text("table", "disabled").await?;
    student.go(&place).await?;
    student.until_text("h1", "You are not signed in").await?;
    student.close().await?;
    owner.close().await?;
    serving.end().await
}

/// Joins by an invitation in a browser of its own.
async fn join(link: &str, name: &str, login: &str) -> Result<Browser> {
    let browser = Browser::open().await?;
    browser.go(link).await?;
    fill(&browser, "#name", name).await?;
    fill(&browser, "#login", login).await?;
    fill(&browser, "#password", "correct horse battery\n").await?;
    browser.find("nav[aria-label=Main]").await?;
    Ok(browser)
}

/// An operator, an instructor and a student in three browsers: a group is set up, and the instructor watches the student
/// without reloading the page.
#[tokio::test(flavor = "multi_thread")]
async fn an_instructor_watches_a_student() -> Result<()> {
    let (_alone, serving, owner, base) = signed_in(Duration::ZERO).await?;
    owner.go(&format!("{base}/people")).await?;
    owner
        .click(".fields select[name=role] option[value=instructor]")
        .await?;
    owner.click(".fields .primary").await?;
    let link = owner.text(".note.good code").await?;
    let instructor = join(&link, "Ida Example", "ida").await?;
    instructor.go(&format!("{base}/groups")).await?;
    instructor
        .until_text(".page", "You don't instruct a group yet")
        .await?;

    owner.go(&format!("{base}/groups")).await?;
    owner.until_text(".page", "No group yet").await?;
    fill(&owner, "[name=name]", "Class of Monday\n").await?;
    owner.until_text("h1", "Class of Monday").await?;
    owner
        .click("select[name=person] option:last-of-type")
        .await?;
    owner
        .click("select[name=part] option[value=instructor]")
        .await?;
    owner.click("form[action$='/add'] button").await?;
    owner.until_text("#members", "(instructor)").await?;

    instructor.reload().await?;
    instructor.click(".rows a").await?;
    instructor.until_text("h1", "Class of Monday").await?;
    anyhow::ensure!(!instructor.has("form[action$='/delete']").await);
    instructor.click("form[action$='/invite'] button").await?;
    let link = instructor.text(".note.good code").await?;
    let student = join(&link, "Stu Example", "stu").await?;
    anyhow::ensure!(!student.has("nav a[href='/groups']").await);
    student::start(&student, &base, "stale-flag").await?;
    instructor.until_text("#members", "working").await?;
    student.click("#check-button").await?;
    instructor
        .until_text("#members", "0 of 2 checks pass")
        .await?;
    looks_at(&serving, &instructor, &student).await?;
    for scheme in ["dark", "light"] {
        instructor.scheme(scheme).await?;
        owner.scheme(scheme).await?;
        for (width, height) in [(1600, 1000), (390, 844)] {
            for (browser, name) in [(&instructor, "group"), (&owner, "groups")] {
                if name == "groups" {
                    browser.go(&format!("{base}/groups")).await?;
                }
                browser.size(width, height).await?;
                browser.fits().await?;
                let what = format!("{name}-{width}-{scheme}");
                browser.shot(&what).await?;
                access::check(browser, &what).await?;
            }
        }
    }
    for browser in [student, instructor, owner] {
        browser.close().await?;
    }
    serving.end().await
}

/// The instructor looks into the student's terminal from the group's page, types there, and returns to the group.
async fn looks_at(serving: &Serving, instructor: &Browser, student: &Browser) -> Result<()> {
    let (id, node) = (tenant(student).await?, "node1".parse()?);
    let made = |path: &str| serving.provider.file(&id, &node, path).is_some();
    student.click(".xterm-screen").await?;
    student.keys("echo seen-by-both\n").await?;
    instructor.click("#members a").await?;
    instructor.find("#tabs .mark.on").await?;
    student::until_output(instructor, "seen-by-both").await?;
    student
        .until_text("#looks", "looks at your terminals")
        .await?;
    let screen = ".terminal-box:not([hidden]) .xterm-screen";
    instructor.click(screen).await?;
    instructor.keys("touch /tmp/early\n").await?;
    finished(&[(instructor, "look"), (student, "looked-at")]).await?;

    instructor.click("#look-type button").await?;
    instructor
        .until_text("#look-state", "You type together")
        .await?;
    student.until_text("#looks", "types with you").await?;
    instructor.click(screen).await?;
    instructor
        .keys("touch /tmp/typed\necho typed-by-both\n")
        .await?;
    student::until_output(student, "typed-by-both").await?;
    anyhow::ensure!(made("/tmp/typed") && !made("/tmp/early"));
    finished(&[(instructor, "look-typing"), (student, "typed-with")]).await?;

    student.chord(&[Key::Alt], 't').await?;
    instructor.find("#tabs button:nth-child(2)").await?;
    instructor.chord(&[Key::Alt], '2').await?;
    let second = "#tabs button:nth-child(2)[aria-selected=true] .mark.on";
    instructor.find(second).await?;
    instructor.click("#look-type button").await?;
    instructor
        .until_text("#look-state", "You only look")
        .await?;
    // A copy, and an environment of the instructor's own that continues from it.
    let here = instructor.url().await?;
    instructor
        .click("#copies form[action$='/copies'] button")
        .await?;
    instructor.until_text("#copies", "Start it").await?;
    finished(&[(instructor, "look-copied")]).await?;
    instructor.size(1600, 1000).await?;
    instructor.click("#copies .primary").await?;
    instructor
        .find("#workspace[data-phase=active] .tabs .mark.on")
        .await?;
    let copy = tenant(instructor).await?;
    let file = |of| serving.provider.file(of, &node, "/tmp/typed");
    anyhow::ensure!(copy != id && file(&copy).is_some(), "it has what was there");
    instructor.go(&here).await?;
    instructor.click("header a.button").await?;
    instructor
        .until_text("#members", "0 of 2 checks pass")
        .await?;
    student.find("#looks:empty").await?;
    Ok(())
}

async fn finished(pages: &[(&Browser, &str)]) -> Result<()> {
    for (browser, name) in pages {
        access::finished(browser, name).await?;
    }
    Ok(())
}
