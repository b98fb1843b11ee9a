//! Guests whose programs run on this machine, over the guest link's real protocol, for tests of the layers above a
//! provider. The test implements what else its guests do.

use std::{ffi::OsString, io, process::Stdio, sync::Arc, time::Duration};

use async_trait::async_trait;
use faultline_domain::{
    NodeName, TemplateRef, TenantId, container::ContainerImage, progress::Progress,
};
use faultline_guest::wire::{Exec, Frame, Reply, Response, write_header};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    process::Command,
    sync::broadcast,
};

use crate::{
    Allowance, ApiAccess, Capability, Change, Error, Identity, Priority, Provider, Readiness,
    Result, Stream, Target, Usage,
};

/// The behaviour of a test's guests.
#[async_trait]
pub trait Streams: Send + Sync + std::fmt::Debug + 'static {
    /// Opens a stream to a node.
    async fn open(self: Arc<Self>, node: &NodeName, target: Target) -> Result<Stream>;

    /// Called when the tenant is destroyed.
    fn destroyed(&self) {}
}

/// A provider that only opens streams. It has no API servers; everything else succeeds and does nothing. Clones share
/// the inner value.
#[derive(Debug)]
pub struct OnlyStreams<T>(pub Arc<T>);

impl<T> Clone for OnlyStreams<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Default> Default for OnlyStreams<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

#[async_trait]
impl<T: Streams> Provider for OnlyStreams<T> {
    fn name(&self) -> &'static str {
        "streams"
    }
    fn capabilities(&self) -> &'static [Capability] {
        &Capability::ALL
    }
    async fn readiness(&self, _: &TemplateRef) -> Readiness {
        Readiness::Ready {
            template: "streams".to_owned(),
        }
    }
    async fn create(&self, _: &TenantId, _: &TemplateRef, _: Priority, _: &Progress) -> Result<()> {
        Ok(())
    }
    async fn configure(&self, _: &TenantId, _: &Allowance) -> Result<()> {
        Ok(())
    }
    async fn list(&self) -> Result<Vec<Change>> {
        Ok(Vec::new())
    }
    fn changes(&self) -> broadcast::Receiver<Change> {
        broadcast::channel(1).1
    }
    async fn pause(&self, _: &TenantId) -> Result<()> {
        Ok(())
    }
    async fn resume(&self, _: &TenantId) -> Result<()> {
        Ok(())
    }
    async fn destroy(&self, _: &TenantId) -> Result<()> {
        self.0.destroyed();
        Ok(())
    }
    async fn add_node(&self, _: &TenantId, _: &NodeName, _: &Progress) -> Result<()> {
        Ok(())
    }
    async fn remove_node(&self, _: &TenantId, _: &NodeName, _: &Progress) -> Result<()> {
        Ok(())
    }
    async fn load_image(&self, _: &TenantId, _: &[NodeName], _: &ContainerImage) -> Result<()> {
        Ok(())
    }
    async fn open(&self, _: &TenantId, node: &NodeName, target: Target) -> Result<Stream> {
        self.0.clone().open(node, target).await
    }
    async fn api(&self, _: &TenantId, _: &Identity) -> Result<ApiAccess> {
        Err(Error::NotFound)
    }
    async fn usage(&self, _: &TenantId) -> Result<Usage> {
        Ok(Usage::default())
    }
}

/// Runs `argv` with the environment and timeout of `exec`, on pipes and without a terminal, until it ends, its timeout
/// passes, or the host disconnects. Calls `seen` with each frame that the host sends.
pub async fn exec(
    mut stream: DuplexStream,
    exec: &Exec,
    argv: &[OsString],
    seen: impl Fn(&Frame) + Send,
) -> io::Result<()> {
    let (program, args) = argv
        .split_first()
        .ok_or(io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(&exec.env)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let pid = child.id().unwrap_or_default();
    let group = Group(i32::try_from(pid).ok().and_then(Pid::from_raw));
    write_header(&mut stream, &Response::Ok(Reply::Started { pid })).await?;
    let (mut read, mut write) = tokio::io::split(stream);
    let mut stdin = child.stdin.take();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (Some(mut stdout), Some(mut stderr)) = (stdout, stderr) else {
        return Err(io::Error::from(io::ErrorKind::BrokenPipe));
    };
    let incoming = async {
        while let Ok(Some(frame)) = Frame::read(&mut read).await {
            seen(&frame);
            match frame {
                Frame::Stdin(bytes) => {
                    if let Some(to) = &mut stdin
                        && to.write_all(&bytes).await.is_err()
                    {
                        stdin = None;
                    }
                }
                Frame::StdinEnd => stdin = None,
                Frame::Resize { .. } => {}
                Frame::Signal(n) => group.signal(Signal::from_named_raw(n.into())),
                _ => break,
            }
        }
    };
    let outgoing = async {
        let (mut a, mut b) = ([0; 8192], [0; 8192]);
        let (mut out_open, mut err_open) = (true, true);
        while out_open || err_open {
            let frame = tokio::select! {
                n = stdout.read(&mut a), if out_open => match n {
                    Ok(n @ 1..) => Frame::Stdout(a.get(..n).unwrap_or_default().to_vec().into()),
                    _ => { out_open = false; continue }
                },
                n = stderr.read(&mut b), if err_open => match n {
                    Ok(n @ 1..) => Frame::Stderr(b.get(..n).unwrap_or_default().to_vec().into()),
                    _ => { err_open = false; continue }
                },
            };
            frame.write(&mut write).await?;
        }
        let status = child.wait().await?;
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        io::Result::Ok(status.code().unwrap_or(128 + signal.unwrap_or(0)))
    };
    let limit = async {
        match exec.timeout_seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds.into())).await,
            None => std::future::pending().await,
        }
    };
    let code = tokio::select! {
        code = outgoing => code?,
        () = limit => 124,
        () = incoming => return Ok(()),
    };
    drop(group);
    Frame::Exit(code).write(&mut write).await?;
    write.shutdown().await
}

/// A program's process group, which is killed on drop.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Option<Signal>) {
        if let (Some(pid), Some(signal)) = (self.0, signal) {
            // Fails if it has already ended.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Some(Signal::KILL));
    }
}
