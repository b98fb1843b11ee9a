//! Creates and removes API tokens. The token itself is shown only once.

use faultline_domain::authz::SignedIn;
use faultline_store::Secret;

use crate::{app::App, problem::Problem};

/// The maximum number of API tokens per person.
const MAX_TOKENS: usize = 20;

pub(crate) async fn add(
    app: &App,
    who: &SignedIn,
    name: &str,
) -> Result<(String, Secret), Problem> {
    let name: String = name
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(60)
        .collect();
    if name.is_empty() {
        return Err(Problem::bad_request(
            "Give the token a name, such as `laptop`.",
        ));
    }
    if app.store.api_tokens(who.person()).await?.len() >= MAX_TOKENS {
        return Err(Problem::conflict(
            "too-many-tokens",
            "You have too many tokens",
            format!("You can have at most {MAX_TOKENS}. Remove one first."),
        ));
    }
    let (id, secret) = (app.row_id(), app.secret());
    app.store
        .add_api_token(&secret, &id, who.person(), &name, app.now())
        .await?;
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
