//! The progress of long operations, in stages: building an image, starting an environment, proving a lab.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};

/// An event in a long operation. Stage names are stable words (`clone`, `restore`, `refresh`); texts are for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// A stage began.
    Started {
        /// The stable name of the stage.
        stage: Cow<'static, str>,
        /// What the stage does, as a message for people.
        text: String,
    },
    /// The current stage progressed.
    Update {
        /// The stable name of the stage.
        stage: Cow<'static, str>,
        /// The part of the stage that is done, from 0 to 1, if known.
        fraction: Option<f64>,
        /// What is happening, as a message for people.
        text: String,
    },
    /// A stage completed.
    Done {
        /// The stable name of the stage.
        stage: Cow<'static, str>,
        /// How long it took, in milliseconds.
        millis: u64,
        /// True if the result came from a cache.
        cached: bool,
    },
}

impl Event {
    /// Returns the stage name for modification, to tell operations apart that share a listener.
    pub const fn stage_mut(&mut self) -> &mut Cow<'static, str> {
        match self {
            Self::Started { stage, .. } | Self::Update { stage, .. } | Self::Done { stage, .. } => {
                stage
            }
        }
    }
}

/// A handle to report progress with. Calls return at once: a slow or absent listener never delays the operation.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(Event) + Send + Sync>);

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}

impl Progress {
    /// Returns a handle that calls `listener` for each event.
    pub fn new(listener: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    /// Returns a handle that discards all events.
    #[must_use]
    pub fn ignored() -> Self {
        Self::new(|_| {})
    }

    /// Reports an event.
    pub fn report(&self, event: Event) {
        (self.0)(event);
    }

    /// Reports that a stage began, and measures its duration until [`Stage::done`].
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

/// A stage that has begun and not completed.
#[derive(Debug)]
pub struct Stage {
    progress: Progress,
    stage: Cow<'static, str>,
    began: std::time::Instant,
}

impl Stage {
    /// Reports what is happening in the stage.
    pub fn update(&self, fraction: Option<f64>, text: impl Into<String>) {
        self.progress.report(Event::Update {
            stage: self.stage.clone(),
            fraction,
            text: text.into(),
        });
    }

    /// Reports what is happening when `done` of `of` equal parts are complete.
    pub fn part(&self, done: usize, of: usize, text: impl Into<String>) {
        #[expect(clippy::cast_precision_loss, reason = "a handful of parts")]
        let fraction = done as f64 / of as f64;
        self.update(Some(fraction), text);
    }

    /// Reports that the stage completed.
    pub fn done(self) {
        self.finish(false);
    }

    /// Reports that the stage completed with a result from a cache.
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
