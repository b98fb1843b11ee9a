//! The caller's mail address; for operators, the state of mail.

use axum::{Extension, Json, extract::State, http::StatusCode};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Body,
    views::mail::{
        MailStatusView, MailTest, MailView, NewAddress, NoticesUpdate, SentCode, SentMail,
    },
};
use crate::{
    app::Shared,
    auth::{Operator, Signed},
    operations::mail,
    problem::Problem,
    rates::Origin,
};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(get_mail, enter_address, remove_address))
        .routes(routes!(confirm_address))
        .routes(routes!(set_notices))
        .routes(routes!(get_mail_status))
        .routes(routes!(send_test_mail))
}

/// Returns the caller's mail address, and whether they get mail about their environments.
#[utoipa::path(get, path = "/api/v1/me/mail", tag = "account", responses((status = 200, body = MailView)))]
async fn get_mail(
    State(app): State<Shared>,
    Signed(caller): Signed,
) -> Result<Json<MailView>, Problem> {
    let settings = mail::settings(&app, &caller.signed_in).await?;
    Ok(Json(settings.into()))
}

/// Enters a mail address of the caller. A code is sent there, which confirms it.
#[utoipa::path(put, path = "/api/v1/me/mail", tag = "account", request_body = NewAddress,
    responses((status = 202, description = "a code is sent to the address"), (status = 400, body = Problem),
        (status = 409, body = Problem)))]
async fn enter_address(
    State(app): State<Shared>,
    Signed(caller): Signed,
    Body(new): Body<NewAddress>,
) -> Result<StatusCode, Problem> {
    mail::enter(&app, &caller.signed_in, &new.address).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Removes the caller's mail address. They get no more mail.
#[utoipa::path(delete, path = "/api/v1/me/mail", tag = "account",
    responses((status = 204, description = "removed"), (status = 404, body = Problem)))]
async fn remove_address(
    State(app): State<Shared>,
    Signed(caller): Signed,
) -> Result<StatusCode, Problem> {
    mail::remove(&app, &caller.signed_in).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Confirms the mail address that the caller has entered, by the code that was sent there.
#[utoipa::path(post, path = "/api/v1/me/mail/confirm", tag = "account", request_body = SentCode,
    responses((status = 204, description = "confirmed"), (status = 400, body = Problem)))]
async fn confirm_address(
    State(app): State<Shared>,
    Extension(from): Extension<Origin>,
    Signed(caller): Signed,
    Body(sent): Body<SentCode>,
) -> Result<StatusCode, Problem> {
    mail::confirm(&app, &caller.signed_in, from, &sent.code).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets whether the caller gets mail about their environments: when one leaves the queue, and before one is paused or ends.
#[utoipa::path(put, path = "/api/v1/me/mail/notices", tag = "account", request_body = NoticesUpdate,
    responses((status = 204, description = "changed"), (status = 409, body = Problem)))]
async fn set_notices(
    State(app): State<Shared>,
    Signed(caller): Signed,
    Body(update): Body<NoticesUpdate>,
) -> Result<StatusCode, Problem> {
    mail::set_notices(&app, &caller.signed_in, update.wanted).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Returns the state of mail. For operators.
#[utoipa::path(get, path = "/api/v1/operator/mail", tag = "operator",
    responses((status = 200, body = MailStatusView), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn get_mail_status(
    State(app): State<Shared>,
    operator: Operator,
) -> Result<Json<MailStatusView>, Problem> {
    let mailer = mail::mailer(&app)?;
    let outbox = mail::status(&app, &operator.proof).await?;
    Ok(Json(MailStatusView::new(mailer, outbox)))
}

/// Sends a test, and waits until the mail server has accepted it. For operators.
#[utoipa::path(post, path = "/api/v1/operator/mail/test", tag = "operator", request_body = MailTest,
    responses((status = 200, body = SentMail), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 502, body = Problem)))]
async fn send_test_mail(
    State(app): State<Shared>,
    operator: Operator,
    Body(test): Body<MailTest>,
) -> Result<Json<SentMail>, Problem> {
    let to = mail::test(&app, &operator.proof, &test.to).await?;
    Ok(Json(SentMail { to: to.to_string() }))
}
