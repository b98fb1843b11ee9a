//! Exports everything that the server knows about a person, for that person.

use faultline_domain::{attempt::Attempt, authz::SignedIn, environment::Environment};
use serde_json::{Value, json};

use crate::{app::App, problem::Problem};

/// The maximum number of environments and of entries of the audit log.
const MOST: u32 = 1000;

pub(crate) async fn export(app: &App, who: &SignedIn) -> Result<Value, Problem> {
    let (store, me) = (&app.store, who.person());
    let person = store.person(me).await?.ok_or_else(Problem::not_found)?;
    let mail = store.mail_settings(me, app.now()).await?;
    let groups = store.groups().await?;
    let member = groups.iter().filter_map(|group| {
        let member = group.members.iter().find(|member| member.person == *me)?;
        Some(json!({ "name": group.name, "instructor": member.instructs }))
    });
    let keys = store.ssh_keys(me).await?;
    let tokens = store.api_tokens(me).await?;
    let accounts = store.linked_accounts(me).await?;
    let passkeys = store.passkeys(me).await?;
    let sessions = store.sessions(me, None, app.now()).await?;
    let attempts = store.attempts_of(me).await?;
    let environments = store.latest_of(me, MOST).await?;
    let audit = store.audit_of(me, MOST).await?;
    Ok(json!({
        "exported_at": app.now().to_string(),
        "person": {
            "id": person.id.as_str(),
            "name": person.name,
            "login": person.login.as_ref().map(ToString::to_string),
            "role": person.role.as_str(),
            "created_at": person.created_at.to_string(),
            "last_sign_in": person.last_sign_in.map(|at| at.to_string()),
        },
        "mail": {
            "address": mail.address.map(|address| address.to_string()),
            "unconfirmed_address": mail.unconfirmed.map(|address| address.to_string()),
            "wants_notices": mail.wants_notices,
        },
        "groups": member.collect::<Vec<_>>(),
        "ssh_keys": keys.iter().map(|key| json!({
            "name": key.name,
            "fingerprint": key.fingerprint,
            "created_at": key.created_at.to_string(),
        })).collect::<Vec<_>>(),
        "api_tokens": tokens.iter().map(|token| json!({
            "name": token.name,
            "scope": token.scope.as_str(),
            "created_at": token.created_at.to_string(),
            "last_used": token.last_used.map(|at| at.to_string()),
            "expires_at": token.expires_at.map(|at| at.to_string()),
        })).collect::<Vec<_>>(),
        "linked_accounts": accounts.iter().map(|account| json!({
            "issuer": account.issuer,
            "account": account.account,
            "created_at": account.created_at.to_string(),
            "last_used": account.last_used.map(|at| at.to_string()),
        })).collect::<Vec<_>>(),
        "passkeys": passkeys.iter().map(|passkey| json!({
            "name": passkey.name,
            "created_at": passkey.created_at.to_string(),
            "last_used": passkey.last_used.map(|at| at.to_string()),
        })).collect::<Vec<_>>(),
        "sessions": sessions.iter().map(|session| json!({
            "browser": session.browser,
            "created_at": session.created_at.to_string(),
            "last_used": session.last_used.map(|at| at.to_string()),
            "expires_at": session.expires_at.to_string(),
        })).collect::<Vec<_>>(),
        "attempts": attempts.iter().map(attempt).collect::<Vec<_>>(),
        "environments": environments.iter().map(environment).collect::<Vec<_>>(),
        "audit": audit.iter().map(|entry| json!({
            "at": entry.at.to_string(),
            "action": entry.action,
            "subject": entry.subject,
            "detail": entry.detail,
        })).collect::<Vec<_>>(),
    }))
}

fn attempt(of: &Attempt) -> Value {
    json!({
        "lab": of.lab.as_str(),
        "started_at": of.started_at.to_string(),
        "finished_at": of.finished_at.map(|at| at.to_string()),
        "solved": of.is_solved(),
        "gave_up": of.gave_up,
        "points": of.points,
        "hints": of.hints.iter().map(|(number, _)| number).collect::<Vec<_>>(),
        "checks_run": of.checks,
    })
}

fn environment(of: &Environment) -> Value {
    json!({
        "id": of.id.as_str(),
        "lab": of.lab.as_str(),
        "created_at": of.created_at.to_string(),
        "phase": of.state.phase().as_str(),
    })
}
