//! Groups, for operators and their instructors.

use axum::{Json, extract::State, http::StatusCode};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Body,
    people::valid,
    views::{
        groups::{
            GroupDetail, GroupView, MemberUpdate, NewGroup, NewGroupInvitation, ProgressView,
        },
        people::{InvitationView, MadeInvitation},
    },
};
use crate::{
    app::Shared,
    auth::{GroupId, Instructed, Operator, Person, Row, Signed},
    operations::{groups, invitations},
    problem::Problem,
};

/// The number of the server's latest invitations among which those to the group are listed.
const MAX_INVITATIONS: u32 = 500;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_groups, create_group))
        .routes(routes!(get_group, delete_group))
        .routes(routes!(update_member, remove_member))
        .routes(routes!(list_group_invitations, create_group_invitation))
        .routes(routes!(withdraw_group_invitation))
}

/// Lists the groups that the person instructs; for operators, all groups.
#[utoipa::path(get, path = "/api/v1/groups", tag = "groups",
    responses((status = 200, body = [GroupView]), (status = 401, body = Problem)))]
async fn list_groups(
    State(app): State<Shared>,
    Signed(caller): Signed,
) -> Result<Json<Vec<GroupView>>, Problem> {
    let all = app.store.groups().await?;
    let mine = all
        .into_iter()
        .filter_map(|group| caller.signed_in.may_instruct(group).ok());
    Ok(Json(mine.map(|proof| proof.group().into()).collect()))
}

/// Creates a group. For operators.
#[utoipa::path(post, path = "/api/v1/groups", tag = "groups", request_body = NewGroup,
    responses((status = 201, body = GroupView), (status = 400, body = Problem), (status = 404, body = Problem)))]
async fn create_group(
    State(app): State<Shared>,
    operator: Operator,
    Body(new): Body<NewGroup>,
) -> Result<(StatusCode, Json<GroupView>), Problem> {
    let group = groups::create(&app, &operator.proof, &new.name).await?;
    Ok((StatusCode::CREATED, Json((&group).into())))
}

/// Returns a group with its members' progress. For its instructors and operators.
#[utoipa::path(get, path = "/api/v1/groups/{group}", tag = "groups", params(("group" = String, Path)),
    responses((status = 200, body = GroupDetail), (status = 404, body = Problem)))]
async fn get_group(
    State(app): State<Shared>,
    instructed: Instructed,
) -> Result<Json<GroupDetail>, Problem> {
    let proof = &instructed.proof;
    let members = groups::progress(&app, proof).await?;
    Ok(Json(GroupDetail {
        group: proof.group().into(),
        progress: members.iter().map(ProgressView::from).collect(),
    }))
}

/// Deletes a group. Its members stay. For operators.
#[utoipa::path(delete, path = "/api/v1/groups/{group}", tag = "groups", params(("group" = String, Path)),
    responses((status = 204, description = "deleted"), (status = 404, body = Problem)))]
async fn delete_group(
    State(app): State<Shared>,
    operator: Operator,
    GroupId(id): GroupId,
) -> Result<StatusCode, Problem> {
    groups::delete(&app, &operator.proof, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Adds a member to a group, or changes whether the member instructs it. For operators.
#[utoipa::path(put, path = "/api/v1/groups/{group}/members/{person}", tag = "groups",
    params(("group" = String, Path), ("person" = String, Path)), request_body = MemberUpdate,
    responses((status = 204, description = "changed"), (status = 400, body = Problem), (status = 404, body = Problem)))]
async fn update_member(
    State(app): State<Shared>,
    operator: Operator,
    GroupId(id): GroupId,
    Person(person): Person,
    Body(update): Body<MemberUpdate>,
) -> Result<StatusCode, Problem> {
    groups::add_member(&app, &operator.proof, &id, &person, update.instructs).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a member from a group. For operators.
#[utoipa::path(delete, path = "/api/v1/groups/{group}/members/{person}", tag = "groups",
    params(("group" = String, Path), ("person" = String, Path)),
    responses((status = 204, description = "removed"), (status = 404, body = Problem)))]
async fn remove_member(
    State(app): State<Shared>,
    operator: Operator,
    GroupId(id): GroupId,
    Person(person): Person,
) -> Result<StatusCode, Problem> {
    groups::remove_member(&app, &operator.proof, &id, &person).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Creates an invitation by which students join a group. For its instructors and operators.
///
/// This response is the only one that contains the link. With `mail_to`, it is sent there, and only the mail contains it.
#[utoipa::path(post, path = "/api/v1/groups/{group}/invitations", tag = "groups", params(("group" = String, Path)),
    request_body = NewGroupInvitation,
    responses((status = 201, body = MadeInvitation), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
async fn create_group_invitation(
    State(app): State<Shared>,
    instructed: Instructed,
    Body(new): Body<NewGroupInvitation>,
) -> Result<(StatusCode, Json<MadeInvitation>), Problem> {
    let proof = &instructed.proof;
    let NewGroupInvitation {
        uses,
        expires,
        days,
        by_code,
        mail_to,
    } = new;
    let valid = valid(expires.as_deref(), days)?;
    let made = groups::invite(&app, proof, uses, valid, by_code, mail_to).await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

/// Lists the latest invitations to a group, newest first. For its instructors and operators.
#[utoipa::path(get, path = "/api/v1/groups/{group}/invitations", tag = "groups", params(("group" = String, Path)),
    responses((status = 200, body = [InvitationView]), (status = 404, body = Problem)))]
async fn list_group_invitations(
    State(app): State<Shared>,
    instructed: Instructed,
) -> Result<Json<Vec<InvitationView>>, Problem> {
    let all = invitations::of_group(&app, &instructed.proof, MAX_INVITATIONS).await?;
    let now = app.now();
    let view = |invitation| InvitationView::new(invitation, now);
    Ok(Json(all.into_iter().map(view).collect()))
}

/// Withdraws an invitation to a group. People who have accepted it stay. For its instructors and operators.
#[utoipa::path(delete, path = "/api/v1/groups/{group}/invitations/{row}", tag = "groups",
    params(("group" = String, Path), ("row" = String, Path)),
    responses((status = 204, description = "withdrawn"), (status = 404, body = Problem)))]
async fn withdraw_group_invitation(
    State(app): State<Shared>,
    instructed: Instructed,
    Row(id): Row,
) -> Result<StatusCode, Problem> {
    invitations::withdraw_from_group(&app, &instructed.proof, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
