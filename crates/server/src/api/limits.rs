//! Limits: the caller's own, and those of people and groups, for operators.

use axum::{Json, extract::State};
use faultline_domain::quota::{Frees, Holder, Overrides, Quota, Standing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::Body;
use crate::{
    app::Shared,
    auth::{GroupId, Instructed, Operator, Person, Signed},
    operations::limits,
    problem::Problem,
    quotas::{self, OwnLimits},
};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_limits))
        .routes(routes!(get_person_limits, set_person_limits))
        .routes(routes!(get_group_limits, set_group_limits))
}

/// A limit, and how much of it is used.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LimitView {
    /// Whose limit it is: `person`, `group` or `everyone`.
    holder: &'static str,
    /// The name of the group; none for other limits.
    group: Option<String>,
    /// `environments`, `starts_per_hour`, `hours_per_month` or `nodes`.
    resource: &'static str,
    /// How much is used, rounded down.
    used: u32,
    limit: u32,
    /// True if at least four fifths are used.
    near: bool,
    /// When some of what is used can be used again; none if that depends on when environments end.
    frees_at: Option<String>,
}

impl From<&Standing> for LimitView {
    fn from(of: &Standing) -> Self {
        let (holder, group) = match &of.holder {
            Holder::Person => ("person", None),
            Holder::Group(name) => ("group", Some(name.clone())),
            Holder::Everyone => ("everyone", None),
        };
        Self {
            holder,
            group,
            resource: of.resource.as_str(),
            used: of.used,
            limit: of.most,
            near: of.is_near(),
            frees_at: match of.frees {
                Some(Frees::At(at, _)) => Some(at.to_string()),
                _ => None,
            },
        }
    }
}

/// Limits by resource.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QuotaView {
    environments: Option<u32>,
    starts_per_hour: Option<u32>,
    hours_per_month: Option<u32>,
    nodes: Option<u32>,
}

impl From<Quota> for QuotaView {
    fn from(of: Quota) -> Self {
        Self {
            environments: of.environments,
            starts_per_hour: of.starts,
            hours_per_month: of.hours,
            nodes: of.nodes,
        }
    }
}

/// The limits of a person or a group.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LimitsView {
    /// The limits without exceptions; none where nothing is limited.
    defaults: QuotaView,
    /// The exceptions: 0 for no limit, none for the default.
    overrides: QuotaView,
    /// The limits that apply, with how much of each is used.
    limits: Vec<LimitView>,
}

impl From<OwnLimits> for LimitsView {
    fn from(of: OwnLimits) -> Self {
        Self {
            defaults: of.default.into(),
            overrides: QuotaView {
                environments: of.overrides.environments,
                starts_per_hour: of.overrides.starts,
                hours_per_month: of.overrides.hours,
                nodes: of.overrides.nodes,
            },
            limits: of.standings.iter().map(LimitView::from).collect(),
        }
    }
}

/// Exceptions from the default limits. 0 is no limit; what is left out has its default.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitsUpdate {
    /// Environments at the same time.
    environments: Option<u32>,
    /// Starts and resets within an hour.
    starts_per_hour: Option<u32>,
    /// Hours of running environments within a calendar month (UTC).
    hours_per_month: Option<u32>,
    /// Nodes at the same time.
    nodes: Option<u32>,
}

impl From<LimitsUpdate> for Overrides {
    fn from(of: LimitsUpdate) -> Self {
        Self {
            environments: of.environments,
            starts: of.starts_per_hour,
            hours: of.hours_per_month,
            nodes: of.nodes,
        }
    }
}

/// Lists the caller's limits, with those of the caller's groups and of everyone, and how much of each is used.
#[utoipa::path(get, path = "/api/v1/limits", tag = "limits",
    responses((status = 200, body = [LimitView]), (status = 401, body = Problem)))]
async fn list_limits(
    State(app): State<Shared>,
    Signed(caller): Signed,
) -> Result<Json<Vec<LimitView>>, Problem> {
    let limits = quotas::limits_of(&app, caller.signed_in.person()).await?;
    Ok(Json(limits.standings.iter().map(LimitView::from).collect()))
}

/// Returns a person's limits. For operators.
#[utoipa::path(get, path = "/api/v1/people/{person}/limits", tag = "limits", params(("person" = String, Path)),
    responses((status = 200, body = LimitsView), (status = 404, body = Problem)))]
async fn get_person_limits(
    State(app): State<Shared>,
    operator: Operator,
    Person(person): Person,
) -> Result<Json<LimitsView>, Problem> {
    let limits = limits::of_person(&app, &operator.proof, &person).await?;
    Ok(Json(limits.into()))
}

/// Makes exceptions from the default limits for a person, in place of earlier ones. For operators.
///
/// They apply from the next start on; environments that run are not ended.
#[utoipa::path(put, path = "/api/v1/people/{person}/limits", tag = "limits", params(("person" = String, Path)),
    request_body = LimitsUpdate,
    responses((status = 200, body = LimitsView), (status = 400, body = Problem), (status = 404, body = Problem)))]
async fn set_person_limits(
    State(app): State<Shared>,
    operator: Operator,
    Person(person): Person,
    Body(update): Body<LimitsUpdate>,
) -> Result<Json<LimitsView>, Problem> {
    limits::limit_person(&app, &operator.proof, &person, update.into()).await?;
    let limits = limits::of_person(&app, &operator.proof, &person).await?;
    Ok(Json(limits.into()))
}

/// Returns a group's limits. For its instructors and operators.
#[utoipa::path(get, path = "/api/v1/groups/{group}/limits", tag = "limits", params(("group" = String, Path)),
    responses((status = 200, body = LimitsView), (status = 404, body = Problem)))]
async fn get_group_limits(
    State(app): State<Shared>,
    instructed: Instructed,
) -> Result<Json<LimitsView>, Problem> {
    Ok(Json(
        limits::of_group(&app, &instructed.proof).await?.into(),
    ))
}

/// Makes exceptions from the default limits for a group, in place of earlier ones. For operators.
///
/// The members who don't instruct the group share its limits.
#[utoipa::path(put, path = "/api/v1/groups/{group}/limits", tag = "limits", params(("group" = String, Path)),
    request_body = LimitsUpdate,
    responses((status = 200, body = LimitsView), (status = 400, body = Problem), (status = 404, body = Problem)))]
async fn set_group_limits(
    State(app): State<Shared>,
    operator: Operator,
    instructed: Instructed,
    GroupId(group): GroupId,
    Body(update): Body<LimitsUpdate>,
) -> Result<Json<LimitsView>, Problem> {
    limits::limit_group(&app, &operator.proof, &group, update.into()).await?;
    Ok(Json(
        limits::of_group(&app, &instructed.proof).await?.into(),
    ))
}
