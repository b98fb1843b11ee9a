//! Creates and removes API tokens. The token itself is shown only once.

use faultline_domain::authz::{Scope, SignedIn};
use faultline_store::{Secret, credentials::NewApiToken};
use jiff::SignedDuration;

use crate::{app::App, auth::Caller, problem::Problem};

/// The maximum number of API tokens per person.
const MAX_TOKENS: usize = 20;
/// The maximum number of days for which a token with an end is valid.
const MAX_DAYS: u32 = 3650;

/// Refuses a caller with an API token that has an end, because a credential that it creates could outlast it.
pub(crate) async fn may_create_credentials(app: &App, caller: &Caller) -> Result<(), Problem> {
    match app.store.api_token_end(&caller.secret).await? {
        Some(_) => Err(Problem::token_ends()),
        None => Ok(()),
    }
}

pub(crate) async fn add(
    app: &App,
    who: &SignedIn,
    name: &str,
    scope: Scope,
    days: Option<u32>,
) -> Result<(String, Secret), Problem> {
    let name = super::tidy(name, 60);
    if name.is_empty() {
        return Err(Problem::bad_request(
            "Give the token a name, such as `laptop`.",
        ));
    }
    if days.is_some_and(|days| !(1..=MAX_DAYS).contains(&days)) {
        return Err(Problem::bad_request(format!(
            "A token is valid for 1 to {MAX_DAYS} days, or without an end."
        )));
    }
    app.rates.password(&format!("tokens {}", who.person()))?;
    if app.store.api_tokens(who.person()).await?.len() >= MAX_TOKENS {
        return Err(Problem::conflict(
            "too-many-tokens",
            "You have too many tokens",
            format!("You can have at most {MAX_TOKENS}. Remove one first."),
        ));
    }
    let (id, secret, now) = (app.row_id(), app.secret(), app.now());
    let valid = days.map(|days| SignedDuration::from_hours(24 * i64::from(days)));
    let new = NewApiToken {
        id: &id,
        person: who.person(),
        name: &name,
        scope,
        expires_at: valid.and_then(|valid| now.checked_add(valid).ok()),
    };
    app.store.add_api_token(&secret, &new, now).await?;
    Ok((id, secret))
}

pub(crate) async fn remove(app: &App, who: &SignedIn, id: &str) -> Result<(), Problem> {
    if app
        .store
        .remove_api_token(who.person(), id, app.now())
        .await?
    {
        Ok(())
    } else {
        Err(Problem::not_found())
    }
}

/// Removes the caller's tokens except for the one with the secret `keep`.
pub(crate) async fn remove_others(app: &App, who: &SignedIn, keep: &Secret) -> Result<(), Problem> {
    let removed = app
        .store
        .remove_other_api_tokens(who.person(), keep, app.now());
    removed.await?;
    Ok(())
}
