//! Make and remove API tokens. The token itself is shown once.

use faultline_domain::authz::SignedIn;
use faultline_store::Secret;

use crate::{app::App, problem::Problem};

/// The most tokens of one person.
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
            "You have many tokens already",
            format!("At most {MAX_TOKENS} are kept; remove one first."),
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
