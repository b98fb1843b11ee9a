//! A terminal of a fake guest: a line editor that echoes, with a screen that outlives its viewers.

use std::sync::Mutex;

use bytes::Bytes;
use faultline_domain::NodeName;
use tokio::sync::broadcast;

use super::{files::Files, lock, shell};

/// The amount of output kept for the next viewer, in bytes.
const KEPT: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Terminal {
    prompt: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    shown: Vec<u8>,
    line: String,
    /// Output as it is shown. `None` means that the terminal ended.
    news: broadcast::Sender<Option<Bytes>>,
}

impl Terminal {
    pub(super) fn new(node: &NodeName) -> Self {
        let prompt = format!("root@{node}:~# ");
        Self {
            state: Mutex::new(State {
                shown: prompt.clone().into_bytes(),
                line: String::new(),
                news: broadcast::channel(1024).0,
            }),
            prompt,
        }
    }

    /// Returns an independent terminal with the same screen.
    pub(super) fn copy(&self) -> Self {
        let state = lock(&self.state);
        Self {
            prompt: self.prompt.clone(),
            state: Mutex::new(State {
                shown: state.shown.clone(),
                line: state.line.clone(),
                news: broadcast::channel(1024).0,
            }),
        }
    }

    pub(super) fn prompt(&self) -> &str {
        &self.prompt
    }

    /// Returns the bytes that restore the screen, and a receiver of the output after them.
    pub(super) fn attach(&self) -> (Bytes, broadcast::Receiver<Option<Bytes>>) {
        let state = lock(&self.state);
        (Bytes::copy_from_slice(&state.shown), state.news.subscribe())
    }

    pub(super) fn show(&self, bytes: &[u8]) {
        lock(&self.state).show(bytes);
    }

    pub(super) fn end(&self) {
        let _ = lock(&self.state).news.send(None);
    }

    pub(super) async fn type_in(&self, bytes: &[u8], files: &Files) {
        for c in String::from_utf8_lossy(bytes).chars() {
            let line = {
                let mut state = lock(&self.state);
                match c {
                    '\r' | '\n' => {
                        state.show(b"\r\n");
                        std::mem::take(&mut state.line)
                    }
                    '\u{7f}' | '\u{8}' => {
                        if state.line.pop().is_some() {
                            state.show(b"\x08 \x08");
                        }
                        continue;
                    }
                    '\u{3}' => {
                        state.line.clear();
                        state.show(format!("^C\r\n{}", self.prompt).as_bytes());
                        continue;
                    }
                    '\u{4}' if state.line.is_empty() => "exit".to_owned(),
                    c if c.is_control() => continue,
                    c => {
                        state.line.push(c);
                        state.show(c.encode_utf8(&mut [0; 4]).as_bytes());
                        continue;
                    }
                }
            };
            let outcome = shell::line(files, &line).await;
            let text = format!("{}{}", outcome.stdout, outcome.stderr).replace('\n', "\r\n");
            self.show(text.as_bytes());
            if outcome.end {
                self.show(b"logout\r\n");
                self.end();
                return;
            }
            self.show(self.prompt.as_bytes());
        }
    }
}

impl State {
    fn show(&mut self, bytes: &[u8]) {
        self.shown.extend_from_slice(bytes);
        if self.shown.len() > KEPT {
            self.shown.drain(..self.shown.len() - KEPT);
        }
        // Sending fails if there are no viewers.
        let _ = self.news.send(Some(Bytes::copy_from_slice(bytes)));
    }
}
