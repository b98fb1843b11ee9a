//! The signals that end a command: Ctrl-C, `kill` by whoever runs it as a service, and the end of its terminal.

use futures::future::select_all;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears each of them from here on, also what comes while nobody waits for it.
pub struct StopSignals(Vec<Signal>);

impl StopSignals {
    pub fn listen() -> Self {
        let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
        if !hangup_is_ignored() {
            kinds.push(SignalKind::hangup());
        }
        Self(kinds.into_iter().flat_map(signal).collect())
    }

    /// Comes back with the next one; never where signals can't be heard.
    pub async fn next(&mut self) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let each = self.0.iter_mut().map(|signal| Box::pin(signal.recv()));
        select_all(each).await;
    }
}

/// Whoever said `nohup` means it to go on without a terminal. See proc_pid_status(5).
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 != 0)
}

/// Comes back when the process is told to stop.
pub async fn told_to_stop() {
    StopSignals::listen().next().await;
}
