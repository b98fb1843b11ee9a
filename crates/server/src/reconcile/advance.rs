//! Writes the state that a step leads to.

use faultline_domain::environment::{Environment, State};
use faultline_store::outbox::NewMail;

use crate::app::Shared;

/// Writes the state that a step leads to. Returns false if somebody else has changed the environment since.
pub(super) async fn advance(
    app: &Shared,
    e: &mut Environment,
    to: State,
) -> Result<bool, faultline_store::Error> {
    advance_and_tell(app, e, to, None).await
}

/// Like [`advance`]; also writes a mail about it, if any.
pub(super) async fn advance_and_tell(
    app: &Shared,
    e: &mut Environment,
    to: State,
    mail: Option<&NewMail>,
) -> Result<bool, faultline_store::Error> {
    let now = app.now();
    let written = app.store.record_state_and_tell(e, &to, mail, now).await?;
    if written {
        let failure = match &to {
            State::Failed { stage, reason, .. } => Some((&**stage, reason)),
            State::Suspended { .. } => {
                let problem = to.on_disk().and_then(|on_disk| on_disk.problem.as_ref());
                problem.map(|problem| ("resume", problem))
            }
            _ => None,
        };
        if e.state.is_starting()
            && let Some((stage, reason)) = failure
        {
            // However it failed, the last line of the log says why.
            let line = format!("failed: {reason}");
            app.store.log_start(&e.id, stage, &line, now).await?;
            app.metrics.started("failed");
        }
        if to.is_on_disk() {
            crash_point!(app, ReturnedToDisk);
        }
        e.state = to;
        e.generation += 1;
        e.updated_at = now;
        app.changed(&e.id);
        if mail.is_some() {
            app.wake.mail_written();
        }
    }
    Ok(written)
}
