//! Everything the host asks of a guest, and the guest answers with anything: the host keeps no more than it asked for
//! and comes to an end.
#![no_main]

use faultline_fuzz::{Peer, run};
use faultline_guest::{
    client,
    wire::{Exec, Pty, Terminal},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [which, step, data @ ..] = data else {
        return;
    };
    let peer = Peer::new(data, (*step).into());
    run(async {
        match which % 9 {
            0 => drop(client::ping(peer).await),
            1 => drop(client::terminals(peer).await),
            2 => drop(client::stat(peer, "/etc/passwd").await),
            3 => {
                if let Ok(content) = client::read_file(peer, "/etc/passwd", 100).await {
                    assert!(content.len() <= 100);
                }
            }
            4 => drop(client::write_file(peer, "/tmp/x", 0o644, b"x").await),
            5 => {
                if let Ok(done) = client::run(peer, Exec::default(), 100).await {
                    assert!(done.stdout.len() <= 100 && done.stderr.len() <= 100);
                }
            }
            6 => {
                let pty = Pty {
                    term: "xterm".to_owned(),
                    rows: 24,
                    cols: 80,
                };
                let id = "web-1".to_owned();
                let Ok((mut session, _)) = client::terminal(peer, Terminal { id, pty }).await
                else {
                    return;
                };
                while let Ok(Some(_)) = session.output.next().await {}
            }
            7 => drop(client::forward(peer, "localhost", 80).await),
            _ => drop(client::close_terminal(peer, "web-1").await),
        }
    });
});
