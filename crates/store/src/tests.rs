//! Tests with real SQLite files.

use faultline_domain::{
    AttemptId, EnvironmentId, NodeName, PersonId, Shape, TemplateRef, TenantId,
    authz::Role,
    check::CheckResult,
    environment::{EndReason, Environment, Intent, Lifetime, Observed, Spec, State},
    keys::KeysVersion,
    lab::Egress,
    limits::{Denial, Limits},
    mail::Purpose,
    nodes::{AddedNode, NodeState},
    progress::Event,
    template::Profile,
    tenant::{self, Allowance, Phase},
};
use jiff::{SignedDuration, Timestamp};
use rand::{SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use crate::{
    Error, Secret, Store,
    backup::{backup, restore},
    credentials::NewApiToken,
    environments::{Coming, Counts, Refused, Renewal},
    lab_contents::LabContent,
    mail_addresses::Entered,
    outbox::{NewMail, NotSent, To},
    sessions::NewSession,
    ssh_keys::SshKey,
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

struct Bed {
    store: Store,
    folder: TempDir,
    rng: StdRng,
    me: PersonId,
}

async fn bed() -> Bed {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("faultline.db"))
        .await
        .unwrap();
    let me = PersonId::local();
    store
        .ensure_person(&me, "Owner", Role::Operator, at(0))
        .await
        .unwrap();
    Bed {
        store,
        folder,
        rng: StdRng::seed_from_u64(7),
        me,
    }
}

const CONTENT: LabContent<'_> = LabContent {
    hash: "abc",
    text: "{}",
};

fn spec() -> Spec {
    Spec {
        tenant: tenant::Spec {
            template: TemplateRef::plain("debian-12", Shape::SINGLE),
            save_point: None,
            allowance: Allowance {
                limits: Limits {
                    cpu_millis: 1000,
                    memory_mib: 512,
                    pids: 100,
                    disk_mib_s: 200,
                    disk_iops: 4000,
                    bandwidth_mbit: 10,
                },
                egress: vec![],
            },
        },
        setup_nodes: vec![],
        groups: Vec::new(),
    }
}

fn life() -> Lifetime {
    Lifetime {
        expires_at: at(3600),
        hard_end: at(7200),
        last_used: at(0),
        idle_seconds: 1800,
    }
}

fn renewal(attempt: AttemptId, lifetime: Lifetime) -> Renewal<'static> {
    Renewal {
        attempt,
        content: CONTENT,
        spec: spec(),
        nodes: Vec::new(),
        lifetime,
        undo: None,
    }
}

impl Bed {
    async fn start(&mut self, lab: &str) -> Result<Environment, Refused> {
        let (id, attempt) = (
            EnvironmentId::generate(&mut self.rng),
            AttemptId::generate(&mut self.rng),
        );
        let lab = lab.parse().unwrap();
        self.store
            .start_environment(
                id,
                attempt,
                &self.me,
                &lab,
                CONTENT,
                spec(),
                life(),
                &|counts| match counts.uses.person.usage.environments {
                    ..2 => Ok(()),
                    max => Err(Denial::Full { max }),
                },
                at(1),
            )
            .await
    }
}

#[tokio::test]
async fn writes_succeed_again_after_a_full_disk() {
    let bed = bed().await;
    let mut tx = bed.store.begin().await.unwrap();
    sqlx::query("CREATE TABLE ballast (bytes BLOB)")
        .execute(&mut *tx)
        .await
        .unwrap();
    // The limit of pages stands for the full disk: SQLite returns the same error, and rolls back by itself.
    let full: i64 = sqlx::query_scalar("PRAGMA max_page_count = 1")
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    let refused = sqlx::query("INSERT INTO ballast VALUES (zeroblob(?))")
        .bind(8192 * full)
        .execute(&mut *tx)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("full"), "{refused}");
    drop(tx);
    let mut tx = bed.store.begin().await.unwrap();
    sqlx::query("CREATE TABLE ballast (bytes BLOB)")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn starting_twice_creates_one_environment_and_admission_counts() {
    let mut bed = bed().await;
    let one = bed.start("full-disk").await.unwrap();
    let again = bed.start("full-disk").await.unwrap();
    assert_eq!(one.id, again.id);
    let kept = bed.store.lab_content("abc").await.unwrap();
    assert_eq!(
        (one.lab_hash.as_deref(), kept.as_deref()),
        (Some("abc"), Some("{}"))
    );
    assert_eq!(
        bed.store.environment(&one.id).await.unwrap(),
        Some(one.clone())
    );
    bed.start("no-bridge").await.unwrap();
    assert!(matches!(
        bed.start("third").await,
        Err(Refused::Denied(Denial::Full { max: 2 }))
    ));
    assert_eq!(bed.store.attempts_of(&bed.me).await.unwrap().len(), 2);
}

#[tokio::test]
async fn intent_and_observation_do_not_overwrite_each_other() {
    let mut bed = bed().await;
    let read = bed.start("full-disk").await.unwrap();
    assert!(
        bed.store
            .end_environment(&read.id, EndReason::Ended, Some(&bed.me), at(2))
            .await
            .unwrap()
    );
    assert!(
        !bed.store
            .end_environment(&read.id, EndReason::Ended, None, at(3))
            .await
            .unwrap()
    );
    let next = read.state.clone().prepare(at(3)).unwrap();
    assert!(bed.store.record_state(&read, &next, at(3)).await.unwrap());
    // The same read is outdated now.
    assert!(!bed.store.record_state(&read, &next, at(4)).await.unwrap());
    let now = bed.store.environment(&read.id).await.unwrap().unwrap();
    assert_eq!(now.intent, Intent::Gone(EndReason::Ended));
    assert_eq!(now.state, next);
    assert!(!now.is_open());
    let gone = State::Gone {
        at: at(5),
        reason: EndReason::Ended,
    };
    assert!(bed.store.record_state(&now, &gone, at(5)).await.unwrap());
    assert!(
        bed.store
            .unfinished_environments()
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn coming_nodes_are_counted_until_they_are_ready() {
    let mut bed = bed().await;
    let plain = spec();
    let spec = Spec {
        setup_nodes: vec!["node2".parse().unwrap()],
        ..plain.clone()
    };
    let (id, attempt) = (
        EnvironmentId::generate(&mut bed.rng),
        AttemptId::generate(&mut bed.rng),
    );
    let lab = "grows".parse().unwrap();
    let e = bed
        .store
        .start_environment(
            id,
            attempt,
            &bed.me,
            &lab,
            CONTENT,
            spec,
            life(),
            &|_| Ok(()),
            at(1),
        )
        .await
        .unwrap();
    let coming = async |bed: &Bed| {
        let counted = std::sync::Mutex::new(None);
        let look = |counts: Counts| {
            *counted.lock().unwrap() = Some(counts.coming);
            Err(Denial::Full { max: 0 })
        };
        let other = "other".parse().unwrap();
        let (id, attempt) = ("another".parse().unwrap(), "a-try".parse().unwrap());
        let denied = bed
            .store
            .start_environment(
                id,
                attempt,
                &bed.me,
                &other,
                CONTENT,
                plain.clone(),
                life(),
                &look,
                at(2),
            )
            .await;
        assert!(denied.is_err());
        counted.into_inner().unwrap().unwrap()
    };
    let nodes = |nodes| Coming {
        is_cluster: false,
        nodes,
    };
    assert_eq!(coming(&bed).await, [], "it waits in the queue");
    bed.ask(&e).await;
    assert_eq!(
        coming(&bed).await,
        [nodes(2)],
        "its node and the one that its setup adds"
    );
    let e = bed.again(&e).await;
    let preparing = e.state.clone().prepare(at(3)).unwrap();
    assert!(bed.store.record_state(&e, &preparing, at(3)).await.unwrap());
    assert_eq!(
        coming(&bed).await,
        [nodes(1)],
        "the setup's is still to come"
    );
    let added = AddedNode {
        name: "node2".parse().unwrap(),
        state: NodeState::Ready { since: at(4) },
    };
    bed.store.record_setup_nodes(&e.id, &[added]).await.unwrap();
    assert_eq!(coming(&bed).await, []);
}

impl Bed {
    /// Reads the environment again.
    async fn again(&self, e: &Environment) -> Environment {
        self.store.environment(&e.id).await.unwrap().unwrap()
    }

    /// Requests a tenant, as the reconciler does.
    async fn ask(&mut self, e: &Environment) -> TenantId {
        let id = TenantId::generate(&mut self.rng);
        let e = self.again(e).await;
        assert!(self.store.ask_for_tenant(&e, &id, at(2)).await.unwrap());
        id
    }

    /// Makes the tenant warm.
    async fn warm(&self, id: &TenantId) {
        let made = self.store.tenant(id).await.unwrap().unwrap();
        let warm = made.state.warm(at(3)).unwrap();
        assert!(self.store.record_tenant(&made, &warm, at(3)).await.unwrap());
    }
}

async fn reset(bed: &mut Bed, old: &Environment) -> Environment {
    let attempt = AttemptId::generate(&mut bed.rng);
    bed.store
        .reset_environment(old, renewal(attempt, life()), &|_| Ok(()), at(9))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_tenant_is_requested_and_claimed_once() {
    let mut bed = bed().await;
    let e = bed.start("full-disk").await.unwrap();
    let id = bed.ask(&e).await;
    // A second request fails, both with the outdated read and with the current one, which has a tenant.
    let other = TenantId::generate(&mut bed.rng);
    assert!(!bed.store.ask_for_tenant(&e, &other, at(2)).await.unwrap());
    let e = bed.again(&e).await;
    assert!(!bed.store.ask_for_tenant(&e, &other, at(2)).await.unwrap());
    assert!(bed.store.tenant(&other).await.unwrap().is_none());
    let preparing = e.state.clone().prepare(at(4)).unwrap();
    let claim = || bed.store.claim_tenant(&e, &preparing, at(4));
    assert!(!claim().await.unwrap(), "it is not warm yet");
    bed.warm(&id).await;
    assert!(claim().await.unwrap());
    assert!(!claim().await.unwrap(), "it is already claimed");
    let e = bed.again(&e).await;
    assert_eq!(e.state, preparing);
    let tenant = e.tenant.unwrap();
    assert_eq!(
        (tenant.id, tenant.state.phase()),
        (id.clone(), Phase::Claimed)
    );
    bed.store
        .record_observed(&id, Observed::Running)
        .await
        .unwrap();
    let all = bed.store.unfinished_tenants().await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].observed, Some(Observed::Running));
    assert_eq!(all[0].spec, spec().tenant);
}

#[tokio::test]
async fn a_retried_start_gets_another_tenant_and_releases_the_first() {
    let mut bed = bed().await;
    let e = bed.start("full-disk").await.unwrap();
    let first = bed.ask(&e).await;
    let e = bed.again(&e).await;
    let again = e.state.clone().retry(at(3)).unwrap();
    assert!(bed.store.retry_start(&e, &again, at(3)).await.unwrap());
    assert!(!bed.store.retry_start(&e, &again, at(3)).await.unwrap());
    let e = bed.again(&e).await;
    assert!(e.tenant.is_none());
    let second = bed.ask(&e).await;
    assert_ne!(first, second);
    let old = bed.store.tenant(&first).await.unwrap().unwrap();
    assert_eq!(old.state.phase(), Phase::Releasing);
    let of = |id| bed.store.environment_with(id);
    assert_eq!(of(&first).await.unwrap(), None);
    assert_eq!(of(&second).await.unwrap(), Some(e.id));
}

#[tokio::test]
async fn a_reset_keeps_environment_and_attempt_and_releases_the_tenant() {
    let mut bed = bed().await;
    let old = bed.start("full-disk").await.unwrap();
    let id = bed.ask(&old).await;
    bed.warm(&id).await;
    bed.store
        .begin_checks("run1", &old.attempt, &old.id, at(4))
        .await
        .unwrap();
    assert!(bed.store.latest_checks(&old.id).await.unwrap().is_some());
    let old = bed.again(&old).await;
    let new = reset(&mut bed, &old).await;
    assert_eq!((&new.id, &new.attempt), (&old.id, &old.attempt));
    assert_eq!(bed.again(&old).await, new);
    assert!(new.tenant.is_none() && new.state.is_starting());
    let tenant = bed.store.tenant(&id).await.unwrap().unwrap();
    assert_eq!(tenant.state.phase(), Phase::Releasing);
    // Those checks ran on another machine.
    assert!(bed.store.latest_checks(&old.id).await.unwrap().is_none());
    // Writes that are based on the read before the reset are refused.
    let stale = old.state.clone().prepare(at(10)).unwrap();
    assert!(!bed.store.record_state(&old, &stale, at(10)).await.unwrap());
    let latest = bed.store.latest_at(&old.person, &old.lab).await.unwrap();
    assert_eq!(latest, Some(new));
}

#[tokio::test]
async fn a_reset_restarts_an_ended_environment() {
    let mut bed = bed().await;
    let e = bed.start("full-disk").await.unwrap();
    let ended = State::Gone {
        at: at(5),
        reason: EndReason::Ended,
    };
    assert!(bed.store.record_state(&e, &ended, at(5)).await.unwrap());
    let e = bed.again(&e).await;
    let new = reset(&mut bed, &e).await;
    assert!(new.is_open());
    let open = bed.store.unfinished_environments().await.unwrap();
    assert_eq!(open, [new]);
}

#[tokio::test]
async fn environments_of_an_earlier_version_get_tenants_of_the_same_id() {
    const OLD_SPEC: &str = r#"{"image":"kubernetes-1.36","nodes":["node1","node2","node3"],
        "setup_nodes":["node4"],"control_planes":1,"stock":true,"groups":["shop"],
        "limits":{"cpu_millis":1000,"memory_mib":512,"pids":100,"disk_mib_s":200,"disk_iops":4000,"bandwidth_mbit":10},
        "egress":[{"to":"example.org","port":443}]}"#;
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("faultline.db");
    let before = sqlx::migrate::Migrator {
        migrations: crate::db::MIGRATIONS
            .iter()
            .filter(|m| m.version < 7)
            .cloned()
            .collect::<Vec<_>>()
            .into(),
        ..sqlx::migrate::Migrator::DEFAULT
    };
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(&db)
        .create_if_missing(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    before.run(&pool).await.unwrap();
    let person = "INSERT INTO people VALUES ('local', 'Owner', 'operator', 0)";
    sqlx::query(person).execute(&pool).await.unwrap();
    let attempt = "INSERT INTO attempts VALUES ('try', 'local', 'full-disk', 0, NULL, FALSE, NULL)";
    sqlx::query(attempt).execute(&pool).await.unwrap();
    let since = at(1).to_string();
    for (id, phase, is_final) in [
        ("waits", "requested", false),
        ("comes", "provisioning", false),
        ("runs", "active", false),
        ("leaves", "releasing", false),
        ("ended", "gone", true),
    ] {
        let spec = if id == "waits" {
            OLD_SPEC.replace(r#""control_planes":1"#, r#""control_planes":2"#)
        } else {
            OLD_SPEC.to_owned()
        };
        let state = match phase {
            "requested" | "provisioning" => {
                format!(r#"{{"state":"{phase}","since":"{since}","tries":0}}"#)
            }
            "releasing" => format!(r#"{{"state":"releasing","since":"{since}","reason":"idle"}}"#),
            "gone" => format!(r#"{{"state":"gone","at":"{since}","reason":"idle"}}"#),
            _ => format!(r#"{{"state":"{phase}","since":"{since}"}}"#),
        };
        sqlx::query(
            "INSERT INTO environments (id, attempt_id, person_id, lab, spec, created_at, intent, \
             expires_at, hard_end, last_used, idle_seconds, state, phase, is_final, observed, \
             generation, updated_at) VALUES ($1, 'try', 'local', 'full-disk', $2, 1, '\"active\"', \
             1, 1, 1, 1, $3, $4, $5, '\"running\"', 3, 1)",
        )
        .bind(id)
        .bind(spec)
        .bind(state)
        .bind(phase)
        .bind(is_final)
        .execute(&pool)
        .await
        .unwrap();
    }
    let key =
        "INSERT INTO ssh_keys VALUES ('k2', 'local', 'laptop', 'ssh-ed25519 BB', 'SHA256:b', 0)";
    sqlx::query(key).execute(&pool).await.unwrap();
    let audit = "INSERT INTO audit (at, person_id, action, subject, detail) VALUES \
        (1, 'local', 'key-add', 'k1', 'SHA256:a'), (2, 'local', 'key-remove', 'k1', ''), \
        (3, 'local', 'key-add', 'k2', 'SHA256:b')";
    sqlx::query(audit).execute(&pool).await.unwrap();
    pool.close().await;
    let store = Store::open(&db).await.unwrap();
    let keys = store.key_set(&PersonId::local()).await.unwrap();
    assert_eq!(keys.keys, ["ssh-ed25519 BB"]);
    assert_eq!(keys.removed, ["SHA256:a"], "taken from the audit log");
    let versions = store.key_versions().await.unwrap();
    let runs = &versions[&"runs".parse().unwrap()];
    assert!(runs.applied.is_empty(), "the keys are applied again");
    let tenants = store.unfinished_tenants().await.unwrap();
    assert!(!tenants.is_empty());
    for tenant in tenants {
        let of = tenant.environment.map(|id| id.to_string());
        assert_eq!(of.as_deref(), Some(tenant.id.as_str()));
    }
    let starts = store.starts_since(Timestamp::UNIX_EPOCH).await.unwrap();
    assert_eq!(starts.len(), 5, "they are demand for pools");
    let mut found = Vec::new();
    for id in ["waits", "comes", "runs", "leaves", "ended"] {
        let e = store.environment(&id.parse().unwrap()).await.unwrap();
        let e = e.unwrap();
        let tenant = e.tenant.map(|t| (t.id.to_string(), t.state.phase()));
        found.push((e.state.phase().as_str(), tenant));
    }
    let of = |id: &str, phase| Some((id.to_owned(), phase));
    assert_eq!(
        found,
        [
            ("requested", None),
            ("requested", of("comes", Phase::Provisioning)),
            ("active", of("runs", Phase::Claimed)),
            ("expired", of("leaves", Phase::Releasing)),
            ("gone", None),
        ]
    );
    // A row with an invalid shape could not be read.
    let waits = store.environment(&"waits".parse().unwrap()).await.unwrap();
    assert_eq!(waits.unwrap().spec.nodes().len(), 1);
    let runs = store.tenant(&"runs".parse().unwrap()).await.unwrap();
    let runs = runs.unwrap();
    assert_eq!(runs.observed, Some(Observed::Running));
    let mut now = spec();
    now.setup_nodes = vec!["node4".parse().unwrap()];
    now.groups = vec!["shop".to_owned()];
    now.tenant.template = TemplateRef {
        image: "kubernetes-1.36".to_owned(),
        shape: "1+2".parse().unwrap(),
        profile: Profile::Stock,
    };
    now.tenant.allowance.egress = vec![Egress {
        to: "example.org".to_owned(),
        port: 443,
    }];
    assert_eq!(runs.spec, now.tenant);
    let e = store.environment(&"runs".parse().unwrap()).await.unwrap();
    assert_eq!(e.unwrap().spec, now);
}

#[tokio::test]
async fn a_reset_of_a_finished_attempt_starts_another() {
    let mut bed = bed().await;
    let old = bed.start("full-disk").await.unwrap();
    let (store, rng) = (&bed.store, &mut bed.rng);
    let attempt = store.attempt(&old.attempt).await.unwrap().unwrap();
    store
        .begin_checks("run1", &old.attempt, &old.id, at(4))
        .await
        .unwrap();
    store
        .finish_checks("run1", &attempt, Ok(true), 90, at(5))
        .await
        .unwrap();
    let mut made = Vec::new();
    // The second reset has no effect.
    for _ in 0..2 {
        let attempt = AttemptId::generate(rng);
        let new = store
            .reset_environment(&old, renewal(attempt, life()), &|_| Ok(()), at(9))
            .await
            .unwrap();
        made.push(new);
    }
    assert_eq!(made[0].id, made[1].id);
    assert_ne!(made[0].attempt, old.attempt);
    let of = |id: AttemptId| async move { store.attempt(&id).await.unwrap().unwrap() };
    let (old, new) = (
        of(old.attempt.clone()).await,
        of(made[0].attempt.clone()).await,
    );
    assert_eq!(
        (old.is_solved(), old.points, old.checks),
        (true, Some(90), 1)
    );
    assert_eq!((new.finished_at, new.points, new.checks), (None, None, 0));
    assert_eq!(store.attempts_of(&bed.me).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_reset_environment_is_not_affected_by_earlier_requests() {
    let mut bed = bed().await;
    let old = bed.start("full-disk").await.unwrap();
    let (store, me) = (&bed.store, &bed.me);
    let attempt = AttemptId::generate(&mut bed.rng);
    let tenant: TenantId = "t1".parse().unwrap();
    store.ask_for_tenant(&old, &tenant, at(2)).await.unwrap();
    let with_tenant = store.environment(&old.id).await.unwrap().unwrap();
    let longer = Lifetime {
        expires_at: at(90_000),
        hard_end: at(90_000),
        ..life()
    };
    store
        .reset_environment(&old, renewal(attempt, longer), &|_| Ok(()), at(9))
        .await
        .unwrap();
    // A node of the previous tenant is ignored.
    let node = "node2".parse().unwrap();
    let ready = NodeState::Ready { since: at(10) };
    store
        .record_node(&with_tenant, &node, Some(&ready), at(10))
        .await
        .unwrap();
    let new = store.environment(&old.id).await.unwrap().unwrap();
    assert_eq!(new.added, []);
    // An extension applies to the new lifetime.
    let extended = store
        .extend_environment(&old.id, SignedDuration::from_secs(60), me, at(11))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (extended.expires_at, extended.last_used),
        (at(90_000), at(11))
    );
}

#[tokio::test]
async fn a_repair_after_the_solution_was_seen_is_practice() {
    let mut bed = bed().await;
    let first = bed.start("full-disk").await.unwrap();
    let (store, rng) = (&bed.store, &mut bed.rng);
    let of = |id: AttemptId| async move { store.attempt(&id).await.unwrap().unwrap() };
    let attempt = AttemptId::generate(rng);
    let given_up = of(first.attempt.clone()).await;
    assert!(store.give_up(&given_up, at(4)).await.unwrap());
    let next = store
        .reset_environment(&first, renewal(attempt, life()), &|_| Ok(()), at(5))
        .await
        .unwrap();
    let practice = of(next.attempt.clone()).await;
    assert!(practice.practice && !of(first.attempt.clone()).await.practice);
    store
        .begin_checks("run1", &practice.id, &next.id, at(6))
        .await
        .unwrap();
    store
        .finish_checks("run1", &practice, Ok(true), 0, at(7))
        .await
        .unwrap();
    let practice = of(next.attempt).await;
    assert!(practice.is_repaired() && !practice.is_solved() && practice.shows_solution());
    assert!(store.solved_by(&bed.me).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_solved_lab_stays_solved_after_giving_up() {
    let mut bed = bed().await;
    let first = bed.start("full-disk").await.unwrap();
    let (store, rng) = (&bed.store, &mut bed.rng);
    let solved = store.attempt(&first.attempt).await.unwrap().unwrap();
    store
        .begin_checks("run1", &solved.id, &first.id, at(3))
        .await
        .unwrap();
    store
        .finish_checks("run1", &solved, Ok(true), 90, at(4))
        .await
        .unwrap();
    let attempt = AttemptId::generate(rng);
    let next = store
        .reset_environment(&first, renewal(attempt, life()), &|_| Ok(()), at(5))
        .await
        .unwrap();
    let second = store.attempt(&next.attempt).await.unwrap().unwrap();
    assert!(store.give_up(&second, at(6)).await.unwrap());
    assert_eq!(
        store.solved_by(&bed.me).await.unwrap(),
        vec!["full-disk".parse().unwrap()]
    );
}

#[tokio::test]
async fn use_is_recorded_at_most_twice_a_minute() {
    let mut bed = bed().await;
    let e = bed.start("full-disk").await.unwrap();
    for s in [20, 40, 50] {
        bed.store.touch_environment(&e.id, at(s)).await.unwrap();
    }
    let e = bed.store.environment(&e.id).await.unwrap().unwrap();
    assert_eq!(e.lifetime.last_used, at(40));
}

#[tokio::test]
async fn a_sign_in_token_works_once_and_sessions_expire() {
    let mut bed = bed().await;
    let (token, session) = (
        Secret::generate(&mut bed.rng),
        Secret::generate(&mut bed.rng),
    );
    let (store, me) = (&bed.store, &bed.me);
    store
        .add_sign_in_token(&token, me, at(0), at(100))
        .await
        .unwrap();
    let new = |secret: &Secret, id: &str| NewSession {
        issuer: None,
        secret: secret.clone(),
        id: id.to_owned(),
        browser: "Firefox on Linux".to_owned(),
        expires_at: at(50),
    };
    let signed = store.sign_in(&token, &new(&session, "s1"), at(1)).await;
    assert_eq!(signed.unwrap(), Some(me.clone()));
    let other = Secret::generate(&mut bed.rng);
    let again = store.sign_in(&token, &new(&other, "s2"), at(1)).await;
    assert_eq!(again.unwrap(), None);
    assert!(store.session(&session, at(49)).await.unwrap().is_some());
    assert!(store.session(&session, at(50)).await.unwrap().is_none());
    assert_eq!(store.remove_old_credentials(at(60)).await.unwrap(), 1);
}

#[tokio::test]
async fn the_use_of_api_tokens_is_recorded_and_they_can_be_removed() {
    let mut bed = bed().await;
    let secret = Secret::generate(&mut bed.rng);
    let (store, me) = (&bed.store, &bed.me);
    store
        .add_api_token(&secret, &NewApiToken::full("t1", me, "cli"), at(0))
        .await
        .unwrap();
    let (who, scope) = store.api_token(&secret, at(5)).await.unwrap().unwrap();
    assert_eq!((&who.person, who.role), (me, Role::Operator));
    assert_eq!(scope, faultline_domain::authz::Scope::Full);
    store.api_token(&secret, at(20)).await.unwrap();
    assert_eq!(
        store.api_tokens(me).await.unwrap()[0].last_used,
        Some(at(5))
    );
    let next = Secret::generate(&mut bed.rng);
    store
        .replace_api_token(&next, &NewApiToken::full("t2", me, "cli"), at(6))
        .await
        .unwrap();
    assert!(store.api_token(&secret, at(6)).await.unwrap().is_none());
    assert!(store.api_token(&next, at(6)).await.unwrap().is_some());
    store
        .replace_api_token(&secret, &NewApiToken::full("t1", me, "cli"), at(6))
        .await
        .unwrap();
    assert!(store.remove_api_token(me, "t1", at(6)).await.unwrap());
    assert!(!store.remove_api_token(me, "t1", at(6)).await.unwrap());
    assert!(store.api_token(&secret, at(7)).await.unwrap().is_none());
}

#[tokio::test]
async fn keys_give_access_only_to_their_owners_environments() {
    let mut bed = bed().await;
    let e = bed.start("full-disk").await.unwrap();
    let key = SshKey {
        id: "k1".to_owned(),
        name: "laptop".to_owned(),
        public_key: "ssh-ed25519 AAAA".to_owned(),
        fingerprint: "SHA256:x".to_owned(),
        created_at: at(0),
    };
    assert!(bed.store.add_ssh_key(&bed.me, &key).await.unwrap());
    assert!(!bed.store.add_ssh_key(&bed.me, &key).await.unwrap());
    let holder = bed.store.key_holder_of(&e.id, "ssh-ed25519 AAAA").await;
    assert_eq!(holder.unwrap(), Some(bed.me.clone()));
    let stranger = bed.store.key_holder_of(&e.id, "ssh-ed25519 BBBB").await;
    assert_eq!(stranger.unwrap(), None);
    assert!(
        bed.store
            .remove_ssh_key(&bed.me, "k1", at(1))
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn each_change_of_a_persons_keys_increments_their_version() {
    let bed = bed().await;
    let (store, me) = (&bed.store, &bed.me);
    let number = async || store.key_set(me).await.unwrap().version.number();
    let key = |id: &str| SshKey {
        id: id.to_owned(),
        name: "laptop".to_owned(),
        public_key: "ssh-ed25519 AAAA".to_owned(),
        fingerprint: "SHA256:x".to_owned(),
        created_at: at(0),
    };
    assert_eq!(number().await, 0);
    assert!(store.add_ssh_key(me, &key("k1")).await.unwrap());
    assert!(!store.add_ssh_key(me, &key("k2")).await.unwrap());
    assert_eq!(number().await, 1, "nothing changed the second time");
    assert!(store.remove_ssh_key(me, "k1", at(1)).await.unwrap());
    assert!(!store.remove_ssh_key(me, "k1", at(1)).await.unwrap());
    let set = store.key_set(me).await.unwrap();
    assert_eq!((set.version.number(), set.keys.len()), (2, 0));
    assert_eq!(set.removed, ["SHA256:x"]);
    assert!(store.add_ssh_key(me, &key("k2")).await.unwrap());
    let set = store.key_set(me).await.unwrap();
    assert_eq!((set.version.number(), set.keys.len()), (3, 1));
    assert!(set.removed.is_empty(), "it is no longer a removed key");
    let actions: Vec<_> = store.audit(9).await.unwrap();
    let actions: Vec<_> = actions.iter().map(|l| l.action.as_str()).collect();
    assert_eq!(actions, ["key-add", "key-remove", "key-add"]);
}

#[tokio::test]
async fn applied_keys_are_recorded_per_node_of_a_tenant() {
    let mut bed = bed().await;
    let e = bed.start("full-disk").await.unwrap();
    let made = bed.ask(&e).await;
    let store = &bed.store;
    let node: NodeName = "node1".parse().unwrap();
    let applied = async || store.key_versions().await.unwrap()[&made].applied.clone();
    assert!(applied().await.is_empty());
    for version in [1, 2].map(KeysVersion::new) {
        store.record_node_keys(&made, &node, version).await.unwrap();
        assert_eq!(applied().await, [(node.clone(), version)].into());
    }
    // A new node with the same name is another machine.
    let adding = NodeState::Adding {
        since: at(2),
        tries: 0,
    };
    let with_tenant = store.environment(&e.id).await.unwrap().unwrap();
    let adding = Some(&adding);
    store
        .record_node(&with_tenant, &node, adding, at(2))
        .await
        .unwrap();
    assert!(applied().await.is_empty());
}

#[tokio::test]
async fn a_removed_key_is_kept_while_a_machine_may_have_it() {
    let mut bed = bed().await;
    let key = SshKey {
        id: "k1".to_owned(),
        name: "laptop".to_owned(),
        public_key: "ssh-ed25519 AAAA".to_owned(),
        fingerprint: "SHA256:x".to_owned(),
        created_at: at(0),
    };
    bed.store.add_ssh_key(&bed.me, &key).await.unwrap();
    let e = bed.start("full-disk").await.unwrap();
    let id = bed.ask(&e).await;
    let store = &bed.store;
    store.remove_ssh_key(&bed.me, "k1", at(9)).await.unwrap();
    let node: NodeName = "node1".parse().unwrap();
    let version = KeysVersion::new(2);
    store.record_node_keys(&id, &node, version).await.unwrap();
    assert_eq!(store.forget_removed_keys().await.unwrap(), 0);
    let made = store.tenant(&id).await.unwrap().unwrap();
    let gone = tenant::State::Gone { at: at(10) };
    assert!(store.record_tenant(&made, &gone, at(10)).await.unwrap());
    assert_eq!(store.forget_removed_keys().await.unwrap(), 2);
    assert!(store.key_set(&bed.me).await.unwrap().removed.is_empty());
}

#[tokio::test]
async fn hints_checks_and_points_are_recorded() {
    let mut bed = bed().await;
    let e = bed.start("full-disk").await.unwrap();
    let store = &bed.store;
    store.reveal_hint(&e.attempt, 1, 10, at(2)).await.unwrap();
    store.reveal_hint(&e.attempt, 1, 10, at(3)).await.unwrap();
    store
        .begin_checks("run1", &e.attempt, &e.id, at(4))
        .await
        .unwrap();
    let result = CheckResult {
        name: "space".to_owned(),
        title: "the disk has room".to_owned(),
        passed: true,
        message: String::new(),
        seen: "42 % free".to_owned(),
        evaluated: true,
        hint: Some(1),
        millis: 12,
    };
    store.record_check("run1", &result).await.unwrap();
    let attempt = store.attempt(&e.attempt).await.unwrap().unwrap();
    assert_eq!((attempt.hints.clone(), attempt.checks), (vec![(1, 10)], 1));
    store
        .finish_checks("run1", &attempt, Ok(true), 90, at(5))
        .await
        .unwrap();
    let run = store.latest_checks(&e.id).await.unwrap().unwrap();
    assert_eq!((run.passed, run.results), (Some(true), vec![result]));
    let attempt = store.attempt(&e.attempt).await.unwrap().unwrap();
    assert!(attempt.is_solved());
    assert_eq!(attempt.points, Some(90));
    // After that, neither giving up nor a hint changes the result.
    assert!(!store.give_up(&attempt, at(6)).await.unwrap());
    store.reveal_hint(&e.attempt, 2, 30, at(6)).await.unwrap();
    let attempt = store.attempt(&e.attempt).await.unwrap().unwrap();
    assert_eq!(attempt.hints, vec![(1, 10), (2, 0)]);
    assert_eq!(
        store.solved_by(&bed.me).await.unwrap(),
        vec!["full-disk".parse().unwrap()]
    );
}

#[tokio::test]
async fn a_check_run_interrupted_by_a_restart_has_that_reason() {
    let mut bed = bed().await;
    let e = bed.start("full-disk").await.unwrap();
    bed.store
        .begin_checks("run1", &e.attempt, &e.id, at(4))
        .await
        .unwrap();
    assert_eq!(bed.store.abandon_checks(at(9)).await.unwrap(), 1);
    let run = bed.store.latest_checks(&e.id).await.unwrap().unwrap();
    assert_eq!(run.passed, Some(false));
    assert!(run.failure.unwrap().contains("restarted"));
}

#[tokio::test]
async fn stages_are_recorded_with_their_typical_durations() {
    let mut bed = bed().await;
    let e = bed.start("full-disk").await.unwrap();
    bed.ask(&e).await;
    let e = bed.again(&e).await;
    let store = &bed.store;
    for (stage, millis) in [("clone", 300), ("setup", 900)] {
        let events = [
            Event::Started {
                stage: stage.into(),
                text: format!("{stage} begins"),
            },
            Event::Update {
                stage: stage.into(),
                fraction: Some(0.5),
                text: "half".to_owned(),
            },
            Event::Done {
                stage: stage.into(),
                millis,
                cached: false,
            },
        ];
        for event in &events {
            store.record_stage(&e.id, event, at(2)).await.unwrap();
        }
    }
    let stages = store.stages(&e.id).await.unwrap();
    assert_eq!(stages.len(), 2);
    assert_eq!(stages[1].millis, Some(900));
    assert_eq!(
        (&*stages[1].title, &*stages[1].text),
        ("setup begins", "half")
    );
    assert!(
        store.typical_stages(&e.lab, &[]).await.unwrap().is_empty(),
        "only successful starts count"
    );
    let state = State::Active { since: at(3) };
    store.record_state(&e, &state, at(3)).await.unwrap();
    let typical = store.typical_stages(&e.lab, &[]).await.unwrap();
    let short: Vec<_> = typical.iter().map(|t| (&*t.name, t.millis)).collect();
    assert_eq!(short, [("clone", 300), ("setup", 900)]);
    // The environment got a tenant at 2 and was active at 3; the time in the queue doesn't count.
    let usual = store.usual_start(&e.lab, &[]).await.unwrap().unwrap();
    assert_eq!((usual.low, usual.high), (1_000, 1_000));
    let other = "other".parse().unwrap();
    let alike = store
        .usual_start(&other, std::slice::from_ref(&e.lab))
        .await;
    assert_eq!(alike.unwrap(), Some(usual));
    assert_eq!(store.usual_start(&other, &[]).await.unwrap(), None);
    let alike = store
        .typical_stages(&other, std::slice::from_ref(&e.lab))
        .await;
    assert_eq!(alike.unwrap(), typical);
    let unlike = store.typical_stages(&other, &[]).await;
    assert!(unlike.unwrap().is_empty());
}

#[tokio::test]
async fn a_start_log_has_a_line_per_event_and_is_limited() {
    let mut bed = bed().await;
    let e = bed.start("full-disk").await.unwrap();
    let store = &bed.store;
    let update = |text: String| Event::Update {
        stage: "clone".into(),
        fraction: None,
        text,
    };
    let events = [
        Event::Started {
            stage: "clone".into(),
            text: "cloning".to_owned(),
        },
        update("half\nof it".to_owned()),
        update("half\nof it".to_owned()),
        Event::Done {
            stage: "clone".into(),
            millis: 1234,
            cached: false,
        },
    ];
    for event in &events {
        store.record_stage(&e.id, event, at(2)).await.unwrap();
    }
    let id = &e.id;
    store.log_start(id, "run", "it died", at(3)).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    crate::stages::forget(&mut tx, id).await.unwrap();
    tx.commit().await.unwrap();
    let log = store.start_log(id).await.unwrap();
    let texts: Vec<_> = log.iter().map(|l| &*l.text).collect();
    assert_eq!(
        texts,
        ["cloning", "half of it", "done after 1.234 s", "it died"]
    );
    for n in 0..500 {
        let event = update(format!("{n} {}", "x".repeat(1000)));
        store.record_stage(id, &event, at(4)).await.unwrap();
    }
    let log = store.start_log(id).await.unwrap();
    assert_eq!(log.len(), crate::start_log::MAX_LINES as usize);
    assert!(log[199].text.starts_with("499 ") && log[0].text.starts_with("300 "));
    assert_eq!(log[0].text.len(), crate::start_log::MAX_TEXT);
}

#[tokio::test]
async fn the_audit_log_is_trimmed_by_age_and_by_number() {
    let mut bed = bed().await;
    let e = bed.start("full-disk").await.unwrap();
    bed.ask(&e).await;
    let e = bed.again(&e).await;
    let store = &bed.store;
    let done = Event::Started {
        stage: "clone".into(),
        text: "cloning".to_owned(),
    };
    store.record_stage(&e.id, &done, at(1)).await.unwrap();
    let done = Event::Done {
        stage: "clone".into(),
        millis: 300,
        cached: false,
    };
    store.record_stage(&e.id, &done, at(2)).await.unwrap();
    let active = State::Active { since: at(3) };
    store.record_state(&e, &active, at(3)).await.unwrap();
    for n in 10..30 {
        let text = n.to_string();
        store.note(at(n), None, "note", "x", &text).await.unwrap();
    }
    // By age: the start, its state, and five notes are removed.
    assert_eq!(store.trim_audit(at(15), 100).await.unwrap(), 2 + 5);
    assert_eq!(store.trim_audit(at(15), 100).await.unwrap(), 0);
    // By number: the latest are kept.
    assert_eq!(store.trim_audit(at(15), 4).await.unwrap(), 11);
    let left = store.audit(100).await.unwrap();
    let left: Vec<_> = left.iter().map(|l| &*l.detail).collect();
    assert_eq!(left, ["29", "28", "27", "26"]);
    assert_eq!(store.trim_audit(at(99), 4).await.unwrap(), 4);
    // Typical durations are kept, and the start log of a running environment too.
    assert_eq!(
        store.typical_stages(&e.lab, &[]).await.unwrap()[0].millis,
        300
    );
    assert_eq!(store.start_log(&e.id).await.unwrap().len(), 2);
    let e = store.environment(&e.id).await.unwrap().unwrap();
    let gone = State::Gone {
        at: at(40),
        reason: EndReason::Ended,
    };
    store.record_state(&e, &gone, at(40)).await.unwrap();
    store.trim_audit(at(41), 100).await.unwrap();
    assert!(store.start_log(&e.id).await.unwrap().is_empty());
}

#[tokio::test]
async fn only_one_server_opens_the_database() {
    let bed = bed().await;
    let second = Store::open(bed.store.path()).await;
    assert!(matches!(second, Err(Error::InUse(_))));
}

#[tokio::test]
async fn a_backup_is_written_while_running_and_restored() {
    let mut bed = bed().await;
    let kept = bed.start("full-disk").await.unwrap();
    let copy = bed.folder.path().join("copy.db");
    let db = bed.store.path().to_owned();
    backup(&db, &copy).await.unwrap();
    assert!(
        backup(&db, &copy).await.is_err(),
        "an existing backup is not overwritten"
    );
    let later = bed.start("no-bridge").await.unwrap();
    assert!(matches!(restore(&db, &copy).await, Err(Error::InUse(_))));
    bed.store.close().await;
    let junk = bed.folder.path().join("junk.db");
    std::fs::write(&junk, "not a database, but long enough to be checked").unwrap();
    drop(bed.store);
    assert!(matches!(
        restore(&db, &junk).await,
        Err(Error::NotABackup { .. })
    ));
    restore(&db, &copy).await.unwrap();
    let store = Store::open(&db).await.unwrap();
    assert!(store.environment(&kept.id).await.unwrap().is_some());
    assert!(store.environment(&later.id).await.unwrap().is_none());
    assert!(db.with_extension("before-restore").exists());
    store.close().await;
    drop(store);
    backup(&db, &bed.folder.path().join("cold.db"))
        .await
        .unwrap();
}

#[tokio::test]
async fn errors_name_the_damaged_column() {
    let mut bed = bed().await;
    let e = bed.start("full-disk").await.unwrap();
    sqlx::query("UPDATE environments SET state = 'nonsense'")
        .execute(&bed.store.writer)
        .await
        .unwrap();
    assert!(matches!(
        bed.store.environment(&e.id).await,
        Err(Error::Corrupt { what: "state", .. })
    ));
}

/// Returns a mail to a stranger, with this text.
fn mail(id: &str, body: &str) -> NewMail {
    NewMail {
        id: id.to_owned(),
        purpose: Purpose::Invitation,
        to: To::Stranger("ann@example.org".parse().unwrap()),
        subject: "Invitation".to_owned(),
        body: body.to_owned(),
        give_up_at: at(24 * 3600),
    }
}

/// Writes a mail as an operation would, in a transaction.
async fn write(store: &Store, new: &NewMail) -> bool {
    let mut tx = store.begin().await.unwrap();
    let written = crate::outbox::insert(&mut tx, new, at(0)).await.unwrap();
    tx.commit().await.unwrap();
    written
}

#[tokio::test]
async fn a_mail_that_was_sent_or_given_up_is_overwritten_and_no_backup_has_it() {
    const SECRET: &str = "flt_5ecret5ecret";
    let bed = bed().await;
    for id in ["sent", "refused", "late"] {
        let body = format!("{SECRET} {}", "x".repeat(9000));
        assert!(write(&bed.store, &mail(id, &body)).await);
    }
    let db = bed.store.path().to_owned();
    let copy = bed.folder.path().join("copy.db");
    backup(&db, &copy).await.unwrap();
    let has_secret = |path: &std::path::Path| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes())
    };
    assert!(!has_secret(&copy));
    assert!(!copy.with_extension("partial").exists());
    let due = bed.store.due_mail(at(0), 9).await.unwrap();
    let find = |id: &str| due.iter().find(|mail| mail.id == id).unwrap();
    bed.store.mail_sent(find("sent"), at(1)).await.unwrap();
    let refused = bed
        .store
        .mail_not_sent(find("refused"), "no such mailbox", true, at(1));
    assert_eq!(refused.await.unwrap(), NotSent::GivenUp);
    let later = bed
        .store
        .mail_not_sent(find("late"), "try later", false, at(1));
    assert_eq!(later.await.unwrap(), NotSent::Later);
    assert_eq!(bed.store.due_mail(at(2), 9).await.unwrap(), []);
    let due = bed.store.due_mail(at(40), 9).await.unwrap();
    assert_eq!((due.len(), due[0].attempts), (1, 1));
    let given_up = bed.store.give_up_mail("not tried", at(25 * 3600)).await;
    assert_eq!(given_up.unwrap(), 1);
    let status = bed.store.outbox_status(9).await.unwrap();
    assert_eq!((status.waiting, status.oldest), (0, None));
    let problems: Vec<_> = status.failures.iter().map(|f| &*f.problem).collect();
    assert_eq!(problems, ["try later", "no such mailbox"]);
    bed.store.forget_mail_failures(at(26 * 3600)).await.unwrap();
    assert_eq!(bed.store.outbox_status(9).await.unwrap().failures, []);
    bed.store.close().await;
    assert!(!has_secret(&db), "deleted rows are overwritten");
}

#[tokio::test]
async fn notices_are_written_only_for_people_who_want_them() {
    let bed = bed().await;
    let notice = NewMail {
        to: To::IfWanted(bed.me.clone()),
        ..mail("notice", "text")
    };
    assert!(!write(&bed.store, &notice).await, "no address");
    assert!(!bed.store.set_notices(&bed.me, true, at(1)).await.unwrap());
    let code = Secret::generate(&mut StdRng::seed_from_u64(1));
    let address = "me@example.org".parse().unwrap();
    let confirmation = NewMail {
        to: To::Unconfirmed(bed.me.clone(), address),
        ..mail("code", "text")
    };
    let address = "me@example.org".parse().unwrap();
    let enter = |now| {
        bed.store
            .enter_address(&bed.me, &address, &code, &confirmation, now, at(100))
    };
    assert_eq!(enter(at(1)).await.unwrap(), Entered::Done);
    assert_eq!(enter(at(2)).await.unwrap(), Entered::TooSoon(at(301)));
    let late = bed.store.confirm_address(&bed.me, &code, at(100)).await;
    assert!(!late.unwrap(), "the code has expired");
    let done = bed.store.confirm_address(&bed.me, &code, at(99)).await;
    assert!(done.unwrap());
    assert_eq!(bed.store.due_mail(at(99), 9).await.unwrap(), []);
    assert!(!write(&bed.store, &notice).await, "not wanted");
    assert!(bed.store.set_notices(&bed.me, true, at(1)).await.unwrap());
    assert!(write(&bed.store, &notice).await);
    assert!(bed.store.remove_address(&bed.me, at(3)).await.unwrap());
    assert!(!bed.store.remove_address(&bed.me, at(3)).await.unwrap());
    assert_eq!(bed.store.due_mail(at(99), 9).await.unwrap(), []);
}
