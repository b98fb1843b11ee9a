//! Authorization for the gateway to what tenants expose, from the store; and which requests are for it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use faultline_domain::{
    EnvironmentId,
    authz::SignedIn,
    environment::Environment,
    exposure::{Addressee, ExposureDomain, Place},
};
use faultline_gateway::exposure::{
    Config as GatewayConfig, Exposures, Gateway, Grant, Limits, Refusal, Visit, refusal::Refused,
};
use faultline_store::{Secret, exposure_visits::Visitor};
use jiff::SignedDuration;
use tower::ServiceExt;

use crate::{
    app::{App, Shared},
    auth::may_visit,
    entrance::{Shut, shut},
    problem::Problem,
    rates::Origin,
};

/// The lifetime of a visitor's cookie. It ends earlier with the session or the share that it was made with.
const VISIT: SignedDuration = SignedDuration::from_hours(24);
/// The time that a tenant may take to begin its response. It may be emulated or under load.
const RESPONSE: Duration = Duration::from_secs(60);

/// What gets requests by their host name, before any route of the platform sees them.
#[derive(Clone)]
pub(crate) struct Entry {
    app: Shared,
    domain: ExposureDomain,
    gateway: Gateway,
}

impl Entry {
    /// Returns the entry; none if nothing is exposed.
    pub(crate) fn new(app: &Shared) -> Option<Self> {
        let settings = &app.config.exposure;
        let config = GatewayConfig {
            https: app.config.is_https(),
            limits: Limits {
                at_once: settings.max_requests,
                per_second: settings.requests_per_second,
                bytes_per_hour: settings.mib_per_hour.saturating_mul(1 << 20),
            },
            response: RESPONSE,
        };
        Some(Self {
            domain: app.config.exposure_domain()?,
            gateway: Gateway::new(
                Arc::new(StoreExposures(app.clone())),
                app.provider.clone(),
                config,
                app.tasks.clone(),
                app.stopping.child_token(),
            ),
            app: app.clone(),
        })
    }

    /// Answers a request that is for an exposure; passes any other on to the platform.
    pub(crate) async fn answer(self, platform: Router, request: Request) -> Response {
        match self.addressee(&request) {
            Addressee::Platform => match platform.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
            Addressee::Nobody => Refusal::nobody().response(false).map(Body::new),
            Addressee::Exposure(place) => self.expose(&place, request).await,
        }
    }

    /// Returns whom a request is for. If it names two hosts, one of them below the domain, the platform doesn't see it.
    fn addressee(&self, request: &Request) -> Addressee {
        let of = |host: &str| self.domain.addressee(host);
        let target = request.uri().authority().map(|a| of(a.as_str()));
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok()).map(of);
        match (target, host) {
            _ if hosts.next().is_some() => Addressee::Nobody,
            (Some(a), Some(b)) if a != b => Addressee::Nobody,
            (Some(one), _) | (None, Some(one)) => one,
            (None, None) => Addressee::Platform,
        }
    }

    /// Answers within the rate limits of strangers: a visitor has a valid cookie.
    async fn expose(&self, place: &Place, request: Request) -> Response {
        let rates = &self.app.rates;
        let from = Origin::of(&request, &self.app.config);
        let has_cookie = self.gateway.has_cookie(request.headers());
        if !has_cookie && let Err(wait) = rates.stranger(from) {
            return Problem::from(wait).into_response();
        }
        let answer = self.gateway.answer(place, request, from.address()).await;
        let refused = answer.extensions().get::<Refused>().is_some();
        if has_cookie
            && refused
            && let Err(wait) = rates.wrong(from)
        {
            return Problem::from(wait).into_response();
        }
        answer.map(Body::new)
    }
}

/// The gateway's view of exposures, backed by the store.
struct StoreExposures(Shared);

impl StoreExposures {
    /// Returns the page of the platform that a visitor without a valid cookie is led to.
    fn workspace(&self, place: &Place) -> String {
        let path = format!("/environments/{}", place.environment);
        self.0.config.url(&path)
    }

    /// Returns the environment and whether the visitor owns it, if the visitor may open the exposure.
    async fn visited(
        &self,
        place: &Place,
        cookie: Option<&str>,
    ) -> Result<Option<(Environment, bool)>, faultline_store::Error> {
        let app = &self.0;
        let Some(cookie) = cookie.and_then(Secret::presented) else {
            return Ok(None);
        };
        let Some(visitor) = app.store.visitor(&cookie, place, app.now()).await? else {
            return Ok(None);
        };
        let Some(environment) = app.store.environment(&place.environment).await? else {
            return Ok(None);
        };
        let Visitor::Person(principal) = visitor else {
            return Ok(Some((environment, false)));
        };
        let proof = may_visit(app, &SignedIn::verified(principal), environment).await?;
        Ok(proof
            .ok()
            .map(|proof| (proof.environment().clone(), proof.is_owner())))
    }
}

fn undecided(e: faultline_store::Error) -> Refusal {
    tracing::error!(error = &e as &dyn std::error::Error, "the store failed");
    Refusal::undecided()
}

#[async_trait]
impl Exposures for StoreExposures {
    async fn admit(&self, place: &Place, cookie: Option<&str>) -> Result<Grant, Refusal> {
        let app: &App = &self.0;
        let private = || Refusal::private(self.workspace(place));
        let visited = self.visited(place, cookie).await.map_err(undecided)?;
        let (e, is_owner) = visited.ok_or_else(private)?;
        let closed = |status, why| Refusal::closed(status, why, self.workspace(place));
        match shut(app, &e) {
            Some(Shut::Over(why)) => return Err(closed(StatusCode::GONE, why)),
            Some(Shut::NotNow(why)) => return Err(closed(StatusCode::SERVICE_UNAVAILABLE, why)),
            None => {}
        }
        let tenant = e.tenant_id().ok_or_else(Refusal::undecided)?;
        let report = app.store.exposures(tenant).await.map_err(undecided)?;
        let exposure = report.as_ref().and_then(|report| report.get(&place.name));
        let exposure = exposure.ok_or_else(|| {
            let why = format!("environment {} exposes no {} now", e.id, place.name);
            closed(StatusCode::NOT_FOUND, why)
        })?;
        Ok(Grant {
            place: place.clone(),
            tenant: tenant.clone(),
            nodes: exposure.nodes(&e),
            port: exposure.port,
            host: exposure.host().map(str::to_owned),
            is_owner,
        })
    }

    async fn enter(&self, place: &Place, code: &str) -> Result<Visit, Refusal> {
        let app = &self.0;
        let private = || Refusal::private(self.workspace(place));
        let code = Secret::presented(code).ok_or_else(private)?;
        let (cookie, now) = (app.secret(), app.now());
        let latest = now.saturating_add(VISIT).unwrap_or(now);
        let entered = app.store.enter(&code, place, &cookie, latest, now).await;
        let expires_at = entered.map_err(undecided)?.ok_or_else(private)?;
        Ok(Visit {
            secret: cookie.expose().to_owned(),
            seconds: expires_at.duration_since(now).as_secs(),
        })
    }

    async fn changed(&self, environment: &EnvironmentId) {
        let mut watch = self.0.hub.watch(environment);
        let recheck = tokio::time::sleep(self.0.config.recheck());
        tokio::select! {
            _ = watch.changed() => {}
            () = recheck => {}
        }
    }

    async fn used(&self, environment: &EnvironmentId) {
        self.0.touch(environment).await;
    }
}
