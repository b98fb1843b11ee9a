//! The test suite that every provider must pass, including the fake. The rest of Faultline relies on what it asserts.
//!
//! Call [`run`] from a test, with a provider whose image is ready. The suite uses only programs that the fake's guests
//! also have, such as `echo` and `cat`.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test suite fails by panicking"
)]

use std::time::Duration;

use bytes::Bytes;
use faultline_domain::{
    NodeName, SavePointId, Shape, TemplateRef, TenantId,
    limits::Limits,
    progress::{Event, Progress},
    save_point::Saved,
};
use faultline_guest::{
    client,
    wire::{Exec, Frame, Pty, Terminal},
};

use crate::{
    Allowance, Capability, Change, Error, Observed, Priority, Provider, Readiness, Result, Spec,
    Stream, Target,
};

/// The time within which a change must be reported.
const REPORTED_WITHIN: Duration = Duration::from_secs(20);

/// A tenant to be created.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// The tenant's ID.
    pub id: TenantId,
    /// The template and the allowance.
    pub spec: Spec,
}

impl Tenant {
    /// Creates and configures it.
    pub async fn create(&self, provider: &dyn Provider, progress: &Progress) -> Result<()> {
        crate::make(provider, &self.id, &self.spec, progress).await
    }
}

/// Returns a small tenant for tests.
#[must_use]
pub fn tenant(id: &str, image: &str, nodes: u32) -> Tenant {
    let spec = Spec {
        template: TemplateRef::plain(image, Shape::of_nodes(nodes).expect("a shape")),
        allowance: Allowance {
            limits: Limits {
                cpu_millis: 1000 * nodes,
                memory_mib: 1024 * nodes,
                pids: 256,
                disk_mib_s: 100,
                disk_iops: 4000,
                bandwidth_mbit: 100,
            },
            egress: Vec::new(),
        },
        save_point: None,
    };
    Tenant {
        id: id.parse().expect("a valid id"),
        spec,
    }
}

/// Opens a guest stream to the first node.
pub async fn guest(provider: &dyn Provider, id: &TenantId) -> Stream {
    provider
        .open(id, &node1(), Target::Guest)
        .await
        .expect("the guest link opens")
}

fn node1() -> NodeName {
    "node1".parse().expect("a valid name")
}

fn program(argv: &[&str]) -> Exec {
    Exec {
        argv: argv.iter().map(Into::into).collect(),
        ..Exec::default()
    }
}

async fn observed(provider: &dyn Provider, id: &TenantId) -> Option<Observed> {
    let all = provider.list().await.expect("list");
    all.into_iter().find(|(i, _)| i == id).map(|(_, o)| o)
}

/// Runs the suite against an image of plain machines. Expects that operations which the tenancy doesn't support are
/// refused. Leaves nothing behind.
pub async fn run(provider: &dyn Provider, image: &str) {
    let ready = TemplateRef::plain(image, Shape::SINGLE);
    let first = provider.readiness(&ready).await;
    assert!(
        matches!(&first, Readiness::Ready { template } if !template.is_empty()),
        "{first:?}"
    );
    assert_eq!(provider.readiness(&ready).await, first);
    let unknown = TemplateRef::plain("no-such-image", Shape::SINGLE);
    assert!(matches!(
        provider.readiness(&unknown).await,
        Readiness::Unavailable { .. }
    ));
    unknown_tenants_are_not_found(provider).await;
    let tenant = tenant("conformance", image, 1);
    provider
        .destroy(&tenant.id)
        .await
        .expect("destroying nothing succeeds");
    let mut changes = Changes(provider.changes(), tenant.id.clone());
    starts_with_stages(provider, &tenant).await;
    changes.expect(Observed::Running).await;
    is_configured(provider, &tenant).await;
    if can(provider, Capability::GuestLink) {
        runs_programs(provider, &tenant.id).await;
        moves_files(provider, &tenant.id).await;
        keeps_terminals(provider, &tenant.id).await;
    }
    if can(provider, Capability::Pause) {
        pauses_and_resumes(provider, &tenant.id, &mut changes).await;
        tolerates_dropped_pauses(provider, &tenant.id).await;
    }
    if can(provider, Capability::Save) {
        saves_and_restores(provider, &tenant.id).await;
        tolerates_dropped_saves(provider, &tenant.id).await;
    }
    if can(provider, Capability::AddNodes) {
        adds_and_removes_a_node(provider, &tenant.id).await;
    }
    refuses_unsupported_operations(provider, &tenant.id).await;
    is_destroyed(provider, &tenant.id).await;
    changes.expect(Observed::Absent).await;
    tolerates_dropped_calls(provider, &tenant).await;
}

fn can(provider: &dyn Provider, capability: Capability) -> bool {
    provider.capabilities().contains(&capability)
}

/// The reported changes of one tenant.
struct Changes(tokio::sync::broadcast::Receiver<Change>, TenantId);

impl Changes {
    /// Waits until this observation is reported.
    async fn expect(&mut self, wanted: Observed) {
        let mut received = Vec::new();
        let read = async {
            loop {
                let (id, observed) = self.0.recv().await.expect("changes are reported");
                if id == self.1 {
                    received.push(observed);
                    if observed == wanted {
                        return;
                    }
                }
            }
        };
        let in_time = tokio::time::timeout(REPORTED_WITHIN, read).await.is_ok();
        assert!(in_time, "{wanted:?} was not reported, but {received:?}");
    }
}

async fn unknown_tenants_are_not_found(provider: &dyn Provider) {
    let id: TenantId = "unknown".parse().expect("a valid id");
    if can(provider, Capability::Pause) {
        assert!(matches!(provider.pause(&id).await, Err(Error::NotFound)));
        assert!(matches!(provider.resume(&id).await, Err(Error::NotFound)));
    }
    assert!(matches!(provider.usage(&id).await, Err(Error::NotFound)));
    let allowance = tenant("unknown", "any", 1).spec.allowance;
    let configured = provider.configure(&id, &allowance).await;
    assert!(matches!(configured, Err(Error::NotFound)), "{configured:?}");
    if can(provider, Capability::AddNodes) {
        let (node, quiet) = (node1(), Progress::ignored());
        let added = provider.add_node(&id, &node, &quiet).await;
        assert!(matches!(added, Err(Error::NotFound)), "{added:?}");
        let removed = provider.remove_node(&id, &node, &quiet).await;
        assert!(matches!(removed, Err(Error::NotFound)), "{removed:?}");
    }
    assert!(matches!(
        provider.open(&id, &node1(), Target::Guest).await.map(drop),
        Err(Error::NotFound)
    ));
}

async fn starts_with_stages(provider: &dyn Provider, tenant: &Tenant) {
    let (tell, told) = std::sync::mpsc::channel();
    let progress = Progress::new(move |event| {
        let _ = tell.send(event);
    });
    let (id, template) = (&tenant.id, &tenant.spec.template);
    let made = provider
        .create(id, template, Priority::Low, &progress)
        .await;
    made.expect("create");
    let events: Vec<Event> = told.try_iter().collect();
    let started = events
        .iter()
        .filter(|e| matches!(e, Event::Started { .. }))
        .count();
    let done = events
        .iter()
        .filter(|e| matches!(e, Event::Done { .. }))
        .count();
    assert!(
        started >= 2 && started == done,
        "every stage that started is done: {events:?}"
    );
    assert_eq!(
        observed(provider, &tenant.id).await,
        Some(Observed::Running)
    );
    let again = provider
        .create(id, template, Priority::Normal, &Progress::ignored())
        .await;
    assert!(
        matches!(again, Err(Error::Exists)),
        "the same environment twice: {again:?}"
    );
    assert_eq!(
        observed(provider, &tenant.id).await,
        Some(Observed::Running),
        "the refused second start left the first alone"
    );
    let nowhere = provider
        .open(
            &tenant.id,
            &"node9".parse().expect("a valid name"),
            Target::Guest,
        )
        .await;
    assert!(nowhere.is_err(), "there is no such node");
}

async fn is_configured(provider: &dyn Provider, tenant: &Tenant) {
    for _ in 0..2 {
        provider
            .configure(&tenant.id, &tenant.spec.allowance)
            .await
            .expect("configuring it repeatedly succeeds");
    }
    assert_eq!(
        observed(provider, &tenant.id).await,
        Some(Observed::Running)
    );
}

/// Checks that what a tenancy doesn't support is refused and changes nothing.
async fn refuses_unsupported_operations(provider: &dyn Provider, id: &TenantId) {
    let quiet = Progress::ignored();
    for capability in Capability::ALL {
        if can(provider, capability) {
            continue;
        }
        let refused = match capability {
            Capability::Pause => provider.pause(id).await,
            Capability::AddNodes => {
                let node = "node2".parse().expect("a valid name");
                provider.add_node(id, &node, &quiet).await
            }
            Capability::Save => provider.save(id, &save_point("refused")).await.map(drop),
            Capability::GuestLink => provider.open(id, &node1(), Target::Guest).await.map(drop),
            Capability::Console => provider.open(id, &node1(), Target::Console).await.map(drop),
            // These have no operation that could be refused here: none exists yet, or they are about the inside.
            Capability::RootOnNodes
            | Capability::LoadImages
            | Capability::ClusterAdmin
            | Capability::OwnNamespaces => continue,
        };
        assert!(
            matches!(&refused, Err(Error::Unsupported(said)) if *said == capability),
            "{capability:?}: {refused:?}"
        );
    }
    assert_eq!(observed(provider, id).await, Some(Observed::Running));
}

async fn runs_programs(provider: &dyn Provider, id: &TenantId) {
    client::ping(guest(provider, id).await).await.expect("ping");
    let done = client::run(guest(provider, id).await, program(&["echo", "hello"]), 1024)
        .await
        .expect("echo");
    assert_eq!(
        (done.code, done.stdout.as_slice()),
        (0, b"hello\n".as_slice())
    );
    let done = client::run(guest(provider, id).await, program(&["false"]), 1024)
        .await
        .expect("false");
    assert_eq!(done.code, 1);
    let missing = client::run(
        guest(provider, id).await,
        program(&["/no/such/program"]),
        1024,
    )
    .await;
    assert!(
        matches!(
            &missing,
            Err(client::Error::Refused(_)) | Ok(client::Finished { code: 127, .. })
        ),
        "{missing:?}"
    );
    let mut session = client::exec(guest(provider, id).await, program(&["cat"]))
        .await
        .expect("cat");
    session
        .input
        .stdin(Bytes::from_static(b"through a pipe"))
        .await
        .expect("input");
    session
        .input
        .send(Frame::StdinEnd)
        .await
        .expect("end of input");
    let mut out = Vec::new();
    loop {
        match session.output.next().await.expect("output") {
            Some(Frame::Stdout(bytes)) => out.extend_from_slice(&bytes),
            Some(Frame::Exit(code)) => {
                assert_eq!(code, 0);
                break;
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(out, b"through a pipe");
    let slow = Exec {
        timeout_seconds: Some(1),
        ..program(&["sleep", "600"])
    };
    let done = client::run(guest(provider, id).await, slow, 1024)
        .await
        .expect("a program that exceeds its timeout");
    assert_eq!(done.code, 124);
}

async fn moves_files(provider: &dyn Provider, id: &TenantId) {
    let content: Vec<u8> = (0..200_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    client::write_file(
        guest(provider, id).await,
        "/var/tmp/conformance/file",
        0o640,
        &content,
    )
    .await
    .expect("write");
    let stat = client::stat(guest(provider, id).await, "/var/tmp/conformance/file")
        .await
        .expect("stat")
        .expect("it exists");
    assert_eq!(
        (stat.kind.as_str(), stat.mode, stat.size),
        ("file", 0o640, 200_000)
    );
    let back = client::read_file(
        guest(provider, id).await,
        "/var/tmp/conformance/file",
        1 << 20,
    )
    .await
    .expect("read");
    assert!(back == content, "the content read is the content written");
    let start = client::read_file(guest(provider, id).await, "/var/tmp/conformance/file", 10)
        .await
        .expect("read a part");
    assert_eq!(start, content.get(..10).expect("ten bytes"));
    assert!(
        client::stat(guest(provider, id).await, "/no/such/file")
            .await
            .expect("stat")
            .is_none()
    );
    assert!(
        client::read_file(guest(provider, id).await, "/no/such/file", 10)
            .await
            .is_err()
    );
    assert!(
        client::read_file(guest(provider, id).await, "relative", 10)
            .await
            .is_err()
    );
}

/// Reads a terminal's output until `text` appears. Returns all the output read.
pub async fn expect_output(output: &mut client::Output<Stream>, text: &str) -> String {
    let mut seen = String::new();
    let read = async {
        while !seen.contains(text) {
            match output.next().await.expect("output") {
                Some(Frame::Stdout(bytes)) => seen.push_str(&String::from_utf8_lossy(&bytes)),
                other => panic!("the terminal ended with {other:?} after {seen:?}"),
            }
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(60), read)
        .await
        .is_ok();
    assert!(in_time, "{text:?} did not appear; seen: {seen:?}");
    seen
}

async fn keeps_terminals(provider: &dyn Provider, id: &TenantId) {
    let order = || Terminal {
        id: "web-1".to_owned(),
        pty: Pty {
            term: "xterm-256color".to_owned(),
            rows: 24,
            cols: 80,
        },
    };
    let (mut session, new) = client::terminal(guest(provider, id).await, order())
        .await
        .expect("terminal");
    assert!(new);
    session
        .input
        .stdin(Bytes::from_static(b"echo remember-me\r"))
        .await
        .expect("keys");
    expect_output(&mut session.output, "remember-me").await;
    drop(session);
    let (mut session, new) = client::terminal(guest(provider, id).await, order())
        .await
        .expect("the terminal again");
    assert!(!new, "the same terminal");
    expect_output(&mut session.output, "remember-me").await;
    client::announce(guest(provider, id).await, "ten minutes left")
        .await
        .expect("announce");
    expect_output(&mut session.output, "ten minutes left").await;
    let mut look = client::look(guest(provider, id).await, "web-1")
        .await
        .expect("a look");
    let size = look.output.next().await.expect("its size");
    assert_eq!(size, Some(Frame::Resize { rows: 24, cols: 80 }));
    expect_output(&mut look.output, "remember-me").await;
    assert!(
        client::look(guest(provider, id).await, "web-2")
            .await
            .is_err(),
        "a look creates no terminal"
    );
    assert_eq!(
        client::terminals(guest(provider, id).await)
            .await
            .expect("terminals"),
        ["web-1"]
    );
    client::close_terminal(guest(provider, id).await, "web-1")
        .await
        .expect("close");
    let bad = Terminal {
        id: "../x".to_owned(),
        ..order()
    };
    assert!(
        client::terminal(guest(provider, id).await, bad)
            .await
            .is_err()
    );
}

async fn pauses_and_resumes(provider: &dyn Provider, id: &TenantId, changes: &mut Changes) {
    provider.pause(id).await.expect("pause");
    changes.expect(Observed::Paused).await;
    provider.pause(id).await.expect("pausing twice");
    assert_eq!(observed(provider, id).await, Some(Observed::Paused));
    assert!(
        provider.open(id, &node1(), Target::Guest).await.is_err(),
        "a paused tenant refuses streams"
    );
    provider.resume(id).await.expect("resume");
    changes.expect(Observed::Running).await;
    provider.resume(id).await.expect("resuming twice");
    assert_eq!(observed(provider, id).await, Some(Observed::Running));
    let done = client::run(guest(provider, id).await, program(&["echo", "awake"]), 1024)
        .await
        .expect("echo after a pause");
    assert_eq!(done.stdout, b"awake\n");
}

fn save_point(id: &str) -> SavePointId {
    id.parse().expect("a valid id")
}

async fn saved(provider: &dyn Provider, id: &SavePointId) -> Option<Option<Saved>> {
    let all = provider.saves().await.expect("list of save points");
    all.into_iter().find(|(i, _)| i == id).map(|(_, s)| s)
}

async fn read(provider: &dyn Provider, id: &TenantId, path: &str) -> Option<Vec<u8>> {
    let stream = guest(provider, id).await;
    client::read_file(stream, path, 1024).await.ok()
}

async fn write(provider: &dyn Provider, id: &TenantId, path: &str, content: &[u8]) {
    client::write_file(guest(provider, id).await, path, 0o600, content)
        .await
        .expect("write");
}

/// Checks that a save point keeps files and terminals, that the tenant runs on, and that other tenants continue from it.
async fn saves_and_restores(provider: &dyn Provider, id: &TenantId) {
    const NOTE: &str = "/var/tmp/conformance/note";
    let (save, quiet) = (save_point("conformance-save"), Progress::ignored());
    let again: TenantId = "conformance-again".parse().expect("a valid id");
    for _ in 0..2 {
        let deleted = provider.delete_save(&save).await;
        deleted.expect("deleting nothing succeeds");
    }
    let missing = provider.restore(&again, &save, &quiet).await;
    assert!(matches!(missing, Err(Error::NotFound)), "{missing:?}");
    let unknown = "unknown".parse().expect("a valid id");
    let nobody = provider.save(&unknown, &save).await;
    assert!(matches!(nobody, Err(Error::NotFound)), "{nobody:?}");

    write(provider, id, NOTE, b"before").await;
    let order = || Terminal {
        id: "saved-1".to_owned(),
        pty: Pty {
            term: "xterm-256color".to_owned(),
            rows: 24,
            cols: 80,
        },
    };
    let (mut session, _) = client::terminal(guest(provider, id).await, order())
        .await
        .expect("terminal");
    let typed = Bytes::from_static(b"echo before-the-save\r");
    session.input.stdin(typed).await.expect("keys");
    expect_output(&mut session.output, "before-the-save").await;
    let made = provider.save(id, &save).await.expect("save");
    assert!(made.bytes > 0, "{made:?}");
    assert_eq!(saved(provider, &save).await, Some(Some(made)));
    let twice = provider.save(id, &save).await;
    assert!(matches!(twice, Err(Error::Exists)), "{twice:?}");

    // The tenant runs on, in the same terminal.
    let typed = Bytes::from_static(b"echo after-the-save\r");
    session.input.stdin(typed).await.expect("keys");
    expect_output(&mut session.output, "after-the-save").await;
    write(provider, id, NOTE, b"after").await;
    assert_eq!(observed(provider, id).await, Some(Observed::Running));

    for _ in 0..2 {
        let restored = provider.restore(&again, &save, &quiet).await;
        restored.expect("restore");
        let twice = provider.restore(&again, &save, &quiet).await;
        assert!(matches!(twice, Err(Error::Exists)), "{twice:?}");
        assert_eq!(observed(provider, &again).await, Some(Observed::Running));
        let note = read(provider, &again, NOTE).await;
        assert_eq!(note.as_deref(), Some(&b"before"[..]));
        let (mut session, new) = client::terminal(guest(provider, &again).await, order())
            .await
            .expect("the saved terminal");
        assert!(!new, "its shell is the saved one");
        let seen = expect_output(&mut session.output, "before-the-save").await;
        assert!(!seen.contains("after-the-save"), "{seen:?}");
        write(provider, &again, NOTE, b"elsewhere").await;
        provider.destroy(&again).await.expect("destroy");
    }
    let note = read(provider, id, NOTE).await;
    assert_eq!(note.as_deref(), Some(&b"after"[..]));

    for _ in 0..2 {
        let deleted = provider.delete_save(&save).await;
        deleted.expect("delete the save point");
    }
    assert_eq!(saved(provider, &save).await, None);
    if can(provider, Capability::Pause) {
        provider.pause(id).await.expect("pause");
        provider.save(id, &save).await.expect("save while paused");
        assert_eq!(observed(provider, id).await, Some(Observed::Paused));
        let restored = provider.restore(&again, &save, &quiet).await;
        restored.expect("restore what was paused");
        assert_eq!(observed(provider, &again).await, Some(Observed::Running));
        provider.destroy(&again).await.expect("destroy");
        let deleted = provider.delete_save(&save).await;
        deleted.expect("delete the save point");
        provider.resume(id).await.expect("resume");
    }
    client::close_terminal(guest(provider, id).await, "saved-1")
        .await
        .expect("close");
}

/// Checks that after a dropped save, the tenant runs and the save point can be deleted, and that what a dropped restore
/// leaves is listed as broken and can be freed.
async fn tolerates_dropped_saves(provider: &dyn Provider, id: &TenantId) {
    let next = save_point("after-dropped");
    for moment in MOMENTS {
        let save = save_point(&format!("dropped-{}", moment.as_micros()));
        let _ = tokio::time::timeout(moment, provider.save(id, &save)).await;
        let deleted = provider.delete_save(&save).await;
        deleted.expect("delete the save point");
        let deleted = provider.delete_save(&next).await;
        deleted.expect("delete the save point");
        let saved_next = provider.save(id, &next).await;
        saved_next.expect("save after a dropped one");
        assert_eq!(saved(provider, &save).await, None, "{moment:?}");
        assert_eq!(observed(provider, id).await, Some(Observed::Running));
    }
    let again: TenantId = "conformance-again".parse().expect("a valid id");
    for number in 0.. {
        let (progress, stage) = until_stage(number);
        let finished = tokio::select! {
            made = provider.restore(&again, &next, &progress) => {
                made.expect("restore");
                true
            }
            () = stage => false,
        };
        let left = observed(provider, &again).await;
        provider.destroy(&again).await.expect("destroy");
        assert_eq!(observed(provider, &again).await, None, "stage {number}");
        if finished {
            break;
        }
        let listed = matches!(left, None | Some(Observed::Broken));
        assert!(listed, "dropped in stage {number}, it is {left:?}");
    }
    let deleted = provider.delete_save(&next).await;
    deleted.expect("delete the save point");
}

async fn adds_and_removes_a_node(provider: &dyn Provider, id: &TenantId) {
    let node: NodeName = "node2".parse().expect("a valid name");
    let (tell, told) = std::sync::mpsc::channel();
    let progress = Progress::new(move |event| {
        let _ = tell.send(event);
    });
    let quiet = Progress::ignored();
    provider
        .remove_node(id, &node, &quiet)
        .await
        .expect("removing a missing node succeeds");
    for wrong in ["node1", "node6", "other"] {
        let wrong = wrong.parse().expect("a valid name");
        let refused = provider.add_node(id, &wrong, &quiet).await;
        assert!(
            matches!(refused, Err(Error::NotAWorker(_))),
            "{wrong}: {refused:?}"
        );
    }
    provider
        .add_node(id, &node, &progress)
        .await
        .expect("a node is added");
    let events: Vec<Event> = told.try_iter().collect();
    let (mut started, mut done) = (0, 0);
    for event in &events {
        started += u32::from(matches!(event, Event::Started { .. }));
        done += u32::from(matches!(event, Event::Done { .. }));
    }
    assert!(started >= 2 && started == done, "{events:?}");
    let twice = provider.add_node(id, &node, &quiet).await;
    assert!(matches!(twice, Err(Error::NodeExists(_))), "{twice:?}");
    assert_eq!(observed(provider, id).await, Some(Observed::Running));
    let open = || provider.open(id, &node, Target::Guest);
    let stream = open().await.expect("the new node can be reached");
    let done = client::run(stream, program(&["echo", "more"]), 1024)
        .await
        .expect("echo on the new node");
    assert_eq!(done.stdout, b"more\n");
    provider.pause(id).await.expect("pause both");
    assert!(open().await.is_err(), "it is paused with the others");
    provider.resume(id).await.expect("resume both");
    open().await.map(drop).expect("it resumes with the others");
    let planes = provider.remove_node(id, &node1(), &quiet).await;
    assert!(matches!(planes, Err(Error::NotAWorker(_))), "{planes:?}");
    for _ in 0..2 {
        provider
            .remove_node(id, &node, &quiet)
            .await
            .expect("removing it repeatedly succeeds");
        assert!(open().await.is_err(), "the node is gone");
    }
    assert_eq!(observed(provider, id).await, Some(Observed::Running));
    client::ping(guest(provider, id).await)
        .await
        .expect("the first node keeps running");
}

/// The delays after which a call without stages is dropped.
const MOMENTS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_micros(300),
    Duration::from_millis(3),
    Duration::from_millis(30),
];

/// Checks that after a dropped pause or resume, the next call succeeds.
async fn tolerates_dropped_pauses(provider: &dyn Provider, id: &TenantId) {
    for moment in MOMENTS {
        // It may also finish before it is dropped.
        let _ = tokio::time::timeout(moment, provider.pause(id)).await;
        provider.pause(id).await.expect("pause after a dropped one");
        assert_eq!(observed(provider, id).await, Some(Observed::Paused));
        let _ = tokio::time::timeout(moment, provider.resume(id)).await;
        provider
            .resume(id)
            .await
            .expect("resume after a dropped one");
        assert_eq!(observed(provider, id).await, Some(Observed::Running));
        if can(provider, Capability::GuestLink) {
            client::ping(guest(provider, id).await)
                .await
                .expect("it runs");
        }
    }
}

/// Returns a progress, and a future that completes when the stage with this number, from 0, starts.
fn until_stage(number: usize) -> (Progress, impl Future<Output = ()>) {
    let (begin, begun) = tokio::sync::watch::channel(0);
    let progress = Progress::new(move |event| {
        if matches!(event, Event::Started { .. }) {
            begin.send_modify(|n| *n += 1);
        }
    });
    let mut begun = begun;
    (progress, async move {
        // The call may end before that stage. Then this never completes, and the call's result is used.
        if begun.wait_for(|n| *n > number).await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

/// Drops creations and additions of a node at each of their stages, and calls that free them after each delay. Checks
/// that the remains of a creation are listed as broken, and that everything can be freed.
async fn tolerates_dropped_calls(provider: &dyn Provider, tenant: &Tenant) {
    let (id, template) = (&tenant.id, &tenant.spec.template);
    for number in 0.. {
        let (progress, stage) = until_stage(number);
        let finished = tokio::select! {
            made = provider.create(id, template, Priority::Normal, &progress) => {
                made.expect("create");
                true
            }
            () = stage => false,
        };
        if finished {
            break;
        }
        let left = observed(provider, id).await;
        assert!(
            matches!(left, None | Some(Observed::Broken)),
            "dropped in stage {number}, it is {left:?}"
        );
        if left.is_some() {
            let again = provider
                .create(id, template, Priority::Normal, &Progress::ignored())
                .await;
            assert!(
                matches!(again, Err(Error::Exists)),
                "stage {number}: {again:?}"
            );
        }
        for moment in MOMENTS {
            let _ = tokio::time::timeout(moment, provider.destroy(id)).await;
        }
        provider
            .destroy(id)
            .await
            .expect("destroy after dropped ones");
        assert_eq!(observed(provider, id).await, None, "stage {number}");
    }
    if can(provider, Capability::AddNodes) {
        tolerates_dropped_additions(provider, id).await;
    }
    provider.destroy(id).await.expect("destroy");
    assert_eq!(observed(provider, id).await, None);
}

async fn tolerates_dropped_additions(provider: &dyn Provider, id: &TenantId) {
    let node: NodeName = "node2".parse().expect("a valid name");
    let quiet = Progress::ignored();
    for number in 0.. {
        let (progress, stage) = until_stage(number);
        let finished = tokio::select! {
            added = provider.add_node(id, &node, &progress) => {
                added.expect("add a node");
                true
            }
            () = stage => false,
        };
        for moment in MOMENTS {
            let _ = tokio::time::timeout(moment, provider.remove_node(id, &node, &quiet)).await;
        }
        provider
            .remove_node(id, &node, &quiet)
            .await
            .expect("remove after dropped ones");
        assert_eq!(
            observed(provider, id).await,
            Some(Observed::Running),
            "stage {number}"
        );
        if finished {
            return;
        }
    }
}

async fn is_destroyed(provider: &dyn Provider, id: &TenantId) {
    provider.destroy(id).await.expect("destroy");
    provider.destroy(id).await.expect("destroying twice");
    assert_eq!(observed(provider, id).await, None);
    assert!(matches!(
        provider.open(id, &node1(), Target::Console).await.map(drop),
        Err(Error::NotFound)
    ));
}
