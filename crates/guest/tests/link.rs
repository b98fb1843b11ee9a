//! The guest link's protocol against everything that a hostile or broken peer may send, both ways.
#![expect(clippy::unwrap_used, reason = "a test: a broken expectation ends it")]

use std::time::Duration;

use bytes::Bytes;
use faultline_guest::{
    client,
    link::{self, Link},
    wire::{
        Exec, Frame, MAX_FRAME, MAX_HEADER, Reply, Request, Response, VERSION, read_header,
        write_header,
    },
};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A guest that answers every request with `Pong`, over a port that ends when the test does.
fn guest(mut port: DuplexStream) {
    tokio::spawn(async move {
        let _ = link::serve(&mut port, |mut stream| {
            tokio::spawn(async move {
                let _: Result<Request, _> = read_header(&mut stream).await;
                let pong = Reply::Pong {
                    version: 1,
                    uptime_seconds: 7,
                };
                let _ = write_header(&mut stream, &Response::Ok(pong)).await;
            });
        })
        .await;
    });
}

async fn ping(link: &Link) -> client::Result<u64> {
    client::ping(link.open().await.map_err(|_| client::Error::Protocol)?).await
}

#[test]
fn a_link_is_made_and_carries_many_streams() {
    runtime().block_on(async {
        let (host, port) = duplex(4096);
        guest(port);
        let (link, engine) = Link::connect(host, 1).await.unwrap();
        tokio::spawn(engine);
        let pings = (0..50).map(|_| ping(&link));
        for answered in futures::future::join_all(pings).await {
            assert_eq!(answered.unwrap(), 7);
        }
    });
}

#[test]
fn too_many_streams_are_refused_and_the_link_goes_on() {
    runtime().block_on(async {
        let (host, port) = duplex(64 * 1024);
        guest(port);
        let (link, engine) = Link::connect(host, 3).await.unwrap();
        tokio::spawn(engine);
        let mut open = Vec::new();
        for _ in 0..link::MAX_STREAMS {
            open.push(link.open().await.unwrap());
        }
        assert!(matches!(
            link.open().await.map(drop),
            Err(link::Error::Full)
        ));
        open.clear();
        assert_eq!(ping(&link).await.unwrap(), 7);
    });
}

#[test]
fn a_link_is_made_through_what_an_earlier_session_left() {
    runtime().block_on(async {
        let (mut host, port) = duplex(64 * 1024);
        // The guest finds the end of a former session before the hello, and half a hello.
        host.write_all(&[0, 1, 2, 255, b'\n']).await.unwrap();
        host.write_all(b"\nFAULTLINE-HELLO 00000\nFAULTLINE-HELLO zzzzzzzzzzzzzzzz zzzzzzzz\n")
            .await
            .unwrap();
        guest(port);
        let (link, engine) = Link::connect(host, 0xfeed).await.unwrap();
        tokio::spawn(engine);
        assert_eq!(ping(&link).await.unwrap(), 7);
    });
}

#[test]
fn a_new_host_takes_over_from_one_that_vanished_in_mid_session() {
    runtime().block_on(async {
        // One port, two hosts one after the other, as after a clone: the guest sees no disconnect.
        let (switch, port) = duplex(64 * 1024);
        guest(port);
        let (mut switch_read, mut switch_write) = tokio::io::split(switch);
        for nonce in 1..=3 {
            let (host, ours) = duplex(64 * 1024);
            let (mut ours_read, mut ours_write) = tokio::io::split(ours);
            let session = async {
                let (link, engine) = Link::connect(host, nonce).await.unwrap();
                tokio::select! {
                    () = engine => panic!("the link ended"),
                    answered = ping(&link) => assert_eq!(answered.unwrap(), 7),
                }
            };
            tokio::select! {
                () = session => {}
                _ = tokio::io::copy(&mut ours_read, &mut switch_write) => {}
                _ = tokio::io::copy(&mut switch_read, &mut ours_write) => {}
            }
        }
    });
}

#[test]
fn a_guest_of_another_version_is_refused_with_a_word() {
    runtime().block_on(async {
        let (host, mut port) = duplex(4096);
        tokio::spawn(async move {
            let mut hello = vec![0; 17 + 16];
            port.read_exact(&mut hello).await.unwrap();
            let nonce = String::from_utf8(hello[17..].to_vec()).unwrap();
            port.write_all(format!("\nFAULTLINE-READY {nonce} 00000063\n").as_bytes())
                .await
                .unwrap();
            std::future::pending::<()>().await;
        });
        let error = Link::connect(host, 9)
            .await
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("99") && error.contains("built again"),
            "{error}"
        );
    });
}

#[test]
fn a_silent_guest_is_waited_for_and_a_gone_one_is_an_error() {
    runtime().block_on(async {
        let (host, port) = duplex(64);
        let waited = tokio::time::timeout(Duration::from_millis(300), Link::connect(host, 1)).await;
        assert!(waited.is_err(), "nothing answers, so nothing is decided");
        drop(port);
        let (host, port) = duplex(64);
        drop(port);
        assert!(Link::connect(host, 1).await.is_err());
    });
}

#[test]
fn a_header_or_a_frame_beyond_its_bound_is_refused_without_reading_it() {
    runtime().block_on(async {
        let mut header = u32::try_from(MAX_HEADER + 1)
            .unwrap()
            .to_be_bytes()
            .to_vec();
        header.extend_from_slice(b"{}");
        assert!(
            read_header::<Request>(&mut header.as_slice())
                .await
                .is_err()
        );
        let mut frame = vec![1];
        frame.extend_from_slice(&u32::MAX.to_be_bytes());
        assert!(Frame::read(&mut frame.as_slice()).await.is_err());
        assert!(
            Frame::Stdout(Bytes::from(vec![0; MAX_FRAME + 1]))
                .write(&mut Vec::new())
                .await
                .is_err()
        );
        let long = Request::Exec(Exec {
            argv: vec!["x".repeat(MAX_HEADER).into()],
            ..Exec::default()
        });
        assert!(write_header(&mut Vec::new(), &long).await.is_err());
    });
}

fn frames() -> impl Strategy<Value = Frame> {
    let bytes = prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    prop_oneof![
        bytes.clone().prop_map(Frame::Stdin),
        bytes.clone().prop_map(Frame::Stdout),
        bytes.prop_map(Frame::Stderr),
        Just(Frame::StdinEnd),
        any::<(u16, u16)>().prop_map(|(rows, cols)| Frame::Resize { rows, cols }),
        any::<u8>().prop_map(Frame::Signal),
        any::<i32>().prop_map(Frame::Exit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn frames_come_back_as_they_went(sent in prop::collection::vec(frames(), 0..20)) {
        runtime().block_on(async {
            let mut wire = Vec::new();
            for frame in &sent {
                frame.write(&mut wire).await.unwrap();
            }
            let mut from = wire.as_slice();
            let mut got = Vec::new();
            while let Some(frame) = Frame::read(&mut from).await.unwrap() {
                got.push(frame);
            }
            assert_eq!(got, sent);
        });
    }

    #[test]
    fn random_bytes_are_frames_or_errors(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        runtime().block_on(async {
            let mut from = bytes.as_slice();
            while let Ok(Some(_)) = Frame::read(&mut from).await {}
            let _ = read_header::<Request>(&mut bytes.as_slice()).await;
            let _ = read_header::<Response>(&mut bytes.as_slice()).await;
        });
    }

    #[test]
    fn a_hostile_host_can_only_end_the_session(bytes in prop::collection::vec(any::<u8>(), 0..3000), greet: bool) {
        runtime().block_on(async {
            let (mut host, mut port) = duplex(64 * 1024);
            if greet {
                host.write_all(format!("\nFAULTLINE-HELLO 0000000000000001 {VERSION:08x}\n\x06").as_bytes()).await.unwrap();
            }
            host.write_all(&bytes).await.unwrap();
            host.shutdown().await.unwrap();
            let served = tokio::time::timeout(Duration::from_secs(10), link::serve(&mut port, drop)).await;
            assert!(served.expect("it neither hangs nor spins").is_err(), "the port's end is told");
        });
    }

    #[test]
    fn a_hostile_guest_can_only_end_the_link(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        runtime().block_on(async {
            let (host, mut port) = duplex(256 * 1024);
            port.write_all(format!("\nFAULTLINE-READY 0000000000000005 {VERSION:08x}\n\x06").as_bytes()).await.unwrap();
            port.write_all(&bytes).await.unwrap();
            let (link, engine) = Link::connect(host, 5).await.unwrap();
            let asked = async {
                match link.open().await {
                    Ok(stream) => drop(client::read_file(stream, "/etc/hostname", 100).await),
                    Err(e) => drop(e),
                }
            };
            drop(port);
            let ended = tokio::time::timeout(Duration::from_secs(10), async {
                tokio::select! {
                    () = engine => {}
                    () = asked => {}
                }
            });
            ended.await.expect("it neither hangs nor spins");
        });
    }
}
