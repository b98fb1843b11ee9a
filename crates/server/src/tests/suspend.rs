//! Tests of pausing and resuming, on the page and through the API.

use faultline_domain::environment::{EndReason, Intent};
use faultline_provider::{Observed, Provider};
use jiff::SignedDuration;

use super::*;

fn is_paused(e: &Environment) -> bool {
    matches!(e.state, State::Suspended { .. })
}

#[tokio::test]
async fn environments_id_suspend_and_resume() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let at = format!("/environments/{id}");
    assert!(bed.get(&at).await.body.contains("/suspend\""));
    for _ in 0..2 {
        let answer = bed.post(&format!("{at}/suspend"), "").await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER);
    }
    assert!(bed.get(&at).await.body.contains("pausing"));
    bed.until(&id, is_paused).await;
    let seen = bed.provider.list().await.unwrap();
    assert_eq!(seen, [(bed.tenant(&id).await, Observed::Paused)]);
    let page = bed.get(&at).await.body;
    assert!(page.contains("The machine is paused") && page.contains("data-phase=\"suspended\""));
    assert!(page.contains("It ends in 1 h 0 min"), "idle time continues");
    assert!(bed.get("/").await.body.contains("paused"));
    let check = bed.post(&format!("{at}/check"), "").await;
    assert_eq!(check.status, StatusCode::CONFLICT);
    assert!(check.body.contains("Resume it"));
    bed.post(&format!("{at}/resume"), "").await;
    bed.until(&id, is_active).await;
    let audit = bed.app.store.audit(30).await.unwrap();
    let count = |action: &str| audit.iter().filter(|l| l.action == action).count();
    assert_eq!((count("suspend"), count("resume")), (1, 1));
    // The next server finds it unchanged.
    bed.post(&format!("{at}/suspend"), "").await;
    bed.until(&id, is_paused).await;
    let bed = bed.restart().await;
    bed.reconcile().await;
    let e = bed.app.store.environment(&id).await.unwrap().unwrap();
    assert!(is_paused(&e) && e.intent == Intent::Suspended);
}

#[tokio::test]
async fn a_paused_machine_shows_warnings_on_its_page_and_ends_like_any_other() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let at = format!("/environments/{id}");
    bed.post(&format!("{at}/suspend"), "").await;
    bed.until(&id, is_paused).await;
    bed.clock.advance(SignedDuration::from_mins(52));
    bed.until(&id, |e| e.warned == Some(600)).await;
    let page = bed.get(&at).await.body;
    assert!(page.contains("this machine ends in 8 minutes"));
    // It can be extended without resuming it.
    let more = bed.post(&format!("{at}/extend"), "").await;
    assert_eq!(more.status, StatusCode::SEE_OTHER);
    bed.until(&id, |e| e.warned.is_none() && is_paused(e)).await;
    bed.clock.advance(SignedDuration::from_mins(61));
    let e = bed.until(&id, is_final).await;
    assert!(matches!(
        e.state,
        State::Gone {
            reason: EndReason::Idle | EndReason::TimeUp,
            ..
        }
    ));
    assert!(bed.provider.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn only_running_machines_can_be_paused_and_only_paused_ones_resumed() {
    let mut bed = bed().await;
    let id = bed.start("stale-flag").await;
    let at = format!("/environments/{id}");
    for (verb, code) in [("suspend", "not-running"), ("resume", "not-paused")] {
        let early = bed.api(Method::POST, &format!("{at}/{verb}"), None).await;
        assert_eq!(early.status, StatusCode::CONFLICT);
        assert_eq!(early.json()["code"], code);
    }
    bed.until(&id, is_active).await;
    let resumed = bed.api(Method::POST, &format!("{at}/resume"), None).await;
    assert_eq!(resumed.status, StatusCode::ACCEPTED, "already running");
    let paused = bed.api(Method::POST, &format!("{at}/suspend"), None).await;
    assert_eq!(paused.status, StatusCode::ACCEPTED);
    bed.until(&id, is_paused).await;
    let shown = bed.api(Method::GET, &at, None).await.json();
    assert_eq!(shown["phase"], "suspended");
    bed.api(Method::DELETE, &at, None).await;
    bed.until(&id, is_final).await;
    for verb in ["suspend", "resume"] {
        let late = bed.api(Method::POST, &format!("{at}/{verb}"), None).await;
        assert_eq!(late.status, StatusCode::CONFLICT);
    }
}
