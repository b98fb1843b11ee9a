//! Creates sign-in links.

use faultline_domain::PersonId;
use faultline_store::Secret;
use jiff::{SignedDuration, Timestamp};

use crate::app::App;

/// Creates a link that signs this person in, once, and returns it with the time when it expires.
pub(crate) async fn sign_in_link(
    app: &App,
    person: &PersonId,
) -> Result<(String, Timestamp), faultline_store::Error> {
    let (secret, now) = (app.secret(), app.now());
    let minutes = i64::from(app.config.sign_in_minutes);
    let ends = now
        .saturating_add(SignedDuration::from_mins(minutes))
        .unwrap_or(now);
    app.store
        .add_sign_in_token(&secret, person, now, ends)
        .await?;
    Ok((url(app, &secret), ends))
}

/// Returns the link with this token.
pub(crate) fn url(app: &App, token: &Secret) -> String {
    app.config
        .url(&format!("/sign-in?token={}", token.expose()))
}
