//! Live updates of the workspace and of looks into it: named parts of the page with their content. On each notification, all parts are
//! rendered from the store, and those that differ from what was last sent are sent. So a lost notification loses
//! nothing.

use std::{collections::HashMap, time::Duration};

use askama::Template;
use faultline_domain::{EnvironmentId, NodeName, authz::MayLook};
use tokio::sync::watch;

use super::{exposures, layout::banner, look, parts, saves, starting, workspace::phase_key};
use crate::{app::Shared, problem::Problem};

/// Changes closer together than this are sent as one.
const DEBOUNCE: Duration = Duration::from_millis(120);
/// Without a notification, the parts are rendered again after this time, because warnings count down.
const PERIOD: Duration = Duration::from_secs(20);
/// The same for a look, because nothing notifies of terminals that are opened and closed.
const LOOK_PERIOD: Duration = Duration::from_secs(3);

/// The changes of one environment's page.
pub(crate) struct Changes {
    app: Shared,
    id: EnvironmentId,
    /// Set for the page of somebody who looks.
    look: Option<MayLook>,
    watch: watch::Receiver<u64>,
    sent: HashMap<&'static str, String>,
    first: bool,
}

impl Changes {
    pub(crate) fn new(app: &Shared, id: &EnvironmentId) -> Self {
        Self {
            watch: app.hub.watch(id),
            id: id.clone(),
            look: None,
            app: app.clone(),
            sent: HashMap::new(),
            first: true,
        }
    }

    /// Returns the changes of the page of somebody who looks.
    pub(crate) fn of_look(app: &Shared, proof: &MayLook) -> Self {
        Self {
            look: Some(proof.clone()),
            ..Self::new(app, &proof.environment().id)
        }
    }

    /// Waits for a change and returns the parts that differ; the first call returns all of them. Returns `None` if the
    /// store fails.
    pub(crate) async fn next(&mut self) -> Option<Vec<(&'static str, String)>> {
        if !std::mem::take(&mut self.first) {
            let period = if self.look.is_some() {
                LOOK_PERIOD
            } else {
                PERIOD
            };
            tokio::select! {
                changed = self.watch.changed() => changed.ok()?,
                () = tokio::time::sleep(period) => {}
            }
            tokio::time::sleep(DEBOUNCE).await;
        }
        self.watch.mark_unchanged();
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
        if let Some(proof) = &self.look {
            return look::parts(app, proof, &e).await;
        }
        app.touch_in_queue(&e).await;
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
            ("banner", banner(app)),
            ("notice", parts::notice(app, &e).render()?),
            ("looks", parts::looks(app, &e).render()?),
            (
                "nodes",
                e.nodes()
                    .iter()
                    .map(NodeName::as_str)
                    .collect::<Vec<_>>()
                    .join(","),
            ),
            ("changes", parts::changes(app, &e).await?),
            ("saves", saves::version(app, &e).await?),
            ("exposed", exposures::render(app, &e, true).await?),
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
