//! Tests of the pages, by path.

use super::*;

#[tokio::test]
async fn root_lists_searches_and_filters() {
    let mut bed = bed().await;
    let page = bed.get("/").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.body.contains("orders-api stays in maintenance"));
    assert!(page.body.contains("Backups from node2"));
    for (query, shown, hidden) in [
        ("?q=ORDERS+maintenance", "orders-api stays", "Backups from"),
        ("?level=intermediate", "Backups from", "orders-api stays"),
        ("?topic=backup", "Backups from", "orders-api stays"),
        ("?done=solved", "No labs found", "orders-api stays"),
    ] {
        let page = bed.get(&format!("/{query}")).await.body;
        assert!(page.contains(shown) && !page.contains(hidden), "{query}");
    }
    bed.active("stale-flag").await;
    assert!(bed.get("/").await.body.contains("Continue"));
}

#[tokio::test]
async fn labs_slug_shows_and_starts() {
    let bed = bed().await;
    let page = bed.get("/labs/stale-flag").await.body;
    assert!(page.contains("Friday, 18:02") && page.contains("Start"));
    assert!(!page.contains("died between its two writes"), "no solution");
    assert!(!page.contains("finished deploy leaves"), "no hints");
    assert_eq!(bed.get("/labs/none").await.status, StatusCode::NOT_FOUND);
    let id = bed.start("stale-flag").await;
    assert_eq!(
        bed.start("stale-flag").await,
        id,
        "starting twice returns the same environment"
    );
    let page = bed.get(&format!("/environments/{id}")).await;
    assert!(page.body.contains("Starting your machine"));
    assert!(page.body.contains("<summary>Log</summary>") && page.body.contains("Nothing has"));
}

#[tokio::test]
async fn files_of_a_lab_are_sandboxed_and_shown_as_they_were_at_the_start() {
    let mut bed = bed().await;
    let page = bed.get("/labs/stale-flag").await.body;
    for shown in [
        "<img src=\"/labs/stale-flag/files/deploy.svg\"",
        "href=\"/labs/stale-flag/files/deploy.log\"",
        "<summary>What the deploy tool logged</summary>",
        "<kbd>Ctrl</kbd>",
        "type=\"checkbox\"",
        "markdown-alert-important",
        "id=\"incident-what-was-done-so-far\"",
        "href=\"#incident-fn-1\"",
        "target=\"_blank\" href=\"https://deploy.example/\"",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    let picture = bed.get("/labs/stale-flag/files/deploy.svg").await;
    assert_eq!(picture.headers[header::CONTENT_TYPE], "image/svg+xml");
    assert_eq!(picture.headers["x-content-type-options"], "nosniff");
    let policy = picture.headers[header::CONTENT_SECURITY_POLICY]
        .to_str()
        .unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("sandbox"));
    let log = bed.get("/labs/stale-flag/files/deploy.log").await;
    assert_eq!(
        log.headers[header::CONTENT_TYPE],
        "text/plain; charset=utf-8"
    );

    let id = bed.active("stale-flag").await;
    let at = format!("/environments/{id}");
    let shown = format!("<img src=\"{at}/files/deploy.svg\"");
    assert!(bed.get(&at).await.body.contains(&shown));
    // Only files meant for students are served, and those of the solution only with the solution.
    for path in [
        "/labs/stale-flag/files/solution.sh",
        "/labs/stale-flag/files/..%2Fsolution.sh",
        "/labs/stale-flag/files/..%2Fsolution%2Fdied.svg",
        "/labs/stale-flag/files/lab.yaml",
        "/labs/stale-flag/wrong/only-the-flag.sh",
        "/labs/stale-flag/files/..%2Fwrong%2Fonly-the-flag.sh",
        &format!("{at}/files/..%2Fsetup%2Fbreak.sh"),
        &format!("{at}/solution/died.svg"),
    ] {
        assert_eq!(bed.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    bed.post(&format!("{at}/give-up"), "").await;
    let died = bed.get(&format!("{at}/solution/died.svg")).await;
    assert_eq!(died.status, StatusCode::OK);

    // The lab changes, but the environment keeps its version.
    let folder = tempfile::tempdir().unwrap();
    copy(&labs(), folder.path());
    let changed = folder.path().join("stale-flag/files/deploy.svg");
    std::fs::write(changed, "<svg/>").unwrap();
    let bed = bed.restart_with(folder.path()).await;
    let kept = bed.get(&format!("{at}/files/deploy.svg")).await.body;
    assert_eq!(kept, picture.body);
    let open = bed.get("/labs/two-nodes/files/deploy.svg").await;
    assert_eq!(open.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_person_at_the_limit_is_shown_their_environments() {
    let mut bed = bed_with(Config {
        max_of_person: 1,
        ..Config::default()
    })
    .await;
    let id = bed.active("stale-flag").await;
    let refused = bed.post("/labs/two-nodes/start", "").await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    let end = format!("action=\"/environments/{id}/end\"");
    assert!(refused.body.contains(&end), "{}", refused.body);
    bed.post(&format!("/environments/{id}/end"), "").await;
    bed.until(&id, is_final).await;
    bed.start("two-nodes").await;
}

#[tokio::test]
async fn two_simultaneous_starts_do_not_count_on_the_same_memory() {
    let reserve = Config::default().reserve_memory_mib;
    let free = crate::capacity::Free::of_host(std::path::Path::new("/")).memory_mib;
    let mut bed = bed_with(Config {
        node_memory_mib: free.saturating_sub(reserve) * 4 / 10,
        ..Config::default()
    })
    .await;
    let first = bed.start("stale-flag").await;
    let second = bed.start("two-nodes").await;
    bed.reconcile().await;
    let waits = bed.app.store.environment(&second).await.unwrap().unwrap();
    assert!(waits.tenant.is_none(), "{waits:?}");
    // A running environment already uses its memory; with the fake provider, none.
    bed.until(&first, is_active).await;
    bed.until(&second, is_active).await;
}

#[tokio::test]
async fn labs_slug_says_why_it_cannot_start() {
    let bed = bed().await;
    bed.provider
        .set_readiness(faultline_provider::Readiness::Preparing {
            fraction: 0.4,
            text: "installing packages".to_owned(),
        });
    let page = bed.get("/labs/two-nodes").await.body;
    assert!(page.contains("40 % done: installing packages"));
    let shelf = bed.get("/").await.body;
    assert_eq!(shelf.matches("being prepared, 40 %").count(), 2);
    let early = bed.post("/labs/two-nodes/start", "").await;
    assert_eq!(early.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn environments_id_from_start_to_solved() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let at = format!("/environments/{id}");
    let page = bed.get(&at).await;
    assert!(page.body.contains("data-phase=\"active\"") && page.body.contains("xterm"));
    let policy = page.headers[header::CONTENT_SECURITY_POLICY]
        .to_str()
        .unwrap();
    assert!(policy.contains("style-src 'self' 'nonce-"));

    // Hints open in order and are counted once.
    let early = bed.post(&format!("{at}/hints/2"), "").await;
    assert_eq!(early.status, StatusCode::CONFLICT);
    for _ in 0..2 {
        let opened = bed.post(&format!("{at}/hints/1"), "").await;
        assert_eq!(opened.status, StatusCode::SEE_OTHER);
    }
    assert_eq!(
        bed.post(&format!("{at}/hints/9"), "").await.status,
        StatusCode::NOT_FOUND
    );
    let page = bed.get(&at).await.body;
    assert!(page.contains("Look at <code>/var/lib/orders</code>"));
    assert!(page.contains("worth 95 of 100"));

    // Without scripts, the form waits for the results.
    let checks = bed.post(&format!("{at}/check"), "").await;
    assert_eq!(checks.status, StatusCode::SEE_OTHER);
    let page = bed.get(&at).await.body;
    assert!(page.contains("orders-api is still in maintenance") && page.contains("0 of 2 passed"));
    assert!(!page.contains("died between its two writes"));

    let machine = bed.tenant(&id).await;
    bed.provider
        .put_file(&machine, &node(), "/var/lib/orders/released", b"");
    let node = node();
    let files = faultline_provider::Provider::open(
        &bed.provider,
        &machine,
        &node,
        faultline_provider::Target::Guest,
    );
    let rm = faultline_guest::wire::Exec {
        argv: ["rm", "/var/lib/orders/maintenance"]
            .map(Into::into)
            .to_vec(),
        ..Default::default()
    };
    faultline_guest::client::run(files.await.unwrap(), rm, 100)
        .await
        .unwrap();
    bed.post(&format!("{at}/check"), "").await;
    checked(&bed.app, &id).await;
    let page = bed.get(&at).await.body;
    assert!(page.contains("Repaired") && page.contains("<dd>95</dd>"));
    assert!(page.contains("died between its two writes"));
    assert!(page.contains("Next: <a href=\"/labs/two-nodes\""));

    let progress = bed.get("/progress").await.body;
    assert!(progress.contains("solved") && progress.contains("95"));
    assert!(
        bed.get("/?done=solved")
            .await
            .body
            .contains("orders-api stays")
    );
    // After the end, the page and the progress can still be read.
    bed.post(&format!("{at}/end"), "").await;
    bed.until(&id, is_final).await;
    let page = bed.get(&at).await.body;
    assert!(page.contains("You ended this machine") && page.contains("Repaired"));
    let lab = bed.get("/labs/stale-flag").await.body;
    assert!(lab.contains("Usually ready in about 1 s"), "{lab}");
}

#[tokio::test]
async fn environments_id_give_up_shows_the_solution() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let at = format!("/environments/{id}");
    bed.post(&format!("{at}/give-up"), "").await;
    let page = bed.get(&at).await.body;
    assert!(page.contains("The solution") && page.contains("died between its two writes"));
    assert!(bed.get("/progress").await.body.contains("solution read"));
}

#[tokio::test]
async fn environments_id_extend_and_reset() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let at = format!("/environments/{id}");
    let before = bed.app.store.environment(&id).await.unwrap().unwrap();
    let page = bed.get(&at).await.body;
    assert!(
        page.contains("Extend<span class=\"by\"> by 30 min</span>")
            && page.contains("or 60 min idle")
    );
    bed.post(&format!("{at}/extend"), "").await;
    let after = bed.app.store.environment(&id).await.unwrap().unwrap();
    let more = after
        .lifetime
        .expires_at
        .duration_since(before.lifetime.expires_at);
    assert_eq!(more.as_mins(), 30);
    // Extends until the maximum; then the button says why it can't.
    while bed.post(&format!("{at}/extend"), "").await.status == StatusCode::SEE_OTHER {}
    let page = bed.get(&at).await.body;
    assert!(page.contains("be extended any further") && !page.contains("class=\"by\""));
    bed.clock.advance(jiff::SignedDuration::from_secs(60));
    let reset = bed.post(&format!("{at}/reset"), "").await;
    assert_eq!(reset.location(), at, "its page keeps its address");
    bed.until(&id, is_active).await;
    // The solution can still be read, and the attempts link to it.
    bed.post(&format!("{at}/give-up"), "").await;
    bed.post(&format!("{at}/end"), "").await;
    bed.until(&id, is_final).await;
    let leads = format!("href=\"{at}#solution\"");
    for page in ["/labs/stale-flag", "/progress"] {
        assert!(bed.get(page).await.body.contains(&leads), "{page}");
    }
    assert!(bed.get(&at).await.body.contains("id=\"solution\""));
    let refused = bed.post(&format!("{at}/extend"), "").await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn keys_are_added_checked_and_removed() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ ann@laptop";
    let form = format!("public_key={}", key.replace(' ', "+").replace('@', "%40"));
    let added = bed.post("/keys", &form).await;
    assert_eq!(added.status, StatusCode::SEE_OTHER, "{}", added.body);
    assert!(bed.get("/keys").await.body.contains("ann@laptop"));
    assert!(
        bed.post("/keys", &form)
            .await
            .body
            .contains("already have this key")
    );
    let bad = bed
        .post("/keys", "public_key=-----BEGIN+OPENSSH+PRIVATE+KEY-----")
        .await
        .body;
    assert!(bad.contains("private key") && !bad.contains("BEGIN OPENSSH"));
    // The key is installed on the running machine, and the gateway accepts it.
    let placed = "/root/.ssh/authorized_keys";
    let machine = bed.tenant(&id).await;
    for _ in 0..100 {
        bed.reconcile().await;
        let file = bed
            .provider
            .file(&machine, &node(), placed)
            .unwrap_or_default();
        if !file.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let file = bed.provider.file(&machine, &node(), placed).unwrap();
    assert!(String::from_utf8_lossy(&file).starts_with("ssh-ed25519 AAAA"));
    let directory = crate::directory::StoreDirectory::new(bed.app.clone());
    let key = faultline_gateway::PublicKey::parse(key).unwrap();
    let login = faultline_gateway::Login::parse(&format!("node1.{id}")).unwrap();
    let ask = |login| faultline_gateway::Directory::authorize(&directory, login, &key);
    let Some(faultline_gateway::Admission::Enter(access)) = ask(&login).await else {
        panic!("the key is refused");
    };
    assert_eq!(access.node, node());
    let wrong = faultline_gateway::Login::parse(&format!("node9.{id}")).unwrap();
    let wrong = ask(&wrong).await;
    assert!(matches!(
        wrong,
        Some(faultline_gateway::Admission::Closed(_))
    ));
    let row = bed
        .app
        .store
        .ssh_keys(&faultline_domain::PersonId::local())
        .await
        .unwrap()[0]
        .id
        .clone();
    bed.post(&format!("/keys/{row}/remove"), "").await;
    assert!(ask(&login).await.is_none());
}

#[tokio::test]
async fn a_sign_in_link_works_once_and_only_through_its_form() {
    let bed = bed().await;
    let (url, _) = crate::operations::sign_in_link::sign_in_link(
        &bed.app,
        &faultline_domain::PersonId::local(),
    )
    .await
    .unwrap();
    let path = url.split_once("7890").unwrap().1;
    let token = path.split_once("token=").unwrap().1;
    let anonymous = async |request: Request<Body>| bed.send(request).await;
    for _ in 0..2 {
        let page = anonymous(Request::get(path).body(Body::empty()).unwrap()).await;
        assert!(
            page.body.contains("Continue"),
            "opening the page doesn't use it up"
        );
    }
    let form = || {
        Request::post("/sign-in")
            .header("origin", "http://127.0.0.1:7890")
            .header("host", "127.0.0.1:7890")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(format!("token={token}")))
            .unwrap()
    };
    let done = anonymous(form()).await;
    assert_eq!(done.status, StatusCode::SEE_OTHER);
    let cookie = done.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.contains("HttpOnly; SameSite=Strict") && !cookie.contains("Secure"));
    let again = anonymous(form()).await;
    assert_eq!(again.status, StatusCode::UNAUTHORIZED);
    assert!(again.body.contains("no longer valid"));
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let me = Request::get("/").header(header::COOKIE, cookie);
    let page = anonymous(me.body(Body::empty()).unwrap()).await;
    assert_eq!(page.status, StatusCode::OK);
    assert_eq!(
        bed.post("/sign-out", "").await.status,
        StatusCode::SEE_OTHER
    );
    assert_eq!(bed.get("/").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_lab_shows_values_for_its_variables() {
    fn run(page: &str) -> &str {
        let at = page.find("Run ").unwrap() + "Run ".len();
        page.get(at..at + 3).unwrap()
    }
    let mut bed = bed().await;
    let before = bed.get("/labs/two-nodes").await.body;
    assert!(run(&before).parse::<u32>().is_ok(), "{}", run(&before));
    let id = bed.active("two-nodes").await;
    let inside = bed.get(&format!("/environments/{id}")).await.body;
    let lab = bed.get("/labs/two-nodes").await.body;
    assert_eq!(run(&lab), run(&inside));
    assert_ne!(run(&lab), run(&before));
    let api = bed.api(Method::GET, "/labs/two-nodes", None).await.json();
    assert_eq!(run(api["readme"].as_str().unwrap()), run(&inside));
}

#[tokio::test]
async fn operator_and_theme() {
    let mut bed = bed().await;
    let id = bed.active("two-nodes").await;
    let page = bed.get("/operator").await.body;
    for part in [id.as_str(), "environments", "orphans", "Audit", "two-nodes"] {
        assert!(page.contains(part), "{part}");
    }
    let dark = bed.post("/theme", "theme=dark").await;
    let cookie = dark.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.starts_with("theme=dark;"));
    let request = Request::get("/").header(header::COOKIE, format!("{}; theme=dark", bed.cookie));
    let page = bed.send(request.body(Body::empty()).unwrap()).await;
    assert!(page.body.contains("data-theme=\"dark\""));
}
