//! The signals that end a command: Ctrl-C, SIGTERM from a service manager, and SIGHUP from a closed terminal.

use futures::future::select_all;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Receives the signals from its creation on, even those that arrive while nobody waits.
pub struct StopSignals(Vec<Signal>);

impl StopSignals {
    pub fn listen() -> Self {
        let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
        if !hangup_is_ignored() {
            kinds.push(SignalKind::hangup());
        }
        Self(kinds.into_iter().flat_map(signal).collect())
    }

    /// Waits for the next signal. Pends forever if signals can't be received.
    pub async fn next(&mut self) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let each = self.0.iter_mut().map(|signal| Box::pin(signal.recv()));
        select_all(each).await;
    }
}

/// Returns true if SIGHUP is ignored, as `nohup` makes it. See proc_pid_status(5).
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 != 0)
}

/// Waits until the process is told to stop.
pub async fn told_to_stop() {
    StopSignals::listen().next().await;
}
