//! Notifies the watchers of an environment that it changed. They read what changed from the store, so a missed
//! notification is never a missed change.

use std::{collections::HashMap, sync::Mutex};

use faultline_domain::EnvironmentId;
use tokio::sync::watch;

use crate::lock::lock;

#[derive(Debug, Default)]
pub(crate) struct Hub(Mutex<HashMap<EnvironmentId, watch::Sender<u64>>>);

impl Hub {
    pub(crate) fn poke(&self, id: &EnvironmentId) {
        let mut all = lock(&self.0);
        if let Some(sender) = all.get(id) {
            if sender.receiver_count() == 0 {
                all.remove(id);
            } else {
                sender.send_modify(|n| *n += 1);
            }
        }
    }

    pub(crate) fn watch(&self, id: &EnvironmentId) -> watch::Receiver<u64> {
        let mut all = lock(&self.0);
        all.entry(id.clone())
            .or_insert_with(|| watch::channel(0).0)
            .subscribe()
    }
}
