//! What changes on the workspace, as server-sent events. On each poke the parts are made from the store, and those
//! that differ from what was sent last are sent: nothing is lost when a poke is.

use std::{collections::HashMap, convert::Infallible, time::Duration};

use askama::Template;
use axum::{
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
};
use faultline_domain::{EnvironmentId, NodeName};
use futures::{Stream, StreamExt, stream};
use tokio::sync::watch;

use super::{parts, starting, workspace::phase_key};
use crate::{app::Shared, auth::Mine, problem::Problem};

/// Changes closer together than this are sent as one.
const CALM: Duration = Duration::from_millis(120);
/// Without a poke the parts are made anew after this: warnings count down.
const PERIOD: Duration = Duration::from_secs(20);

struct Watcher {
    app: Shared,
    id: EnvironmentId,
    watch: watch::Receiver<u64>,
    sent: HashMap<&'static str, String>,
    first: bool,
}

pub(super) async fn events(
    State(app): State<Shared>,
    mine: Mine,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let id = mine.environment().id.clone();
    let withdrawn = mine.caller.withdrawn(app.clone());
    let watcher = Watcher {
        watch: app.hub.watch(&id),
        id,
        app,
        sent: HashMap::new(),
        first: true,
    };
    let events = stream::unfold(watcher, async |mut watcher| {
        let news = watcher.news().await?;
        Some((stream::iter(news), watcher))
    })
    .flatten()
    .take_until(Box::pin(withdrawn))
    .map(|(name, data)| Ok(Event::default().event(name).data(data)));
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}

impl Watcher {
    /// Waits for a change and gives what differs. Nothing when the server stops.
    async fn news(&mut self) -> Option<Vec<(&'static str, String)>> {
        if !std::mem::take(&mut self.first) {
            tokio::select! {
                changed = self.watch.changed() => changed.ok()?,
                () = tokio::time::sleep(PERIOD) => {}
                () = self.app.stopping.cancelled() => return None,
            }
            tokio::time::sleep(CALM).await;
        }
        self.watch.mark_unchanged();
        // A store that fails ends the stream; the page connects again.
        let parts = self.parts().await.ok()?;
        Some(
            parts
                .into_iter()
                .filter(|(name, data)| self.sent.insert(name, data.clone()).as_ref() != Some(data))
                .collect(),
        )
    }

    async fn parts(&self) -> Result<Vec<(&'static str, String)>, Problem> {
        let app = &self.app;
        let e = app
            .store
            .environment(&self.id)
            .await?
            .ok_or_else(Problem::not_found)?;
        let lab = app.lab_of(&e).await;
        let attempt = app.store.attempt(&e.attempt).await?;
        let phase = phase_key(e.state.phase().as_str(), parts::ending(&e).is_some());
        let mut all = vec![
            ("phase", phase.to_owned()),
            (
                "tenant",
                e.tenant_id().map(ToString::to_string).unwrap_or_default(),
            ),
            (
                "ends",
                parts::shown_end(app, &e).as_millisecond().to_string(),
            ),
            ("notice", parts::notice(app, &e).render()?),
            (
                "nodes",
                e.nodes()
                    .iter()
                    .map(NodeName::as_str)
                    .collect::<Vec<_>>()
                    .join(","),
            ),
            ("changes", parts::changes(app, &e).await?),
            (
                "checks",
                parts::checks(app, &e, lab.as_deref()).await?.render()?,
            ),
            (
                "attempt",
                attempt
                    .map_or("open", |a| match (a.is_repaired(), a.gave_up) {
                        (true, _) => "solved",
                        (_, true) => "given-up",
                        _ => "open",
                    })
                    .to_owned(),
            ),
        ];
        if e.state.is_starting() {
            all.push(("stages", starting::stages(app, &e).await?.render()?));
            all.push(("log", starting::log(app, &e).await?.render()?));
        }
        Ok(all)
    }
}
