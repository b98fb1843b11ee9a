//! `/people`: the people of this installation and their invitations. For operators.

use std::collections::HashMap;

use askama::Template;
use axum::{
    Form,
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use faultline_domain::{
    PersonId,
    person::{Invitation, Validity},
};
use faultline_store::people::PersonChange;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::{
    after_form,
    layout::{Frame, Layout},
    page, text,
};
use crate::{
    app::{App, Shared},
    auth::{Operator, Person, Row},
    operations::{
        invitations::{self, NewInvitation},
        people,
    },
    problem::Problem,
};

/// The number of invitations that are shown.
const SHOWN: u32 = 30;

struct Someone {
    id: String,
    is_caller: bool,
    name: String,
    login: String,
    role: &'static str,
    is_disabled: bool,
    joined: String,
    last_sign_in: String,
    open: usize,
}

/// An invitation, as pages show it.
pub(super) struct Invited {
    pub id: String,
    pub note: String,
    pub role: &'static str,
    /// The access code while it can be used; empty for others.
    pub code: String,
    pub by: String,
    pub left: String,
    pub is_open: bool,
    pub accepted_by: String,
}

impl Invited {
    pub(super) fn new(of: Invitation, names: &HashMap<PersonId, String>, now: Timestamp) -> Self {
        let validity = of.validity(now);
        let is_open = validity == Validity::Open;
        let uses = text::plural(of.uses_left as usize, "use", "uses");
        Self {
            left: if is_open {
                format!("{uses} left, {}", days(of.expires_at.duration_since(now)))
            } else {
                validity.as_str().to_owned()
            },
            code: of
                .code
                .filter(|_| is_open)
                .map_or_else(String::new, |code| code.to_string()),
            is_open,
            id: of.id,
            note: of.note,
            role: of.role.as_str(),
            by: names.get(&of.created_by).cloned().unwrap_or_default(),
            accepted_by: of.accepted_by.join(", "),
        }
    }
}

/// A new link or access code.
pub(super) struct Made {
    pub about: String,
    pub link: String,
    pub code: Option<String>,
}

#[derive(Template)]
#[template(path = "people.html")]
struct Page {
    layout: Layout,
    people: Vec<Someone>,
    invitations: Vec<Invited>,
    problem: Option<Problem>,
    /// A new link or code: what it is for, the link, and the code.
    made: Option<Made>,
}

/// Formats the time until an invitation expires, rounded up to days.
fn days(left: SignedDuration) -> String {
    let days = usize::try_from(left.as_hours() / 24 + 1).unwrap_or_default();
    format!("valid for {}", text::plural(days, "day", "days"))
}

async fn render(
    app: &App,
    operator: &Operator,
    frame: &Frame,
    problem: Option<Problem>,
    made: Option<Made>,
) -> Result<Response, Problem> {
    let now = app.now();
    let mut open: HashMap<PersonId, usize> = HashMap::new();
    for e in app.store.unfinished_environments().await? {
        *open.entry(e.person).or_default() += 1;
    }
    let all = app.store.people().await?;
    let names: HashMap<_, _> = all.iter().map(|p| (p.id.clone(), p.name.clone())).collect();
    let people = all
        .into_iter()
        .map(|p| Someone {
            is_caller: p.id == *operator.proof.person(),
            open: open.get(&p.id).copied().unwrap_or_default(),
            id: p.id.to_string(),
            name: p.name,
            login: p.login.map_or_else(String::new, |login| login.to_string()),
            role: p.role.as_str(),
            is_disabled: p.disabled_at.is_some(),
            joined: text::ago(p.created_at, now),
            last_sign_in: p
                .last_sign_in
                .map_or_else(|| "never".to_owned(), |at| text::ago(at, now)),
        })
        .collect();
    let invitations = app
        .store
        .invitations(SHOWN)
        .await?
        .into_iter()
        .map(|invitation| Invited::new(invitation, &names, now))
        .collect();
    page(&Page {
        layout: frame.layout("People", &operator.caller),
        people,
        invitations,
        problem,
        made,
    })
}

pub(super) async fn show(
    State(app): State<Shared>,
    operator: Operator,
    frame: Frame,
) -> Result<Response, Problem> {
    render(&app, &operator, &frame, None, None).await
}

#[derive(Deserialize)]
pub(super) struct Invite {
    #[serde(default)]
    note: String,
    #[serde(default)]
    role: String,
    #[serde(default)]
    uses: String,
    #[serde(default)]
    days: String,
    /// `code` for an access code.
    #[serde(default)]
    by: String,
}

impl Invite {
    fn read(&self) -> Result<NewInvitation, Problem> {
        let number = |text: &str| text.trim().parse().map_err(|_| ());
        let (Ok(uses), Ok(days)) = (number(&self.uses), number(&self.days)) else {
            return Err(Problem::bad_request(
                "Enter the number of people and of days as whole numbers.",
            ));
        };
        let role = self.role.parse().map_err(|_| {
            Problem::bad_request(
                "Choose one of the roles: student, author, instructor or operator.",
            )
        })?;
        Ok(NewInvitation {
            note: self.note.clone(),
            role,
            uses,
            days,
            by_code: self.by == "code",
        })
    }
}

pub(super) async fn invite(
    State(app): State<Shared>,
    operator: Operator,
    frame: Frame,
    Form(new): Form<Invite>,
) -> Result<Response, Problem> {
    let made = match new.read() {
        Ok(new) => invitations::invite(&app, &operator.proof, &new)
            .await
            .map(|made| (new, made)),
        Err(problem) => Err(problem),
    };
    match made {
        Ok((new, (invitation, link))) => {
            let about = format!(
                "An invitation for {} as {}",
                text::plural(new.uses as usize, "person", "people"),
                invitation.role.as_str()
            );
            let code = invitation.code.map(|code| code.to_string());
            let made = Made { about, link, code };
            render(&app, &operator, &frame, None, Some(made)).await
        }
        Err(problem) => {
            let refused: Result<(), _> = Err(problem);
            after_form(refused, "/people", async |problem| {
                render(&app, &operator, &frame, Some(problem), None).await
            })
            .await
        }
    }
}

pub(super) async fn withdraw(
    State(app): State<Shared>,
    operator: Operator,
    Row(id): Row,
) -> Result<Response, Problem> {
    invitations::withdraw(&app, &operator.proof, &id).await?;
    Ok(Redirect::to("/people").into_response())
}

#[derive(Deserialize)]
pub(super) struct Change {
    #[serde(default)]
    change: String,
}

pub(super) async fn change(
    State(app): State<Shared>,
    operator: Operator,
    Person(person): Person,
    frame: Frame,
    Form(wanted): Form<Change>,
) -> Result<Response, Problem> {
    let wanted = match wanted.change.as_str() {
        "disable" => PersonChange::Disable,
        "enable" => PersonChange::Enable,
        role => match role.parse() {
            Ok(role) => PersonChange::Role(role),
            Err(_) => return Err(Problem::bad_request("There is no such change.")),
        },
    };
    let done = people::change(&app, &operator.proof, &person, wanted).await;
    after_form(done, "/people", async |problem| {
        render(&app, &operator, &frame, Some(problem), None).await
    })
    .await
}

pub(super) async fn reset_password(
    State(app): State<Shared>,
    operator: Operator,
    Person(person): Person,
    frame: Frame,
) -> Result<Response, Problem> {
    let (link, _) = people::reset_password(&app, &operator.proof, &person).await?;
    let named = app.store.person(&person).await?;
    let name = named.map_or_else(|| person.to_string(), |p| p.name);
    let about = format!("A link that signs {name} in, once, within 24 hours");
    let code = None;
    let made = Made { about, link, code };
    render(&app, &operator, &frame, None, Some(made)).await
}

pub(super) async fn delete(
    State(app): State<Shared>,
    operator: Operator,
    Person(person): Person,
    frame: Frame,
) -> Result<Response, Problem> {
    let done = people::delete(&app, &operator.proof, &person).await;
    after_form(done, "/people", async |problem| {
        render(&app, &operator, &frame, Some(problem), None).await
    })
    .await
}
