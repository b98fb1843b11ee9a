//! A provider whose guest is this machine: programs run through pipes, forwards connect from here.

use std::{
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use faultline_domain::{EnvironmentId, NodeName, progress::Progress};
use faultline_guest::wire::{
    Exec, FileStat, Frame, Reply, Request, Response, read_header, write_header,
};
use faultline_provider::{
    Error, Observed, Provider, Readiness, Result, Spec, Stream, Target, Usage,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpStream,
    process::Command,
};

#[derive(Debug, Default)]
pub struct ThisMachine {
    /// When set, no guest stream can be opened.
    pub lost: AtomicBool,
    /// Every program that was run, as asked for.
    pub execs: Mutex<Vec<Exec>>,
    /// Sizes that terminals were given.
    pub resizes: Mutex<Vec<(u16, u16)>>,
}

/// The provider; clones share the machine.
#[derive(Debug, Clone)]
pub struct Shared(pub Arc<ThisMachine>);

#[async_trait]
impl Provider for Shared {
    fn name(&self) -> &'static str {
        "this-machine"
    }
    async fn readiness(&self, _: &str) -> Readiness {
        Readiness::Ready
    }
    async fn create(&self, _: &Spec, _: &Progress) -> Result<()> {
        Ok(())
    }
    async fn list(&self) -> Result<Vec<(EnvironmentId, Observed)>> {
        Ok(Vec::new())
    }
    async fn pause(&self, _: &EnvironmentId) -> Result<()> {
        Ok(())
    }
    async fn resume(&self, _: &EnvironmentId) -> Result<()> {
        Ok(())
    }
    async fn destroy(&self, _: &EnvironmentId) -> Result<()> {
        Ok(())
    }
    async fn open(&self, _: &EnvironmentId, _: &NodeName, target: Target) -> Result<Stream> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        match target {
            Target::Guest if self.0.lost.load(Ordering::SeqCst) => {
                return Err(Error::Unreachable("the guest link is lost".to_owned()));
            }
            Target::Guest => {
                let machine = self.0.clone();
                tokio::spawn(async move { machine.serve(ours).await });
            }
            Target::Console => {
                tokio::spawn(console(ours));
            }
            Target::Port(_) => return Err(Error::NotFound),
        }
        Ok(Box::new(theirs))
    }
    async fn usage(&self, _: &EnvironmentId) -> Result<Usage> {
        Ok(Usage::default())
    }
}

/// Answers each line with itself, loudly.
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
    async fn serve(&self, mut stream: DuplexStream) -> Option<()> {
        let respond = |r| r;
        match read_header::<Request>(&mut stream).await.ok()? {
            Request::Exec(exec) => self.exec(stream, exec).await,
            Request::Stat { path } => {
                let file = std::fs::metadata(path).ok().map(|m| FileStat {
                    kind: if m.is_file() { "file" } else { "other" }.to_owned(),
                    mode: 0o755,
                    uid: 0,
                    gid: 0,
                    size: m.len(),
                });
                write_header(&mut stream, &respond(Response::Ok(Reply::Stat { file })))
                    .await
                    .ok()
            }
            Request::Forward { host, port } => {
                match TcpStream::connect((host.as_str(), port)).await {
                    Ok(mut tcp) => {
                        write_header(&mut stream, &Response::Ok(Reply::Done))
                            .await
                            .ok()?;
                        tokio::io::copy_bidirectional(&mut stream, &mut tcp)
                            .await
                            .ok()?;
                    }
                    Err(e) => {
                        write_header(&mut stream, &Response::Error(e.to_string()))
                            .await
                            .ok()?;
                    }
                }
                Some(())
            }
            _ => None,
        }
    }

    async fn exec(&self, mut stream: DuplexStream, exec: Exec) -> Option<()> {
        self.execs.lock().unwrap().push(exec.clone());
        let mut argv = exec.argv.clone();
        if argv.is_empty() {
            argv = vec!["/bin/bash".to_owned(), "--norc".to_owned()];
        }
        if exec.pty.is_some() {
            let inner = argv
                .iter()
                .map(|a| format!("'{a}'"))
                .collect::<Vec<_>>()
                .join(" ");
            argv = ["script", "-qefc", &inner, "/dev/null"]
                .map(str::to_owned)
                .to_vec();
        }
        let mut child = Command::new(&argv[0])
            .args(&argv[1..])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .envs(&exec.env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        let pid = child.id()?;
        write_header(&mut stream, &Response::Ok(Reply::Started { pid }))
            .await
            .ok()?;
        let (mut read, mut write) = tokio::io::split(stream);
        let (mut stdin, mut stdout, mut stderr) = (
            child.stdin.take(),
            child.stdout.take()?,
            child.stderr.take()?,
        );
        let incoming = async {
            while let Ok(Some(frame)) = Frame::read(&mut read).await {
                match frame {
                    Frame::Stdin(b) => {
                        if let Some(to) = &mut stdin
                            && to.write_all(&b).await.is_err()
                        {
                            stdin = None;
                        }
                    }
                    Frame::StdinEnd => stdin = None,
                    Frame::Resize { rows, cols } => {
                        self.resizes.lock().unwrap().push((rows, cols));
                    }
                    Frame::Signal(n) => {
                        let _ = std::process::Command::new("kill")
                            .args([format!("-{n}"), "--".to_owned(), format!("-{pid}")])
                            .status();
                    }
                    _ => break,
                }
            }
        };
        let outgoing = async {
            let (mut a, mut b) = (vec![0; 8192], vec![0; 8192]);
            let (mut out_open, mut err_open) = (true, true);
            while out_open || err_open {
                let frame = tokio::select! {
                    n = stdout.read(&mut a), if out_open => match n {
                        Ok(n @ 1..) => Frame::Stdout(a[..n].to_vec().into()),
                        _ => { out_open = false; continue }
                    },
                    n = stderr.read(&mut b), if err_open => match n {
                        Ok(n @ 1..) => Frame::Stderr(b[..n].to_vec().into()),
                        _ => { err_open = false; continue }
                    },
                };
                if frame.write(&mut write).await.is_err() {
                    return;
                }
            }
            let code = match child.wait().await {
                Ok(status) => {
                    use std::os::unix::process::ExitStatusExt;
                    status
                        .code()
                        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
                }
                Err(_) => 255,
            };
            let _ = Frame::Exit(code).write(&mut write).await;
            let _ = write.shutdown().await;
        };
        tokio::select! {
            () = outgoing => {}
            () = async { incoming.await; } => {}
        }
        Some(())
    }
}
