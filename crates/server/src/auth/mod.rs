//! Who is asking.
//!
//! | module | holds |
//! |---|---|
//! | this one | the two layers that find out, and the extractors that turn the answer into proofs |
//! | [`csrf`] | that a change was made on a page of ours |
//!
//! A layer puts the [`Caller`] into the request; a handler takes [`Signed`], [`Mine`] or [`Operator`], and can't be
//! called without. What stays open, a stream or a terminal, ends when [`Caller::withdrawn`] comes back. Pages know cookies only, the API bearer tokens only, so a browser can't be led to use the API.

pub(crate) mod csrf;

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, header, request::Parts},
    middleware::Next,
    response::Response,
};
use faultline_domain::{
    EnvironmentId,
    authz::{MayOperate, MayResize, MayUse, Principal, SignedIn},
    environment::Environment,
};
use faultline_store::Secret;

use crate::{
    app::{App, Shared},
    problem::Problem,
    rates::Origin,
};

/// The cookie that holds the session's token.
pub(crate) const SESSION: &str = "faultline_session";

/// Somebody whose session or token was verified.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub signed_in: SignedIn,
    /// What forms must carry; empty on the API.
    pub csrf: String,
    /// The session's or the API's token.
    pub secret: Secret,
    kind: Kind,
}

impl Caller {
    /// Waits until this credential lets nobody in any more: signed out, taken away, or run out. Streams and
    /// terminals end with it. A store that doesn't answer withdraws nothing.
    pub(crate) async fn withdrawn(self, app: Shared) {
        loop {
            tokio::time::sleep(app.config.recheck()).await;
            if matches!(self.kind.holder(&app, &self.secret).await, Ok(None)) {
                return;
            }
        }
    }
}

/// Reads a cookie.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(n, _)| *n == name)
        .map(|(_, value)| value)
}

/// What a caller presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Session,
    Token,
}

impl Kind {
    /// Whose it is, if it is valid.
    async fn holder(
        self,
        app: &App,
        secret: &Secret,
    ) -> Result<Option<Principal>, faultline_store::Error> {
        match self {
            Self::Session => app.store.session(secret, app.now()).await,
            Self::Token => app.store.api_token(secret, app.now()).await,
        }
    }
}

/// Finds out who presents this, within the rates: a credential is looked up unless too many wrong ones came from
/// there. Who has none, or a wrong one, goes on as a stranger.
async fn identify(
    app: &App,
    request: &mut Request,
    kind: Kind,
    presented: Option<Secret>,
) -> Result<(), Problem> {
    let from = Origin::of(request, &app.config);
    request.extensions_mut().insert(from);
    let Some(secret) = presented else {
        return Ok(app.rates.stranger(from)?);
    };
    let hash = secret.hash();
    app.rates.may_present(from, &hash)?;
    let Some(principal) = kind.holder(app, &secret).await? else {
        app.rates.wrong(from)?;
        return Ok(app.rates.stranger(from)?);
    };
    app.rates.right(hash)?;
    request.extensions_mut().insert(Caller {
        signed_in: SignedIn::verified(principal),
        csrf: match kind {
            Kind::Session => csrf::token(&secret),
            Kind::Token => String::new(),
        },
        secret,
        kind,
    });
    Ok(())
}

/// Finds out whose session it is. For pages.
pub(crate) async fn by_session(
    State(app): State<Shared>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let presented = cookie(request.headers(), SESSION).and_then(Secret::presented);
    identify(&app, &mut request, Kind::Session, presented).await?;
    Ok(next.run(request).await)
}

/// Finds out whose API token it is. For the API.
pub(crate) async fn by_token(
    State(app): State<Shared>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let presented = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("Bearer "))
        .and_then(|v| Secret::presented(v.trim()));
    identify(&app, &mut request, Kind::Token, presented).await?;
    Ok(next.run(request).await)
}

fn caller(parts: &Parts) -> Result<Caller, Problem> {
    let path = parts
        .extensions
        .get::<axum::extract::OriginalUri>()
        .map_or_else(|| parts.uri.path(), |uri| uri.path());
    parts.extensions.get::<Caller>().cloned().ok_or_else(|| {
        if path.starts_with("/api/") {
            Problem::bad_token()
        } else {
            Problem::signed_out()
        }
    })
}

/// Somebody is signed in.
#[derive(Debug)]
pub(crate) struct Signed(pub Caller);

impl FromRequestParts<Shared> for Signed {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        caller(parts).map(Self)
    }
}

/// Somebody is signed in and may use the environment that `{id}` in the path names.
#[derive(Debug)]
pub(crate) struct Mine {
    pub caller: Caller,
    pub proof: MayUse,
}

impl Mine {
    pub(crate) const fn environment(&self) -> &Environment {
        self.proof.environment()
    }
}

impl FromRequestParts<Shared> for Mine {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        let caller = caller(parts)?;
        let proof = caller.signed_in.may_use(named(parts, app).await?)?;
        Ok(Self { caller, proof })
    }
}

/// Somebody is signed in and may change which nodes the environment has that `{id}` in the path names.
#[derive(Debug)]
pub(crate) struct Resizable {
    pub proof: MayResize,
}

impl FromRequestParts<Shared> for Resizable {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        let caller = caller(parts)?;
        let proof = caller.signed_in.may_resize(named(parts, app).await?)?;
        Ok(Self { proof })
    }
}

/// The environment that `{id}` in the path names.
async fn named(parts: &mut Parts, app: &Shared) -> Result<Environment, Problem> {
    let id: EnvironmentId = param(parts, "id").await?;
    let environment = app.store.environment(&id).await?;
    environment.ok_or_else(Problem::not_found)
}

/// Somebody is signed in and operates the installation.
#[derive(Debug)]
pub(crate) struct Operator {
    pub caller: Caller,
    pub proof: MayOperate,
}

impl FromRequestParts<Shared> for Operator {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        let caller = caller(parts)?;
        let proof = caller.signed_in.may_operate()?;
        Ok(Self { caller, proof })
    }
}

/// A part of the path, parsed; what doesn't parse doesn't exist.
pub(crate) async fn param<T: std::str::FromStr>(
    parts: &mut Parts,
    name: &str,
) -> Result<T, Problem> {
    let params = axum::extract::RawPathParams::from_request_parts(parts, &())
        .await
        .map_err(|_| Problem::not_found())?;
    params
        .iter()
        .find(|(n, _)| *n == name)
        .and_then(|(_, value)| value.parse().ok())
        .ok_or_else(Problem::not_found)
}

/// The part of the path that `{slug}` names.
#[derive(Debug)]
pub(crate) struct Slug(pub faultline_domain::LabSlug);

impl FromRequestParts<Shared> for Slug {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        // Who isn't signed in learns nothing about what exists.
        caller(parts)?;
        param(parts, "slug").await.map(Self)
    }
}

/// The part of the path that `{node}` names.
#[derive(Debug)]
pub(crate) struct Node(pub faultline_domain::NodeName);

impl FromRequestParts<Shared> for Node {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        // Who isn't signed in learns nothing about what exists.
        caller(parts)?;
        param(parts, "node").await.map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(
            header::COOKIE,
            "a=1; faultline_session=xyz".parse().unwrap(),
        );
        headers.append(header::COOKIE, "theme=dark".parse().unwrap());
        assert_eq!(cookie(&headers, SESSION), Some("xyz"));
        assert_eq!(cookie(&headers, "theme"), Some("dark"));
        assert_eq!(cookie(&headers, "b"), None);
    }
}
