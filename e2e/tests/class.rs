//! A class at real machines: two students, their instructor and an operator, each in a browser, at once.
//!
//! Needs root and `scripts/build dev`, which `./test` runs first.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use faultline_e2e::{
    Browser, access,
    installation::{Installation, step},
    student::{self, SCREEN, until_output},
};

const LAB: &str = "inventory-name";
const GROUP: &str = "Class of Monday";
const TERMINAL: &str = ".terminal-box:not([hidden]) .xterm-screen";

async fn fill(browser: &Browser, field: &str, what: &str) {
    browser.click(field).await.unwrap();
    browser.keys(what).await.unwrap();
}

/// Joins by a link, in a browser of its own.
async fn join(link: &str, name: &str, login: &str) -> Browser {
    let browser = Browser::open().await.unwrap();
    browser.go(link).await.unwrap();
    fill(&browser, "#name", name).await;
    fill(&browser, "#login", login).await;
    fill(&browser, "#password", "correct horse battery\n").await;
    browser.find("nav[aria-label=Main]").await.unwrap();
    browser
}

async fn finished(browser: &Browser, name: &str) {
    access::finished(browser, &format!("class-{name}"))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_students_an_instructor_and_an_operator_at_once() {
    let mut here = Installation::new();
    let link = here.up();
    let operator = Browser::open().await.unwrap();
    let base = student::sign_in(&operator, &link).await.unwrap();

    step("an operator invites an instructor, who invites a class by one link");
    let invited = here.ask(&["person", "invite", "--role", "instructor"]);
    let ida = join(invited["url"].as_str().unwrap(), "Ida Example", "ida").await;
    here.ask(&["group", "create", GROUP]);
    here.ask(&["group", "add", GROUP, "ida", "--instructor"]);
    ida.go(&format!("{base}/groups")).await.unwrap();
    ida.click(".rows a").await.unwrap();
    let invited = here.ask(&["group", "invite", GROUP, "--people", "2"]);
    let link = invited["url"].as_str().unwrap();
    let (ann, ben) = tokio::join!(join(link, "Ann", "ann"), join(link, "Ben", "ben"));

    step("both start the same lab, and the others see it without reloading");
    operator.go(&format!("{base}/operator")).await.unwrap();
    let (of_ann, of_ben) = tokio::join!(
        student::start(&ann, &base, LAB),
        student::start(&ben, &base, LAB)
    );
    let (of_ann, of_ben) = (of_ann.unwrap(), of_ben.unwrap());
    assert_ne!(of_ann, of_ben);
    for (browser, word) in [(&ann, "ann-was-here"), (&ben, "ben-was-here")] {
        browser.click(TERMINAL).await.unwrap();
        browser
            .keys(&format!("w={word}; echo $w > /root/who; echo -$w-\n"))
            .await
            .unwrap();
        until_output(browser, &format!("-{word}-")).await.unwrap();
    }
    for name in ["Ann", "Ben"] {
        ida.until_text("#members", name).await.unwrap();
        operator.until_text("#environments", name).await.unwrap();
    }
    ida.until_text("#members", "working").await.unwrap();

    step("neither reaches the other's page");
    for (browser, other) in [(&ann, &of_ben), (&ben, &of_ann)] {
        let mine = browser.url().await.unwrap();
        browser.go(other).await.unwrap();
        browser.until_text("h1", "Not found").await.unwrap();
        browser.go(&mine).await.unwrap();
        browser.find(".tabs .mark.on").await.unwrap();
    }

    step("the instructor looks, and tries something on a copy");
    let id = of_ann.rsplit('/').next().unwrap();
    ida.go(&format!("{base}/environments/{id}/look"))
        .await
        .unwrap();
    until_output(&ida, "-ann-was-here-").await.unwrap();
    ann.until_text("#looks", "Ida Example looks at your terminals")
        .await
        .unwrap();
    ida.click("#copies form[action$='/copies'] button")
        .await
        .unwrap();
    ida.until_text("#copies", "Start it").await.unwrap();
    ann.until_text(SCREEN, "Ida Example made a copy")
        .await
        .unwrap();
    tokio::join!(
        finished(&ida, "look"),
        finished(&ann, "looked-at"),
        finished(&ben, "workspace"),
        finished(&operator, "operator")
    );
    ida.click("#copies .primary").await.unwrap();
    ida.find("#workspace[data-phase=active] .tabs .mark.on")
        .await
        .unwrap();
    ida.click(TERMINAL).await.unwrap();
    ida.keys("cat /root/who; echo changed > /root/who\n")
        .await
        .unwrap();
    until_output(&ida, "ann-was-here").await.unwrap();
    ann.click(TERMINAL).await.unwrap();
    ann.keys("clear; echo \"now: $(cat /root/who)\"\n")
        .await
        .unwrap();
    until_output(&ann, "now: ann-was-here").await.unwrap();
    finished(&ida, "copy").await;

    step("a check shows on the instructor's page, and an end on the operator's");
    ida.go(&format!("{base}/groups")).await.unwrap();
    ida.click(".rows a").await.unwrap();
    ben.click("#check-button").await.unwrap();
    ida.until_text("#members", "checks pass").await.unwrap();
    finished(&ida, "group").await;
    operator.scheme("dark").await.unwrap();
    operator.click(&format!("#end-{id}")).await.unwrap();
    // Longer than the page's updates are apart.
    tokio::time::sleep(std::time::Duration::from_secs(7)).await;
    operator
        .click("#confirm-dialog button[value=yes]")
        .await
        .unwrap();
    ann.until_text(".workspace", "ended").await.unwrap();
    ben.find(".tabs .mark.on").await.unwrap();
    for browser in [ann, ben, ida, operator] {
        browser.close().await.unwrap();
    }
    here.down();
}
