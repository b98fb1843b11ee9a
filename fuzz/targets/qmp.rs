//! QEMU's control channel, with a QEMU that says anything.
#![no_main]

use faultline_fuzz::run;
use faultline_launcher::qmp::Qmp;
use libfuzzer_sys::fuzz_target;
use tokio::{io::AsyncWriteExt, net::UnixStream, sync::mpsc};

fuzz_target!(|data: &[u8]| {
    run(async {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (give, mut events) = mpsc::channel(16);
        let said = data.to_vec();
        let qemu = tokio::spawn(async move {
            // The greeting's answer first, so that what follows is reached.
            let _ = theirs.write_all(b"{\"return\":{}}\n").await;
            let _ = theirs.write_all(&said).await;
            theirs
        });
        if let Ok(qmp) = Qmp::start(ours, give).await {
            drop(qemu.await);
            for _ in 0..8 {
                if qmp
                    .run("query-status", serde_json::Value::Null)
                    .await
                    .is_err()
                {
                    break;
                }
            }
        }
        while events.try_recv().is_ok() {}
    });
});
