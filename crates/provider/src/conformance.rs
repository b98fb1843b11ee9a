//! The suite that every provider passes, the fake included. What it asserts is what the rest of Faultline relies on.
//!
//! Call [`run`] from a test with a provider whose image is ready. It uses only programs that the fake's guest knows
//! too (`true`, `echo`, `cat`), so that the same lines run everywhere.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test suite: a broken expectation ends it"
)]

use std::time::Duration;

use bytes::Bytes;
use faultline_domain::{
    NodeName, Shape, TemplateRef, TenantId,
    limits::Limits,
    progress::{Event, Progress},
};
use faultline_guest::{
    client,
    wire::{Exec, Frame, Pty, Terminal},
};

use crate::{
    Allowance, Capability, Change, Error, Observed, Provider, Readiness, Result, Spec, Stream,
    Target,
};

/// How soon a change must be reported.
const TOLD_WITHIN: Duration = Duration::from_secs(20);

/// A tenant to be made.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// What it is made of.
    pub spec: Spec,
}

impl Tenant {
    /// Has it made, and gives it what it is allowed.
    pub async fn create(&self, provider: &dyn Provider, progress: &Progress) -> Result<()> {
        crate::make(provider, &self.id, &self.spec, progress).await
    }
}

/// A small tenant for tests.
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

/// The whole suite against one image of plain machines. What a tenancy can't do is expected to be refused. Leaves nothing
/// behind.
pub async fn run(provider: &dyn Provider, image: &str) {
    let ready = TemplateRef::plain(image, Shape::SINGLE);
    assert_eq!(provider.readiness(&ready).await, Readiness::Ready);
    let unknown = TemplateRef::plain("no-such-image", Shape::SINGLE);
    assert!(matches!(
        provider.readiness(&unknown).await,
        Readiness::Unavailable { .. }
    ));
    strangers_are_not_found(provider).await;
    let tenant = tenant("conformance", image, 1);
    provider
        .destroy(&tenant.id)
        .await
        .expect("destroying nothing succeeds");
    let mut told = Told(provider.changes(), tenant.id.clone());
    starts_with_stages(provider, &tenant).await;
    told.expect(Observed::Running).await;
    is_configured(provider, &tenant).await;
    if can(provider, Capability::GuestLink) {
        runs_programs(provider, &tenant.id).await;
        moves_files(provider, &tenant.id).await;
        keeps_terminals(provider, &tenant.id).await;
    }
    if can(provider, Capability::Pause) {
        pauses_and_resumes(provider, &tenant.id, &mut told).await;
        bears_dropped_pauses(provider, &tenant.id).await;
    }
    if can(provider, Capability::AddNodes) {
        grows_and_shrinks(provider, &tenant.id).await;
    }
    refuses_what_it_cannot(provider, &tenant.id).await;
    ends(provider, &tenant.id).await;
    told.expect(Observed::Absent).await;
    bears_dropped_calls(provider, &tenant).await;
}

fn can(provider: &dyn Provider, capability: Capability) -> bool {
    provider.capabilities().contains(&capability)
}

/// The changes of one tenant, as they are reported.
struct Told(tokio::sync::broadcast::Receiver<Change>, TenantId);

impl Told {
    /// Waits until this was told.
    async fn expect(&mut self, wanted: Observed) {
        let mut heard = Vec::new();
        let read = async {
            loop {
                let (id, observed) = self.0.recv().await.expect("changes are told");
                if id == self.1 {
                    heard.push(observed);
                    if observed == wanted {
                        return;
                    }
                }
            }
        };
        let in_time = tokio::time::timeout(TOLD_WITHIN, read).await.is_ok();
        assert!(in_time, "{wanted:?} was not told, but {heard:?}");
    }
}

async fn strangers_are_not_found(provider: &dyn Provider) {
    let id: TenantId = "stranger".parse().expect("a valid id");
    if can(provider, Capability::Pause) {
        assert!(matches!(provider.pause(&id).await, Err(Error::NotFound)));
        assert!(matches!(provider.resume(&id).await, Err(Error::NotFound)));
    }
    assert!(matches!(provider.usage(&id).await, Err(Error::NotFound)));
    let allowance = tenant("stranger", "any", 1).spec.allowance;
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
    let made = provider.create(id, template, &progress).await;
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
        "every stage that began ended: {events:?}"
    );
    assert_eq!(
        observed(provider, &tenant.id).await,
        Some(Observed::Running)
    );
    let again = provider.create(id, template, &Progress::ignored()).await;
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
    assert!(nowhere.is_err(), "a node that isn't there");
}

async fn is_configured(provider: &dyn Provider, tenant: &Tenant) {
    for _ in 0..2 {
        provider
            .configure(&tenant.id, &tenant.spec.allowance)
            .await
            .expect("it is configured, once or twice");
    }
    assert_eq!(
        observed(provider, &tenant.id).await,
        Some(Observed::Running)
    );
}

/// What a tenancy can't do is refused as unsupported, and changes nothing.
async fn refuses_what_it_cannot(provider: &dyn Provider, id: &TenantId) {
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
            Capability::GuestLink => provider.open(id, &node1(), Target::Guest).await.map(drop),
            Capability::Console => provider.open(id, &node1(), Target::Console).await.map(drop),
            // Nothing asks a provider for these yet, or they are promises about what is inside.
            Capability::RootOnNodes
            | Capability::Save
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
        .expect("a program that is too slow");
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
    assert!(back == content, "what was written is read");
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

/// Reads a terminal's output until `text` was shown.
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

async fn pauses_and_resumes(provider: &dyn Provider, id: &TenantId, told: &mut Told) {
    provider.pause(id).await.expect("pause");
    told.expect(Observed::Paused).await;
    provider.pause(id).await.expect("pausing twice");
    assert_eq!(observed(provider, id).await, Some(Observed::Paused));
    assert!(
        provider.open(id, &node1(), Target::Guest).await.is_err(),
        "nobody enters what is paused"
    );
    provider.resume(id).await.expect("resume");
    told.expect(Observed::Running).await;
    provider.resume(id).await.expect("resuming twice");
    assert_eq!(observed(provider, id).await, Some(Observed::Running));
    let done = client::run(guest(provider, id).await, program(&["echo", "awake"]), 1024)
        .await
        .expect("echo after a pause");
    assert_eq!(done.stdout, b"awake\n");
}

async fn grows_and_shrinks(provider: &dyn Provider, id: &TenantId) {
    let node: NodeName = "node2".parse().expect("a valid name");
    let (tell, told) = std::sync::mpsc::channel();
    let progress = Progress::new(move |event| {
        let _ = tell.send(event);
    });
    let quiet = Progress::ignored();
    provider
        .remove_node(id, &node, &quiet)
        .await
        .expect("removing what is not there succeeds");
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
    let stream = open().await.expect("it is reached");
    let done = client::run(stream, program(&["echo", "more"]), 1024)
        .await
        .expect("echo on the new node");
    assert_eq!(done.stdout, b"more\n");
    provider.pause(id).await.expect("pause both");
    assert!(open().await.is_err(), "it is paused with the others");
    provider.resume(id).await.expect("resume both");
    open().await.map(drop).expect("it goes on with the others");
    let planes = provider.remove_node(id, &node1(), &quiet).await;
    assert!(matches!(planes, Err(Error::NotAWorker(_))), "{planes:?}");
    for _ in 0..2 {
        provider
            .remove_node(id, &node, &quiet)
            .await
            .expect("it is removed, once or twice");
        assert!(open().await.is_err(), "a node that isn't there any more");
    }
    assert_eq!(observed(provider, id).await, Some(Observed::Running));
    client::ping(guest(provider, id).await)
        .await
        .expect("the first node goes on");
}

/// The moments at which a call without stages is dropped.
const MOMENTS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_micros(300),
    Duration::from_millis(3),
    Duration::from_millis(30),
];

/// A pause or a resume that was dropped, half done or not begun, is done by the next.
async fn bears_dropped_pauses(provider: &dyn Provider, id: &TenantId) {
    for moment in MOMENTS {
        // Dropped while it runs, or done before that: both are fine.
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
                .expect("it goes on");
        }
    }
}

/// Progress that says when the stage with this number begins, from 0; and how to wait for it.
fn until_stage(number: usize) -> (Progress, impl Future<Output = ()>) {
    let (begin, begun) = tokio::sync::watch::channel(0);
    let progress = Progress::new(move |event| {
        if matches!(event, Event::Started { .. }) {
            begin.send_modify(|n| *n += 1);
        }
    });
    let mut begun = begun;
    (progress, async move {
        // Without an end where it never comes to that: then the call itself does.
        if begun.wait_for(|n| *n > number).await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

/// A creation, an addition of a node and an end, each dropped at each of its stages: what is left is seen as broken, and
/// freed.
async fn bears_dropped_calls(provider: &dyn Provider, tenant: &Tenant) {
    let (id, template) = (&tenant.id, &tenant.spec.template);
    for number in 0.. {
        let (progress, stage) = until_stage(number);
        let finished = tokio::select! {
            made = provider.create(id, template, &progress) => {
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
            let again = provider.create(id, template, &Progress::ignored()).await;
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
        bears_dropped_additions(provider, id).await;
    }
    provider.destroy(id).await.expect("destroy");
    assert_eq!(observed(provider, id).await, None);
}

async fn bears_dropped_additions(provider: &dyn Provider, id: &TenantId) {
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

async fn ends(provider: &dyn Provider, id: &TenantId) {
    provider.destroy(id).await.expect("destroy");
    provider.destroy(id).await.expect("destroying twice");
    assert_eq!(observed(provider, id).await, None);
    assert!(matches!(
        provider.open(id, &node1(), Target::Console).await.map(drop),
        Err(Error::NotFound)
    ));
}
