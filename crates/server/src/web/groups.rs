//! `/groups`: groups, their members, and what they work on. For operators and the groups' instructors.

use askama::Template;
use axum::{
    Form,
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use faultline_domain::{
    attempt::Attempt,
    authz::{MayInstruct, Role},
    environment::Phase,
};
use serde::Deserialize;

use super::{
    after_form,
    layout::{Frame, Layout},
    limits::{LimitField, LimitRow, NewLimits},
    page,
    people::{Invited, Made, number_of_people},
    text,
};
use crate::{
    app::{App, Shared},
    auth::{Caller, GroupId, Instructed, Operator, Person, Row, Signed},
    operations::{
        groups::{self, OpenLab, Progress},
        invitations, limits,
    },
    problem::Problem,
};

/// The number of the server's latest invitations among which those to the group are shown.
const MAX_INVITATIONS: u32 = 500;

struct GroupRow {
    id: String,
    name: String,
    members: String,
    instructors: String,
}

#[derive(Template)]
#[template(path = "groups.html")]
struct ListPage {
    layout: Layout,
    groups: Vec<GroupRow>,
    problem: Option<Problem>,
}

/// Returns an error if the person has neither the role of an instructor nor of an operator.
fn instructs(caller: &Caller) -> Result<(), Problem> {
    match caller.signed_in.role() {
        Role::Instructor | Role::Operator => Ok(()),
        Role::Student | Role::Author => Err(Problem::not_found()),
    }
}

async fn render_list(
    app: &App,
    caller: &Caller,
    frame: &Frame,
    problem: Option<Problem>,
) -> Result<Response, Problem> {
    let all = app.store.groups().await?;
    let mine = all
        .into_iter()
        .filter_map(|group| caller.signed_in.may_instruct(group).ok());
    let groups = mine.map(|proof| {
        let group = proof.group();
        let instructors = group.members.iter().filter(|m| m.instructs);
        let names: Vec<&str> = instructors.map(|m| m.name.as_str()).collect();
        GroupRow {
            id: group.id.clone(),
            name: group.name.clone(),
            members: text::plural(
                group.members.iter().filter(|m| !m.instructs).count(),
                "member",
                "members",
            ),
            instructors: names.join(", "),
        }
    });
    page(&ListPage {
        layout: frame.layout("Groups", caller),
        groups: groups.collect(),
        problem,
    })
}

pub(super) async fn list(
    State(app): State<Shared>,
    Signed(caller): Signed,
    frame: Frame,
) -> Result<Response, Problem> {
    instructs(&caller)?;
    render_list(&app, &caller, &frame, None).await
}

#[derive(Deserialize)]
pub(super) struct NewGroup {
    #[serde(default)]
    name: String,
}

pub(super) async fn create(
    State(app): State<Shared>,
    operator: Operator,
    frame: Frame,
    Form(new): Form<NewGroup>,
) -> Result<Response, Problem> {
    let made = groups::create(&app, &operator.proof, &new.name).await;
    let here = made.as_ref().map(|group| format!("/groups/{}", group.id));
    let here = here.unwrap_or_default();
    after_form(made, &here, async |problem| {
        render_list(&app, &operator.caller, &frame, Some(problem)).await
    })
    .await
}

struct LabRow {
    title: String,
    phase: &'static str,
    class: &'static str,
    since: String,
    checks: String,
    hints: usize,
    /// The page that looks into its terminals, if there are any.
    look: Option<String>,
}

struct MemberRow {
    id: String,
    name: String,
    instructs: bool,
    solved: usize,
    labs: Vec<LabRow>,
}

#[derive(Template)]
#[template(path = "group.html")]
struct GroupPage {
    layout: Layout,
    id: String,
    name: String,
    members: Vec<MemberRow>,
    /// For operators: all people, with their roles.
    people: Vec<(String, String, &'static str)>,
    limits: Vec<LimitRow>,
    limit_fields: Vec<LimitField>,
    problem: Option<Problem>,
    invitations: Vec<Invited>,
    /// True if invitations can be mailed.
    can_mail: bool,
    /// A new invitation.
    made: Option<Made>,
}

fn lab(app: &App, proof: &MayInstruct, of: &OpenLab) -> LabRow {
    let e = &of.environment;
    let now = app.now();
    let solved = of.attempt.as_ref().is_some_and(Attempt::is_repaired);
    let (phase, class) = match e.state.phase() {
        _ if solved => ("repaired", "good"),
        _ if of.waits => ("waiting", "none"),
        Phase::Active => ("working", "run"),
        Phase::Suspended => ("paused", "none"),
        _ => ("starting", "run"),
    };
    LabRow {
        title: app
            .lab(&e.lab)
            .map_or_else(|| e.lab.to_string(), |lab| lab.lab.title.clone()),
        phase,
        class,
        since: text::ago(e.created_at, now),
        checks: of.checks.map_or_else(
            || "not checked yet".to_owned(),
            |(held, all)| format!("{held} of {all} checks pass"),
        ),
        hints: of.attempt.as_ref().map_or(0, |attempt| attempt.hints.len()),
        look: (e.state.phase() == Phase::Active && proof.group().has_student(&e.person))
            .then(|| format!("/environments/{}/look", e.id)),
    }
}

async fn render(
    app: &App,
    instructed: &Instructed,
    frame: &Frame,
    problem: Option<Problem>,
    made: Option<Made>,
) -> Result<Response, Problem> {
    let proof = &instructed.proof;
    let group = proof.group();
    let row = |of: Progress| MemberRow {
        labs: of.open.iter().map(|open| lab(app, proof, open)).collect(),
        id: of.member.person.to_string(),
        name: of.member.name,
        instructs: of.member.instructs,
        solved: of.solved,
    };
    let members = groups::progress(app, proof).await?;
    let own = limits::of_group(app, proof).await?;
    let invitations = invitations::of_group(app, proof, MAX_INVITATIONS).await?;
    // Whoever instructs the group sees who invited to it.
    let names = app.store.people().await?.into_iter();
    let names = names.map(|person| (person.id, person.name)).collect();
    let mut people = Vec::new();
    if instructed.caller.signed_in.may_operate().is_ok() {
        people = app
            .store
            .people()
            .await?
            .into_iter()
            .map(|p| (p.id.to_string(), p.name, p.role.as_str()))
            .collect();
    }
    page(&GroupPage {
        layout: frame.layout(&group.name, &instructed.caller),
        id: group.id.clone(),
        name: group.name.clone(),
        members: members.into_iter().map(row).collect(),
        people,
        limits: LimitRow::of_group(&own.standings, app.now()),
        limit_fields: LimitField::all(&own),
        problem,
        invitations: invitations
            .into_iter()
            .map(|invitation| Invited::new(invitation, &names, app.now()))
            .collect(),
        can_mail: app.mail.is_some(),
        made,
    })
}

pub(super) async fn show(
    State(app): State<Shared>,
    instructed: Instructed,
    frame: Frame,
) -> Result<Response, Problem> {
    render(&app, &instructed, &frame, None, None).await
}

/// Redirects to the group's page, or renders it with the problem.
async fn answer(
    app: &App,
    instructed: &Instructed,
    frame: &Frame,
    done: Result<(), Problem>,
) -> Result<Response, Problem> {
    let here = format!("/groups/{}", instructed.proof.group().id);
    after_form(done, &here, async |problem| {
        render(app, instructed, frame, Some(problem), None).await
    })
    .await
}

#[derive(Deserialize)]
pub(super) struct NewMember {
    #[serde(default)]
    person: String,
    #[serde(default)]
    part: String,
}

pub(super) async fn add(
    State(app): State<Shared>,
    operator: Operator,
    instructed: Instructed,
    frame: Frame,
    Form(new): Form<NewMember>,
) -> Result<Response, Problem> {
    let group = &instructed.proof.group().id;
    let done = match new.person.parse() {
        Ok(person) => {
            let instructs = new.part == "instructor";
            groups::add_member(&app, &operator.proof, group, &person, instructs).await
        }
        Err(_) => Err(Problem::bad_request("Choose a person.")),
    };
    answer(&app, &instructed, &frame, done).await
}

pub(super) async fn set_limits(
    State(app): State<Shared>,
    operator: Operator,
    instructed: Instructed,
    frame: Frame,
    Form(new): Form<NewLimits>,
) -> Result<Response, Problem> {
    let group = &instructed.proof.group().id;
    let done = match new.read() {
        Ok(new) => limits::limit_group(&app, &operator.proof, group, new).await,
        Err(problem) => Err(problem),
    };
    answer(&app, &instructed, &frame, done).await
}

pub(super) async fn remove(
    State(app): State<Shared>,
    operator: Operator,
    instructed: Instructed,
    Person(person): Person,
    frame: Frame,
) -> Result<Response, Problem> {
    let group = &instructed.proof.group().id;
    let done = groups::remove_member(&app, &operator.proof, group, &person).await;
    answer(&app, &instructed, &frame, done).await
}

pub(super) async fn delete(
    State(app): State<Shared>,
    operator: Operator,
    GroupId(id): GroupId,
) -> Result<Response, Problem> {
    groups::delete(&app, &operator.proof, &id).await?;
    Ok(Redirect::to("/groups").into_response())
}

pub(super) async fn withdraw(
    State(app): State<Shared>,
    instructed: Instructed,
    Row(id): Row,
) -> Result<Response, Problem> {
    invitations::withdraw_from_group(&app, &instructed.proof, &id).await?;
    let here = format!("/groups/{}", instructed.proof.group().id);
    Ok(Redirect::to(&here).into_response())
}

#[derive(Deserialize)]
pub(super) struct Invite {
    #[serde(default)]
    uses: String,
    #[serde(default)]
    expires: String,
    /// `code` for an access code.
    #[serde(default)]
    by: String,
    #[serde(default)]
    mail_to: String,
}

pub(super) async fn invite(
    State(app): State<Shared>,
    instructed: Instructed,
    frame: Frame,
    Form(new): Form<Invite>,
) -> Result<Response, Problem> {
    let wanted = number_of_people(&new.uses)
        .and_then(|uses| Ok((uses, invitations::valid_for(&new.expires)?)));
    let made = match wanted {
        Ok((uses, valid)) => {
            let (proof, by_code) = (&instructed.proof, new.by == "code");
            groups::invite(&app, proof, uses, valid, by_code, new.mail_to).await
        }
        Err(problem) => Err(problem),
    };
    match made {
        Ok(made) => {
            let about = format!("An invitation to {}", instructed.proof.group().name);
            let made = Made::invitation(about, made);
            render(&app, &instructed, &frame, None, Some(made)).await
        }
        Err(problem) => answer(&app, &instructed, &frame, Err(problem)).await,
    }
}
