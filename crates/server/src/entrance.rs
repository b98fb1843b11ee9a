//! Why nobody can enter an environment now, in the words that SSH and API servers' clients show its owner.

use faultline_domain::environment::{Environment, Intent, State};

use crate::app::App;

/// Why not, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shut {
    /// It is over.
    Over(String),
    /// It starts, or is paused.
    NotNow(String),
}

/// Nothing when it may be entered.
pub(crate) fn shut(app: &App, e: &Environment) -> Option<Shut> {
    let base = app.config.public_url.trim_end_matches('/');
    let (id, lab) = (&e.id, &e.lab);
    if let State::Failed { reason, .. } = &e.state {
        return Some(Shut::Over(format!(
            "environment {id} failed: {reason}; `faultline env reset {id}` gives it a fresh machine, and so does {base}/environments/{id}"
        )));
    }
    if !e.is_open() {
        return Some(Shut::Over(format!(
            "environment {id} has ended; the lab goes on at {base}/labs/{lab}, or with `faultline env start {lab}`"
        )));
    }
    if e.state.is_starting() {
        return Some(Shut::NotNow(format!(
            "environment {id} is starting; {base}/environments/{id} shows how far it is"
        )));
    }
    if e.intent == Intent::Suspended || !matches!(e.state, State::Active { .. }) {
        return Some(Shut::NotNow(format!(
            "environment {id} is paused; resume it with `faultline env resume {id}`, or at {base}/environments/{id}"
        )));
    }
    None
}
