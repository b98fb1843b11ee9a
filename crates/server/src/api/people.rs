//! People and invitations, for operators.

use axum::{Json, extract::State, http::StatusCode};
use faultline_domain::{authz::Role, person::ValidFor};
use faultline_store::people::PersonChange;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Body, MaybeBody,
    views::{
        account::{ResetRequest, ResetView},
        people::{InvitationView, MadeInvitation, NewInvitationView, PersonUpdate, PersonView},
    },
};
use crate::{
    app::Shared,
    auth::{Operator, Person, Row},
    operations::{
        invitations::{self, NewInvitation},
        people,
    },
    problem::{Problem, sentence},
};

/// The maximum number of invitations that are listed.
const MAX_LISTED: u32 = 200;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_people))
        .routes(routes!(update_person, delete_person))
        .routes(routes!(reset_password))
        .routes(routes!(list_invitations, create_invitation))
        .routes(routes!(withdraw_invitation))
}

/// Lists all people. For operators.
#[utoipa::path(get, path = "/api/v1/people", tag = "people",
    responses((status = 200, body = [PersonView]), (status = 404, body = Problem)))]
async fn list_people(
    State(app): State<Shared>,
    _operator: Operator,
) -> Result<Json<Vec<PersonView>>, Problem> {
    let all = app.store.people().await?;
    Ok(Json(all.into_iter().map(PersonView::from).collect()))
}

/// Changes a person's role, or disables or enables the person. For operators.
///
/// The credentials of a disabled person are refused, and their connections end within seconds.
#[utoipa::path(patch, path = "/api/v1/people/{person}", tag = "people", params(("person" = String, Path)),
    request_body = PersonUpdate,
    responses((status = 200, body = PersonView), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
async fn update_person(
    State(app): State<Shared>,
    operator: Operator,
    Person(person): Person,
    Body(update): Body<PersonUpdate>,
) -> Result<Json<PersonView>, Problem> {
    let role = update
        .role
        .as_deref()
        .map(role)
        .transpose()?
        .map(PersonChange::Role);
    let access = update.disabled.map(|disabled| {
        if disabled {
            PersonChange::Disable
        } else {
            PersonChange::Enable
        }
    });
    for change in [role, access].into_iter().flatten() {
        people::change(&app, &operator.proof, &person, change).await?;
    }
    let person = app.store.person(&person).await?;
    Ok(Json(person.ok_or_else(Problem::not_found)?.into()))
}

/// Deletes a person. For operators.
///
/// Their name and credentials are removed, and their environments end. The audit log keeps what they did, by their ID.
#[utoipa::path(delete, path = "/api/v1/people/{person}", tag = "people", params(("person" = String, Path)),
    responses((status = 204, description = "deleted"), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn delete_person(
    State(app): State<Shared>,
    operator: Operator,
    Person(person): Person,
) -> Result<StatusCode, Problem> {
    people::delete(&app, &operator.proof, &person).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn role(name: &str) -> Result<Role, Problem> {
    name.parse()
        .map_err(|e: faultline_domain::authz::UnknownRole| Problem::bad_request(format!("{e}.")))
}

/// Removes a person's password, signs them out, and makes a link that signs them in once. For operators.
///
/// With `mail`, the link is sent to the person's mail address and is not in the response.
#[utoipa::path(post, path = "/api/v1/people/{person}/reset-password", tag = "people", params(("person" = String, Path)),
    request_body(content = Option<ResetRequest>),
    responses((status = 201, body = ResetView), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn reset_password(
    State(app): State<Shared>,
    operator: Operator,
    Person(person): Person,
    MaybeBody(request): MaybeBody<ResetRequest>,
) -> Result<(StatusCode, Json<ResetView>), Problem> {
    let by_mail = request.is_some_and(|request| request.mail);
    let reset = people::reset_password(&app, &operator.proof, &person, by_mail).await?;
    let view = ResetView {
        url: reset.link,
        mailed_to: reset.mailed_to.map(|address| address.to_string()),
        expires_at: reset.expires_at.to_string(),
    };
    Ok((StatusCode::CREATED, Json(view)))
}

/// Lists the latest invitations, newest first. For operators.
#[utoipa::path(get, path = "/api/v1/invitations", tag = "people",
    responses((status = 200, body = [InvitationView]), (status = 404, body = Problem)))]
async fn list_invitations(
    State(app): State<Shared>,
    _operator: Operator,
) -> Result<Json<Vec<InvitationView>>, Problem> {
    let all = app.store.invitations(MAX_LISTED).await?;
    let now = app.now();
    let view = |invitation| InvitationView::new(invitation, now);
    Ok(Json(all.into_iter().map(view).collect()))
}

/// Returns how long an invitation is valid; a week if nothing is set.
pub(super) fn valid(expires: Option<&str>, days: Option<u32>) -> Result<ValidFor, Problem> {
    match (expires, days) {
        (None, None) => Ok(ValidFor::DEFAULT),
        (Some(text), None) => invitations::valid_for(text),
        (None, Some(days)) => {
            let valid = ValidFor::days(days);
            valid.map_err(|e| Problem::bad_request(sentence(&e.to_string())))
        }
        (Some(_), Some(_)) => Err(Problem::bad_request(
            "Set either `expires` or `days`, not both.",
        )),
    }
}

/// Creates an invitation. For operators.
///
/// This response is the only one that contains the link. With `mail_to`, it is sent there, and only the mail contains it.
#[utoipa::path(post, path = "/api/v1/invitations", tag = "people", request_body = NewInvitationView,
    responses((status = 201, body = MadeInvitation), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
async fn create_invitation(
    State(app): State<Shared>,
    operator: Operator,
    Body(new): Body<NewInvitationView>,
) -> Result<(StatusCode, Json<MadeInvitation>), Problem> {
    let wanted = NewInvitation {
        role: role(&new.role)?,
        note: new.note,
        uses: new.uses,
        valid: valid(new.expires.as_deref(), new.days)?,
        by_code: new.by_code,
        mail_to: new.mail_to,
    };
    let made = invitations::invite(&app, &operator.proof, &wanted).await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

/// Withdraws an invitation. People who have accepted it stay. For operators.
#[utoipa::path(delete, path = "/api/v1/invitations/{row}", tag = "people", params(("row" = String, Path)),
    responses((status = 204, description = "withdrawn"), (status = 404, body = Problem)))]
async fn withdraw_invitation(
    State(app): State<Shared>,
    operator: Operator,
    Row(id): Row,
) -> Result<StatusCode, Problem> {
    invitations::withdraw(&app, &operator.proof, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
