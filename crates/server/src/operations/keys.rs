//! Adds and removes public keys. The reconciler of keys applies them to the person's nodes.

use axum::http::StatusCode;
use faultline_domain::authz::SignedIn;
use faultline_gateway::PublicKey;
use faultline_store::ssh_keys::SshKey;

use crate::{
    app::Shared,
    problem::{Problem, sentence},
};

/// The maximum number of keys per person.
const MAX_KEYS: usize = 20;

pub(crate) async fn add(
    app: &Shared,
    who: &SignedIn,
    name: &str,
    line: &str,
) -> Result<SshKey, Problem> {
    let key = PublicKey::parse(line).map_err(|e| {
        Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "bad-key",
            "This is not a public key",
            sentence(&e.to_string()),
        )
    })?;
    let comment = line.split_whitespace().nth(2).unwrap_or("key");
    let name = [name.trim(), comment]
        .into_iter()
        .find(|n| !n.is_empty())
        .unwrap_or("key");
    if app.store.ssh_keys(who.person()).await?.len() >= MAX_KEYS {
        return Err(Problem::conflict(
            "too-many-keys",
            "You have too many keys",
            format!("You can have at most {MAX_KEYS}. Remove one first."),
        ));
    }
    let key = SshKey {
        id: app.row_id(),
        name: name.chars().filter(|c| !c.is_control()).take(60).collect(),
        public_key: key.as_openssh().to_owned(),
        fingerprint: key.fingerprint().to_owned(),
        created_at: app.now(),
    };
    if !app.store.add_ssh_key(who.person(), &key).await? {
        return Err(Problem::conflict(
            "known-key",
            "You already have this key",
            format!("Its fingerprint is {}.", key.fingerprint),
        ));
    }
    app.wake.keys_changed();
    Ok(key)
}

pub(crate) async fn remove(app: &Shared, who: &SignedIn, id: &str) -> Result<(), Problem> {
    if !app
        .store
        .remove_ssh_key(who.person(), id, app.now())
        .await?
    {
        return Err(Problem::not_found());
    }
    app.wake.keys_changed();
    Ok(())
}
