//! The signals that end a command: Ctrl-C, and `kill` by whoever runs it as a service.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears each of them from here on, also what comes while nobody waits for it.
pub struct StopSignals(Option<[Signal; 2]>);

impl StopSignals {
    pub fn listen() -> Self {
        let kinds = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        );
        Self(match kinds {
            (Ok(interrupt), Ok(terminate)) => Some([interrupt, terminate]),
            _ => None,
        })
    }

    /// Comes back with the next one; never where signals can't be heard.
    pub async fn next(&mut self) {
        let Some([interrupt, terminate]) = &mut self.0 else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

/// Comes back when the process is told to stop.
pub async fn told_to_stop() {
    StopSignals::listen().next().await;
}
