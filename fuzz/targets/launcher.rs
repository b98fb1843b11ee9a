//! The launcher's socket. What a launcher is asked reads the same when written again; a server whose launcher answers
//! with anything comes to an end.
#![no_main]

use std::sync::OnceLock;

use faultline_domain::progress::Progress;
use faultline_fuzz::run;
use faultline_launcher::{
    client,
    protocol::{Answer, Channel, Notification, Request, SOCKET},
};
use libfuzzer_sys::fuzz_target;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
};

static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();

fn again<T>(line: &[u8])
where
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    if let Ok(value) = serde_json::from_slice::<T>(line) {
        let once = serde_json::to_string(&value).unwrap();
        let value: T = serde_json::from_str(&once).unwrap();
        assert_eq!(serde_json::to_string(&value).unwrap(), once);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&which, said)) = data.split_first() else {
        return;
    };
    for line in said.split(|b| *b == b'\n') {
        again::<Request>(line);
        again::<Answer>(line);
        again::<Notification>(line);
    }
    let dir = FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path();
    let socket = dir.join(SOCKET);
    let _ = std::fs::remove_file(&socket);
    run(async {
        let listener = UnixListener::bind(&socket).unwrap();
        let said = said.to_vec();
        let launcher = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut question = [0; 4096];
            let _ = stream.read(&mut question).await;
            let _ = stream.write_all(&said).await;
        });
        match which % 4 {
            0 => drop(client::status(dir).await),
            1 => drop(client::watch(dir, &Progress::ignored()).await),
            2 => drop(client::pause(dir).await),
            _ => {
                let node = "node1".parse().unwrap();
                if let Ok(stream) = client::open(dir, &node, Channel::Guest).await {
                    let mut rest = Vec::new();
                    let _ = stream.take(1 << 20).read_to_end(&mut rest).await;
                }
            }
        }
        launcher.abort();
    });
});
