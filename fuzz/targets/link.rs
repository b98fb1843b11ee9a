//! The handshake and the multiplexer. The first byte says which end is fuzzed: a launcher whose guest says anything, or
//! a helper whose port carries anything.
#![no_main]

use std::time::Duration;

use faultline_fuzz::{Peer, run};
use faultline_guest::{
    link::{Link, serve},
    wire::{Frame, Request, read_header},
};
use libfuzzer_sys::fuzz_target;
use tokio::io::AsyncWriteExt;

const NONCE: u64 = 0x0123_4567_89ab_cdef;

async fn host(peer: Peer) {
    let connected = tokio::time::timeout(Duration::from_secs(60), Link::connect(peer, NONCE));
    let Ok(Ok((link, engine))) = connected.await else {
        return;
    };
    let used = async {
        let Ok(mut stream) = link.open().await else {
            return;
        };
        let _ = stream.write_all(b"hello").await;
        while let Ok(Some(_)) = Frame::read(&mut stream).await {}
    };
    // The port ends, so both do.
    let _ = tokio::time::timeout(Duration::from_secs(60), async {
        tokio::select! {
            () = engine => {}
            () = used => {}
        }
    })
    .await;
}

async fn guest(mut peer: Peer) {
    let served = serve(&mut peer, |mut stream| {
        tokio::spawn(async move {
            if read_header::<Request>(&mut stream).await.is_ok() {
                while let Ok(Some(_)) = Frame::read(&mut stream).await {}
            }
        });
    });
    let _ = tokio::time::timeout(Duration::from_secs(60), served).await;
}

fuzz_target!(|data: &[u8]| {
    let [end, step, data @ ..] = data else {
        return;
    };
    let peer = |data: &[u8]| Peer::new(data, (*step).into());
    match end % 4 {
        // Past the handshake, where the multiplexer is.
        0 => {
            let mut all = format!("\nFAULTLINE-READY {NONCE:016x} {:08x}\n", 1).into_bytes();
            all.push(6);
            all.extend_from_slice(data);
            run(host(peer(&all)));
        }
        1 => run(host(peer(data))),
        2 => {
            let mut all = format!("\nFAULTLINE-HELLO {NONCE:016x} {:08x}\n", 1).into_bytes();
            all.push(6);
            all.extend_from_slice(data);
            run(guest(peer(&all)));
        }
        _ => run(guest(peer(data))),
    }
});
