//! Signing in, in a real browser, on the fake provider of machines.

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use anyhow::{Context, Result, ensure};
use faultline_domain::authz::Role;
use faultline_e2e::{Browser, access, idp::Idp, serving::Serving, student};
use faultline_server::config::oidc::{Join, Oidc};
use serde_json::json;
use tokio::sync::Mutex;

/// Lets only one test run at a time, because there may be only two cores.
static ALONE: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);

/// Types into a field of a form.
async fn fill(browser: &Browser, field: &str, text: &str) -> Result<()> {
    browser.click(field).await?;
    browser.keys(text).await
}

/// Starts a server with a real identity provider. People of `example.org` may join.
async fn with_provider() -> Result<(Idp, Serving)> {
    let accounts = json!({
        "ann": {
            "name": "Ann Example", "email": "ann@example.org", "email_verified": true,
            "groups": ["teachers"],
        },
        "eve": { "name": "Eve", "email": "eve@example.org", "email_verified": false },
    });
    let mut idp = None;
    let serving = Serving::with(Duration::ZERO, |config| {
        let redirect = format!("{}/sign-in/oidc/callback", config.public_url);
        let started = Idp::begin(&redirect, &accounts)?;
        let secret = config.data_dir.join("oidc-secret");
        std::fs::write(&secret, started.secret)?;
        config.oidc = Some(Oidc {
            name: "Example".to_owned(),
            issuer: started.issuer.clone(),
            client_id: "faultline".to_owned(),
            client_secret_file: Some(secret),
            client_secret_env: None,
            scopes: vec!["profile".to_owned(), "email".to_owned()],
            roles_claim: Some("groups".to_owned()),
            roles: [("teachers".to_owned(), Role::Instructor)].into(),
            join: Join {
                everyone: false,
                email_domains: vec!["example.org".to_owned()],
                claims: BTreeMap::new(),
            },
        });
        idp = Some(started);
        Ok(())
    })
    .await?;
    Ok((idp.context("it was not started")?, serving))
}

/// Clicks through the provider's own pages.
async fn at_provider(browser: &Browser, login: &str) -> Result<()> {
    fill(browser, "input[name=login]", login).await?;
    fill(browser, "input[name=password]", "any password").await?;
    browser.click("button[type=submit]").await?;
    // Consent.
    browser.find("input[name=prompt][value=consent]").await?;
    browser.click("button[type=submit]").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_through_a_real_identity_provider() -> Result<()> {
    let _alone = ALONE.lock().await;
    let (idp, serving) = with_provider().await?;
    let base = serving.base.clone();
    let browser = Browser::open().await?;
    browser.go(&format!("{base}/sign-in")).await?;
    access::finished(&browser, "sign-in").await?;
    browser.click(".other-way button").await?;
    at_provider(&browser, "ann").await?;
    browser.find("nav[aria-label=Main]").await?;
    ensure!(
        browser.url().await? == format!("{base}/"),
        "not at the labs"
    );
    ensure!(
        browser.has("a[href='/groups']").await,
        "claims give no role"
    );
    browser.go(&format!("{base}/account")).await?;
    let page = browser.text("main").await?;
    for shown in [
        "Ann Example",
        "instructor",
        "ann@example.org",
        &idp.issuer,
        "Chrome on Linux",
    ] {
        ensure!(page.contains(shown), "no {shown} in {page}");
    }
    access::finished(&browser, "account-linked").await?;

    // The provider still knows the browser, so nothing has to be typed.
    browser
        .click("header form[action='/sign-out'] button")
        .await?;
    browser
        .until_text("main", "You are still signed in at Example")
        .await?;
    access::finished(&browser, "signed-out").await?;
    browser.click("main a[href='/sign-in']").await?;
    browser.click(".other-way button").await?;
    browser.find("nav[aria-label=Main]").await?;

    // Signed out there too, it asks again. It leads back to the sign-in page.
    browser
        .click("header form[action='/sign-out'] button")
        .await?;
    browser.click("main a.primary").await?;
    browser.click("button[name=logout]").await?;
    browser.find(".other-way button").await?;
    ensure!(
        browser.url().await? == format!("{base}/sign-in"),
        "not led back"
    );
    browser.click(".other-way button").await?;
    at_provider(&browser, "ann").await?;
    browser.find("nav[aria-label=Main]").await?;

    // Without a script there is one more click.
    browser
        .click("header form[action='/sign-out'] button")
        .await?;
    browser.click("main a[href='/sign-in']").await?;
    browser.find(".other-way button").await?;
    browser.scripts(false).await?;
    browser.click(".other-way button").await?;
    browser
        .click("form[action='/sign-in/oidc/callback'] button")
        .await?;
    browser.find("nav[aria-label=Main]").await?;
    browser.scripts(true).await?;
    browser.close().await?;

    // Somebody whose address isn't verified, and who then declines.
    let other = Browser::open().await?;
    other.go(&format!("{base}/sign-in")).await?;
    other.click(".other-way button").await?;
    at_provider(&other, "eve").await?;
    other.until_text("main", "You need an invitation").await?;
    access::finished(&other, "not-invited").await?;
    other.close().await?;
    let third = Browser::open().await?;
    third.go(&format!("{base}/sign-in")).await?;
    third.click(".other-way button").await?;
    third.click("a[href$='/abort']").await?;
    third
        .until_text("main", "Example did not sign you in")
        .await?;
    // The owner links an account.
    student::sign_in(&third, &serving.link).await?;
    third.go(&format!("{base}/account")).await?;
    third.click("form[action='/account/oidc'] button").await?;
    at_provider(&third, "eve").await?;
    third.until_text("main", "eve@example.org").await?;
    ensure!(third.url().await? == format!("{base}/account"));
    ensure!(
        third.has("a[href='/operator']").await,
        "the owner keeps the role"
    );
    third.close().await?;
    serving.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_out_browser_loses_its_terminal() -> Result<()> {
    let _alone = ALONE.lock().await;
    let serving = Serving::with(Duration::ZERO, |config| {
        config.recheck_seconds = 1;
        Ok(())
    })
    .await?;
    let (first, second) = (Browser::open().await?, Browser::open().await?);
    let base = student::sign_in(&first, &serving.link).await?;
    // The owner's second browser.
    first.go(&format!("{base}/account")).await?;
    fill(&first, "#login", "owner").await?;
    fill(&first, "#password", "correct horse battery").await?;
    first
        .click("form[action='/account/password'] button")
        .await?;
    first.find(".note.good").await?;
    second.go(&format!("{base}/sign-in")).await?;
    fill(&second, "#login", "owner").await?;
    fill(&second, "#password", "correct horse battery\n").await?;
    second.find("nav[aria-label=Main]").await?;
    student::start(&second, &base, "stale-flag").await?;
    first.go(&format!("{base}/account")).await?;
    access::finished(&first, "sessions").await?;
    first
        .click("form[action^='/account/sessions/'] button")
        .await?;
    first.click("#confirm-yes").await?;
    second.find(".tabs .mark.off").await?;
    second.reload().await?;
    second.until_text("main", "You are not signed in").await?;
    first.close().await?;
    second.close().await?;
    serving.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_with_a_passkey() -> Result<()> {
    let _alone = ALONE.lock().await;
    let serving = Serving::with(Duration::ZERO, |config| {
        // Browsers bind passkeys to a domain, not to an address.
        config.public_url = config.public_url.replace("127.0.0.1", "localhost");
        Ok(())
    })
    .await?;
    let browser = Browser::open().await?;
    let base = student::sign_in(&browser, &serving.link).await?;
    browser.authenticator().await?;
    let account = format!("{base}/account");
    browser.go(&account).await?;
    browser
        .js("document.getElementById('passkey-name').value = ''")
        .await?;
    fill(&browser, "#passkey-name", "My laptop").await?;
    browser.click("form[data-passkey=add] button").await?;
    browser.until_text("main .rows", "My laptop").await?;
    access::finished(&browser, "passkeys").await?;
    // The same authenticator has one already.
    browser.click("form[data-passkey=add] button").await?;
    browser
        .until_text(
            "form[data-passkey=add] .note",
            "has a passkey for your account already",
        )
        .await?;

    browser
        .click("header form[action='/sign-out'] button")
        .await?;
    browser
        .find("form[data-passkey=sign-in]:not([hidden])")
        .await?;
    access::finished(&browser, "sign-in-passkey").await?;
    browser.click("form[data-passkey=sign-in] button").await?;
    browser.find("nav[aria-label=Main]").await?;
    browser.go(&account).await?;
    browser
        .until_text("main", "My laptop\nadded just now · last used: just now")
        .await?;

    // A removed passkey is refused.
    browser
        .click("form[action^='/account/passkeys/'] button")
        .await?;
    browser.click("#confirm-yes").await?;
    browser.find("form[data-passkey=add]:not([hidden])").await?;
    ensure!(!browser.text("main").await?.contains("My laptop"));
    browser
        .click("header form[action='/sign-out'] button")
        .await?;
    browser.click("form[data-passkey=sign-in] button").await?;
    browser
        .until_text(
            "form[data-passkey=sign-in] .note",
            "This passkey is not known here",
        )
        .await?;
    browser.close().await?;
    serving.end().await
}
