//! Authentication and authorization of requests.
//!
//! | module | holds |
//! |---|---|
//! | this one | two layers that authenticate, and extractors that return proofs of authorization |
//! | [`csrf`] | protection against cross-site request forgery |
//! | [`device`] | the browser that a request comes from, in words |
//! | [`oidc`] | the client of the identity provider |
//! | [`pending`] | sign-ins that have begun and are not finished |
//! | [`passkeys`] | what passkeys need |
//! | [`password`] | hashes and verifies passwords |
//!
//! A layer adds the [`Caller`] to the request. A handler takes [`Signed`], [`Mine`], [`Looking`], [`Visiting`],
//! [`Saved`], [`Managed`], [`Instructed`], [`Author`] or [`Operator`], and can't be called without it. Streams and terminals end when
//! [`Caller::withdrawn`] or [`Looking::withdrawn`] returns. Pages
//! accept only cookies and the API accepts only bearer tokens, so a malicious page can't make a browser use the API.

pub(crate) mod csrf;
pub(crate) mod device;
pub(crate) mod oidc;
pub(crate) mod passkeys;
pub(crate) mod password;
pub(crate) mod pending;

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{Method, header, request::Parts},
    middleware::Next,
    response::Response,
};
use faultline_domain::{
    EnvironmentId, SavePointId,
    authz::{
        MayAuthor, MayInstruct, MayLook, MayManage, MayOperate, MayUse, MayUseSavePoint, MayVisit,
        NotFound, Principal, Scope, SignedIn,
    },
    environment::Environment,
};
pub(crate) use faultline_gateway::exposure::cookie;
use faultline_store::Secret;

use crate::{
    app::{App, Shared},
    problem::Problem,
    rates::Origin,
};

/// The cookie that holds the session's token.
pub(crate) const SESSION: &str = "faultline_session";

/// A person whose session or token was verified.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub signed_in: SignedIn,
    /// The CSRF token that forms must carry; empty on the API.
    pub csrf: String,
    /// The session token or API token.
    pub secret: Secret,
    kind: Kind,
}

impl Caller {
    /// Returns the secret of the session; none if the caller has an API token.
    pub(crate) fn session(&self) -> Option<&Secret> {
        (self.kind == Kind::Session).then_some(&self.secret)
    }

    /// Waits until this credential is no longer valid: signed out, removed or expired. Streams and terminals then end.
    /// An error of the store doesn't count.
    pub(crate) async fn withdrawn(self, app: Shared) {
        loop {
            tokio::time::sleep(app.config.recheck()).await;
            if matches!(self.kind.holder(&app, &self.secret).await, Ok(None)) {
                return;
            }
        }
    }
}

/// The kind of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Session,
    Token,
}

impl Kind {
    /// Returns whom the credential belongs to and what it may do, if it is valid.
    async fn holder(
        self,
        app: &App,
        secret: &Secret,
    ) -> Result<Option<(Principal, Scope)>, faultline_store::Error> {
        match self {
            Self::Session => {
                let principal = app.store.session(secret, app.now()).await?;
                Ok(principal.map(|principal| (principal, Scope::Full)))
            }
            Self::Token => app.store.api_token(secret, app.now()).await,
        }
    }
}

/// Authenticates a request, within the rate limits. Without a valid credential, the request continues without a
/// [`Caller`].
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
    let Some((principal, scope)) = kind.holder(app, &secret).await? else {
        app.rates.wrong(from)?;
        return Ok(app.rates.stranger(from)?);
    };
    app.rates.right(hash)?;
    if kind == Kind::Session {
        app.store.touch_session(&secret, app.now()).await?;
    }
    if scope == Scope::Read && changes(request) {
        return Err(Problem::read_only());
    }
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

/// Returns true for a request that may change something, or opens a WebSocket, through which programs can be run.
fn changes(request: &Request) -> bool {
    let reads = request.method() == Method::GET || request.method() == Method::HEAD;
    !reads || request.headers().contains_key(header::UPGRADE)
}

/// Authenticates by the session cookie. For pages.
pub(crate) async fn by_session(
    State(app): State<Shared>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let presented = cookie(request.headers(), SESSION).and_then(Secret::presented);
    identify(&app, &mut request, Kind::Session, presented).await?;
    Ok(next.run(request).await)
}

/// Authenticates by the API token. For the API.
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

/// Extractor: a signed-in person.
#[derive(Debug)]
pub(crate) struct Signed(pub Caller);

impl FromRequestParts<Shared> for Signed {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        caller(parts).map(Self)
    }
}

/// Extractor: a signed-in person who may use the environment `{id}` of the path.
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

/// Extractor: a signed-in person who may look into the terminals of the environment `{id}` of the path.
#[derive(Debug)]
pub(crate) struct Looking {
    pub caller: Caller,
    pub proof: MayLook,
}

/// Why somebody may no longer look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Withdrawn {
    /// The credential is no longer valid.
    SignedOut,
    /// The person no longer has the role, or doesn't instruct the owner of the environment any more.
    NotAllowed,
}

impl Looking {
    pub(crate) const fn environment(&self) -> &Environment {
        self.proof.environment()
    }

    /// Waits until the person may no longer look, and returns why. An error of the store doesn't count.
    pub(crate) async fn withdrawn(&self, app: &App) -> Withdrawn {
        loop {
            tokio::time::sleep(app.config.recheck()).await;
            let Caller { kind, secret, .. } = &self.caller;
            let principal = match kind.holder(app, secret).await {
                Ok(Some((principal, _))) => principal,
                Ok(None) => return Withdrawn::SignedOut,
                Err(_) => continue,
            };
            let Ok(groups) = app.store.groups().await else {
                continue;
            };
            let now = SignedIn::verified(principal);
            if now.may_look(self.environment().clone(), &groups).is_err() {
                return Withdrawn::NotAllowed;
            }
        }
    }
}

impl FromRequestParts<Shared> for Looking {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        let caller = caller(parts)?;
        let environment = named(parts, app).await?;
        let groups = app.store.groups().await?;
        let proof = caller.signed_in.may_look(environment, &groups)?;
        Ok(Self { caller, proof })
    }
}

/// Returns the proof if the person may open what an environment exposes. Groups matter only to those who don't own it.
pub(crate) async fn may_visit(
    app: &App,
    who: &SignedIn,
    environment: Environment,
) -> Result<Result<MayVisit, NotFound>, faultline_store::Error> {
    let groups = if *who.person() == environment.person {
        Vec::new()
    } else {
        app.store.groups().await?
    };
    Ok(who.may_visit(environment, &groups))
}

/// Extractor: a signed-in person who may open what the environment `{id}` of the path exposes.
#[derive(Debug)]
pub(crate) struct Visiting {
    pub caller: Caller,
    pub proof: MayVisit,
}

impl FromRequestParts<Shared> for Visiting {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        let caller = caller(parts)?;
        let environment = named(parts, app).await?;
        let proof = may_visit(app, &caller.signed_in, environment).await?;
        Ok(Self {
            proof: proof?,
            caller,
        })
    }
}

/// Extractor: a signed-in person who may use the save point `{save}` of the path.
#[derive(Debug)]
pub(crate) struct Saved {
    pub proof: MayUseSavePoint,
}

impl FromRequestParts<Shared> for Saved {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        let caller = caller(parts)?;
        let id: SavePointId = param(parts, "save").await?;
        let save = app.store.save_point(&id).await?;
        let save = save.ok_or_else(Problem::not_found)?;
        let proof = caller.signed_in.may_use_save_point(save)?;
        Ok(Self { proof })
    }
}

/// Extractor: a signed-in person who may end the environment `{id}` of the path, and add and remove its nodes.
#[derive(Debug)]
pub(crate) struct Managed {
    pub proof: MayManage,
}

impl FromRequestParts<Shared> for Managed {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        let caller = caller(parts)?;
        let proof = caller.signed_in.may_manage(named(parts, app).await?)?;
        Ok(Self { proof })
    }
}

/// Returns the environment `{id}` of the path.
async fn named(parts: &mut Parts, app: &Shared) -> Result<Environment, Problem> {
    let id: EnvironmentId = param(parts, "id").await?;
    let environment = app.store.environment(&id).await?;
    environment.ok_or_else(Problem::not_found)
}

/// Extractor: a signed-in person who may see the group `{group}` of the path, and invite students to it.
#[derive(Debug)]
pub(crate) struct Instructed {
    pub caller: Caller,
    pub proof: MayInstruct,
}

impl FromRequestParts<Shared> for Instructed {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        let caller = caller(parts)?;
        let id: String = param(parts, "group").await?;
        let group = app.store.group(&id).await?;
        let group = group.ok_or_else(Problem::not_found)?;
        let proof = caller.signed_in.may_instruct(group)?;
        Ok(Self { caller, proof })
    }
}

/// Extractor: a signed-in author or operator.
#[derive(Debug)]
pub(crate) struct Author {
    pub caller: Caller,
    pub proof: MayAuthor,
}

impl FromRequestParts<Shared> for Author {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        let caller = caller(parts)?;
        let proof = caller.signed_in.may_author()?;
        Ok(Self { caller, proof })
    }
}

/// Extractor: a signed-in operator.
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

/// Parses a parameter of the path. A value that doesn't parse is "not found".
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

/// Extractor: the lab `{slug}` of the path.
#[derive(Debug)]
pub(crate) struct Slug(pub faultline_domain::LabSlug);

impl FromRequestParts<Shared> for Slug {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        // Without a valid credential, nobody learns what exists.
        caller(parts)?;
        param(parts, "slug").await.map(Self)
    }
}

/// Extractor: the node `{node}` of the path.
#[derive(Debug)]
pub(crate) struct Node(pub faultline_domain::NodeName);

impl FromRequestParts<Shared> for Node {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        // Without a valid credential, nobody learns what exists.
        caller(parts)?;
        param(parts, "node").await.map(Self)
    }
}

/// Extractor: the ID `{row}` of the path, such as that of a key, a token, a session or an invitation.
#[derive(Debug)]
pub(crate) struct Row(pub String);

impl FromRequestParts<Shared> for Row {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        // Without credentials, nobody learns what exists.
        caller(parts)?;
        param(parts, "row").await.map(Self)
    }
}

/// Extractor: the ID of the group `{group}` of the path.
#[derive(Debug)]
pub(crate) struct GroupId(pub String);

impl FromRequestParts<Shared> for GroupId {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        // Without credentials, nobody learns what exists.
        caller(parts)?;
        param(parts, "group").await.map(Self)
    }
}

/// Extractor: the person `{person}` of the path.
#[derive(Debug)]
pub(crate) struct Person(pub faultline_domain::PersonId);

impl FromRequestParts<Shared> for Person {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        // Without credentials, nobody learns what exists.
        caller(parts)?;
        param(parts, "person").await.map(Self)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;

    use super::*;

    #[test]
    fn a_cookie_is_found_among_others() {
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
