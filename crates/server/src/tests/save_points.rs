//! Tests of save points: making, restoring, forking and deleting them.

use faultline_domain::{
    SavePointId,
    save_point::{Purpose, SavePoint, State as Made},
};
use faultline_provider::Provider;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::*;
use crate::config::SavePointSettings;

/// A file in which a test writes what happened.
const NOTE: &str = "/root/note";

fn is_complete(save: &SavePoint) -> bool {
    save.saved().is_some()
}

impl Bed {
    pub(super) async fn write(&self, id: &EnvironmentId, text: &str) {
        let tenant = self.tenant(id).await;
        self.provider
            .put_file(&tenant, &node(), NOTE, text.as_bytes());
    }

    pub(super) async fn note(&self, id: &EnvironmentId) -> Option<String> {
        let tenant = self.tenant(id).await;
        let bytes = self.provider.file(&tenant, &node(), NOTE)?;
        Some(String::from_utf8(bytes).unwrap())
    }

    /// Requests a save point through the API.
    async fn request_save(&self, id: &EnvironmentId, name: &str) -> SavePointId {
        let body = json!({ "name": name }).to_string();
        let path = format!("/environments/{id}/save-points");
        let answer = self.api(Method::POST, &path, Some(&body)).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.body);
        answer.json()["id"].as_str().unwrap().parse().unwrap()
    }

    /// Reconciles until `done` returns true for the save point.
    async fn until_save(
        &mut self,
        id: &SavePointId,
        done: impl Fn(&SavePoint) -> bool,
    ) -> SavePoint {
        for _ in 0..400 {
            self.reconcile().await;
            let save = self.app.store.save_point(id).await.unwrap().unwrap();
            if done(&save) {
                return save;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let save = self.app.store.save_point(id).await.unwrap();
        panic!("the save point did not reach the expected state: {save:?}");
    }

    /// Makes a save point.
    async fn save(&mut self, id: &EnvironmentId, name: &str) -> SavePointId {
        let save = self.request_save(id, name).await;
        self.until_save(&save, is_complete).await;
        save
    }

    /// Reconciles until nothing is left of a save point.
    async fn until_deleted(&mut self, id: &SavePointId) {
        for _ in 0..400 {
            self.reconcile().await;
            if self.app.store.save_point(id).await.unwrap().is_none() {
                let left = self.provider.saves().await.unwrap();
                assert!(left.iter().all(|(i, _)| i != id), "{left:?}");
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it was not deleted");
    }

    /// Requests a restore through the API.
    async fn restore(&self, id: &EnvironmentId, save: &SavePointId) -> Answer {
        let body = json!({ "save_point": save }).to_string();
        let path = format!("/environments/{id}/restore");
        self.api(Method::POST, &path, Some(&body)).await
    }

    /// Restores an environment and waits until it is active.
    async fn restored(&mut self, id: &EnvironmentId, save: &SavePointId) -> Environment {
        let answer = self.restore(id, save).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.body);
        self.until(id, is_active).await
    }

    /// Returns the save point with which the last reset or restore can be undone, once it is complete.
    async fn undo(&mut self, id: &EnvironmentId) -> SavePointId {
        let all = self.app.store.save_points_of_environment(id).await.unwrap();
        let undo = all.into_iter().rfind(|save| save.purpose == Purpose::Undo);
        let undo = undo.expect("it can be undone").id;
        self.until_save(&undo, is_complete).await;
        undo
    }

    async fn active_tenants(&self) -> usize {
        self.provider.list().await.unwrap().len()
    }
}

#[tokio::test]
async fn an_environment_goes_back_to_a_save_point_and_forward_again() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let before = bed.app.store.environment(&id).await.unwrap().unwrap();
    bed.write(&id, "saved").await;
    let save = bed.save(&id, "before the upgrade").await;
    assert_eq!(bed.tenant(&id).await, *before.tenant_id().unwrap());
    bed.write(&id, "later").await;
    let page = bed.get(&format!("/environments/{id}")).await.body;
    assert!(
        page.contains("before the upgrade") && page.contains("64 MiB"),
        "{page}"
    );

    bed.clock.advance(SignedDuration::from_mins(1));
    let restored = bed.restored(&id, &save).await;
    assert_eq!(restored.attempt, before.attempt);
    assert_ne!(restored.tenant_id(), before.tenant_id());
    assert_eq!(bed.note(&id).await.as_deref(), Some("saved"));
    // The setup didn't run again, and the limits apply.
    let tenant = bed.tenant(&id).await;
    assert!(bed.provider.allowance(&tenant).is_some());

    let undo = bed.undo(&id).await;
    bed.clock.advance(SignedDuration::from_mins(1));
    bed.restored(&id, &undo).await;
    assert_eq!(bed.note(&id).await.as_deref(), Some("later"));
    for _ in 0..50 {
        bed.reconcile().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(bed.active_tenants().await, 1, "the previous ones are freed");
    let audit = bed.app.store.audit(50).await.unwrap();
    let count = |action: &str| audit.iter().filter(|l| l.action == action).count();
    assert_eq!((count("save"), count("restore")), (1, 2));
}

#[tokio::test]
async fn a_reset_can_be_undone() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    bed.write(&id, "work of an hour").await;
    let at = format!("/environments/{id}");
    bed.clock.advance(SignedDuration::from_mins(1));
    assert_eq!(
        bed.post(&format!("{at}/reset"), "").await.status,
        StatusCode::SEE_OTHER
    );
    bed.until(&id, is_active).await;
    assert_eq!(bed.note(&id).await, None);
    let first = bed.undo(&id).await;
    assert!(bed.get(&at).await.body.contains("Before the reset"));
    bed.clock.advance(SignedDuration::from_mins(1));
    let form = format!("{at}/saves/{first}/restore");
    assert_eq!(bed.post(&form, "").await.location(), at);
    bed.until(&id, is_active).await;
    assert_eq!(bed.note(&id).await.as_deref(), Some("work of an hour"));
    // Each replaces the one before, but for the one that the machine continued from.
    for _ in 0..3 {
        bed.clock.advance(SignedDuration::from_mins(1));
        bed.post(&format!("{at}/reset"), "").await;
        bed.until(&id, is_active).await;
        bed.undo(&id).await;
    }
    bed.until_deleted(&first).await;
    let left = bed.app.store.save_points_of_environment(&id).await.unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test]
async fn without_undo_a_reset_keeps_nothing() {
    let save_points = SavePointSettings {
        undo_minutes: 0,
        ..SavePointSettings::default()
    };
    let mut bed = bed_with(Config {
        save_points,
        ..Config::default()
    })
    .await;
    let id = bed.active("stale-flag").await;
    bed.clock.advance(SignedDuration::from_mins(1));
    bed.post(&format!("/environments/{id}/reset"), "").await;
    bed.until(&id, is_active).await;
    let saves = bed.app.store.save_points_of_environment(&id).await.unwrap();
    assert!(saves.is_empty(), "{saves:?}");
}

#[tokio::test]
async fn a_fork_is_an_environment_of_its_own() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    bed.write(&id, "an idea").await;
    let save = bed.save(&id, "").await;
    let fork = bed
        .api(Method::POST, &format!("/save-points/{save}/fork"), None)
        .await;
    assert_eq!(fork.status, StatusCode::CREATED, "{}", fork.body);
    let other: EnvironmentId = fork.json()["id"].as_str().unwrap().parse().unwrap();
    assert_ne!(other, id);
    let forked = bed.until(&other, is_active).await;
    assert_eq!(bed.note(&other).await.as_deref(), Some("an idea"));
    bed.write(&other, "another idea").await;
    assert_eq!(bed.note(&id).await.as_deref(), Some("an idea"));
    let first = bed.app.store.environment(&id).await.unwrap().unwrap();
    assert_ne!(first.attempt, forked.attempt);

    // A reset of the one leaves the other alone.
    bed.clock.advance(SignedDuration::from_mins(1));
    let reset = bed
        .api(Method::POST, &format!("/environments/{id}/reset"), None)
        .await;
    assert_eq!(reset.json()["id"], id.to_string());
    bed.until(&id, is_active).await;
    assert_eq!(bed.note(&id).await, None);
    assert_eq!(bed.note(&other).await.as_deref(), Some("another idea"));

    // The save point belongs to the first; the fork can't go back to it.
    let wrong = bed.restore(&other, &save).await;
    assert_eq!(wrong.status, StatusCode::CONFLICT, "{}", wrong.body);
    assert_eq!(wrong.json()["code"], "other-environment");
    // It outlives the environment.
    bed.api(Method::DELETE, &format!("/environments/{id}"), None)
        .await;
    bed.until(&id, is_final).await;
    let again = bed.post(&format!("/save-points/{save}/fork"), "").await;
    let third: EnvironmentId = again
        .location()
        .rsplit('/')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    bed.until(&third, is_active).await;
    assert_eq!(bed.note(&third).await.as_deref(), Some("an idea"));
}

#[tokio::test]
async fn save_points_have_names_limits_and_an_end() {
    let save_points = SavePointSettings {
        max_of_person: 2,
        days: 1,
        ..SavePointSettings::default()
    };
    let mut bed = bed_with(Config {
        save_points,
        ..Config::default()
    })
    .await;
    let id = bed.active("stale-flag").await;
    let path = format!("/environments/{id}/save-points");
    let long = json!({ "name": "x".repeat(81) }).to_string();
    let refused = bed.api(Method::POST, &path, Some(&long)).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.body);
    let first = bed.save(&id, "").await;
    let second = bed.save(&id, " in <b>bold</b>\u{202e} ").await;
    let listed = bed.api(Method::GET, "/save-points", None).await.json();
    let names: Vec<&Value> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|s| &s["name"])
        .collect();
    assert_eq!(names, ["Save point 1", "in <b>bold</b>"]);
    let page = bed.get(&format!("/environments/{id}")).await.body;
    assert!(
        page.contains("in &#60;b&#62;bold") && !page.contains("<b>bold"),
        "{page}"
    );

    let third = bed.api(Method::POST, &path, Some("{}")).await;
    assert_eq!(third.status, StatusCode::CONFLICT);
    assert!(
        third
            .body
            .contains("You have 2 save points, and may have 2"),
        "{}",
        third.body
    );
    let deleted = bed.post(&format!("/save-points/{first}/delete"), "").await;
    assert_eq!(deleted.status, StatusCode::SEE_OTHER);
    bed.until_deleted(&first).await;
    assert_eq!(
        bed.get(&format!("/environments/{id}/saves")).await.status,
        StatusCode::OK
    );

    bed.clock.advance(SignedDuration::from_hours(25));
    bed.until_deleted(&second).await;
}

#[tokio::test]
async fn only_what_runs_is_saved() {
    let mut bed = bed_with(in_memory()).await;
    let id = bed.start("stale-flag").await;
    let path = format!("/environments/{id}/save-points");
    let early = bed.api(Method::POST, &path, Some("{}")).await;
    assert_eq!(early.json()["code"], "not-running", "{}", early.body);
    bed.until(&id, is_active).await;
    // A paused machine is saved, and stays paused.
    bed.post(&format!("/environments/{id}/suspend"), "").await;
    let is_paused = |e: &Environment| matches!(e.state, State::Suspended { .. });
    bed.until(&id, is_paused).await;
    bed.save(&id, "paused").await;
    let tenant = bed.tenant(&id).await;
    assert_eq!(
        bed.provider.list().await.unwrap(),
        [(tenant, Observed::Paused)]
    );

    bed.api(Method::DELETE, &format!("/environments/{id}"), None)
        .await;
    bed.until(&id, is_final).await;
    let late = bed.api(Method::POST, &path, Some("{}")).await;
    assert_eq!(late.json()["code"], "not-running", "{}", late.body);
    let page = bed.get(&format!("/environments/{id}")).await.body;
    assert!(
        page.contains("paused") && page.contains("/fork"),
        "it can be continued elsewhere"
    );
}

#[tokio::test]
async fn a_failure_to_save_is_reported_and_leaves_nothing() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    bed.provider.fail_next("save", "no space left on device");
    let save = bed.request_save(&id, "").await;
    let is_failed = |save: &SavePoint| matches!(save.state, Made::Failed { .. });
    bed.until_save(&save, is_failed).await;
    let shown = bed
        .api(Method::GET, &format!("/save-points/{save}"), None)
        .await;
    assert!(
        shown.body.contains("no space left on device"),
        "{}",
        shown.body
    );
    assert!(bed.provider.saves().await.unwrap().is_empty());
    let page = bed.get(&format!("/environments/{id}")).await.body;
    assert!(page.contains("It could not be saved"), "{page}");
    let refused = bed.restore(&id, &save).await;
    assert_eq!(refused.json()["code"], "not-usable", "{}", refused.body);
    // It doesn't count.
    for _ in 0..5 {
        bed.save(&id, "").await;
    }

    // A reset whose save point fails can't be undone, but is carried out.
    bed.clock.advance(SignedDuration::from_mins(1));
    bed.provider.fail_next("save", "no space left on device");
    bed.post(&format!("/environments/{id}/reset"), "").await;
    bed.until(&id, is_active).await;
    for _ in 0..50 {
        bed.reconcile().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(bed.active_tenants().await, 1);
    let all = bed.app.store.save_points_of_environment(&id).await.unwrap();
    assert!(all.iter().all(|save| save.purpose == Purpose::Manual));
}

#[tokio::test]
async fn a_failed_restore_is_tried_again_and_reported() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    bed.write(&id, "saved").await;
    let save = bed.save(&id, "").await;
    bed.provider.fail_next("restore", "a checksum differs");
    bed.clock.advance(SignedDuration::from_mins(1));
    bed.restored(&id, &save).await;
    assert_eq!(bed.note(&id).await.as_deref(), Some("saved"));
    for _ in 0..2 {
        bed.provider.fail_next("restore", "a checksum differs");
    }
    bed.write(&id, "later").await;
    bed.clock.advance(SignedDuration::from_mins(1));
    bed.restore(&id, &save).await;
    let failed = bed.until(&id, is_final).await;
    assert!(
        matches!(&failed.state, State::Failed { stage, reason, .. } if stage == "restore" && reason == "a checksum differs"),
        "{failed:?}"
    );
    // What was there before is not lost.
    let undo = bed.undo(&id).await;
    bed.clock.advance(SignedDuration::from_mins(1));
    bed.restored(&id, &undo).await;
    assert_eq!(bed.note(&id).await.as_deref(), Some("later"));
}

#[tokio::test]
async fn after_a_crash_a_save_point_is_whole_or_not_there() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    // The server ends before the provider was asked.
    let unasked = bed.request_save(&id, "unasked").await;
    bed.clock.advance(SignedDuration::from_secs(5));
    let mut bed = bed.restart().await;
    let save = bed
        .until_save(&unasked, |save| save.state != Made::Saving)
        .await;
    assert!(
        matches!(&save.state, Made::Failed { reason } if reason.contains("restarted")),
        "{save:?}"
    );
    // The provider completes it, but the server doesn't learn of it.
    let whole = bed.request_save(&id, "whole").await;
    let tenant = bed.tenant(&id).await;
    bed.provider.save(&tenant, &whole).await.unwrap();
    bed.clock.advance(SignedDuration::from_secs(5));
    let mut bed = bed.restart().await;
    bed.until_save(&whole, is_complete).await;
    // A reset is written, and the old tenant is saved and freed by the next server.
    bed.write(&id, "before the reset").await;
    bed.clock.advance(SignedDuration::from_secs(5));
    bed.post(&format!("/environments/{id}/reset"), "").await;
    let mut bed = bed.restart().await;
    bed.until(&id, is_active).await;
    let undo = bed.undo(&id).await;
    bed.clock.advance(SignedDuration::from_secs(5));
    bed.restored(&id, &undo).await;
    assert_eq!(bed.note(&id).await.as_deref(), Some("before the reset"));
    // What nobody owns is deleted.
    let stray = "stray".parse().unwrap();
    let tenant = bed.tenant(&id).await;
    bed.provider.save(&tenant, &stray).await.unwrap();
    bed.until_deleted(&stray).await;
}

/// A part of the key that [`Bed::key`] adds.
const BLOB: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9";

async fn authorized_keys(bed: &Bed, id: &EnvironmentId) -> String {
    let tenant = bed.tenant(id).await;
    let file = bed
        .provider
        .file(&tenant, &node(), "/root/.ssh/authorized_keys");
    String::from_utf8(file.unwrap_or_default()).unwrap()
}

/// Returns an active environment of the person, whose key is on its node.
async fn with_key(bed: &mut Bed) -> EnvironmentId {
    let id = bed.active("stale-flag").await;
    bed.key().await;
    for _ in 0..100 {
        bed.reconcile().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        if authorized_keys(bed, &id).await.contains(BLOB) {
            return id;
        }
    }
    panic!("the key was not installed");
}

#[tokio::test]
async fn an_instructor_works_on_a_copy() {
    let (mut bed, _, _) = super::groups::school().await;
    bed.become_another("stu").await;
    let id = with_key(&mut bed).await;
    bed.write(&id, "broken").await;
    let stu = bed.token.clone();
    let copies = format!("/environments/{id}/copies");
    for name in ["eve", "stu"] {
        bed.become_another(name).await;
        let refused = bed.api(Method::POST, &copies, None).await;
        assert_eq!(refused.status, StatusCode::NOT_FOUND, "{name}");
        assert_eq!(bed.post(&copies, "").await.status, StatusCode::NOT_FOUND);
    }

    bed.become_another("ida").await;
    let page = bed.get(&format!("/environments/{id}/look")).await.body;
    assert!(page.contains("stu goes on undisturbed"), "{page}");
    let asked = bed.post(&copies, "").await;
    assert_eq!(asked.status, StatusCode::SEE_OTHER, "{}", asked.body);
    let all = bed.api(Method::GET, &copies, None).await.json();
    assert_eq!(all[0]["purpose"], "copy", "{all}");
    let copy: SavePointId = all[0]["id"].as_str().unwrap().parse().unwrap();
    bed.until_save(&copy, is_complete).await;
    let list = bed.get(&copies).await.body;
    assert!(
        list.contains(&format!("/save-points/{copy}/fork")),
        "{list}"
    );
    let path = format!("/save-points/{copy}/fork");
    let forked = bed.api(Method::POST, &path, None).await;
    assert_eq!(forked.status, StatusCode::CREATED, "{}", forked.body);
    let other: EnvironmentId = forked.json()["id"].as_str().unwrap().parse().unwrap();
    let other = bed.until(&other, is_active).await;
    assert_eq!(other.person.as_str(), "ida");
    assert_eq!(bed.note(&other.id).await.as_deref(), Some("broken"));
    let keys = authorized_keys(&bed, &other.id).await;
    assert!(!keys.contains(BLOB), "the student's key is gone: {keys}");
    bed.write(&other.id, "tried").await;
    let restored = bed.restore(&id, &copy).await;
    assert_eq!(restored.status, StatusCode::NOT_FOUND, "not the student's");

    // The student's environment goes on, and the copy is not the student's.
    bed.token = stu;
    assert_eq!(bed.note(&id).await.as_deref(), Some("broken"));
    assert!(authorized_keys(&bed, &id).await.contains(BLOB));
    let path = format!("/environments/{id}/save-points");
    assert_eq!(bed.api(Method::GET, &path, None).await.json(), json!([]));
    let path = format!("/save-points/{copy}");
    let hidden = bed.api(Method::GET, &path, None).await;
    assert_eq!(hidden.status, StatusCode::NOT_FOUND);
    let audit = bed.app.store.audit(100).await.unwrap();
    let made = audit.iter().find(|entry| entry.action == "copy").unwrap();
    assert_eq!(
        (made.person.as_deref(), made.subject.as_str()),
        (Some("ida"), id.as_str())
    );

    // Deleting the student's account deletes the copy.
    let (operator, stu) = (faultline_domain::PersonId::local(), "stu".parse().unwrap());
    let now = bed.app.now();
    let deleted = bed.app.store.delete_person(&operator, &stu, now).await;
    deleted.unwrap();
    bed.until_deleted(&copy).await;
}

#[tokio::test]
async fn keys_that_were_removed_since_are_not_restored() {
    let mut bed = bed().await;
    let id = with_key(&mut bed).await;
    let save = bed.save(&id, "").await;
    let known = bed
        .app
        .store
        .ssh_keys(&faultline_domain::PersonId::local())
        .await
        .unwrap();
    bed.post(&format!("/keys/{}/remove", known[0].id), "").await;
    bed.clock.advance(SignedDuration::from_mins(1));
    bed.restored(&id, &save).await;
    let keys = authorized_keys(&bed, &id).await;
    assert!(!keys.contains(BLOB), "{keys}");
}

#[tokio::test]
async fn somebody_elses_save_point_looks_like_a_nonexistent_one() {
    let mut bed = bed().await;
    let id = bed.active("stale-flag").await;
    let save = bed.save(&id, "mine").await.to_string();
    bed.become_another("mallory").await;
    let own = bed.active("stale-flag").await;
    assert_eq!(
        bed.api(Method::GET, "/save-points", None).await.json(),
        json!([])
    );
    for point in [save.as_str(), "unknown", "NOT%20AN%20ID"] {
        for (method, path) in [
            (Method::GET, format!("/save-points/{point}")),
            (Method::DELETE, format!("/save-points/{point}")),
            (Method::POST, format!("/save-points/{point}/fork")),
        ] {
            let answer = bed.api(method, &path, None).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        }
        for path in [
            format!("/environments/{own}/saves/{point}/restore"),
            format!("/save-points/{point}/fork"),
            format!("/save-points/{point}/delete"),
        ] {
            let answer = bed.post(&path, "").await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        }
        let body = json!({ "save_point": point }).to_string();
        let path = format!("/environments/{own}/restore");
        let answer = bed.api(Method::POST, &path, Some(&body)).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{}", answer.body);
    }
    let mine = bed.app.store.save_point(&save.parse().unwrap()).await;
    assert!(is_complete(&mine.unwrap().unwrap()));
}
