//! Groups: create and delete them, change their members, and see the members' progress.

use faultline_domain::{
    PersonId,
    attempt::Attempt,
    authz::{MayInstruct, MayOperate, Role},
    environment::Environment,
    group::{Group, Member},
    person::ValidFor,
};
use faultline_store::groups::GroupChanged;

use crate::{
    app::App,
    lock::lock,
    operations::{
        invitations::{self, Made, NewInvitation},
        line,
    },
    problem::Problem,
};

fn done(changed: GroupChanged) -> Result<(), Problem> {
    match changed {
        GroupChanged::Done => Ok(()),
        GroupChanged::NotFound => Err(Problem::not_found()),
        GroupChanged::NameTaken => Err(Problem::bad_request("Another group has this name.")),
    }
}

/// Creates a group.
pub(crate) async fn create(app: &App, who: &MayOperate, name: &str) -> Result<Group, Problem> {
    let (id, name) = (app.row_id(), line("The name", name, Group::MAX_NAME)?);
    if name.is_empty() {
        return Err(Problem::bad_request("Enter a name for the group."));
    }
    done(
        app.store
            .create_group(&id, &name, who.person(), app.now())
            .await?,
    )?;
    let made = app.store.group(&id).await?;
    made.ok_or_else(Problem::not_found)
}

/// Deletes a group. Its members stay.
pub(crate) async fn delete(app: &App, who: &MayOperate, id: &str) -> Result<(), Problem> {
    done(app.store.delete_group(id, who.person(), app.now()).await?)
}

/// Adds a member, or changes whether the member instructs the group.
pub(crate) async fn add_member(
    app: &App,
    who: &MayOperate,
    group: &str,
    person: &PersonId,
    instructs: bool,
) -> Result<(), Problem> {
    let known = app.store.person(person).await?;
    let known = known.ok_or_else(Problem::not_found)?;
    if instructs && matches!(known.role, Role::Student | Role::Author) {
        return Err(Problem::bad_request(format!(
            "{} has another role. Only people with the role instructor or operator can instruct a group; change the role first.",
            known.name
        )));
    }
    let (store, now) = (&app.store, app.now());
    done(
        store
            .add_member(group, person, instructs, who.person(), now)
            .await?,
    )
}

/// Removes a member.
pub(crate) async fn remove_member(
    app: &App,
    who: &MayOperate,
    group: &str,
    person: &PersonId,
) -> Result<(), Problem> {
    let (store, now) = (&app.store, app.now());
    done(
        store
            .remove_member(group, person, who.person(), now)
            .await?,
    )
}

/// Creates an invitation by which students join a group.
pub(crate) async fn invite(
    app: &App,
    who: &MayInstruct,
    uses: u32,
    valid: ValidFor,
    by_code: bool,
    mail_to: String,
) -> Result<Made, Problem> {
    let new = NewInvitation {
        note: who.group().name.clone(),
        role: Role::Student,
        uses,
        valid,
        by_code,
        mail_to,
    };
    invitations::create(app, who.person(), &new, Some(who.group())).await
}

/// A member's work.
pub(crate) struct Progress {
    pub member: Member,
    /// The number of labs that the member has solved.
    pub solved: usize,
    /// What the member works on now, latest first.
    pub open: Vec<OpenLab>,
}

/// A lab that a member works on.
pub(crate) struct OpenLab {
    pub environment: Environment,
    pub attempt: Option<Attempt>,
    /// The number of checks that held in the last run, and of all checks. `None` if they were not run.
    pub checks: Option<(usize, usize)>,
    /// True while it waits in the queue.
    pub waits: bool,
}

/// Returns the progress of a group's members, as its instructors see it.
pub(crate) async fn progress(app: &App, who: &MayInstruct) -> Result<Vec<Progress>, Problem> {
    let mut all = Vec::new();
    for member in &who.group().members {
        let mut open = Vec::new();
        for environment in app.store.unfinished_of(&member.person).await? {
            if !environment.is_open() {
                continue;
            }
            let run = app.store.latest_checks(&environment.id).await?;
            let checks = run.filter(|run| run.finished_at.is_some()).map(|run| {
                let results = &run.results;
                let held = results.iter().filter(|result| result.passed).count();
                (held, results.len())
            });
            open.push(OpenLab {
                attempt: app.store.attempt(&environment.attempt).await?,
                waits: lock(&app.queue).contains_key(&environment.id),
                environment,
                checks,
            });
        }
        all.push(Progress {
            member: member.clone(),
            solved: app.store.solved_by(&member.person).await?.len(),
            open,
        });
    }
    Ok(all)
}
