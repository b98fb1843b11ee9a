//! A provider for tests: scripts run as bash on this machine, files and ports are what the test says.

use std::{
    collections::BTreeMap,
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
    process::Command,
};

/// What listens on a port.
#[derive(Debug, Clone)]
pub enum Port {
    /// Says this whatever it is asked, then ends.
    Says(Vec<u8>),
    /// Takes the connection and is silent.
    Silent,
}

#[derive(Debug, Default)]
pub struct Inner {
    pub files: Mutex<BTreeMap<String, (u32, Vec<u8>)>>,
    pub ports: Mutex<BTreeMap<u16, Port>>,
    /// The guest link can't be opened.
    pub lost: AtomicBool,
    /// What was run, with whether trusted tools were asked for.
    pub ran: Mutex<Vec<(Vec<String>, bool)>>,
    pub destroyed: AtomicBool,
}

#[derive(Debug, Clone, Default)]
pub struct Machine(pub Arc<Inner>);

#[async_trait]
impl Provider for Machine {
    fn name(&self) -> &'static str {
        "test"
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
        self.0.destroyed.store(true, Ordering::SeqCst);
        Ok(())
    }
    async fn open(&self, _: &EnvironmentId, node: &NodeName, target: Target) -> Result<Stream> {
        let (mut ours, theirs) = tokio::io::duplex(16 * 1024);
        match target {
            Target::Guest if self.0.lost.load(Ordering::SeqCst) => {
                return Err(Error::Unreachable("the guest link is lost".to_owned()));
            }
            Target::Guest => {
                let inner = self.0.clone();
                tokio::spawn(async move { inner.serve(ours).await });
            }
            Target::Port(port) => match self.0.ports.lock().unwrap().get(&port).cloned() {
                Some(Port::Says(bytes)) => {
                    tokio::spawn(async move {
                        let mut question = [0; 4096];
                        let _ = ours.read(&mut question).await;
                        let _ = ours.write_all(&bytes).await;
                    });
                }
                Some(Port::Silent) => {
                    tokio::spawn(async move {
                        let _ours = ours;
                        std::future::pending::<()>().await;
                    });
                }
                None => {
                    return Err(Error::Unreachable(format!("{node} refuses the connection")));
                }
            },
            Target::Console => return Err(Error::NotFound),
        }
        Ok(Box::new(theirs))
    }
    async fn usage(&self, _: &EnvironmentId) -> Result<Usage> {
        Ok(Usage::default())
    }
}

impl Inner {
    async fn serve(&self, mut stream: DuplexStream) -> Option<()> {
        let reply = match read_header::<Request>(&mut stream).await.ok()? {
            Request::Exec(exec) => return self.exec(stream, exec).await,
            Request::Ping => Reply::Pong {
                version: 1,
                boot_id: String::new(),
                uptime_seconds: 1,
            },
            Request::Stat { path } => Reply::Stat {
                file: self
                    .files
                    .lock()
                    .unwrap()
                    .get(&path)
                    .map(|(mode, content)| FileStat {
                        kind: if *mode == 0o755 { "directory" } else { "file" }.to_owned(),
                        mode: *mode,
                        uid: 0,
                        gid: 0,
                        size: content.len() as u64,
                    }),
            },
            Request::ReadFile { path, max } => {
                let content = self.files.lock().unwrap().get(&path)?.1.clone();
                write_header(&mut stream, &Response::Ok(Reply::Done))
                    .await
                    .ok()?;
                let end = content.len().min(usize::try_from(max).ok()?);
                return stream.write_all(&content[..end]).await.ok();
            }
            _ => return None,
        };
        write_header(&mut stream, &Response::Ok(reply)).await.ok()
    }

    async fn exec(&self, mut stream: DuplexStream, exec: Exec) -> Option<()> {
        self.ran
            .lock()
            .unwrap()
            .push((exec.argv.clone(), exec.trusted));
        let mut child = Command::new(&exec.argv[0])
            .args(&exec.argv[1..])
            .env_clear()
            .envs(&exec.env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        write_header(&mut stream, &Response::Ok(Reply::Started { pid: 1 }))
            .await
            .ok()?;
        let (mut read, mut write) = tokio::io::split(stream);
        let mut stdin = child.stdin.take();
        while let Some(to) = &mut stdin {
            match Frame::read(&mut read).await {
                Ok(Some(Frame::Stdin(bytes))) => to.write_all(&bytes).await.ok()?,
                _ => stdin = None,
            }
        }
        let limit = std::time::Duration::from_secs(exec.timeout_seconds.unwrap_or(60).into());
        let (mut out, mut err) = (child.stdout.take()?, child.stderr.take()?);
        let pump = async {
            let (mut a, mut b) = (vec![0; 4096], vec![0; 4096]);
            let (mut more_out, mut more_err) = (true, true);
            while more_out || more_err {
                let frame = tokio::select! {
                    n = out.read(&mut a), if more_out => match n {
                        Ok(n @ 1..) => Frame::Stdout(a[..n].to_vec().into()),
                        _ => { more_out = false; continue }
                    },
                    n = err.read(&mut b), if more_err => match n {
                        Ok(n @ 1..) => Frame::Stderr(b[..n].to_vec().into()),
                        _ => { more_err = false; continue }
                    },
                };
                frame.write(&mut write).await.ok()?;
            }
            child.wait().await.ok()?.code()
        };
        let code = tokio::time::timeout(limit, pump)
            .await
            .unwrap_or(Some(124))?;
        Frame::Exit(code).write(&mut write).await.ok()
    }
}
