//! What happens around a server: it ends during a refill, a template breaks, the host's clock jumps, the database is busy.

use faultline_domain::{Shape, TemplateRef, tenant::State as TenantState};
use faultline_provider::{Provider, Readiness};
use jiff::SignedDuration;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{
    crashes::{Host, LAB, bound, end_everything, is_made, is_warm, settle, until_pooled},
    *,
};

fn broken(reason: &str) -> Readiness {
    Readiness::Unavailable {
        reason: reason.to_owned(),
    }
}

fn ready(template: &str) -> Readiness {
    Readiness::Ready {
        template: template.to_owned(),
    }
}

#[test]
fn a_server_that_ends_during_a_refill_leaves_nothing() {
    let mut host = Host::new();
    host.provider.set_latency(Duration::from_millis(200));
    let begun = host.serve(None, async |bed| {
        bound(bed, LAB, 2).await;
        until_pooled(bed, is_made).await;
        bed.reconcile().await;
        for _ in 0..50 {
            if !bed.provider.list().await.unwrap().is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        bed.provider.list().await.unwrap()
    });
    let begun = begun.unwrap();
    assert!(matches!(&begun[..], [(_, Observed::Broken)]), "{begun:?}");
    host.provider.set_latency(Duration::ZERO);
    host.serve(None, async |bed| {
        settle(bed).await;
        // An interrupted refill counts as a failure, after which pools wait.
        bed.clock.advance(SignedDuration::from_mins(1));
        for _ in 0..2 {
            until_pooled(bed, is_warm).await;
            settle(bed).await;
        }
        let all = bed.provider.list().await.unwrap();
        assert!(all.iter().all(|(id, _)| *id != begun[0].0), "{all:?}");
        assert_eq!(all.len(), 2, "{all:?}");
        end_everything(bed).await;
    });
}

#[test]
fn a_template_that_breaks_during_the_day_drains_its_pool_and_says_why_nothing_starts() {
    let mut host = Host::new();
    host.serve(None, async |bed| {
        bound(bed, LAB, 2).await;
        until_pooled(bed, is_warm).await;
        settle(bed).await;
        bed.provider
            .set_readiness(broken("its memory has another checksum"));
        bed.clock.advance(SignedDuration::from_secs(11));
        let refused = bed.post(&format!("/labs/{LAB}/start"), "").await;
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(
            refused.body.contains("its memory has another checksum"),
            "{}",
            refused.body
        );
        // What nobody can claim doesn't keep its memory for ever.
        bed.clock.advance(SignedDuration::from_mins(51));
        settle(bed).await;
        assert_eq!(bed.provider.list().await.unwrap(), []);

        bed.provider.set_readiness(ready("second"));
        bed.clock.advance(SignedDuration::from_secs(11));
        until_pooled(bed, is_warm).await;
        let id = bed.active(LAB).await;
        let tenant = bed.tenant(&id).await;
        let row = bed.app.store.tenant(&tenant).await.unwrap().unwrap();
        assert_eq!(row.pooled.unwrap().template, "second");
        end_everything(bed).await;
    });
}

#[test]
fn a_template_that_can_not_be_cloned_fails_starts_with_the_reason() {
    let mut host = Host::new();
    host.serve(None, async |bed| {
        bound(bed, LAB, 0).await;
        bound(bed, "debian-12@1+0", 0).await;
        for _ in 0..2 {
            bed.provider
                .fail_next("clone", "the template's disk is damaged");
        }
        let id = bed.start(LAB).await;
        let e = bed.until(&id, is_final).await;
        let State::Failed { stage, reason, .. } = &e.state else {
            panic!("{e:?}");
        };
        assert_eq!(stage, "clone");
        assert!(
            reason.contains("the template's disk is damaged"),
            "{reason}"
        );
        settle(bed).await;
        assert_eq!(bed.provider.list().await.unwrap(), []);
    });
}

#[test]
fn a_clock_that_jumps_forward_ends_what_is_over_and_breaks_nothing_else() {
    let mut host = Host::new();
    host.serve(None, async |bed| {
        bound(bed, LAB, 1).await;
        until_pooled(bed, is_warm).await;
        let over = bed.active(LAB).await;
        settle(bed).await;
        bed.become_another("ann").await;
        bed.provider.set_latency(Duration::from_millis(100));
        let starting = bed.start("two-nodes").await;
        bed.begun(&starting).await;
        bed.clock.advance(SignedDuration::from_hours(5));
        bed.provider.set_latency(Duration::ZERO);
        bed.until(&over, is_final).await;
        let e = bed.until(&starting, is_final).await;
        assert!(
            matches!(&e.state, State::Failed { reason, .. } if reason.contains("too long"))
                || matches!(e.state, State::Gone { .. }),
            "{e:?}"
        );
        bed.become_another("ben").await;
        bed.active(LAB).await;
        settle(bed).await;
        end_everything(bed).await;
    });
}

#[test]
fn a_clock_that_jumps_backward_keeps_everything_usable() {
    let mut host = Host::new();
    host.serve(None, async |bed| {
        bound(bed, LAB, 1).await;
        until_pooled(bed, is_warm).await;
        let before = bed.active(LAB).await;
        settle(bed).await;
        bed.clock.advance(SignedDuration::from_hours(-5));
        // A template that breaks is noticed, although it was found ready at a later time.
        let template = || TemplateRef::plain("debian-12", Shape::SINGLE);
        bed.provider.set_readiness(broken("it is damaged"));
        let found = bed.app.readiness(template()).await;
        assert_eq!(found, broken("it is damaged"));
        bed.provider.set_readiness(ready("first"));
        settle(bed).await;
        let e = bed.app.store.environment(&before).await.unwrap().unwrap();
        assert!(is_active(&e), "{e:?}");

        bed.become_another("ann").await;
        let id = bed.active(LAB).await;
        let path = format!("/environments/{id}");
        let save = bed
            .api(Method::POST, &format!("{path}/save-points"), Some("{}"))
            .await;
        assert_eq!(save.status, StatusCode::ACCEPTED, "{}", save.body);
        settle(bed).await;
        let save = save.json()["id"].as_str().unwrap().parse().unwrap();
        let save = bed.app.store.save_point(&save).await.unwrap().unwrap();
        assert!(save.saved().is_some(), "{save:?}");
        let first = bed.tenant(&id).await;
        let reset = bed.api(Method::POST, &format!("{path}/reset"), None).await;
        assert!(reset.status.is_success(), "{}", reset.body);
        bed.until(&id, is_active).await;
        assert_ne!(bed.tenant(&id).await, first);

        bed.clock.advance(SignedDuration::from_hours(5));
        end_everything(bed).await;
    });
}

#[test]
fn requests_wait_for_a_busy_database_and_nothing_is_lost() {
    const BUSY: Duration = Duration::from_secs(3);
    let mut host = Host::new();
    host.serve(None, async |bed| {
        let id = bed.active(LAB).await;
        let path = bed.app.store.path().to_owned();
        let options = SqliteConnectOptions::new().filename(path);
        let mut other = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut other)
            .await
            .unwrap();
        let holding = async {
            tokio::time::sleep(BUSY).await;
            sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
        };
        let began = std::time::Instant::now();
        let reading = async {
            let seen = bed.get(&format!("/environments/{id}")).await;
            (seen.status, began.elapsed())
        };
        let asking = async {
            let path = "/labs/two-nodes/start";
            (bed.post(path, "").await.status, began.elapsed())
        };
        let passes = async {
            while began.elapsed() < BUSY {
                bed.reconcile().await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let ((), read, asked, ()) = tokio::join!(holding, reading, asking, passes);
        assert_eq!(read.0, StatusCode::OK);
        assert_eq!(asked.0, StatusCode::SEE_OTHER);
        assert!(asked.1 >= BUSY && asked.1 < BUSY * 3, "{asked:?}");
        settle(bed).await;
        let tenants = bed.app.store.unfinished_tenants().await.unwrap();
        let claimed =
            |t: &&faultline_domain::tenant::Tenant| matches!(t.state, TenantState::Claimed { .. });
        assert_eq!(tenants.iter().filter(claimed).count(), 2, "{tenants:?}");
        end_everything(bed).await;
    });
}
