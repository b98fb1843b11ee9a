//! Staged progress of long work: image builds, starting an environment, proving a lab.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};

/// Something that happened during long work. `stage` names are stable words (`clone`, `restore`, `refresh`);
/// texts are for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// A stage began.
    Started {
        /// Stable name of the stage.
        stage: Cow<'static, str>,
        /// What it does, for people.
        text: String,
    },
    /// A line about the stage under way; `fraction` is from 0 to 1 where it can be told.
    Update {
        /// Stable name of the stage.
        stage: Cow<'static, str>,
        /// Part of the stage that is done, from 0 to 1.
        fraction: Option<f64>,
        /// What is happening, for people.
        text: String,
    },
    /// A stage ended well, after so many milliseconds.
    Done {
        /// Stable name of the stage.
        stage: Cow<'static, str>,
        /// How long it took, in milliseconds.
        millis: u64,
        /// True when the result came from a cache.
        cached: bool,
    },
}

impl Event {
    /// The name of its stage, to be changed on the way to a listener that hears of several things at once.
    pub const fn stage_mut(&mut self) -> &mut Cow<'static, str> {
        match self {
            Self::Started { stage, .. } | Self::Update { stage, .. } | Self::Done { stage, .. } => {
                stage
            }
        }
    }
}

/// Where progress goes. Calls return at once; a slow or absent listener never delays the work.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(Event) + Send + Sync>);

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}

impl Progress {
    /// Progress that calls `listener` for each event.
    pub fn new(listener: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    /// Progress that nobody listens to.
    #[must_use]
    pub fn ignored() -> Self {
        Self::new(|_| {})
    }

    /// Reports an event.
    pub fn report(&self, event: Event) {
        (self.0)(event);
    }

    /// Reports that a stage began, and measures it until [`Stage::done`].
    pub fn stage(&self, stage: impl Into<Cow<'static, str>>, text: impl Into<String>) -> Stage {
        let stage = stage.into();
        self.report(Event::Started {
            stage: stage.clone(),
            text: text.into(),
        });
        Stage {
            progress: self.clone(),
            stage,
            began: std::time::Instant::now(),
        }
    }
}

/// A stage under way.
#[derive(Debug)]
pub struct Stage {
    progress: Progress,
    stage: Cow<'static, str>,
    began: std::time::Instant,
}

impl Stage {
    /// Says what is happening inside the stage.
    pub fn update(&self, fraction: Option<f64>, text: impl Into<String>) {
        self.progress.report(Event::Update {
            stage: self.stage.clone(),
            fraction,
            text: text.into(),
        });
    }

    /// Says what is happening now that so many of so many equal parts are done.
    pub fn part(&self, done: usize, of: usize, text: impl Into<String>) {
        #[expect(clippy::cast_precision_loss, reason = "a handful of parts")]
        let fraction = done as f64 / of as f64;
        self.update(Some(fraction), text);
    }

    /// The stage ended well.
    pub fn done(self) {
        self.finish(false);
    }

    /// The stage had nothing to do: its result was in a cache.
    pub fn cached(self) {
        self.finish(true);
    }

    fn finish(self, cached: bool) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress.report(Event::Done {
            stage: self.stage,
            millis,
            cached,
        });
    }
}
