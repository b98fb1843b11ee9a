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
    size: Size,
    news: broadcast::Sender<News>,
}

/// Rows and columns.
pub(super) type Size = (u16, u16);

/// What happens to a terminal.
#[derive(Debug, Clone)]
pub(super) enum News {
    Shown(Bytes),
    Resized(Size),
    Ended,
}

impl Terminal {
    pub(super) fn new(node: &NodeName) -> Self {
        let prompt = format!("root@{node}:~# ");
        Self {
            state: Mutex::new(State {
                shown: prompt.clone().into_bytes(),
                line: String::new(),
                size: (24, 80),
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
                size: state.size,
                news: broadcast::channel(1024).0,
            }),
        }
    }

    pub(super) fn prompt(&self) -> &str {
        &self.prompt
    }

    /// Returns the size, the bytes that restore the screen, and a receiver of what happens after that.
    pub(super) fn attach(&self) -> (Size, Bytes, broadcast::Receiver<News>) {
        let state = lock(&self.state);
        let screen = Bytes::copy_from_slice(&state.shown);
        (state.size, screen, state.news.subscribe())
    }

    /// Sets the size. Unlike a real terminal's, it is that of the viewer who set it last.
    pub(super) fn resize(&self, size: Size) {
        let mut state = lock(&self.state);
        if state.size != size {
            state.size = size;
            let _ = state.news.send(News::Resized(size));
        }
    }

    pub(super) fn show(&self, bytes: &[u8]) {
        lock(&self.state).show(bytes);
    }

    pub(super) fn end(&self) {
        let _ = lock(&self.state).news.send(News::Ended);
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
        let _ = self.news.send(News::Shown(Bytes::copy_from_slice(bytes)));
    }
}
