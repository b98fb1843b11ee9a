use std::time::Duration;

use faultline_guest::{
    client::{self, Session},
    link::{self, Link, Opened},
    wire::{Pty, Request, read_header},
};
use tokio::io::DuplexStream;

use super::*;

/// What a viewer gets until `end` is in it.
async fn until(viewer: &mut Session<Opened>, end: &str) -> String {
    let mut shown = String::new();
    let reading = async {
        while !shown.contains(end) {
            match viewer.output.next().await.unwrap() {
                Some(Frame::Stdout(bytes)) => shown += &String::from_utf8_lossy(&bytes),
                other => panic!("{other:?} after {shown:?}"),
            }
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(20), reading).await;
    assert!(in_time.is_ok(), "no {end:?} in {shown:?}");
    shown
}

async fn viewer(link: &Link, rows: u16, cols: u16) -> Session<Opened> {
    let order = Order {
        id: "t1".to_owned(),
        pty: Pty {
            term: "xterm-256color".to_owned(),
            rows,
            cols,
        },
    };
    let stream = link.open().await.unwrap();
    client::terminal(stream, order).await.unwrap().0
}

async fn line(viewer: &mut Session<Opened>, line: &str) {
    let keys = format!("{line}\r").into();
    viewer.input.stdin(keys).await.unwrap();
}

fn serve(mut port: DuplexStream, terminals: Rc<Terminals>) {
    tokio::task::spawn_local(async move {
        let _ = link::serve(&mut port, |mut stream| {
            let terminals = Rc::clone(&terminals);
            tokio::task::spawn_local(async move {
                let _ = match read_header(&mut stream).await {
                    Ok(Request::Terminal(order)) => terminals.attach(stream, order).await,
                    Ok(Request::Look { id }) => terminals.look(stream, &id).await,
                    other => panic!("{other:?}"),
                };
            });
        })
        .await;
    });
}

/// Runs with a link to the terminals of a machine that is this one.
fn with_link<F: Future<Output = ()>>(test: impl FnOnce(Rc<Link>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (host, port) = tokio::io::duplex(64 * 1024);
        serve(port, Rc::default());
        let (link, engine) = Link::connect(host, 1).await.unwrap();
        tokio::task::spawn_local(engine);
        test(Rc::new(link)).await;
    });
}

#[test]
fn a_query_has_one_viewer_and_is_not_replayed() {
    with_link(|link| async move {
        let mut first = viewer(&link, 24, 80).await;
        let mut second = viewer(&link, 24, 80).await;
        // Whoever typed last answers.
        line(
            &mut first,
            r"printf 'one \e[c\e]11;?\a \e[?25$p'; echo; echo do''ne",
        )
        .await;
        let shown = until(&mut first, "done").await;
        assert!(
            shown.contains("one \x1b[c\x1b]11;?\x07 \x1b[?25$p"),
            "{shown:?}"
        );
        let shown = until(&mut second, "done").await;
        assert!(shown.contains("one  "), "{shown:?}");

        let mut third = viewer(&link, 24, 80).await;
        let shown = until(&mut third, "done").await;
        assert!(shown.contains("one  "), "{shown:?}");

        // The one that came last answers what is asked while nobody types, and when it goes, the one before.
        line(
            &mut first,
            r"sleep 0.5; printf 'two \e[6n'; echo; echo do''ne",
        )
        .await;
        line(&mut second, "").await;
        assert!(until(&mut second, "done").await.contains("two \x1b[6n"));
        assert!(!until(&mut first, "done").await.contains("\x1b[6n"));
        drop(second);
        line(
            &mut first,
            r"sleep 0.5; printf 'three \e[>q'; echo; echo do''ne",
        )
        .await;
        assert!(until(&mut first, "done").await.contains("three \x1b[>q"));
    });
}

#[test]
fn a_terminal_is_as_large_as_its_smallest_viewer() {
    with_link(|link| async move {
        let mut large = viewer(&link, 40, 120).await;
        line(&mut large, "stty size").await;
        until(&mut large, "40 120").await;
        let small = viewer(&link, 20, 132).await;
        line(&mut large, "stty size").await;
        until(&mut large, "20 120").await;
        large
            .input
            .send(Frame::Resize { rows: 50, cols: 90 })
            .await
            .unwrap();
        line(&mut large, "stty size").await;
        until(&mut large, "20 90").await;
        drop(small);
        line(&mut large, "sleep 0.2; stty size").await;
        until(&mut large, "50 90").await;
    });
}

async fn look(link: &Link) -> client::Result<Session<Opened>> {
    client::look(link.open().await.unwrap(), "t1").await
}

#[test]
fn a_look_neither_resizes_a_terminal_nor_answers_its_queries() {
    with_link(|link| async move {
        let refused = look(&link).await.unwrap_err().to_string();
        assert!(refused.contains("no such terminal"), "{refused}");
        let mut owner = viewer(&link, 24, 80).await;
        let mut looking = look(&link).await.unwrap();
        let size = |rows, cols| Frame::Resize { rows, cols };
        assert_eq!(
            looking.output.next().await.unwrap(),
            Some(size(24, 80)),
            "the size comes first"
        );
        looking.input.send(size(5, 20)).await.unwrap();
        line(
            &mut looking,
            r"stty size; printf 'asked \e[c'; echo; echo do''ne",
        )
        .await;
        let shown = until(&mut looking, "done").await;
        assert!(
            shown.contains("24 80") && !shown.contains("\x1b[c"),
            "{shown:?}"
        );
        assert!(until(&mut owner, "done").await.contains("asked \x1b[c"));

        owner.input.send(size(30, 90)).await.unwrap();
        loop {
            match looking.output.next().await.unwrap() {
                Some(Frame::Stdout(_)) => {}
                other => break assert_eq!(other, Some(size(30, 90))),
            }
        }
        // Without its owner's page, nobody answers, and it keeps its size.
        drop(owner);
        line(
            &mut looking,
            r"sleep 0.2; stty size; printf 'two \e[6n'; echo; echo do''ne",
        )
        .await;
        let shown = until(&mut looking, "done\r").await;
        assert!(
            shown.contains("30 90") && !shown.contains("\x1b[6n"),
            "{shown:?}"
        );
    });
}
