//! Register and remove passkeys, and sign in with one.

use axum::http::StatusCode;
use faultline_domain::authz::SignedIn;
use faultline_store::{
    Secret,
    passkeys::{NewPasskey, Passkey as Stored},
};
use serde_json::Value;
use webauthn_rs::prelude::{
    CredentialID, Passkey, PublicKeyCredential, RegisterPublicKeyCredential, WebauthnError,
};

use super::{oidc::result_of, sessions, tidy};
use crate::{
    app::App,
    auth::{
        device::Device,
        passkeys::{Passkeys, handle},
    },
    problem::Problem,
    rates::Origin,
};

/// The maximum number of passkeys per person.
const MAX_PASSKEYS: usize = 20;

fn passkeys(app: &App) -> Result<&Passkeys, Problem> {
    app.passkeys.as_ref().ok_or_else(Problem::not_found)
}

/// Begins a registration. Returns the options for the browser, and a secret that the browser keeps meanwhile.
pub(crate) async fn begin_registration(
    app: &App,
    who: &SignedIn,
) -> Result<(Value, Secret), Problem> {
    let passkeys = passkeys(app)?;
    let person = app.store.person(who.person()).await?;
    let person = person.ok_or_else(Problem::not_found)?;
    let known = app.store.passkeys(&person.id).await?;
    if known.len() >= MAX_PASSKEYS {
        return Err(Problem::conflict(
            "too-many-passkeys",
            "You have too many passkeys",
            format!("You can have at most {MAX_PASSKEYS}. Remove one first."),
        ));
    }
    // An authenticator that has one already doesn't make another one.
    let exclude = known.iter().filter_map(|p| hex::decode(&p.credential).ok());
    let exclude: Vec<CredentialID> = exclude.collect();
    let login = person.login.as_ref().map(ToString::to_string);
    let login = login.unwrap_or_else(|| person.name.clone());
    let (options, state) = passkeys
        .webauthn
        .start_passkey_registration(handle(&person.id), &login, &person.name, Some(exclude))
        .map_err(|e| failed(&e))?;
    let browser = app.secret();
    passkeys
        .registrations
        .put(&browser, (person.id, state), app.now());
    let mut options = serde_json::to_value(options).map_err(|_| Problem::internal())?;
    // The authenticator has to find the passkey without a login name.
    if let Some(selection) = options.pointer_mut("/publicKey/authenticatorSelection") {
        selection["residentKey"] = "required".into();
        selection["requireResidentKey"] = true.into();
    }
    Ok((options, browser))
}

/// Finishes a registration: stores the passkey.
pub(crate) async fn finish_registration(
    app: &App,
    who: &SignedIn,
    browser: Option<Secret>,
    name: &str,
    made: &RegisterPublicKeyCredential,
) -> Result<(), Problem> {
    let passkeys = passkeys(app)?;
    let begun = browser.and_then(|browser| passkeys.registrations.take(&browser, app.now()));
    let (person, state) = begun.ok_or_else(not_begun)?;
    if person != *who.person() {
        return Err(not_begun());
    }
    let passkey = passkeys.webauthn.finish_passkey_registration(made, &state);
    let passkey = passkey.map_err(|e| failed(&e))?;
    let name = match tidy(name, 60) {
        empty if empty.is_empty() => "Passkey".to_owned(),
        name => name,
    };
    let (id, credential) = (app.row_id(), hex::encode(passkey.cred_id()));
    let new = NewPasskey {
        id: &id,
        credential: &credential,
        name: &name,
        passkey: &serde_json::to_string(&passkey).map_err(|_| Problem::internal())?,
    };
    if app.store.add_passkey(&person, &new, app.now()).await? {
        Ok(())
    } else {
        Err(Problem::conflict(
            "passkey-known",
            "This passkey is registered already",
            "Use it to sign in, or register another one.",
        ))
    }
}

/// Begins a sign-in. Returns the options for the browser, and a secret that the browser keeps meanwhile.
pub(crate) fn begin_sign_in(app: &App) -> Result<(Value, Secret), Problem> {
    let passkeys = passkeys(app)?;
    let (mut options, state) = passkeys
        .webauthn
        .start_discoverable_authentication()
        .map_err(|e| failed(&e))?;
    // A button begins it, not the form's autofill.
    options.mediation = None;
    let browser = app.secret();
    passkeys.sign_ins.put(&browser, state, app.now());
    let options = serde_json::to_value(options).map_err(|_| Problem::internal())?;
    Ok((options, browser))
}

/// Finishes a sign-in. Returns the secret of the new session.
pub(crate) async fn finish_sign_in(
    app: &App,
    from: Origin,
    device: &Device,
    browser: Option<Secret>,
    presented: &PublicKeyCredential,
) -> Result<Secret, Problem> {
    let passkeys = passkeys(app)?;
    let begun = browser.and_then(|browser| passkeys.sign_ins.take(&browser, app.now()));
    let state = begun.ok_or_else(not_begun)?;
    let Ok((presented_handle, credential)) = passkeys
        .webauthn
        .identify_discoverable_authentication(presented)
    else {
        app.rates.wrong(from)?;
        return Err(unknown());
    };
    let credential = hex::encode(credential);
    let known = app.store.passkey_of_credential(&credential).await?;
    let known = known.filter(|(person, _)| handle(person) == presented_handle);
    let Some((_, before)) = known else {
        app.rates.wrong(from)?;
        return Err(unknown());
    };
    let mut passkey: Passkey = serde_json::from_str(&before).map_err(|_| Problem::internal())?;
    let verified = passkeys
        .webauthn
        .finish_discoverable_authentication_v2(presented, state, &passkey);
    let verified = match verified {
        Ok(verified) => verified,
        Err(e) => {
            app.rates.wrong(from)?;
            return Err(failed(&e));
        }
    };
    passkey.update_credential(&verified);
    let after = serde_json::to_string(&passkey).map_err(|_| Problem::internal())?;
    let session = sessions::new(app, device);
    let versions = (before.as_str(), after.as_str());
    let signed_in = app
        .store
        .sign_in_with_passkey(&credential, versions, &session, app.now());
    if signed_in.await? {
        Ok(session.secret)
    } else {
        Err(unknown())
    }
}

/// Lists the caller's passkeys.
pub(crate) async fn list(app: &App, who: &SignedIn) -> Result<Vec<Stored>, Problem> {
    Ok(app.store.passkeys(who.person()).await?)
}

/// Removes a passkey, if the caller has another way to sign in.
pub(crate) async fn remove(app: &App, who: &SignedIn, id: &str) -> Result<(), Problem> {
    let removed = app
        .store
        .remove_passkey(who.person(), id, app.now())
        .await?;
    result_of(removed)
}

fn not_begun() -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "passkey-not-begun",
        "This can't be finished",
        "It was not begun in this browser, was finished already, or took more than ten minutes. Begin again.",
    )
}

fn unknown() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "passkey-unknown",
        "This passkey is not known here",
        "It was removed, or your access is disabled. Sign in in another way, or ask an operator.",
    )
}

fn failed(e: &WebauthnError) -> Problem {
    tracing::info!(
        error = e as &dyn std::error::Error,
        "a passkey was not accepted"
    );
    Problem::new(
        StatusCode::BAD_REQUEST,
        "passkey-refused",
        "The passkey was not accepted",
        "Begin again. If it happens again, sign in in another way, remove the passkey on the page “Account”, and add it anew.",
    )
}
