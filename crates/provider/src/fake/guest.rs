//! The guest's end of the fake's guest link.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use faultline_domain::NodeName;
use faultline_guest::wire::{
    self, Exec, FileStat, Frame, Reply, Request, Response, VERSION, read_header, write_header,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{
    files::Files,
    lock,
    shell::{self, Outcome},
    terminal::{News, Terminal},
};

/// The maximum size of a file, in bytes. The rest of a larger one is dropped.
const MAX_FILE: u64 = 16 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Guest {
    files: Files,
    terminals: Mutex<BTreeMap<String, Arc<Terminal>>>,
    console: Arc<Terminal>,
    silent: AtomicBool,
    deaf: AtomicBool,
}

impl Guest {
    pub(super) fn new(node: NodeName) -> Self {
        Self {
            console: Arc::new(Terminal::new(&node)),
            files: Files::new(node),
            terminals: Mutex::default(),
            silent: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
        }
    }

    /// Returns an independent guest with the same files and terminals.
    pub(super) fn copy(&self) -> Self {
        let terminals = lock(&self.terminals);
        let terminals = terminals.iter();
        let copied = terminals.map(|(id, terminal)| (id.clone(), Arc::new(terminal.copy())));
        Self {
            files: self.files.copy(),
            terminals: Mutex::new(copied.collect()),
            console: Arc::new(self.console.copy()),
            silent: AtomicBool::new(self.silent.load(Ordering::Relaxed)),
            deaf: AtomicBool::new(self.deaf.load(Ordering::Relaxed)),
        }
    }

    pub(super) fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    pub(super) fn deafen(&self) {
        self.deaf.store(true, Ordering::Relaxed);
    }

    pub(super) fn read_file(&self, path: &str) -> Option<Vec<u8>> {
        self.files.read(path)
    }

    pub(super) fn write_file(&self, path: &str, mode: u32, content: Vec<u8>) {
        self.files.write(path, mode, content);
    }

    /// Serves the serial console: raw bytes, shared by all open streams.
    pub(super) async fn console(&self, stream: DuplexStream) -> io::Result<()> {
        let (mut read, mut write) = tokio::io::split(stream);
        let (_, _, mut news) = self.console.attach();
        write
            .write_all(format!("\r\n{} ttyS0\r\n", self.files.node).as_bytes())
            .await?;
        write.write_all(self.console.prompt().as_bytes()).await?;
        let mut buffer = [0; 4096];
        loop {
            tokio::select! {
                n = read.read(&mut buffer) => match n? {
                    0 => return Ok(()),
                    n => self.console.type_in(buffer.get(..n).unwrap_or_default(), &self.files).await,
                },
                next = news.recv() => match next {
                    Ok(News::Shown(bytes)) => write.write_all(&bytes).await?,
                    Ok(News::Resized(_)) => {}
                    _ => return Ok(()),
                },
            }
        }
    }

    /// Serves one substream, which carries one request.
    pub(super) async fn serve(&self, mut stream: DuplexStream) -> io::Result<()> {
        if self.silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let request: Request = read_header(&mut stream).await?;
        match request {
            Request::Ping => {
                let pong = Reply::Pong {
                    version: VERSION,
                    uptime_seconds: 1,
                };
                answer(&mut stream, pong).await
            }
            Request::Refresh(refresh) => {
                self.write_file("/etc/machine-id", 0o444, refresh.machine_id.into_bytes());
                answer(&mut stream, Reply::Done).await
            }
            Request::Authorize { keys } => {
                let content = keys.join("\n").into_bytes();
                self.write_file("/root/.ssh/authorized_keys", 0o600, content);
                answer(&mut stream, Reply::Done).await
            }
            Request::Announce { text } => {
                let line = format!("\r\n*** {text}\r\n");
                let all: Vec<_> = lock(&self.terminals).values().cloned().collect();
                for terminal in all {
                    terminal.show(line.as_bytes());
                }
                answer(&mut stream, Reply::Done).await
            }
            Request::Terminals => {
                let ids = lock(&self.terminals).keys().cloned().collect();
                answer(&mut stream, Reply::Terminals { ids }).await
            }
            Request::CloseTerminal { id } => {
                let known = lock(&self.terminals).remove(&id);
                if let Some(terminal) = known {
                    terminal.end();
                }
                answer(&mut stream, Reply::Done).await
            }
            Request::Stat { path } => {
                let file = self.files.stat(&path).map(|(mode, size)| FileStat {
                    kind: "file".to_owned(),
                    mode,
                    uid: 0,
                    gid: 0,
                    size,
                });
                answer(&mut stream, Reply::Stat { file }).await
            }
            Request::ReadFile { path, max } => match self.read_file(&path) {
                Some(content) => {
                    answer(&mut stream, Reply::Done).await?;
                    let max = usize::try_from(max)
                        .unwrap_or(usize::MAX)
                        .min(content.len());
                    stream
                        .write_all(content.get(..max).unwrap_or_default())
                        .await?;
                    stream.shutdown().await
                }
                None => refuse(&mut stream, format!("{path}: no such file")).await,
            },
            Request::WriteFile { path, mode } => {
                answer(&mut stream, Reply::Done).await?;
                let mut content = Vec::new();
                (&mut stream)
                    .take(MAX_FILE)
                    .read_to_end(&mut content)
                    .await?;
                self.write_file(&path, mode, content);
                answer(&mut stream, Reply::Done).await
            }
            Request::Terminal(t) if !t.is_valid() => {
                refuse(
                    &mut stream,
                    faultline_guest::wire::Terminal::ID_RULE.to_owned(),
                )
                .await
            }
            Request::Terminal(t) => self.terminal(stream, &t).await,
            Request::Look { id } => self.look(stream, &id).await,
            Request::Exec(exec) => self.exec(stream, exec).await,
            other => {
                let op = serde_json::to_value(&other)
                    .ok()
                    .and_then(|v| v.get("op").and_then(|o| o.as_str()).map(str::to_owned))
                    .unwrap_or_default();
                refuse(&mut stream, format!("the fake guest doesn't support {op}")).await
            }
        }
    }

    async fn look(&self, mut stream: DuplexStream, id: &str) -> io::Result<()> {
        let known = lock(&self.terminals).get(id).cloned();
        match known {
            Some(terminal) => {
                answer(&mut stream, Reply::Attached { new: false }).await?;
                self.view(stream, id, &terminal, true).await
            }
            None => refuse(&mut stream, "there is no such terminal".to_owned()).await,
        }
    }

    async fn terminal(&self, mut stream: DuplexStream, wanted: &wire::Terminal) -> io::Result<()> {
        let id = &wanted.id;
        let known = lock(&self.terminals).get(id).cloned();
        let new = known.is_none();
        let terminal = known.unwrap_or_else(|| {
            let made = Arc::new(Terminal::new(&self.files.node));
            lock(&self.terminals).insert(id.to_owned(), made.clone());
            made
        });
        answer(&mut stream, Reply::Attached { new }).await?;
        terminal.resize((wanted.pty.rows, wanted.pty.cols));
        self.view(stream, id, &terminal, false).await
    }

    /// Transfers frames between a terminal and a viewer, who may only look.
    async fn view(
        &self,
        stream: DuplexStream,
        id: &str,
        terminal: &Terminal,
        looks: bool,
    ) -> io::Result<()> {
        let (size, screen, mut news) = terminal.attach();
        let (mut read, mut write) = tokio::io::split(stream);
        let resized = |(rows, cols)| Frame::Resize { rows, cols };
        if looks {
            resized(size).write(&mut write).await?;
        }
        for chunk in Frame::chunks(&screen) {
            Frame::Stdout(chunk).write(&mut write).await?;
        }
        let typed = async {
            while let Some(frame) = Frame::read(&mut read).await? {
                if self.deaf.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
                match frame {
                    Frame::Stdin(bytes) => terminal.type_in(&bytes, &self.files).await,
                    Frame::Resize { rows, cols } if !looks => terminal.resize((rows, cols)),
                    _ => {}
                }
            }
            io::Result::Ok(())
        };
        let shown = async {
            loop {
                match news.recv().await {
                    Ok(News::Shown(bytes)) => Frame::Stdout(bytes).write(&mut write).await?,
                    Ok(News::Resized(size)) if looks => resized(size).write(&mut write).await?,
                    Ok(News::Resized(_)) => {}
                    Ok(News::Ended) => {
                        lock(&self.terminals).remove(id);
                        return Frame::Exit(0).write(&mut write).await;
                    }
                    // A viewer that lags behind is disconnected. It reconnects and gets the screen.
                    Err(_) => return Ok(()),
                }
            }
        };
        tokio::select! {
            done = typed => done,
            done = shown => done,
        }
    }

    async fn exec(&self, mut stream: DuplexStream, exec: Exec) -> io::Result<()> {
        answer(&mut stream, Reply::Started { pid: 100 }).await?;
        let limit = exec
            .timeout_seconds
            .map_or(Duration::from_secs(3600), |s| Duration::from_secs(s.into()));
        let (mut read, mut write) = tokio::io::split(stream);
        let text = |argument: &OsString| argument.to_string_lossy().into_owned();
        let argv: Vec<String> = exec.argv.iter().map(text).collect();
        let run = async {
            if !shell::wants_input(&argv) {
                return io::Result::Ok(shell::exec(&self.files, &argv, &[]).await);
            }
            let mut input = Vec::new();
            while let Some(frame) = Frame::read(&mut read).await? {
                match frame {
                    Frame::Stdin(bytes) => input.extend_from_slice(&bytes),
                    Frame::StdinEnd => break,
                    _ => {}
                }
            }
            Ok(shell::exec(&self.files, &argv, &input).await)
        };
        let outcome = match tokio::time::timeout(limit, run).await {
            Ok(outcome) => outcome?,
            Err(_) => Outcome {
                stdout: String::new(),
                stderr: String::new(),
                code: 124,
                end: false,
            },
        };
        for chunk in Frame::chunks(&Bytes::from(outcome.stdout)) {
            Frame::Stdout(chunk).write(&mut write).await?;
        }
        for chunk in Frame::chunks(&Bytes::from(outcome.stderr)) {
            Frame::Stderr(chunk).write(&mut write).await?;
        }
        Frame::Exit(outcome.code).write(&mut write).await?;
        // Discards what the host still sends, so that its writes don't fail.
        while Frame::read(&mut read).await?.is_some() {}
        Ok(())
    }
}

async fn answer(stream: &mut DuplexStream, reply: Reply) -> io::Result<()> {
    write_header(stream, &Response::Ok(reply)).await
}

async fn refuse(stream: &mut DuplexStream, reason: String) -> io::Result<()> {
    write_header(stream, &Response::Error(reason)).await
}
