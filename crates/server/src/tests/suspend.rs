//! Tests of pausing and resuming, in memory and on disk, on the page and through the API.

use faultline_domain::environment::{EndReason, Intent};
use faultline_provider::{Observed, Provider};
use jiff::SignedDuration;

use super::*;

fn is_paused(e: &Environment) -> bool {
    matches!(e.state, State::Suspended { .. })
}

fn is_on_disk(e: &Environment) -> bool {
    e.state.is_on_disk()
}

impl Bed {
    /// Reconciles until the provider holds this many tenants and save points.
    async fn until_held(&self, tenants: usize, saves: usize) {
        let mut held = (0, 0);
        for _ in 0..400 {
            self.reconcile().await;
            held = (
                self.provider.list().await.unwrap().len(),
                self.provider.saves().await.unwrap().len(),
            );
            if held == (tenants, saves) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("tenants and save points: {held:?}");
    }

    /// Starts an environment, writes a file, and suspends it to disk.
    async fn suspended(&mut self, lab: &str) -> EnvironmentId {
        let id = self.active(lab).await;
        self.write(&id, "mine").await;
        self.post(&format!("/environments/{id}/suspend"), "").await;
        self.until(&id, is_on_disk).await;
        id
    }
}

#[tokio::test]
async fn a_suspended_environment_frees_its_tenant_and_continues_where_it_was() {
    let mut bed = bed().await;
    let id = bed.suspended("stale-flag").await;
    let at = format!("/environments/{id}");
    bed.until_held(0, 1).await;
    let page = bed.get(&at).await.body;
    assert!(
        page.contains("It is on disk") && page.contains("kept for 7 days"),
        "{page}"
    );
    assert!(!page.contains("/extend"), "its clock stands still");
    let saves = bed.api(Method::GET, "/save-points", None).await;
    assert_eq!(
        saves.json(),
        serde_json::json!([]),
        "it isn't the person's own"
    );
    // Days later, on another server.
    bed.clock.advance(SignedDuration::from_hours(70));
    let mut bed = bed.restart().await;
    bed.until_held(0, 1).await;
    let e = bed.app.store.environment(&id).await.unwrap().unwrap();
    assert!(is_on_disk(&e) && e.warned.is_none());
    let resumed = bed.api(Method::POST, &format!("{at}/resume"), None).await;
    assert_eq!(resumed.status, StatusCode::ACCEPTED, "{}", resumed.body);
    assert!(bed.get(&at).await.body.contains("Resuming your machine"));
    let e = bed.until(&id, is_active).await;
    assert_eq!(bed.note(&id).await.as_deref(), Some("mine"));
    let left = e.lifetime.remaining(bed.app.now());
    assert!(
        (3500..=3600).contains(&left),
        "its clock stood still: {left}"
    );
    bed.until_held(1, 0).await;
}

#[tokio::test]
async fn an_idle_environment_is_suspended_and_ends_only_days_later() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let at = format!("/environments/{id}");
    for _ in 0..3 {
        bed.post(&format!("{at}/extend"), "").await;
    }
    bed.clock.advance(SignedDuration::from_mins(52));
    bed.until(&id, |e| e.warned == Some(600)).await;
    let page = bed.get(&at).await.body;
    assert!(
        page.contains("Not in use: this machine is paused in 8 minutes"),
        "{page}"
    );
    bed.clock.advance(SignedDuration::from_mins(9));
    let e = bed.until(&id, is_on_disk).await;
    assert_eq!(e.intent, Intent::Suspended);
    bed.clock.advance(SignedDuration::from_hours(7 * 24 - 1));
    bed.reconcile().await;
    bed.until(&id, |e| is_on_disk(e) && e.warned.is_none())
        .await;
    bed.clock.advance(SignedDuration::from_hours(1));
    let e = bed.until(&id, is_final).await;
    let why = EndReason::NotResumed;
    assert!(matches!(e.state, State::Gone { reason, .. } if reason == why));
    assert!(bed.get(&at).await.body.contains("paused for longer"));
    bed.until_held(0, 0).await;
}

#[tokio::test]
async fn what_cannot_be_resumed_stays_on_disk() {
    let mut bed = bed().await;
    let id = bed.suspended("stale-flag").await;
    let at = format!("/environments/{id}");
    bed.until_held(0, 1).await;
    // It is tried twice.
    for _ in 0..2 {
        bed.provider
            .fail_next("restore", "the template has changed");
    }
    bed.post(&format!("{at}/resume"), "").await;
    let failed = |e: &Environment| e.state.on_disk().is_some_and(|d| d.problem.is_some());
    let e = bed.until(&id, failed).await;
    assert!(
        is_on_disk(&e) && e.intent == Intent::Suspended,
        "{:?}",
        e.state
    );
    assert!(bed.get(&at).await.body.contains("It could not be resumed"));
    let shown = bed.api(Method::GET, &at, None).await.json();
    assert!(shown["resume_problem"].is_string(), "{shown}");
    bed.until_held(0, 1).await;
    bed.post(&format!("{at}/resume"), "").await;
    bed.until(&id, is_active).await;
    assert_eq!(bed.note(&id).await.as_deref(), Some("mine"));
}

#[tokio::test]
async fn what_cannot_be_written_stays_in_memory_and_is_tried_again() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    bed.provider.fail_next("save", "the disk is full");
    bed.post(&format!("/environments/{id}/suspend"), "").await;
    bed.until(&id, is_paused).await;
    for _ in 0..20 {
        bed.reconcile().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let e = bed.app.store.environment(&id).await.unwrap().unwrap();
    assert!(is_paused(&e) && !is_on_disk(&e));
    bed.until_held(1, 0).await;
    bed.clock.advance(SignedDuration::from_secs(61));
    bed.until(&id, is_on_disk).await;
    bed.until_held(0, 1).await;
}

#[tokio::test]
async fn a_reset_of_a_suspended_environment_can_be_undone() {
    let mut bed = bed().await;
    let id = bed.suspended("stale-flag").await;
    let at = format!("/environments/{id}");
    bed.clock.advance(SignedDuration::from_mins(1));
    bed.post(&format!("{at}/reset"), "").await;
    bed.until(&id, is_active).await;
    assert_eq!(bed.note(&id).await, None);
    let all = bed.app.store.save_points_of_environment(&id).await.unwrap();
    let [undo] = &*all else { panic!("{all:?}") };
    bed.clock.advance(SignedDuration::from_mins(1));
    bed.post(&format!("{at}/saves/{}/restore", undo.id), "")
        .await;
    bed.until(&id, is_active).await;
    assert_eq!(bed.note(&id).await.as_deref(), Some("mine"));
}

#[tokio::test]
async fn suspended_environments_do_not_count_until_they_are_resumed() {
    let mut bed = bed_with(Config {
        max_of_person: 1,
        ..Config::default()
    })
    .await;
    let first = bed.suspended("stale-flag").await;
    let second = bed.active("two-nodes").await;
    let path = format!("/environments/{first}/resume");
    let refused = bed.api(Method::POST, &path, None).await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.body);
    let e = bed.app.store.environment(&first).await.unwrap().unwrap();
    assert!(is_on_disk(&e));
    bed.api(Method::DELETE, &format!("/environments/{second}"), None)
        .await;
    bed.until(&second, is_final).await;
    bed.api(Method::POST, &path, None).await;
    bed.until(&first, is_active).await;
    // Ending a suspended environment deletes what is on disk.
    bed.post(&format!("/environments/{first}/suspend"), "")
        .await;
    bed.until(&first, is_on_disk).await;
    bed.api(Method::DELETE, &format!("/environments/{first}"), None)
        .await;
    bed.until(&first, is_final).await;
    bed.until_held(0, 0).await;
}

#[tokio::test]
async fn whoever_resumes_while_it_is_being_written_keeps_the_tenant() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let tenant = bed.tenant(&id).await;
    bed.post(&format!("/environments/{id}/suspend"), "").await;
    bed.until(&id, |e| is_paused(e) && !is_on_disk(e)).await;
    bed.provider.set_latency(Duration::from_secs(2));
    bed.reconcile().await;
    bed.post(&format!("/environments/{id}/resume"), "").await;
    bed.until(&id, is_active).await;
    bed.provider.set_latency(Duration::ZERO);
    bed.until_held(1, 0).await;
    assert_eq!(bed.tenant(&id).await, tenant);
}

#[tokio::test]
async fn environments_id_suspend_and_resume() {
    let mut bed = bed_with(in_memory()).await;
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
    let mut bed = bed_with(in_memory()).await;
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
    let mut bed = bed_with(in_memory()).await;
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
