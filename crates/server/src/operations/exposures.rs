//! Opens what an environment exposes, and shares it by links that expire.

use faultline_domain::{
    ExposureName,
    authz::{MayUse, MayVisit},
    environment::Environment,
    exposure::{Place, Report, Share, share_until},
};
use faultline_gateway::exposure::ENTER;
use faultline_store::{Secret, exposure_shares::NewShare};
use jiff::SignedDuration;

use crate::{
    app::App,
    problem::{Problem, sentence},
};

/// The lifetime of a code, within which the browser follows the redirect.
const CODE: SignedDuration = SignedDuration::from_mins(1);

/// Returns the last report of what an environment exposes; none before the first one.
pub(crate) async fn report(app: &App, e: &Environment) -> Result<Option<Report>, Problem> {
    match e.tenant_id().filter(|_| e.is_open()) {
        Some(tenant) => Ok(app.store.exposures(tenant).await?),
        None => Ok(None),
    }
}

/// Returns the URL of an exposure that exists.
async fn url(app: &App, e: &Environment, name: &ExposureName) -> Result<(Place, String), Problem> {
    let report = report(app, e).await?;
    let found = report.as_ref().and_then(|report| report.get(name));
    let place = found.ok_or_else(Problem::not_found)?.place(e);
    let url = app.config.exposure_url(&place);
    Ok((place, url.ok_or_else(Problem::not_found)?))
}

/// Returns a URL with a code that opens an exposure once, for the person of this session. If the person is not the
/// owner, this is written to the audit log.
pub(crate) async fn open(
    app: &App,
    session: &Secret,
    proof: &MayVisit,
    name: &ExposureName,
) -> Result<String, Problem> {
    let e = proof.environment();
    let (place, url) = url(app, e, name).await?;
    let (code, now) = (app.secret(), app.now());
    if !proof.is_owner() {
        let (who, id) = (Some(proof.person().as_str()), e.id.as_str());
        app.store.note(now, who, "visit", id, name.as_str()).await?;
    }
    let expires_at = now.saturating_add(CODE).unwrap_or(now);
    app.store
        .add_visit_code(&code, &place, session, expires_at)
        .await?;
    Ok(format!("{url}{ENTER}?code={}", code.expose()))
}

/// Makes a link by which anybody can open an exposure until it expires. Returns it with its share.
pub(crate) async fn share(
    app: &App,
    proof: &MayUse,
    name: &ExposureName,
    minutes: u32,
) -> Result<(Share, String), Problem> {
    let (place, url) = url(app, proof.environment(), name).await?;
    let (secret, id, now) = (app.secret(), app.row_id(), app.now());
    let new = NewShare {
        id: &id,
        secret: &secret,
        place: &place,
        person: proof.person(),
    };
    let until = |open| share_until(open, minutes, now);
    let share = app.store.add_share(&new, until, now).await?;
    let share = share.map_err(|denial| {
        let detail = sentence(&denial.to_string());
        Problem::conflict("not-shared", "It can't be shared", detail)
    })?;
    Ok((share, format!("{url}{ENTER}?code={}", secret.expose())))
}

/// Withdraws a link. What was opened with it ends.
pub(crate) async fn withdraw(app: &App, proof: &MayUse, id: &str) -> Result<(), Problem> {
    let e = &proof.environment().id;
    let withdrawn = app.store.withdraw_share(e, id, proof.person(), app.now());
    if !withdrawn.await? {
        return Err(Problem::not_found());
    }
    app.hub.poke(e);
    Ok(())
}
