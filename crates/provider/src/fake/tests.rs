use bytes::Bytes;
use faultline_guest::{
    client,
    wire::{Exec, Frame, Pty, Terminal},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn id() -> TenantId {
    "abc".parse().unwrap()
}

fn template() -> TemplateRef {
    TemplateRef::plain(IMAGE, "1+1".parse().unwrap())
}

async fn made() -> (FakeProvider, TenantId, NodeName) {
    let provider = FakeProvider::new();
    provider
        .create(&id(), &template(), Priority::Normal, &Progress::ignored())
        .await
        .unwrap();
    (provider, id(), "node1".parse().unwrap())
}

async fn until(output: &mut client::Output<Stream>, wanted: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(wanted) {
        match output.next().await.unwrap() {
            Some(Frame::Stdout(bytes)) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{other:?} after {seen:?}"),
        }
    }
    seen
}

fn terminal() -> Terminal {
    Terminal {
        id: "web-1".to_owned(),
        pty: Pty {
            term: "xterm-256color".to_owned(),
            rows: 24,
            cols: 80,
        },
    }
}

#[tokio::test]
async fn a_terminal_outlives_its_viewer() {
    let (p, id, node) = made().await;
    let stream = p.open(&id, &node, Target::Guest).await.unwrap();
    let (mut session, new) = client::terminal(stream, terminal()).await.unwrap();
    assert!(new);
    let typed = Bytes::from_static(b"echo hello > /tmp/x\rcat /tmp/x\r");
    session.input.stdin(typed).await.unwrap();
    until(&mut session.output, "\r\nhello\r\n").await;
    drop(session);
    let stream = p.open(&id, &node, Target::Guest).await.unwrap();
    let (mut session, new) = client::terminal(stream, terminal()).await.unwrap();
    assert!(!new);
    until(&mut session.output, "\r\nhello\r\n").await;
    assert_eq!(p.file(&id, &node, "/tmp/x").unwrap(), b"hello\n");
}

#[tokio::test]
async fn guests_run_programs_and_store_files_and_keys() {
    let (p, id, node) = made().await;
    let open = || p.open(&id, &node, Target::Guest);
    let run = async |argv: &[&str]| {
        let exec = Exec {
            argv: argv.iter().map(Into::into).collect(),
            ..Exec::default()
        };
        let done = client::run(open().await.unwrap(), exec, 1000)
            .await
            .unwrap();
        (done.code, String::from_utf8(done.stdout).unwrap())
    };
    assert_eq!(run(&["/bin/true"]).await.0, 0);
    assert_eq!(run(&["echo", "a", "b"]).await, (0, "a b\n".to_owned()));
    assert_eq!(run(&["systemctl", "status"]).await.0, 127);
    assert_eq!(run(&["bash", "-c", "touch /a\nfalse\ntouch /b"]).await.0, 1);
    assert!(p.file(&id, &node, "/a").is_some() && p.file(&id, &node, "/b").is_none());
    client::write_file(open().await.unwrap(), "/etc/x", 0o600, b"content")
        .await
        .unwrap();
    let stat = client::stat(open().await.unwrap(), "/etc/x").await.unwrap();
    assert_eq!(stat.unwrap().size, 7);
    let read = client::read_file(open().await.unwrap(), "/etc/x", 3).await;
    assert_eq!(read.unwrap(), b"con");
    client::authorize(open().await.unwrap(), vec!["ssh-ed25519 A".to_owned()])
        .await
        .unwrap();
    assert!(p.file(&id, &node, "/root/.ssh/authorized_keys").is_some());
    client::ping(open().await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn guests_go_silent_crash_and_fail_to_start() {
    let (p, id, node) = made().await;
    assert!(matches!(
        p.create(&id, &template(), Priority::Normal, &Progress::ignored())
            .await,
        Err(Error::Exists)
    ));
    p.silence(&id, &node, true);
    let ping = client::ping(p.open(&id, &node, Target::Guest).await.unwrap());
    let slow = tokio::time::timeout(Duration::from_millis(100), ping).await;
    assert!(slow.is_err());
    let mut console = p.open(&id, &node, Target::Console).await.unwrap();
    console.write_all(b"hostname\r").await.unwrap();
    let mut seen = String::new();
    while !seen.contains("\nnode1\r\n") {
        let mut buffer = [0; 100];
        let n = console.read(&mut buffer).await.unwrap();
        seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    p.crash(&id);
    assert_eq!(p.list().await.unwrap(), [(id.clone(), Observed::Broken)]);
    assert!(p.open(&id, &node, Target::Console).await.is_err());
    let mut rest = Vec::new();
    console.read_to_end(&mut rest).await.unwrap();
    p.destroy(&id).await.unwrap();
    p.destroy(&id).await.unwrap();
    assert!(p.list().await.unwrap().is_empty());
    p.fail_next("refresh", "no clock");
    let failed = p
        .create(&id, &template(), Priority::Normal, &Progress::ignored())
        .await
        .unwrap_err();
    assert_eq!(failed.to_string(), "refresh: no clock");
    assert_eq!(p.list().await.unwrap(), [(id, Observed::Broken)]);
}

#[tokio::test]
async fn paused_machines_refuse_streams() {
    let (p, id, node) = made().await;
    p.pause(&id).await.unwrap();
    assert!(matches!(
        p.open(&id, &node, Target::Guest).await,
        Err(Error::WrongState(Observed::Paused))
    ));
    p.resume(&id).await.unwrap();
    p.put_file(&id, &node, "/run/listen/80", b"");
    assert!(p.open(&id, &node, Target::Port(80)).await.is_ok());
    assert!(p.open(&id, &node, Target::Port(81)).await.is_err());
}
