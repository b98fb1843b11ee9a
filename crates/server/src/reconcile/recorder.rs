//! Stores the stages of a start as they happen, and notifies the watchers of the environment.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use faultline_domain::{
    TenantId,
    progress::{Event, Progress},
};
use tokio::sync::{mpsc, oneshot};

use crate::{app::Shared, lock::lock};

/// The minimum interval between two updates of a stage that are stored.
const THROTTLE: Duration = Duration::from_millis(150);

enum Message {
    Event(Event),
    Flush(oneshot::Sender<()>),
}

pub(super) struct Recorder(mpsc::UnboundedSender<Message>);

impl Recorder {
    /// Records stages of a tenant for the environment that it is made for or that has claimed it. While it is in a pool,
    /// there is none; after a reset, it is no longer the environment's.
    pub(super) fn new(app: &Shared, tenant: &TenantId) -> Self {
        let tenant = tenant.clone();
        let (send, mut receive) = mpsc::unbounded_channel();
        let app = app.clone();
        app.tasks.clone().spawn(async move {
            // Ends when the recorder and all its `Progress` values have been dropped.
            while let Some(message) = receive.recv().await {
                match message {
                    Message::Event(event) => {
                        let Ok(Some(id)) = app.store.environment_with(&tenant).await else {
                            continue;
                        };
                        if let Err(e) = app.store.record_stage(&id, &event, app.now()).await {
                            tracing::warn!(
                                error = &e as &dyn std::error::Error,
                                "a stage could not be stored"
                            );
                        }
                        app.hub.poke(&id);
                    }
                    Message::Flush(done) => {
                        // The caller of `flush` may be gone.
                        let _ = done.send(());
                    }
                }
            }
        });
        Self(send)
    }

    pub(super) fn progress(&self) -> Progress {
        let send = self.0.clone();
        let last: Mutex<Option<Instant>> = Mutex::new(None);
        Progress::new(move |event| {
            if matches!(event, Event::Update { .. }) {
                let mut last = lock(&last);
                if last.is_some_and(|at| at.elapsed() < THROTTLE) {
                    return;
                }
                *last = Some(Instant::now());
            }
            // The receiver lives longer than the sender.
            let _ = send.send(Message::Event(event));
        })
    }

    /// Waits until everything reported so far is stored.
    pub(super) async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.0.send(Message::Flush(done)).is_ok() {
            let _ = wait.await;
        }
    }
}
