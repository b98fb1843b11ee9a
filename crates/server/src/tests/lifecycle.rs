//! The lives of environments: starts, failures, restarts, ends.

use faultline_domain::environment::EndReason;
use faultline_provider::{Observed, Provider};
use jiff::SignedDuration;

use super::*;

#[tokio::test]
async fn a_failed_start_is_tried_again_and_then_says_why() {
    let mut bed = bed().await;
    bed.provider.fail_next("refresh", "the clock is stuck");
    let id = bed.start("stale-flag").await;
    let e = bed.until(&id, is_active).await;
    assert!(e.is_open(), "the second try worked");
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
    assert!(
        !bed.provider
            .list()
            .await
            .unwrap()
            .iter()
            .any(|(i, _)| *i == id)
    );
    let page = bed.get(&format!("/environments/{id}")).await.body;
    assert!(page.contains("no memory left") && page.contains("Try again"));
    // The log tells of both tries, and is there without scripts.
    assert!(page.contains("<summary>Log</summary>"));
    assert!(page.contains("failed: no memory left; trying once more"));
    let at = format!("/environments/{id}");
    let shown = bed.api(Method::GET, &at, None).await.json();
    let last = shown["log"].as_array().unwrap().last().unwrap();
    assert_eq!(last["stage"], "clone");
    assert_eq!(last["text"], "failed: no memory left");
    // The retry is a fresh machine within the same attempt.
    let again = bed.post(&format!("/environments/{id}/reset"), "").await;
    let new: EnvironmentId = again
        .location()
        .rsplit('/')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let new = bed.until(&new, is_active).await;
    assert_eq!(new.attempt, e.attempt);
}

#[tokio::test]
async fn a_running_machine_is_readopted_and_an_interrupted_start_begins_anew() {
    let mut bed = bed().await;
    let running = bed.active("stale-flag").await;
    bed.provider
        .put_file(&running, &node(), "/root/work", b"mine");
    bed.provider.set_latency(Duration::from_secs(30));
    let starting = bed.start("two-nodes").await;
    bed.until(&starting, |e| matches!(e.state, State::Provisioning { .. }))
        .await;
    let mut bed = bed.restart().await;
    bed.provider.set_latency(Duration::ZERO);
    let e = bed.until(&starting, is_active).await;
    assert!(e.is_open());
    let e = bed.app.store.environment(&running).await.unwrap().unwrap();
    assert!(is_active(&e));
    assert_eq!(
        bed.provider.file(&running, &node(), "/root/work").unwrap(),
        b"mine"
    );
}

#[tokio::test]
async fn a_dead_node_and_a_lost_machine_fail_with_a_reason() {
    let mut bed = bed().await;
    let dead = bed.active("stale-flag").await;
    let lost = bed.active("two-nodes").await;
    bed.provider.crash(&dead);
    bed.provider.lose(&lost);
    for (id, why) in [(dead, "died"), (lost, "disappeared")] {
        let e = bed.until(&id, is_final).await;
        assert!(matches!(&e.state, State::Failed { reason, .. } if reason.contains(why)));
    }
    assert!(bed.provider.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_provider_that_cannot_list_kills_nothing() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    bed.provider.fail_list(true);
    for _ in 0..3 {
        bed.reconcilers.pass().await;
    }
    let e = bed.app.store.environment(&id).await.unwrap().unwrap();
    assert!(is_active(&e));
    let page = bed.get("/operator").await.body;
    assert!(page.contains("told to fail"));
    bed.provider.fail_list(false);
    bed.until(&id, is_active).await;
}

#[tokio::test]
async fn its_owner_is_warned_twice_in_the_page_and_the_terminal_and_then_it_ends() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let stream = bed
        .provider
        .open(&id, &node(), faultline_provider::Target::Guest)
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
    while !seen.contains("ends in 8 minutes unless you use it") {
        if let Some(faultline_guest::wire::Frame::Stdout(bytes)) =
            session.output.next().await.unwrap()
        {
            seen.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
    let at = format!("/environments/{id}");
    assert!(bed.get(&at).await.body.contains("Unused for long"));
    // Use counts as use, and takes the warning back.
    let e = bed.app.store.environment(&id).await.unwrap().unwrap();
    bed.app.touch(&e).await;
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
    assert!(bed.get(&at).await.body.contains("time was up"));
}

#[tokio::test]
async fn ending_a_start_cancels_it() {
    let mut bed = bed().await;
    bed.provider.set_latency(Duration::from_secs(60));
    let id = bed.start("stale-flag").await;
    bed.until(&id, |e| matches!(e.state, State::Provisioning { .. }))
        .await;
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
async fn what_nobody_owns_is_freed() {
    let mut bed = bed().await;
    let mine = bed.active("stale-flag").await;
    bed.provider.plant(&"stranger".parse().unwrap());
    let mut bed = bed.restart().await;
    bed.reconcilers.pass().await;
    assert_eq!(
        bed.provider.list().await.unwrap(),
        [(mine, Observed::Running)]
    );
    let audit = bed.app.store.audit(10).await.unwrap();
    assert!(
        audit
            .iter()
            .any(|l| l.action == "orphan" && l.subject == "stranger")
    );
}

#[tokio::test]
async fn the_audit_is_trimmed_by_age_and_by_number() {
    let mut bed = bed_with(Config {
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
    // The first round of a server cleans.
    bed.reconcilers.pass().await;
    let left = bed.app.store.audit(10).await.unwrap();
    let left: Vec<_> = left.iter().map(|l| &*l.detail).collect();
    assert_eq!(left, ["4", "3", "2"]);
}

#[tokio::test]
async fn a_setup_that_fails_is_not_tried_again() {
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
    // What the script is called tells where to look: the operator reads it, the student does not.
    let told = |l: &faultline_store::audit::Entry| l.detail.contains("setup/break.sh");
    assert!(audit.iter().any(|l| l.action == "setup" && told(l)));
    let at = format!("/environments/{id}");
    let page = bed.get(&at).await.body;
    let shown = bed.api(Method::GET, &at, None).await.body;
    for text in [page, shown] {
        assert!(text.contains("preparing the incident failed on node1"));
        assert!(!text.contains("break.sh"), "{text}");
    }
}
