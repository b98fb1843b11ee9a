//! `faultline person`: the people of the server and their invitations, for operators.

use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use faultline_domain::{
    MailAddress,
    authz::Role,
    mail::NoAddress,
    person::{InvalidDuration, Invitation as Invited, ValidFor},
};
use faultline_lab::suggest;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Output,
    answer::{local, print, say, table, text},
    api::Api,
    env::Where,
    limit,
};

/// The options and the subcommand of `faultline person`.
#[derive(Debug, Args)]
pub struct PersonArgs {
    #[command(subcommand)]
    command: PersonCommand,
    #[command(flatten)]
    place: Where,
}

/// Parses the name of a role, and has help and completions list all of them.
fn role() -> impl TypedValueParser<Value = Role> {
    PossibleValuesParser::new(Role::ALL.map(Role::as_str)).try_map(|name| name.parse::<Role>())
}

/// The subcommands of `faultline person`.
#[derive(Debug, Subcommand)]
enum PersonCommand {
    /// List all people
    List,
    /// Create a link or an access code by which people join
    ///
    ///   faultline person invite
    ///   faultline person invite --mail ann@example.org
    ///   faultline person invite --code --people 40 --expires 3h --note "Meetup"
    ///   faultline person invite --people 30 --expires 2d --note "Class of Monday"
    #[command(verbatim_doc_comment)]
    Invite {
        /// The role of the people who join
        #[arg(long, value_parser = role(), default_value = "student")]
        role: Role,
        /// The number of people who can join by the link
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=Invited::MAX_USES.into()))]
        people: u32,
        /// How long it is valid, such as 3h or 2d; at most 90d
        #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = expires)]
        expires: String,
        /// A note for operators
        #[arg(long, default_value = "")]
        note: String,
        /// Make an access code, which students type, instead of a link
        #[arg(long)]
        code: bool,
        /// A mail address to send it to. The link is then in the mail only
        #[arg(long, value_name = "ADDRESS", value_parser = address)]
        mail: Option<MailAddress>,
    },
    /// List the latest invitations
    Invitations,
    /// Withdraw an invitation; people who have joined stay
    Withdraw {
        /// The invitation's id, as `faultline person invitations` shows it
        invitation: String,
    },
    /// Give a person another role
    Role {
        /// The person's login name or id
        person: String,
        /// The role
        #[arg(value_parser = role())]
        role: Role,
    },
    /// Show a person's limits, or change some of them
    ///
    ///   faultline person limit ann
    ///   faultline person limit ann --environments 8 --hours-per-month none
    #[command(verbatim_doc_comment)]
    Limit {
        /// The person's login name or id
        person: String,
        #[command(flatten)]
        change: limit::Change,
    },
    /// Refuse a person's credentials, and end their connections
    Disable {
        /// The person's login name or id
        person: String,
    },
    /// Delete a person: their name, credentials and environments
    Delete {
        /// The person's login name or id
        person: String,
        /// Don't ask for confirmation
        #[arg(long)]
        yes: bool,
    },
    /// Accept a person's credentials again
    Enable {
        /// The person's login name or id
        person: String,
    },
    /// Remove a person's password, and create a link with which they sign in and set another
    ResetPassword {
        /// The person's login name or id
        person: String,
        /// Send the link to the person's mail address. It is then in the mail only
        #[arg(long)]
        mail: bool,
    },
}

#[derive(Debug, Deserialize)]
pub(crate) struct Person {
    pub(crate) id: String,
    pub(crate) name: String,
    login: Option<String>,
    role: String,
    last_sign_in: Option<String>,
    disabled_at: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Invitation {
    id: String,
    note: String,
    role: String,
    code: Option<String>,
    state: String,
    uses_left: u32,
    expires_at: String,
    accepted_by: Vec<String>,
}

/// Runs a subcommand.
pub fn run(args: &PersonArgs, output: Output) -> anyhow::Result<()> {
    let api = Api::load(&args.place.data())?;
    match &args.command {
        PersonCommand::List => list(&api, output),
        PersonCommand::Invite {
            role,
            people,
            expires,
            note,
            code,
            mail,
        } => {
            let wanted = json!({
                "role": role.as_str(), "uses": people, "expires": expires, "note": note, "by_code": code,
                "mail_to": mail_to(mail.as_ref()),
            });
            let made = api.post("/invitations", Some(wanted))?;
            print(&made, output, invited)
        }
        PersonCommand::Invitations => {
            let all: Value = api.get("/invitations")?;
            print(&all, output, |all| {
                invitations(all, "faultline person invite")
            })
        }
        PersonCommand::Withdraw { invitation } => {
            api.delete(&format!("/invitations/{invitation}"))?;
            print(&json!({}), output, |_| {
                Ok("The invitation is withdrawn.".to_owned())
            })
        }
        PersonCommand::Role { person, role } => {
            let role = role.as_str();
            update(&api, person, json!({ "role": role }), output, |name| {
                format!("{name} has the role {role}.")
            })
        }
        PersonCommand::Limit { person, change } => {
            let person = find(&api, person)?;
            let path = format!("/people/{}/limits", person.id);
            limit::change(&api, &path, change, output)
        }
        PersonCommand::Disable { person } => {
            update(&api, person, json!({ "disabled": true }), output, |name| {
                format!("{name} is disabled.")
            })
        }
        PersonCommand::Enable { person } => {
            update(&api, person, json!({ "disabled": false }), output, |name| {
                format!("{name} is enabled.")
            })
        }
        PersonCommand::Delete { person, yes } => {
            let person = find(&api, person)?;
            let name = &person.name;
            anyhow::ensure!(
                *yes,
                "this removes the name, credentials and environments of {name}, and can't be undone; add --yes to confirm"
            );
            api.delete(&format!("/people/{}", person.id))?;
            say(&json!({}), output, &format!("{name} is deleted."))
        }
        PersonCommand::ResetPassword { person, mail } => {
            let person = find(&api, person)?;
            let wanted = mail.then(|| json!({ "mail": true }));
            let made = api.post(&format!("/people/{}/reset-password", person.id), wanted)?;
            print(&made, output, |made| {
                let (name, ends) = (&person.name, local(text(made, "expires_at")?));
                if let Some(to) = made.get("mailed_to").and_then(Value::as_str) {
                    return Ok(format!(
                        "A link for {name} is sent to {to}. It works once, until {ends}."
                    ));
                }
                let url = text(made, "url")?;
                Ok(format!(
                    "{url}\n\nSend this link to {name}. It works once, until {ends}."
                ))
            })
        }
    }
}

/// Returns the person with this login name or id.
pub(crate) fn find(api: &Api, named: &str) -> anyhow::Result<Person> {
    let mut people: Vec<Person> = api.get("/people")?;
    let is_named = |p: &Person| p.id == named || p.login.as_deref() == Some(named);
    if people.iter().filter(|p| is_named(p)).count() > 1 {
        anyhow::bail!(
            "{named} is the id of one person and the login name of another; use the id of the latter"
        );
    }
    if let Some(at) = people.iter().position(is_named) {
        return Ok(people.swap_remove(at));
    }
    let names = people.iter().filter_map(|p| p.login.as_deref());
    anyhow::bail!(
        "there is no person {named}{}; `faultline person list` shows all",
        suggest::question(named, names)
    )
}

fn update(
    api: &Api,
    named: &str,
    change: Value,
    output: Output,
    done: impl FnOnce(&str) -> String,
) -> anyhow::Result<()> {
    let person = find(api, named)?;
    let answer = api.patch(&format!("/people/{}", person.id), change)?;
    print(&answer, output, |_| Ok(done(&person.name)))
}

fn list(api: &Api, output: Output) -> anyhow::Result<()> {
    let all: Value = api.get("/people")?;
    print(&all, output, |all| {
        let people: Vec<Person> = Vec::deserialize(all)?;
        let mut table = table(["ID", "LOGIN", "NAME", "ROLE", "LAST SIGN-IN", "ACCESS"]);
        for p in people {
            let access = if p.disabled_at.is_some() {
                "disabled"
            } else {
                "enabled"
            };
            table.add_row([
                p.id,
                p.login.unwrap_or_else(|| "-".to_owned()),
                p.name,
                p.role,
                p.last_sign_in
                    .map_or_else(|| "never".to_owned(), |at| local(&at)),
                access.to_owned(),
            ]);
        }
        Ok(table.to_string())
    })
}

/// Formats a new invitation.
pub(crate) fn invited(made: &Value) -> anyhow::Result<String> {
    let ends = local(text(made, "expires_at")?);
    let field = |name: &str| made.get(name).and_then(Value::as_str);
    Ok(match (field("code"), field("mailed_to")) {
        (Some(code), mailed_to) => {
            let url = text(made, "url")?;
            let sent = mailed_to.map_or_else(String::new, |to| format!(" It is sent to {to}."));
            format!("{code}\n\nPeople enter this code at {url}. It is valid until {ends}.{sent}")
        }
        (None, Some(to)) => {
            format!("The invitation is sent to {to}. Its link is valid until {ends}.")
        }
        (None, None) => {
            let url = text(made, "url")?;
            format!("{url}\n\nThe link is shown only now. It is valid until {ends}.")
        }
    })
}

/// Checks how long an invitation is valid, and returns it as it was typed.
pub(crate) fn expires(text: &str) -> Result<String, InvalidDuration> {
    text.parse::<ValidFor>().map(|_| text.trim().to_owned())
}

/// Parses a mail address.
pub(crate) fn address(text: &str) -> Result<MailAddress, NoAddress> {
    text.parse()
}

/// Returns where an invitation is sent, as the API takes it.
pub(crate) fn mail_to(address: Option<&MailAddress>) -> &str {
    address.map_or("", MailAddress::as_str)
}

/// Formats invitations. `create` is the command that creates one.
pub(crate) fn invitations(all: &Value, create: &str) -> anyhow::Result<String> {
    let all: Vec<Invitation> = Vec::deserialize(all)?;
    if all.is_empty() {
        return Ok(format!("There is no invitation. `{create}` creates one."));
    }
    let mut table = table([
        "ID", "NOTE", "ROLE", "CODE", "STATE", "LEFT", "EXPIRES", "JOINED",
    ]);
    for i in all {
        table.add_row([
            i.id,
            i.note,
            i.role,
            i.code.unwrap_or_else(|| "-".to_owned()),
            i.state,
            i.uses_left.to_string(),
            local(&i.expires_at),
            i.accepted_by.join(", "),
        ]);
    }
    Ok(table.to_string())
}
