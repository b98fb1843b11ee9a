//! Who looks into which environment's terminals, and whether they type. A look lasts as long as its page is open, so it is
//! kept in memory only.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use faultline_domain::{EnvironmentId, PersonId};

use crate::{app::Shared, lock::lock};

/// A person who looks into the terminals of an environment, as shown to its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Viewer {
    pub name: String,
    /// True if the person may also type.
    pub types: bool,
}

#[derive(Debug)]
struct Entry {
    person: PersonId,
    name: String,
    types: Arc<AtomicBool>,
    /// The number of the person's open pages.
    pages: usize,
}

/// All looks. Those of one person at one environment are one look.
#[derive(Debug, Default)]
pub(crate) struct Looks(Mutex<HashMap<EnvironmentId, Vec<Entry>>>);

impl Looks {
    /// Returns who looks at an environment, in the order in which they began.
    pub(crate) fn of(&self, environment: &EnvironmentId) -> Vec<Viewer> {
        let all = lock(&self.0);
        let entries = all.get(environment).map(Vec::as_slice).unwrap_or_default();
        let viewers = entries.iter().map(|entry| Viewer {
            name: entry.name.clone(),
            types: entry.types.load(Ordering::Relaxed),
        });
        viewers.collect()
    }

    /// Returns whether a person who looks at an environment may type; none if the person doesn't look at it.
    pub(crate) fn typing(&self, environment: &EnvironmentId, person: &PersonId) -> Option<bool> {
        let types = self.switch(environment, person)?;
        Some(types.load(Ordering::Relaxed))
    }

    /// Lets a person who looks type, or only look again. Does nothing if the look has ended.
    pub(crate) fn set_typing(&self, environment: &EnvironmentId, person: &PersonId, types: bool) {
        if let Some(switch) = self.switch(environment, person) {
            switch.store(types, Ordering::Relaxed);
        }
    }

    fn switch(&self, environment: &EnvironmentId, person: &PersonId) -> Option<Arc<AtomicBool>> {
        let all = lock(&self.0);
        let mut entries = all.get(environment)?.iter();
        let entry = entries.find(|entry| entry.person == *person)?;
        Some(entry.types.clone())
    }
}

/// An open page of somebody who looks. Dropping it ends the look, if it is the person's last one.
#[derive(Debug)]
pub(crate) struct Look {
    app: Shared,
    environment: EnvironmentId,
    person: PersonId,
    types: Arc<AtomicBool>,
}

impl Look {
    /// Begins a look. Nobody types before they ask to. The flag is true if it is the person's first page.
    pub(crate) fn begin(
        app: &Shared,
        environment: &EnvironmentId,
        person: &PersonId,
        name: &str,
    ) -> (Self, bool) {
        let mut all = lock(&app.looks.0);
        let entries = all.entry(environment.clone()).or_default();
        let known = entries.iter_mut().find(|entry| entry.person == *person);
        let first = known.is_none();
        let types = if let Some(entry) = known {
            entry.pages += 1;
            entry.types.clone()
        } else {
            let types = Arc::<AtomicBool>::default();
            entries.push(Entry {
                person: person.clone(),
                name: name.to_owned(),
                types: types.clone(),
                pages: 1,
            });
            types
        };
        drop(all);
        let look = Self {
            app: app.clone(),
            environment: environment.clone(),
            person: person.clone(),
            types,
        };
        (look, first)
    }

    /// Returns true if the person may type now.
    pub(crate) fn types(&self) -> bool {
        self.types.load(Ordering::Relaxed)
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        let mut all = lock(&self.app.looks.0);
        if let Some(entries) = all.get_mut(&self.environment) {
            for entry in entries.iter_mut().filter(|e| e.person == self.person) {
                entry.pages -= 1;
            }
            entries.retain(|entry| entry.pages > 0);
            if entries.is_empty() {
                all.remove(&self.environment);
            }
        }
        drop(all);
        self.app.hub.poke(&self.environment);
    }
}
