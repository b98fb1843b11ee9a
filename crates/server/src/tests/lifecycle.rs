//! Tests of the lifecycle of environments: starts, failures, restarts, ends.

use faultline_domain::environment::EndReason;
use faultline_provider::{Observed, Provider};
use jiff::SignedDuration;

use super::*;

#[tokio::test]
async fn a_failed_start_is_retried_once_and_then_fails_with_a_reason() {
    let mut bed = bed().await;
    bed.provider.fail_next("refresh", "the clock is stuck");
    let id = bed.start("stale-flag").await;
    let e = bed.until(&id, is_active).await;
    assert!(e.is_open(), "the second attempt succeeded");
    let metrics = bed.get("/metrics").await.body;
    for line in [
        "faultline_start_failures_total{stage=\"refresh\"} 1",
        "faultline_starts_total{outcome=\"retried\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }

    bed.provider.fail_next("clone", "no memory left");
    bed.provider.fail_next("clone", "no memory left");
    let id = bed.start("two-nodes").await;
    let e = bed.until(&id, is_final).await;
    assert!(
        matches!(&e.state, State::Failed { stage, reason, freed: true, .. }
        if stage == "clone" && reason == "no memory left")
    );
    let left = bed.provider.list().await.unwrap();
    assert_eq!(left.len(), 1, "only the other environment's: {left:?}");
    let page = bed.get(&format!("/environments/{id}")).await.body;
    assert!(page.contains("no memory left") && page.contains("Try again"));
    // The log shows both attempts, and needs no scripts.
    assert!(page.contains("<summary>Log</summary>"));
    assert!(page.contains("failed: no memory left; retrying once"));
    let at = format!("/environments/{id}");
    let shown = bed.api(Method::GET, &at, None).await.json();
    let last = shown["log"].as_array().unwrap().last().unwrap();
    assert_eq!(last["stage"], "clone");
    assert_eq!(last["text"], "failed: no memory left");
    // The retry is a fresh machine within the same attempt.
    bed.post(&format!("/environments/{id}/reset"), "").await;
    let new = bed.until(&id, is_active).await;
    assert_eq!(new.attempt, e.attempt);
    assert_ne!(new.tenant_id(), e.tenant_id());
}

#[tokio::test]
async fn after_a_restart_running_machines_are_adopted_and_interrupted_starts_are_retried() {
    let mut bed = bed().await;
    let running = bed.active("stale-flag").await;
    let machine = bed.tenant(&running).await;
    bed.provider
        .put_file(&machine, &node(), "/root/work", b"mine");
    bed.provider.set_latency(Duration::from_secs(30));
    let starting = bed.start("two-nodes").await;
    bed.begun(&starting).await;
    let mut bed = bed.restart().await;
    bed.provider.set_latency(Duration::ZERO);
    let e = bed.until(&starting, is_active).await;
    assert!(e.is_open());
    let e = bed.app.store.environment(&running).await.unwrap().unwrap();
    assert!(is_active(&e));
    assert_eq!(
        bed.provider.file(&machine, &node(), "/root/work").unwrap(),
        b"mine"
    );
}

#[tokio::test]
async fn a_reset_gives_the_same_environment_a_new_machine() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let (at, old) = (format!("/environments/{id}"), bed.tenant(&id).await);
    bed.post(&format!("{at}/check"), "").await;
    checked(&bed.app, &id).await;
    assert!(bed.get(&at).await.body.contains("0 of 2 passed"));
    let login = faultline_gateway::Login::parse(id.as_str()).unwrap();
    let key = bed.key().await;
    let ask = async |bed: &Bed| {
        let directory = crate::directory::StoreDirectory::new(bed.app.clone());
        match faultline_gateway::Directory::authorize(&directory, &login, &key).await {
            Some(faultline_gateway::Admission::Enter(access)) => Some(access),
            _ => None,
        }
    };
    assert_eq!(ask(&bed).await.unwrap().tenant, old);

    bed.clock.advance(SignedDuration::from_secs(5));
    let answer = bed.post(&format!("{at}/reset"), "").await;
    assert_eq!(answer.location(), at);
    assert!(ask(&bed).await.is_none(), "there is nothing to enter yet");
    let page = bed.get(&at).await.body;
    assert!(page.contains("data-phase=\"starting\""), "{page}");
    bed.until(&id, is_active).await;
    let new = bed.tenant(&id).await;
    assert_ne!(new, old);
    assert_eq!(ask(&bed).await.unwrap().tenant, new);
    let page = bed.get(&at).await.body;
    assert!(
        !page.contains("0 of 2 passed"),
        "those checks were of the previous machine"
    );
    for _ in 0..100 {
        bed.reconcile().await;
        if bed.provider.list().await.unwrap() == [(new.clone(), Observed::Running)] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the old machine was not freed");
}

#[tokio::test]
async fn an_open_environment_keeps_its_lab_as_it_was() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let at = format!("/environments/{id}");
    let edited = tempfile::tempdir().unwrap();
    let lab = edited.path().join("stale-flag");
    copy(&super::labs().join("stale-flag"), &lab);
    for (file, from, to) in [
        ("README.md", "# ", "# Another story: "),
        (
            "lab.yaml",
            "still in maintenance",
            "not as the new text wants it",
        ),
    ] {
        let text = std::fs::read_to_string(lab.join(file)).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(lab.join(file), text.replacen(from, to, 1)).unwrap();
    }
    let catalogue = Catalogue::load(edited.path());
    assert!(catalogue.broken().is_empty(), "{:?}", catalogue.broken());
    bed.app.set_catalogue(catalogue);
    let mut bed = bed.restart_with(edited.path()).await;
    for changed in [false, true] {
        bed.post(&format!("{at}/check"), "").await;
        checked(&bed.app, &id).await;
        let page = bed.get(&at).await.body;
        assert_eq!(page.contains("still in maintenance"), !changed);
        assert_eq!(page.contains("as the new text wants it"), changed);
        let e = bed.app.store.environment(&id).await.unwrap().unwrap();
        let story = &bed.app.lab_of(&e).await.unwrap().readme;
        assert_eq!(story.contains("Another story"), changed);
        // A reset uses the current lab.
        bed.clock.advance(SignedDuration::from_secs(5));
        bed.post(&format!("{at}/reset"), "").await;
        bed.until(&id, is_active).await;
    }
    bed.app
        .set_catalogue(Catalogue::load(&edited.path().join("none")));
    let e = bed.app.store.environment(&id).await.unwrap().unwrap();
    assert!(
        bed.app.lab_of(&e).await.is_some(),
        "it works without the folder"
    );
}

#[tokio::test]
async fn a_reset_during_a_start_frees_the_unfinished_tenant() {
    let mut bed = bed().await;
    bed.provider.set_latency(Duration::from_secs(60));
    let id = bed.start("stale-flag").await;
    let old = bed.begun(&id).await;
    bed.provider.set_latency(Duration::ZERO);
    bed.clock.advance(SignedDuration::from_secs(5));
    bed.post(&format!("/environments/{id}/reset"), "").await;
    bed.until(&id, is_active).await;
    assert_ne!(bed.tenant(&id).await, old);
    bed.reconcile().await;
    let left = bed.provider.list().await.unwrap();
    assert!(left.iter().all(|(tenant, _)| *tenant != old), "{left:?}");
}

#[tokio::test]
async fn a_provisioning_that_hangs_fails_and_is_freed() {
    let mut bed = bed().await;
    bed.provider.set_latency(Duration::from_secs(3600));
    let id = bed.start("stale-flag").await;
    bed.begun(&id).await;
    let limit = Config::deadlines().provisioning;
    bed.clock.advance(SignedDuration::from_secs(limit + 1));
    let e = bed.until(&id, is_final).await;
    assert!(matches!(&e.state, State::Failed { stage, reason, .. }
        if stage == "clone" && reason.contains("too long")));
    assert!(bed.provider.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_tenant_that_cannot_be_freed_does_not_block_others() {
    let mut bed = bed().await;
    let stubborn = bed.active("stale-flag").await;
    bed.provider.hold_destroy(&bed.tenant(&stubborn).await);
    bed.post(&format!("/environments/{stubborn}/end"), "").await;
    bed.active("two-nodes").await;
    let e = bed.app.store.environment(&stubborn).await.unwrap().unwrap();
    assert!(matches!(e.state, State::Expired { .. }), "{:?}", e.state);
    bed.provider.release_destroy();
    bed.until(&stubborn, is_final).await;
}

#[tokio::test]
async fn a_dead_node_and_a_lost_machine_fail_with_a_reason() {
    let mut bed = bed().await;
    let dead = bed.active("stale-flag").await;
    let lost = bed.active("two-nodes").await;
    bed.provider.crash(&bed.tenant(&dead).await);
    bed.provider.lose(&bed.tenant(&lost).await);
    for (id, why) in [(dead, "died"), (lost, "disappeared")] {
        let e = bed.until(&id, is_final).await;
        assert!(matches!(&e.state, State::Failed { reason, .. } if reason.contains(why)));
    }
    assert!(bed.provider.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn environments_survive_a_provider_that_cannot_list() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    bed.provider.fail_list(true);
    for _ in 0..3 {
        bed.reconcile().await;
    }
    let e = bed.app.store.environment(&id).await.unwrap().unwrap();
    assert!(is_active(&e));
    let page = bed.get("/operator").await.body;
    assert!(page.contains("told to fail"));
    bed.provider.fail_list(false);
    bed.until(&id, is_active).await;
}

#[tokio::test]
async fn the_owner_is_warned_twice_on_the_page_and_in_the_terminal_before_the_end() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let stream = bed
        .provider
        .open(
            &bed.tenant(&id).await,
            &node(),
            faultline_provider::Target::Guest,
        )
        .await
        .unwrap();
    let terminal = faultline_guest::wire::Terminal {
        id: "web-1".to_owned(),
        pty: faultline_guest::wire::Pty {
            term: "xterm".to_owned(),
            rows: 24,
            cols: 80,
        },
    };
    let (mut session, _) = faultline_guest::client::terminal(stream, terminal)
        .await
        .unwrap();
    bed.clock.advance(SignedDuration::from_mins(52));
    bed.until(&id, |e| e.warned == Some(600)).await;
    let mut seen = String::new();
    while !seen.contains("is paused in 8 minutes unless you use it") {
        if let Some(faultline_guest::wire::Frame::Stdout(bytes)) =
            session.output.next().await.unwrap()
        {
            seen.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
    let at = format!("/environments/{id}");
    assert!(bed.get(&at).await.body.contains("Not in use"));
    // Using it withdraws the warning.
    let e = bed.app.store.environment(&id).await.unwrap().unwrap();
    bed.app.touch(&e.id).await;
    bed.until(&id, |e| e.warned.is_none()).await;
    bed.clock.advance(SignedDuration::from_mins(37));
    bed.until(&id, |e| e.warned == Some(120)).await;
    assert!(
        bed.get(&at)
            .await
            .body
            .contains("This machine ends in a minute")
    );
    bed.clock.advance(SignedDuration::from_mins(2));
    let e = bed.until(&id, is_final).await;
    assert!(matches!(
        e.state,
        State::Gone {
            reason: EndReason::TimeUp,
            ..
        }
    ));
    assert!(bed.provider.list().await.unwrap().is_empty());
    assert!(bed.get(&at).await.body.contains("time ran out"));
}

#[tokio::test]
async fn ending_a_start_cancels_it() {
    let mut bed = bed().await;
    bed.provider.set_latency(Duration::from_secs(60));
    let id = bed.start("stale-flag").await;
    bed.begun(&id).await;
    bed.post(&format!("/environments/{id}/end"), "").await;
    let e = bed.until(&id, is_final).await;
    assert!(matches!(
        e.state,
        State::Gone {
            reason: EndReason::Ended,
            ..
        }
    ));
    assert!(bed.provider.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn orphans_are_freed() {
    let mut bed = bed().await;
    let mine = bed.active("stale-flag").await;
    bed.provider.plant(&"stranger".parse().unwrap());
    let bed = bed.restart().await;
    for _ in 0..200 {
        bed.reconcile().await;
        if bed.provider.list().await.unwrap().len() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        bed.provider.list().await.unwrap(),
        [(bed.tenant(&mine).await, Observed::Running)]
    );
    let audit = bed.app.store.audit(10).await.unwrap();
    assert!(
        audit
            .iter()
            .any(|l| l.action == "orphan" && l.subject == "stranger")
    );
}

#[tokio::test]
async fn the_audit_log_is_trimmed_by_age_and_by_number() {
    let bed = bed_with(Config {
        audit_days: 2,
        audit_lines: 3,
        ..Config::default()
    })
    .await;
    let note = async |bed: &Bed, text: &str| {
        let now = bed.app.now();
        bed.app.store.note(now, None, "note", "x", text).await
    };
    note(&bed, "old").await.unwrap();
    bed.clock.advance(SignedDuration::from_hours(49));
    for n in 0..5 {
        note(&bed, &n.to_string()).await.unwrap();
    }
    // The first run of the reconcilers cleans up.
    bed.reconcile().await;
    let left = bed.app.store.audit(10).await.unwrap();
    let left: Vec<_> = left.iter().map(|l| &*l.detail).collect();
    assert_eq!(left, ["4", "3", "2"]);
}

#[tokio::test]
async fn a_setup_that_fails_is_not_retried() {
    let mut bed = bed().await;
    let labs = tempfile::tempdir().unwrap();
    let lab = labs.path().join("stale-flag");
    copy(&super::labs().join("stale-flag"), &lab);
    std::fs::write(lab.join("setup/break.sh"), "#!/bin/sh\nfalse\n").unwrap();
    bed.app.set_catalogue(Catalogue::load(labs.path()));
    let id = bed.start("stale-flag").await;
    let e = bed.until(&id, is_final).await;
    assert!(matches!(&e.state, State::Failed { stage, reason, .. }
        if stage == "setup" && reason.contains("exit code 1")));
    let audit = bed.app.store.audit(30).await.unwrap();
    assert!(!audit.iter().any(|l| l.action == "retry"));
    // The script's name would be a hint, so only the operator sees it, not the student.
    let names_it = |l: &faultline_store::audit::Entry| l.detail.contains("setup/break.sh");
    assert!(audit.iter().any(|l| l.action == "setup" && names_it(l)));
    let at = format!("/environments/{id}");
    let page = bed.get(&at).await.body;
    let shown = bed.api(Method::GET, &at, None).await.body;
    for text in [page, shown] {
        assert!(text.contains("preparing the incident failed on node1"));
        assert!(!text.contains("break.sh"), "{text}");
    }
}
