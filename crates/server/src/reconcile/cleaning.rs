//! Deletes expired sessions, records of removed keys that no node has any more, old audit entries, old demand and
//! old records of runs; reloads the labs and updates metrics.

use faultline_domain::pool::forecast::HISTORY;
use jiff::SignedDuration;

use super::Done;
use crate::{app::Shared, status::Counts};

pub(super) async fn pass(app: Shared) -> Done {
    app.rates.tidy();
    let now = app.now();
    let credentials = app.store.remove_old_credentials(now).await?;
    let removed = credentials + app.store.remove_old_visits(now).await?;
    app.store.forget_exposures().await?;
    let keys = app.store.forget_removed_keys().await?;
    let days = i64::from(app.config.audit_days);
    let oldest = app
        .now()
        .saturating_sub(SignedDuration::from_hours(24 * days))
        .unwrap_or(jiff::Timestamp::MIN);
    app.store.forget_mail_failures(oldest).await?;
    let lines = app.store.trim_audit(oldest, app.config.audit_lines).await?;
    let forgotten = app.now().saturating_sub(HISTORY);
    app.store
        .forget_demand(forgotten.unwrap_or(jiff::Timestamp::MIN))
        .await?;
    // Only those of this month count.
    let ended = app
        .now()
        .saturating_sub(SignedDuration::from_hours(24 * 62));
    app.store
        .forget_runs(ended.unwrap_or(jiff::Timestamp::MIN))
        .await?;
    Ok(Counts::from([
        ("credentials deleted", removed),
        ("key records deleted", keys),
        ("audit entries deleted", lines),
    ]))
}

/// Reloads the labs, so that authors see their changes at once, and updates the metrics of environments.
pub(super) async fn labs(app: Shared) -> Done {
    let since = app
        .now()
        .saturating_sub(SignedDuration::from_hours(24))
        .unwrap_or(app.now());
    app.metrics.phases(&app.store.count_by_phase(since).await?);
    let before = app.catalogue();
    if before.path().as_os_str().is_empty() {
        return Ok(Counts::new());
    }
    let reading = before.clone();
    let Ok(next) = tokio::task::spawn_blocking(move || reading.reload()).await else {
        return Ok(Counts::new());
    };
    let hashes = |c: &faultline_lab::Catalogue| -> Vec<String> {
        c.labs().iter().map(|l| l.hash.clone()).collect()
    };
    let counts = Counts::from([
        ("labs", next.labs().len() as u64),
        ("broken", next.broken().len() as u64),
    ]);
    if hashes(&before) != hashes(&next) || before.broken() != next.broken() {
        for broken in next.broken() {
            tracing::warn!("{}", broken.render());
        }
        app.set_catalogue(next);
    }
    Ok(counts)
}
