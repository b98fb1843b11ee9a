//! The caller's account: progress, keys, tokens, sign-in links.

use axum::{Json, extract::State, http::StatusCode};
use faultline_domain::authz::Scope;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Body,
    views::{
        account::{
            GatewayView, KeyView, MadeToken, MeView, NewKey, NewToken, SessionView, SignInLink,
            TokenView,
        },
        labs::AttemptView,
    },
};
use crate::{
    app::Shared,
    auth::{Row, Signed},
    operations::{export, keys, sessions, sign_in_link, tokens},
    problem::Problem,
};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(get_me))
        .routes(routes!(get_gateway))
        .routes(routes!(list_attempts))
        .routes(routes!(list_keys, add_key))
        .routes(routes!(remove_key))
        .routes(routes!(export_me))
        .routes(routes!(list_tokens, add_token, remove_other_tokens))
        .routes(routes!(remove_token))
        .routes(routes!(list_sessions, end_sessions))
        .routes(routes!(end_session))
        .routes(routes!(create_sign_in_link))
}

/// Returns the caller.
#[utoipa::path(get, path = "/api/v1/me", tag = "account", responses((status = 200, body = MeView)))]
async fn get_me(Signed(caller): Signed) -> Json<MeView> {
    Json(MeView {
        person: caller.signed_in.person().to_string(),
        role: caller.signed_in.role().as_str(),
    })
}

/// Returns the address and the host key of the SSH gateway.
#[utoipa::path(get, path = "/api/v1/gateway", tag = "account", responses((status = 200, body = GatewayView), (status = 404, body = Problem)))]
async fn get_gateway(
    State(app): State<Shared>,
    Signed(_): Signed,
) -> Result<Json<GatewayView>, Problem> {
    let config = &app.config;
    let (Some(port), Some(host_key)) = (config.ssh_port, &config.ssh_host_key) else {
        return Err(Problem::not_found());
    };
    Ok(Json(GatewayView {
        host: config.ssh_host().to_owned(),
        port,
        host_key: host_key.as_openssh().to_owned(),
    }))
}

/// Lists the caller's attempts at all labs, newest first.
#[utoipa::path(get, path = "/api/v1/progress", tag = "account", responses((status = 200, body = [AttemptView])))]
async fn list_attempts(
    State(app): State<Shared>,
    Signed(caller): Signed,
) -> Result<Json<Vec<AttemptView>>, Problem> {
    let all = app.store.attempts_of(caller.signed_in.person()).await?;
    Ok(Json(all.iter().map(AttemptView::from).collect()))
}

/// Lists the caller's public keys.
#[utoipa::path(get, path = "/api/v1/keys", tag = "account", responses((status = 200, body = [KeyView])))]
async fn list_keys(
    State(app): State<Shared>,
    Signed(caller): Signed,
) -> Result<Json<Vec<KeyView>>, Problem> {
    let all = app.store.ssh_keys(caller.signed_in.person()).await?;
    Ok(Json(all.into_iter().map(key_view).collect()))
}

fn key_view(key: faultline_store::ssh_keys::SshKey) -> KeyView {
    KeyView {
        id: key.id,
        name: key.name,
        fingerprint: key.fingerprint,
        public_key: key.public_key,
        created_at: key.created_at.to_string(),
    }
}

/// Adds a public key, and installs it on the caller's running machines.
#[utoipa::path(post, path = "/api/v1/keys", tag = "account", request_body = NewKey,
    responses((status = 201, body = KeyView), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn add_key(
    State(app): State<Shared>,
    Signed(caller): Signed,
    Body(new): Body<NewKey>,
) -> Result<(StatusCode, Json<KeyView>), Problem> {
    let key = keys::add(&app, &caller.signed_in, &new.name, &new.public_key).await?;
    Ok((StatusCode::CREATED, Json(key_view(key))))
}

/// Removes a public key.
#[utoipa::path(delete, path = "/api/v1/keys/{row}", tag = "account", params(("row" = String, Path)),
    responses((status = 204, description = "removed"), (status = 404, body = Problem)))]
async fn remove_key(
    State(app): State<Shared>,
    Signed(caller): Signed,
    Row(id): Row,
) -> Result<StatusCode, Problem> {
    keys::remove(&app, &caller.signed_in, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Returns everything that the server knows about the caller.
#[utoipa::path(get, path = "/api/v1/me/export", tag = "account", responses((status = 200, body = Object)))]
async fn export_me(
    State(app): State<Shared>,
    Signed(caller): Signed,
) -> Result<Json<serde_json::Value>, Problem> {
    Ok(Json(export::export(&app, &caller.signed_in).await?))
}

/// Lists the caller's API tokens, without the tokens themselves.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "account", responses((status = 200, body = [TokenView])))]
async fn list_tokens(
    State(app): State<Shared>,
    Signed(caller): Signed,
) -> Result<Json<Vec<TokenView>>, Problem> {
    let all = app.store.api_tokens(caller.signed_in.person()).await?;
    let current = app.store.api_token_id(&caller.secret).await?;
    let view = |t: faultline_store::credentials::ApiToken| TokenView {
        is_current: current.as_ref() == Some(&t.id),
        id: t.id,
        name: t.name,
        created_at: t.created_at.to_string(),
        last_used: t.last_used.map(|at| at.to_string()),
        scope: t.scope.as_str(),
        expires_at: t.expires_at.map(|at| at.to_string()),
    };
    Ok(Json(all.into_iter().map(view).collect()))
}

/// Creates an API token.
///
/// This response is the only one that contains the token itself.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "account", request_body = NewToken,
    responses((status = 201, body = MadeToken), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 409, body = Problem)))]
async fn add_token(
    State(app): State<Shared>,
    Signed(caller): Signed,
    Body(new): Body<NewToken>,
) -> Result<(StatusCode, Json<MadeToken>), Problem> {
    let scope = if new.read_only {
        Scope::Read
    } else {
        Scope::Full
    };
    tokens::may_create_credentials(&app, &caller).await?;
    let (id, secret) = tokens::add(&app, &caller.signed_in, &new.name, scope, new.days).await?;
    let made = MadeToken {
        id,
        token: secret.expose().to_owned(),
    };
    Ok((StatusCode::CREATED, Json(made)))
}

/// Removes the caller's API tokens except for the one of this request.
#[utoipa::path(delete, path = "/api/v1/tokens", tag = "account", responses((status = 204, description = "removed")))]
async fn remove_other_tokens(
    State(app): State<Shared>,
    Signed(caller): Signed,
) -> Result<StatusCode, Problem> {
    tokens::remove_others(&app, &caller.signed_in, &caller.secret).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes an API token.
#[utoipa::path(delete, path = "/api/v1/tokens/{row}", tag = "account", params(("row" = String, Path)),
    responses((status = 204, description = "removed"), (status = 404, body = Problem)))]
async fn remove_token(
    State(app): State<Shared>,
    Signed(caller): Signed,
    Row(id): Row,
) -> Result<StatusCode, Problem> {
    tokens::remove(&app, &caller.signed_in, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the browsers in which the caller is signed in, the latest first.
#[utoipa::path(get, path = "/api/v1/sessions", tag = "account", responses((status = 200, body = [SessionView])))]
async fn list_sessions(
    State(app): State<Shared>,
    Signed(caller): Signed,
) -> Result<Json<Vec<SessionView>>, Problem> {
    let all = sessions::list(&app, &caller.signed_in, caller.session()).await?;
    Ok(Json(all.into_iter().map(SessionView::from).collect()))
}

/// Signs the caller out in all browsers. API tokens stay valid.
#[utoipa::path(delete, path = "/api/v1/sessions", tag = "account", responses((status = 204, description = "signed out")))]
async fn end_sessions(
    State(app): State<Shared>,
    Signed(caller): Signed,
) -> Result<StatusCode, Problem> {
    sessions::end_others(&app, &caller.signed_in, caller.session()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Signs the caller out in one browser. What is open in it ends within seconds.
#[utoipa::path(delete, path = "/api/v1/sessions/{row}", tag = "account", params(("row" = String, Path)),
    responses((status = 204, description = "signed out"), (status = 404, body = Problem)))]
async fn end_session(
    State(app): State<Shared>,
    Signed(caller): Signed,
    Row(id): Row,
) -> Result<StatusCode, Problem> {
    sessions::end(&app, &caller.signed_in, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Creates a link that signs the caller's browser in, once.
#[utoipa::path(post, path = "/api/v1/sign-in-links", tag = "account",
    responses((status = 201, body = SignInLink), (status = 403, body = Problem)))]
async fn create_sign_in_link(
    State(app): State<Shared>,
    Signed(caller): Signed,
) -> Result<(StatusCode, Json<SignInLink>), Problem> {
    tokens::may_create_credentials(&app, &caller).await?;
    let (url, ends) = sign_in_link::sign_in_link(&app, caller.signed_in.person()).await?;
    let link = SignInLink {
        url,
        expires_at: ends.to_string(),
    };
    Ok((StatusCode::CREATED, Json(link)))
}
