//! What a student exposes, from outside: in the browser on the fake provider, and a cluster's service by curl and in the
//! browser.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Result;
use faultline_domain::{NodeName, TenantId};
use faultline_e2e::{
    Browser,
    installation::{Installation, step, text},
    serving::Serving,
    student,
};
use faultline_provider::fake::FakeListener;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A page of a student who attacks the platform at `BASE` from the visitor's browser. Its title says when it is done, and
/// its text what has succeeded.
const ATTACK: &str = r"<!doctype html><title>attacking</title><h1>My shop</h1><pre id=result></pre><script>
(async () => {
  const base = 'BASE', id = 'ID', won = [];
  const attempt = async (name, act) => { try { if (await act()) won.push(name); } catch {} };
  const post = { method: 'POST', credentials: 'include' };
  const form = { 'content-type': 'application/x-www-form-urlencoded' };
  await attempt('read a page', async () => (await (await fetch(base + '/', { credentials: 'include' })).text()).length > 0);
  await attempt('read the API', async () => (await fetch(base + '/api/v1/environments', { credentials: 'include' })).ok);
  await attempt('send a form', async () => (await fetch(base + `/environments/${id}/end`, { ...post, headers: form, body: 'csrf=x' })).ok);
  await attempt('send a blind form', async () => { await fetch(base + `/environments/${id}/end`, { ...post, mode: 'no-cors' }); return false; });
  await attempt('open a socket', () => new Promise((done) => {
    const socket = new WebSocket(base.replace('http', 'ws') + `/environments/${id}/socket`);
    socket.onopen = () => done(true);
    socket.onerror = () => done(false);
  }));
  await attempt('run a script of it', () => new Promise((done) => {
    const script = document.createElement('script');
    script.src = base + '/'; script.onload = () => done(true); script.onerror = () => done(false);
    document.head.append(script);
  }));
  await attempt('read the cookie', async () => document.cookie.includes('faultline'));
  for (const domain of ['localhost', '127.0.0.1', location.hostname.split('-').pop()]) {
    document.cookie = `faultline_session=flt_${'0'.repeat(64)}; path=/; domain=${domain}`;
  }
  await attempt('set a cookie for all', async () => document.cookie.includes('faultline_session'));
  const frame = document.createElement('iframe');
  frame.src = base + '/';
  document.body.append(frame);
  await new Promise((done) => setTimeout(done, 1500));
  await attempt('read a frame', async () => frame.contentDocument?.body.textContent.length > 0);
  document.getElementById('result').textContent = won.length ? 'succeeded: ' + won.join(', ') : 'nothing succeeded';
  document.title = 'done';
})();
</script>";

/// What the platform's own page can do, as a control of the attack.
const OWN: &str = "const done = arguments[arguments.length - 1]; \
     const socket = new WebSocket(location.href.replace('http', 'ws') + '/socket'); \
     socket.onerror = () => done('no socket'); \
     socket.onopen = async () => { \
       const page = await fetch('/', { credentials: 'include' }); \
       done(page.ok ? 'page, socket' : 'no page'); \
     };";

/// Serves this page for every request.
fn serve(mut listener: FakeListener, page: String) {
    tokio::spawn(async move {
        while let Some(mut stream) = listener.accept().await {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n";
            let answer = format!("{head}Content-Length: {}\r\n\r\n{page}", page.len());
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
}

/// Copies the lab `stale-flag` with an exposed port.
fn lab(to: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/stale-flag");
    let copied = Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
    let file = to.join("stale-flag/lab.yaml");
    let yaml = std::fs::read_to_string(&file).unwrap();
    let exposes = "\nexposes:\n  - {name: web, port: 8080}\n\nsetup:";
    std::fs::write(file, yaml.replace("\nsetup:", exposes)).unwrap();
}

/// A student's page is another site than the platform: it opens in the browser, and its scripts reach nothing of the
/// platform. Both are tried at the address of the loopback interface, and at its name, which is most like the page's.
#[tokio::test(flavor = "multi_thread")]
async fn scripts_of_exposed_pages_can_not_use_the_platform() -> Result<()> {
    let labs = tempfile::tempdir()?;
    lab(labs.path());
    for host in ["127.0.0.1", "localhost"] {
        let serving = Serving::of_labs(labs.path(), |config| {
            config.public_url = config.public_url.replace("127.0.0.1", host);
            Ok(())
        })
        .await?;
        let browser = Browser::open().await?;
        let base = student::sign_in(&browser, &serving.link).await?;
        let workspace = student::start(&browser, &base, "stale-flag").await?;
        let tenant = "return document.getElementById('workspace').dataset.tenant";
        let tenant: TenantId = browser.js(tenant).await?.as_str().unwrap().parse()?;
        browser
            .until_text("#exposed .badge", "nothing listens")
            .await?;
        let node: NodeName = "node1".parse()?;
        let id = workspace.rsplit('/').next().unwrap();
        let page = ATTACK.replace("BASE", &base).replace("ID", id);
        serve(serving.provider.listen(&tenant, &node, 8080), page);
        browser.until_text("#exposed .badge", "200 OK").await?;
        browser.fits().await?;
        browser.size(390, 844).await?;
        browser
            .js("document.getElementById('exposed').scrollIntoView()")
            .await?;
        browser.fits().await?;
        browser.shot(&format!("exposed-{host}-390")).await?;
        browser.size(1600, 1000).await?;
        browser.shot(&format!("exposed-{host}")).await?;

        let first = browser.window().await?;
        browser.click("#exposed .exposure-name a").await?;
        let windows = browser.windows().await?;
        let second = windows.into_iter().find(|w| *w != first).unwrap();
        browser.switch_to(second).await?;
        browser.until_text("h1", "My shop").await?;
        let url = browser.url().await?;
        assert!(
            url.starts_with(&format!("http://web-{id}.localhost:")),
            "{url}"
        );
        assert!(!url.contains("code="), "{url}");
        let result = browser.until_text("#result", "succeeded").await?;
        assert_eq!(result, "nothing succeeded", "{host}");

        // The session is what it was, and the machine runs. The same requests succeed from the platform's own page.
        browser.go(&workspace).await?;
        browser.find("#workspace[data-phase=active]").await?;
        assert_eq!(browser.js_async(OWN).await?, "page, socket");

        // A private page leads to the workspace, and a shared link opens the page without any of this.
        browser
            .go(&format!("{base}/environments/{id}/shares?name=web"))
            .await?;
        browser.click("form.row .primary").await?;
        let link = browser.text(".note.good code").await?;
        let stranger = Browser::open().await?;
        stranger.go(&url).await?;
        stranger.until_text("h1", "This page is private").await?;
        stranger.go(&link).await?;
        stranger.until_text("h1", "My shop").await?;
        browser.click("ul.rows button").await?;
        browser.click("#confirm-dialog button[value=yes]").await?;
        browser.until_text("section", "No link is shared").await?;
        stranger.go(&url).await?;
        stranger.until_text("h1", "This page is private").await?;
        stranger.close().await?;
        browser.close().await?;
        serving.end().await?;
    }
    Ok(())
}

/// Runs curl, which must succeed, and returns what it prints.
fn curl(jar: &Path, args: &[&str]) -> String {
    let mut command = Command::new("curl");
    command
        .args(["-sS", "-m", "90", "-b"])
        .arg(jar)
        .arg("-c")
        .arg(jar);
    let done = command.args(args).output().unwrap();
    assert!(done.status.success(), "{args:?}: {}", text(&done.stderr));
    text(&done.stdout)
}

/// The article's demo on a cluster of virtual machines. Needs the template of `kubernetes-1.36`.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_a_cluster_from_outside() -> Result<()> {
    let mut here = Installation::new();
    let link = here.up();
    step("a lab with a cluster starts");
    let started = here.ask(&["env", "start", "claim-pending"]);
    let id = started["id"].as_str().unwrap().to_owned();

    step("a deployment is exposed by a NodePort");
    let made = here.on(
        &id,
        "kubectl create deployment web --image docker.io/library/nginx:1.22 && \
         kubectl expose deployment web --type=NodePort --port=80 && \
         kubectl rollout status deployment web --timeout=240s",
    );
    assert!(made.contains("successfully rolled out"), "{made}");
    let exposed = until(&here, &id, |exposed| {
        exposed["exposures"][0]["status"] == 200
    });
    assert_eq!(exposed["exposures"][0]["source"], "service default/web");
    let url = exposed["exposures"][0]["url"].as_str().unwrap();

    step("curl gets the page by a shared link, and nothing without");
    let jar = here.data.path().join("cookies");
    let alone = curl(&jar, &["-o", "/dev/null", "-w", "%{http_code}", url]);
    assert_eq!(alone, "401");
    let shared = here.ask(&["env", "share", "web", "--minutes", "10"]);
    let page = curl(&jar, &["-L", shared["link"].as_str().unwrap()]);
    assert!(page.contains("It works"), "{page}");

    step("the browser opens it from the workspace");
    let browser = Browser::open().await?;
    student::sign_in(&browser, &link).await?;
    let base = link.split("/sign-in").next().unwrap();
    browser.go(&format!("{base}/environments/{id}")).await?;
    browser.until_text("#exposed .badge", "200 OK").await?;
    browser.shot("exposed-cluster").await?;
    browser
        .go(&format!("{base}/environments/{id}/exposed/web/open"))
        .await?;
    browser.until_text("body", "It works").await?;
    assert!(browser.url().await?.starts_with(url));
    browser.close().await?;

    step("a load-balancer service gets its address");
    here.on(
        &id,
        "kubectl expose deployment web --type=LoadBalancer --port=80 --name=balanced && kubectl wait service balanced \
         --for=jsonpath='{.status.loadBalancer.ingress}' --timeout=60s",
    );
    let address = here.on(
        &id,
        "kubectl get service balanced -o jsonpath='{.status.loadBalancer.ingress[0].hostname}'",
    );
    assert_eq!(address, format!("balanced-{id}.localhost"));

    step("it is closed within seconds when the service is deleted");
    here.on(&id, "kubectl delete service web balanced");
    let began = Instant::now();
    until(&here, &id, |exposed| {
        exposed["exposures"].as_array().is_some_and(Vec::is_empty)
    });
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    let closed = curl(&jar, &["-o", "/dev/null", "-w", "%{http_code}", url]);
    assert_eq!(closed, "404");
    assert!(here.run(&["env", "end", &id]).status.success());
    let ended = curl(&jar, &["-o", "/dev/null", "-w", "%{http_code}", url]);
    assert!(["401", "410"].contains(&ended.as_str()), "{ended}");
    Ok(())
}

/// Lists what is exposed until it satisfies `done`.
fn until(here: &Installation, id: &str, done: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let exposed = here.ask(&["env", "exposed", id]);
        if done(&exposed) {
            return exposed;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "{exposed}");
        std::thread::sleep(Duration::from_millis(500));
    }
}
