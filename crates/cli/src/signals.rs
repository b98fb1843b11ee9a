//! The signals that end a command.

use tokio::signal::unix::{SignalKind, signal};

/// Comes back when the process is told to stop: by Ctrl-C, or by `kill` and whoever runs it as a service.
pub async fn told_to_stop() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
