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
    /// The mail address to which a link can be sent; empty for none.
    mail: String,
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
                format!("{uses} left, {}", rest(of.expires_at.duration_since(now)))
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
    /// `None` if it is in the mail only.
    pub link: Option<String>,
    pub code: Option<String>,
    /// The address that it is mailed to; empty if it isn't.
    pub mailed_to: String,
}

impl Made {
    pub(super) fn invitation(about: String, of: invitations::Made) -> Self {
        Self {
            about,
            link: of.link,
            code: of.invitation.code.map(|code| code.to_string()),
            mailed_to: of.mailed_to.map_or_else(String::new, |to| to.to_string()),
        }
    }
}

#[derive(Template)]
#[template(path = "people.html")]
struct Page {
    layout: Layout,
    people: Vec<Someone>,
    invitations: Vec<Invited>,
    /// True if invitations can be mailed.
    can_mail: bool,
    problem: Option<Problem>,
    /// A new link or code: what it is for, the link, and the code.
    made: Option<Made>,
}

/// Formats the time until an invitation expires, rounded up to days, or to hours if there are few.
fn rest(left: SignedDuration) -> String {
    let hours = usize::try_from((left.as_secs() + 3599) / 3600).unwrap_or_default();
    let rest = match hours {
        ..48 => text::plural(hours, "hour", "hours"),
        _ => text::plural(hours.div_ceil(24), "day", "days"),
    };
    format!("valid for {rest}")
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
            mail: p
                .mail
                .filter(|_| app.mail.is_some())
                .map_or_else(String::new, |mail| mail.to_string()),
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
        can_mail: app.mail.is_some(),
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
    expires: String,
    /// `code` for an access code.
    #[serde(default)]
    by: String,
    #[serde(default)]
    mail_to: String,
}

/// Parses the number of people whom an invitation is for.
pub(super) fn number_of_people(text: &str) -> Result<u32, Problem> {
    let number = text.trim().parse();
    number.map_err(|_| Problem::bad_request("Enter the number of people as a whole number."))
}

impl Invite {
    fn read(&self) -> Result<NewInvitation, Problem> {
        let uses = number_of_people(&self.uses)?;
        let role = self.role.parse().map_err(|_| {
            Problem::bad_request(
                "Choose one of the roles: student, author, instructor or operator.",
            )
        })?;
        Ok(NewInvitation {
            note: self.note.clone(),
            role,
            uses,
            valid: invitations::valid_for(&self.expires)?,
            by_code: self.by == "code",
            mail_to: self.mail_to.clone(),
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
        Ok((new, made)) => {
            let about = format!(
                "An invitation for {} as {}",
                text::plural(new.uses as usize, "person", "people"),
                made.invitation.role.as_str()
            );
            let made = Made::invitation(about, made);
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

#[derive(Deserialize)]
pub(super) struct Reset {
    /// `mail` to send the link to the person's mail address.
    #[serde(default)]
    by: String,
}

pub(super) async fn reset_password(
    State(app): State<Shared>,
    operator: Operator,
    Person(person): Person,
    frame: Frame,
    Form(wanted): Form<Reset>,
) -> Result<Response, Problem> {
    let by_mail = wanted.by == "mail";
    let reset = match people::reset_password(&app, &operator.proof, &person, by_mail).await {
        Ok(reset) => reset,
        Err(problem) => {
            let refused: Result<(), _> = Err(problem);
            return after_form(refused, "/people", async |problem| {
                render(&app, &operator, &frame, Some(problem), None).await
            })
            .await;
        }
    };
    let named = app.store.person(&person).await?;
    let name = named.map_or_else(|| person.to_string(), |p| p.name);
    let about = format!("A link that signs {name} in, once, within 24 hours");
    let made = Made {
        about,
        link: reset.link,
        code: None,
        mailed_to: reset
            .mailed_to
            .map_or_else(String::new, |to| to.to_string()),
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_rounded_up() {
        for (minutes, text) in [
            (1, "valid for 1 hour"),
            (180, "valid for 3 hours"),
            (181, "valid for 4 hours"),
            (48 * 60, "valid for 2 days"),
            (7 * 24 * 60, "valid for 7 days"),
            (7 * 24 * 60 - 1, "valid for 7 days"),
        ] {
            assert_eq!(rest(SignedDuration::from_mins(minutes)), text);
        }
    }
}
