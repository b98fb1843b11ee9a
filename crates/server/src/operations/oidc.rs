//! Sign in through the identity provider, join by it, and link an account to a person.

use std::sync::Arc;

use axum::http::StatusCode;
use faultline_domain::{PersonId, authz::SignedIn};
use faultline_store::{
    Secret,
    credentials::Removed,
    identities::{Account, ByAccount, Joined, Linked, LinkedAccount},
    sessions::NewSession,
};

use super::{sessions, tidy};
use crate::{
    app::App,
    auth::{
        device::Device,
        oidc::{Attempt, Error, Identity, Provider},
    },
    problem::Problem,
};

/// What a person wants of the identity provider.
#[derive(Debug, Clone)]
pub(crate) enum Purpose {
    /// To sign in, or to join by this invitation.
    SignIn { invitation: Option<Secret> },
    /// To link the account to this person, in this session.
    Link { person: PersonId, session: Secret },
}

/// A sign-in that has begun.
#[derive(Debug)]
pub(crate) struct Begun {
    attempt: Attempt,
    purpose: Purpose,
}

/// What the browser brings back from the identity provider.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
pub(crate) struct Returned {
    pub state: String,
    pub code: String,
    pub error: String,
    pub iss: String,
}

/// The result of a sign-in.
#[derive(Debug)]
pub(crate) enum Finished {
    /// The person is signed in with this session.
    SignedIn(Secret),
    /// The account is linked.
    Linked,
}

/// Returns the identity provider, if one is configured.
pub(crate) fn provider(app: &App) -> Result<&Arc<Provider>, Problem> {
    app.identity_provider
        .as_ref()
        .ok_or_else(Problem::not_found)
}

/// Begins a sign-in. Returns the provider's URL, to which the browser is sent, and a secret that the browser keeps
/// meanwhile, so that nobody can finish the sign-in in another browser.
pub(crate) async fn begin(app: &App, purpose: Purpose) -> Result<(String, Secret), Problem> {
    let provider = provider(app)?;
    let begun = provider.begin(|| app.secret()).await;
    let (url, attempt) = begun.map_err(|e| failed(provider, &e))?;
    let browser = app.secret();
    app.sign_ins
        .put(&browser, Begun { attempt, purpose }, app.now());
    Ok((url, browser))
}

/// Finishes a sign-in. `browser` is the secret that the browser kept, and `caller` the session that it has, if any. A
/// sign-in can be finished only once, whether it succeeds or not.
pub(crate) async fn finish(
    app: &App,
    device: &Device,
    browser: Option<Secret>,
    caller: Option<(&SignedIn, &Secret)>,
    returned: Returned,
) -> Result<Finished, Problem> {
    let provider = provider(app)?;
    let begun = browser.and_then(|browser| app.sign_ins.take(&browser, app.now()));
    let Some(Begun { attempt, purpose }) = begun else {
        return Err(not_begun(provider));
    };
    let state = Secret::presented(&returned.state);
    if state.is_none_or(|state| state.hash() != attempt.state.hash()) {
        return Err(not_begun(provider));
    }
    // RFC 9207: the answer of another provider must not be taken for this one's.
    if !returned.iss.is_empty() && returned.iss != provider.settings.issuer {
        return Err(not_begun(provider));
    }
    if !returned.error.is_empty() || returned.code.is_empty() {
        return Err(declined(provider, &returned.error));
    }
    let identity = provider.finish(attempt, returned.code).await;
    let identity = identity.map_err(|e| failed(provider, &e))?;
    let name = tidy(identity.claims.account(), 80);
    let account = Account {
        issuer: &identity.issuer,
        subject: &identity.subject,
        name: &name,
        role: identity.claims.role(&provider.settings),
    };
    match purpose {
        Purpose::Link { person, session } => {
            // The session that asked must be the one that finishes.
            if caller.is_none_or(|(who, s)| *who.person() != person || *s != session) {
                return Err(Problem::signed_out());
            }
            let new = (app.row_id(), &account);
            let linked = app
                .store
                .link_account(&person, &session, (&new.0, new.1), app.now());
            match linked.await? {
                Linked::Done => Ok(Finished::Linked),
                Linked::SignedOut => Err(Problem::signed_out()),
                Linked::Taken => Err(taken(provider)),
            }
        }
        Purpose::SignIn { invitation } => {
            let session = NewSession {
                issuer: Some(provider.settings.issuer.clone()),
                ..sessions::new(app, device)
            };
            let signed_in = app.store.sign_in_by_account(&account, &session, app.now());
            match signed_in.await? {
                ByAccount::SignedIn(_) => {}
                ByAccount::Disabled => return Err(disabled()),
                ByAccount::Unknown => {
                    join(app, provider, &identity, &account, invitation, &session).await?;
                }
            }
            Ok(Finished::SignedIn(session.secret))
        }
    }
}

/// Creates a person for an account that nobody has linked, if they may join.
async fn join(
    app: &App,
    provider: &Provider,
    identity: &Identity,
    account: &Account<'_>,
    invitation: Option<Secret>,
    session: &NewSession,
) -> Result<(), Problem> {
    let may_join = identity.claims.may_join(&provider.settings);
    let invitation = match invitation {
        Some(secret) if app.store.invitation(&secret, app.now()).await?.is_some() => Some(secret),
        _ if may_join => None,
        _ => return Err(not_invited(provider, account)),
    };
    let person = app.random(PersonId::generate);
    let name = match tidy(identity.claims.name().unwrap_or(account.name), 60) {
        empty if empty.is_empty() => "New person".to_owned(),
        name => name,
    };
    let id = app.row_id();
    let joined = app.store.join_by_account(
        (&person, &name),
        (&id, account),
        invitation.as_ref(),
        session,
        app.now(),
    );
    match joined.await? {
        Joined::Done => Ok(()),
        Joined::Invalid => Err(not_invited(provider, account)),
        Joined::Taken => Err(not_begun(provider)),
    }
}

/// Lists the accounts that the caller has linked.
pub(crate) async fn list(app: &App, who: &SignedIn) -> Result<Vec<LinkedAccount>, Problem> {
    Ok(app.store.linked_accounts(who.person()).await?)
}

/// Removes the link to an account, if the caller has another way to sign in.
pub(crate) async fn unlink(app: &App, who: &SignedIn, id: &str) -> Result<(), Problem> {
    let removed = app
        .store
        .unlink_account(who.person(), id, app.now())
        .await?;
    result_of(removed)
}

/// Returns the result of removing a way to sign in.
pub(crate) fn result_of(removed: Removed) -> Result<(), Problem> {
    match removed {
        Removed::Done => Ok(()),
        Removed::NotFound => Err(Problem::not_found()),
        Removed::LastWay => Err(Problem::conflict(
            "last-way",
            "You could not sign in any more",
            "Set a password or add a passkey first.",
        )),
    }
}

fn not_begun(provider: &Provider) -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "sign-in-not-begun",
        "This sign-in can't be finished",
        format!(
            "It was not begun in this browser, was finished already, or took more than ten minutes. Begin again: open the \
             sign-in page and continue with {}. The browser must accept cookies.",
            provider.settings.name
        ),
    )
}

fn declined(provider: &Provider, error: &str) -> Problem {
    let name = &provider.settings.name;
    let detail = match error {
        "access_denied" => format!("You or {name} declined. To sign in, begin again and agree."),
        "temporarily_unavailable" | "server_error" => {
            format!("{name} has a problem now. Try again in a few minutes.")
        }
        other => {
            let code: String = other
                .chars()
                .filter(|c| c.is_ascii_lowercase() || *c == '_')
                .take(40)
                .collect();
            let code = if code.is_empty() { "none" } else { &code };
            format!(
                "{name} sent no code (error: {code}). Begin again. If it happens again, tell an operator."
            )
        }
    };
    let title = format!("{name} did not sign you in");
    Problem::new(StatusCode::UNAUTHORIZED, "sign-in-declined", title, detail)
}

fn failed(provider: &Provider, e: &Error) -> Problem {
    let name = &provider.settings.name;
    tracing::warn!(
        error = e as &dyn std::error::Error,
        "a sign-in through the identity provider failed"
    );
    match e {
        Error::Unavailable(_) => Problem::new(
            StatusCode::BAD_GATEWAY,
            "provider-unavailable",
            format!("{name} can't be used now"),
            format!(
                "This server can't reach {name}, or {name} is not configured as it should be. Try again in a few minutes. \
                 With a password you can sign in meanwhile. Operators find the reason in the server's log."
            ),
        ),
        Error::Refused(_) | Error::Invalid(_) => Problem::new(
            StatusCode::UNAUTHORIZED,
            "provider-answer",
            format!("The answer of {name} was not accepted"),
            "Nobody was signed in. Begin again. If it happens again, tell an operator: the reason is in the server's log.",
        ),
    }
}

fn not_invited(provider: &Provider, account: &Account<'_>) -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "not-invited",
        "You need an invitation",
        format!(
            "Nobody here uses the account {} of {}. If you are new, ask an operator for an invitation, open its link, and \
             join with {}. If you have an account here already, sign in as before and link it on the page “Account”.",
            account.name, provider.settings.name, provider.settings.name
        ),
    )
}

fn taken(provider: &Provider) -> Problem {
    Problem::conflict(
        "account-taken",
        "This account is linked to somebody else",
        format!(
            "Each account of {} signs in one person. Sign in to {} with another account, or remove the link there: sign \
             out here and sign in with it.",
            provider.settings.name, provider.settings.name
        ),
    )
}

fn disabled() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "disabled",
        "Your access is disabled",
        "An operator has disabled it. Ask an operator to enable it.",
    )
}
