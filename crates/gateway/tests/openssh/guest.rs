//! Guests that run on this machine: programs run on pipes, forwards connect from here.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use faultline_domain::NodeName;
use faultline_guest::wire::{
    Exec, FileStat, Frame, Reply, Request, Response, read_header, write_header,
};
use faultline_provider::{
    Error, Result, Stream, Target,
    fake::process::{self, Streams},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpStream,
};

#[derive(Debug, Default)]
pub struct ThisMachine {
    /// If set, no guest stream can be opened.
    pub lost: AtomicBool,
    /// The requests of all programs that were run.
    pub execs: Mutex<Vec<Exec>>,
    /// The sizes that terminals were given.
    pub resizes: Mutex<Vec<(u16, u16)>>,
}

#[async_trait]
impl Streams for ThisMachine {
    async fn open(self: Arc<Self>, _: &NodeName, target: Target) -> Result<Stream> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        match target {
            Target::Guest if self.lost.load(Ordering::SeqCst) => {
                return Err(Error::Unreachable("the guest link is lost".to_owned()));
            }
            Target::Guest => {
                tokio::spawn(async move { self.serve(ours).await });
            }
            Target::Console => {
                tokio::spawn(console(ours));
            }
            Target::Port(_) => return Err(Error::NotFound),
        }
        Ok(Box::new(theirs))
    }
}

/// Responds to each line with the line in upper case.
async fn console(mut stream: DuplexStream) {
    let mut buffer = [0; 256];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        let said = String::from_utf8_lossy(&buffer[..n]).to_uppercase();
        let _ = stream
            .write_all(format!("console: {said}").as_bytes())
            .await;
    }
}

impl ThisMachine {
    async fn serve(&self, mut stream: DuplexStream) -> std::io::Result<()> {
        match read_header::<Request>(&mut stream).await? {
            Request::Exec(exec) => self.exec(stream, exec).await,
            Request::Stat { path } => {
                let file = std::fs::metadata(path).ok().map(|m| FileStat {
                    kind: if m.is_file() { "file" } else { "other" }.to_owned(),
                    mode: 0o755,
                    uid: 0,
                    gid: 0,
                    size: m.len(),
                });
                write_header(&mut stream, &Response::Ok(Reply::Stat { file })).await
            }
            Request::Forward { host, port } => {
                match TcpStream::connect((host.as_str(), port)).await {
                    Ok(mut tcp) => {
                        write_header(&mut stream, &Response::Ok(Reply::Done)).await?;
                        tokio::io::copy_bidirectional(&mut stream, &mut tcp)
                            .await
                            .map(drop)
                    }
                    Err(e) => write_header(&mut stream, &Response::Error(e.to_string())).await,
                }
            }
            _ => Ok(()),
        }
    }

    async fn exec(&self, stream: DuplexStream, exec: Exec) -> std::io::Result<()> {
        self.execs.lock().unwrap().push(exec.clone());
        let mut argv = exec.argv.clone();
        if argv.is_empty() {
            argv = vec!["/bin/bash".into(), "--norc".into()];
        }
        if exec.pty.is_some() {
            let inner = argv
                .iter()
                .map(|a| format!("'{}'", a.to_str().unwrap()))
                .collect::<Vec<_>>()
                .join(" ");
            argv = ["script", "-qefc", &inner, "/dev/null"]
                .map(Into::into)
                .to_vec();
        }
        let seen = |frame: &Frame| {
            if let Frame::Resize { rows, cols } = frame {
                self.resizes.lock().unwrap().push((*rows, *cols));
            }
        };
        process::exec(stream, &exec, &argv, seen).await
    }
}
