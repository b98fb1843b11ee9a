//! Reasons why an environment can't be entered now, worded for its owner. SSH and kubectl show them.

use faultline_domain::environment::{Environment, Intent, State};

use crate::app::App;

/// Why an environment can't be entered, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shut {
    /// It has ended or failed.
    Over(String),
    /// It is starting or paused.
    NotNow(String),
}

/// Returns why an environment can't be entered now; none if it can.
pub(crate) fn shut(app: &App, e: &Environment) -> Option<Shut> {
    let base = app.config.url("");
    let (id, lab) = (&e.id, &e.lab);
    if let State::Failed { reason, .. } = &e.state {
        return Some(Shut::Over(format!(
            "environment {id} failed: {reason}; \
             get a fresh machine with `faultline env reset {id}`, or at {base}/environments/{id}"
        )));
    }
    if !e.is_open() {
        return Some(Shut::Over(format!(
            "environment {id} has ended; start the lab again at {base}/labs/{lab}, or with `faultline env start {lab}`"
        )));
    }
    if e.state.is_starting() {
        return Some(Shut::NotNow(format!(
            "environment {id} is starting; see its progress at {base}/environments/{id}"
        )));
    }
    if e.intent == Intent::Suspended || !matches!(e.state, State::Active { .. }) {
        return Some(Shut::NotNow(format!(
            "environment {id} is paused; resume it with `faultline env resume {id}`, or at {base}/environments/{id}"
        )));
    }
    None
}
