//! Writes the stages of a start as they happen, and pokes whoever watches it.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use faultline_domain::{
    EnvironmentId, TenantId,
    environment::Environment,
    progress::{Event, Progress},
    tenant::Tenant,
};
use tokio::sync::{mpsc, oneshot};

use crate::{app::Shared, lock::lock};

/// Updates within a stage are written at most this often.
const THROTTLE: Duration = Duration::from_millis(150);

enum Message {
    Event(Event),
    Flush(oneshot::Sender<()>),
}

pub(super) struct Recorder(mpsc::UnboundedSender<Message>);

impl Recorder {
    /// Of what happens to an environment, as long as it has this tenant.
    pub(super) fn new(app: &Shared, e: &Environment) -> Self {
        Self::open(app, e.id.clone(), e.tenant_id().cloned())
    }

    /// Of a tenant's making, as long as its environment waits for this one.
    pub(super) fn of_tenant(app: &Shared, tenant: &Tenant) -> Self {
        Self::open(app, tenant.environment.clone(), Some(tenant.id.clone()))
    }

    fn open(app: &Shared, id: EnvironmentId, only: Option<TenantId>) -> Self {
        let (send, mut receive) = mpsc::unbounded_channel();
        let app = app.clone();
        app.tasks.clone().spawn(async move {
            // Ends when the recorder and every progress made from it are gone.
            while let Some(message) = receive.recv().await {
                match message {
                    Message::Event(event) => {
                        if let Some(tenant) = &only
                            && !matches!(app.store.environment_with(tenant).await, Ok(Some(_)))
                        {
                            continue;
                        }
                        if let Err(e) = app.store.record_stage(&id, &event, app.now()).await {
                            tracing::warn!(
                                error = &e as &dyn std::error::Error,
                                "a stage was not written"
                            );
                        }
                        app.hub.poke(&id);
                    }
                    Message::Flush(done) => {
                        // Whoever asked may be gone.
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
            // The receiver lives as long as this.
            let _ = send.send(Message::Event(event));
        })
    }

    /// Waits until everything reported so far is written.
    pub(super) async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.0.send(Message::Flush(done)).is_ok() {
            let _ = wait.await;
        }
    }
}
